"""Costs, prices and budgets: tables."""
