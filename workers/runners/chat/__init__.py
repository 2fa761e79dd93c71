"""Conversations with models as jobs: many wait at once, on one loop, in threads that sleep."""
