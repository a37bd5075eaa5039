"""Samplers as tables of numbers: families, running, exact output laws, orders, and reading foreign samplers.

    tableau.py       what a table is                       recorder.py     writing an algorithm that becomes one
    running.py       the NumPy loop                        propagation.py  the exact law of every stage, Gaussian data
    conversions.py   predictions, coordinates, composing   order.py        measured orders
    impulse.py       the table of a foreign sampler        storage.py      JSON and npz
    times.py         grids                                 families.py     the list of all families

and one file for each family.
"""
