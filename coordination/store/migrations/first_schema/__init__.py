"""The tables of the first migration, as they were first released. Frozen: a later migration changes them."""
