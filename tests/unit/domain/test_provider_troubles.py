"""Test how providers' error messages are classified, with texts that programs printed."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest

from coordination.domain.jobs.provider_error_table import TABLE, ProviderErrorClass
from coordination.domain.jobs.provider_errors import ProviderLimit, classify, limit_of, window_of
from tests.support.sources import ROOT

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)

WORDS = ROOT / "tests" / "data" / "provider_words.txt"
SAID = [line.split("|", 1) for line in WORDS.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("of", "words"), SAID)
def test_the_class_of_words(of: str, words: str) -> None:
    assert classify(words, now=NOW).error_class == of


@pytest.mark.parametrize(
    ("words", "status", "type_", "of"),
    [
        ("no", 429, None, ProviderErrorClass.TRANSIENT),
        ("no", 599, None, ProviderErrorClass.TRANSIENT),
        ("no", 401, None, ProviderErrorClass.LOG_IN),
        ("no", 402, None, ProviderErrorClass.LIMIT),
        ("Insufficient balance", 401, None, ProviderErrorClass.LIMIT),  # in the words of OpenCode's own provider
        ("no", 418, None, ProviderErrorClass.REFUSED),
        ("no", None, "overloaded_error", ProviderErrorClass.TRANSIENT),
        ("no", None, "ProviderAuthError", ProviderErrorClass.LOG_IN),
        ("no", 429, "insufficient_quota", ProviderErrorClass.LIMIT),
        ("Request too large", 429, None, ProviderErrorClass.REFUSED),
        ("API Error: 403 while it sent statistics", None, None, ProviderErrorClass.REFUSED),  # it is the provider's
        ("the quota database is away", 500, None, ProviderErrorClass.TRANSIENT),
    ],
)
def test_a_status_and_a_type_come_before_words(
    words: str, status: int | None, type_: str | None, of: ProviderErrorClass
) -> None:
    assert classify(words, status=status, type_=type_, now=NOW).error_class is of


def test_a_line_about_a_request_on_the_side_does_not_hide_the_provider_s() -> None:
    side = "AxiosError: Request failed with status code 403 while sending statistics"

    for words in (f"{side}\nAPI Error: 529 Overloaded", f"API Error: 529 Overloaded\n{side}"):
        assert classify(words, now=NOW).error_class is ProviderErrorClass.TRANSIENT


def test_a_limit_tells_account_window_and_reset() -> None:
    words = "You've hit your session limit · resets 3pm (UTC), organization org-a1b2"

    classification = classify(words, now=NOW)

    assert (classification.error_class, classification.window, classification.account) == (
        ProviderErrorClass.LIMIT,
        "5-hour",
        "org-a1b2",
    )
    assert classification.resets_at == datetime(2026, 11, 30, 15, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("words", "window"),
    [
        ("five hour", "5-hour"),
        ("seven day", "weekly"),
        ("seven day opus", "weekly Opus"),
        ("You have exhausted your daily quota", "daily"),
        ("You have reached your monthly spend limit", "monthly"),
        ("limit reached", None),
        ("You exceeded your current quota, please check your plan and billing details", None),
    ],
)
def test_windows_have_one_name(words: str, window: str | None) -> None:
    assert window_of(words) == window


def test_what_is_stored_of_a_limit_is_read_again() -> None:
    limit = ProviderLimit("claude with KEY", "weekly", NOW)

    assert limit_of({"limit": limit.to_json()}) == limit
    assert limit.sentence() == "the weekly limit of claude with KEY is used up until 2026-11-30 12:00:00 UTC"
    for nothing in (None, {}, {"limit": 5}, {"effect": {}}):
        assert limit_of(nothing) is None
    assert limit_of({"limit": {"resets_at": "soon"}}) == ProviderLimit()


def test_the_documentation_has_the_table() -> None:
    page = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")

    for of in ProviderErrorClass:
        assert f"| {of.value} |" in page
    assert {row.error_class for row in TABLE} | {ProviderErrorClass.FAILED} == set(ProviderErrorClass)
    for of in (
        ProviderErrorClass.TRANSIENT,
        ProviderErrorClass.LIMIT,
        ProviderErrorClass.LOG_IN,
    ):  # other statuses are refused
        (line,) = [one for one in page.splitlines() if one.startswith(f"| {of.value} |")]
        values = {int(number) for number in re.findall(r"\b4\d\d\b", line)}
        assert values == {status for row in TABLE if row.error_class is of for status in row.statuses}
