"""Costs, prices and budgets: read-only reports."""
