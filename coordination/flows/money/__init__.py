"""Costs, prices and budgets: operations across nouns, one transaction each."""
