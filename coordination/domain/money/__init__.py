"""Costs, prices and budgets: pure records and rules."""
