"""The effort of this folder's tests: ``HYPOTHESIS_PROFILE`` is "short" (the same each time) or "deep"."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "short",
    max_examples=20,
    stateful_step_count=30,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "deep",
    max_examples=1000,
    stateful_step_count=60,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

NAME = os.environ.get("HYPOTHESIS_PROFILE", "short")
PROFILE = settings.get_profile(NAME)
DEEP = NAME != "short"
