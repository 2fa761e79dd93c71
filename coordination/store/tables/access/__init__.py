"""Accounts, tokens and authority: tables."""
