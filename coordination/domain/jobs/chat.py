"""The names of ``coordination.domain.jobs`` from when they were here."""

from coordination.domain.jobs import MAX_STEPS, OURS, ChatCall

__all__ = ["MAX_STEPS", "OURS", "ChatCall"]
