"""Imported issues (Beads): their records, readiness, blockers, and a plan that completes them."""
