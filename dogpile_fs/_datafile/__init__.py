"""Build beside, validate, swap, keep, open, load."""
