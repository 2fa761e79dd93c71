"""Shared ground: clock, errors, ids, money, units and wording. Imports nothing else of this package."""
