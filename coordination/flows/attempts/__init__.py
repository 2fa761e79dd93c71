"""Flows about the end of attempts: ``finish`` ends them, ``dispatch`` chooses what their worker does next."""
