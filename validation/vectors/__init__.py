"""Numbers that stand on their own: comparisons with high-precision arithmetic, and test vectors made from it."""
