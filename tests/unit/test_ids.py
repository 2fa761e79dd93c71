"""Test identifiers: version 7, time-ordered, never twice, never backwards in one process."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import RFC_4122, UUID

import pytest

from coordination.base import ids
from coordination.base.ids import is_id, new_id


def test_an_id_is_a_version_7_uuid_of_now() -> None:
    before = time.time_ns() // 1_000_000
    identifier = UUID(new_id())
    after = time.time_ns() // 1_000_000

    assert (identifier.version, identifier.variant) == (7, RFC_4122)
    assert before <= identifier.int >> 80 <= after + 1


def test_ids_of_one_process_sort_in_the_order_they_were_made() -> None:
    identifiers = [new_id() for _ in range(20_000)]

    assert identifiers == sorted(identifiers)
    assert len(set(identifiers)) == len(identifiers)


def test_threads_never_make_the_same_id() -> None:
    def make(_: int) -> list[str]:
        return [new_id() for _ in range(3_000)]

    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(make, range(4)))

    created = [each for batch in batches for each in batch]
    assert len(set(created)) == len(created)
    assert all(batch == sorted(batch) for batch in batches)


def test_a_clock_that_is_set_back_does_not_set_ids_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = new_id()
    hour_ago = time.time_ns() - 3_600 * 10**9
    monkeypatch.setattr(ids.time, "time_ns", lambda: hour_ago)

    identifiers = [new_id() for _ in range(5_000)]

    assert [before, *identifiers] == sorted([before, *identifiers])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0190d6f0-0000-7000-8000-000000000000", True),
        ("0190D6F0-0000-7000-8000-000000000000", True),
        ("0190d6f0000070008000000000000000", False),
        ("{0190d6f0-0000-7000-8000-000000000000}", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_only_the_canonical_form_is_an_id(text: str, expected: bool) -> None:  # noqa: FBT001
    assert is_id(text) is expected
