"""Flows at the end of attempts: ``finish`` ends them, ``dispatch`` claims and enqueues the next tasks."""
