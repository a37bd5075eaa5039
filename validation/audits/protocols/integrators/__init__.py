"""What the integrators of general-purpose libraries share.

schemes       what their methods are: tables, by coefficients or by name
ways          the equations that they are given, and an integrator as a sampler
strong        their strong order, from the exact distance on one Brownian path
conditions    the numbers of a Runge-Kutta method by themselves; equal steps that fill an interval
"""
