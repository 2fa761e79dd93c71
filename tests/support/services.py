"""Handles tests whose real server is missing: skipped on a laptop, failed where the results count."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(service: str, reason: object) -> NoReturn:
    """Skip the test that needs *service*; where ``CI`` is set, fail it."""
    sentence = f"no {service} here: {reason}"
    if os.environ.get("CI"):
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


def without_landlock() -> NoReturn:
    """Skip the test, everywhere: no test can replace the kernel, and the refusals without Landlock are tested, too."""
    pytest.skip("this kernel has no Landlock")
