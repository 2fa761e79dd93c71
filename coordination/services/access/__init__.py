"""Accounts, tokens and authority: rules within a transaction."""
