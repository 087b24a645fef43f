"""The interface between answers and whatever computes them, and the values that cross it."""
