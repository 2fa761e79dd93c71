"""The tables of the first migration. Frozen: a later migration changes them."""
