"""Adapters to what lies outside: git checkouts, artifact stores, price lists, keyrings."""
