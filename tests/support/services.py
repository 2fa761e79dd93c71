"""What the tests do when a real server cannot be had: skip on somebody's laptop, fail where the results count."""

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
    """Skip the test, everywhere: no test can bring another kernel, and what such a one must refuse is tested, too."""
    pytest.skip("this kernel has no Landlock")
