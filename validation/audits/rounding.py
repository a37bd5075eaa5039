"""What rounding may do to right answers: the numbers that bounds are made of.

A number is allowed so many roundings of its terms, and as much as it changes when what it is made from is off by one
rounding: by the largest change of some tries, times a factor.
"""

# Roundings of a coefficient beyond those that perturbed inputs show: a dozen operations of a step, each half a unit.
OPERATIONS = 16
# Tries in which every input is off by one rounding, up or down at random: the largest change over so many of them is a
# sixth of the worst possible one or more, but for one case in a thousand.
PERTURBED, WORST = 6, 6.0

TERMS = f"{OPERATIONS} roundings of the number type in each term"
