"""Test a missing server: a skip on a laptop, a failure where the results count."""

from __future__ import annotations

import pytest

from tests.support.services import missing


def test_at_home_the_test_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)

    with pytest.raises(pytest.skip.Exception, match="no Redis here: no wheel"):
        missing("Redis", "no wheel")


def test_in_continuous_integration_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")

    with pytest.raises(pytest.fail.Exception, match="no Redis here: no wheel"):
        missing("Redis", "no wheel")
