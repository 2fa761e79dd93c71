"""Commands about issues of Beads: import, export, ready."""
