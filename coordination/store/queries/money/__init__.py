"""Costs, prices and budgets: statements."""
