"""Costs, prices and budgets: rules within a transaction."""
