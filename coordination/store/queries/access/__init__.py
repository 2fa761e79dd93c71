"""Accounts, tokens and authority: statements."""
