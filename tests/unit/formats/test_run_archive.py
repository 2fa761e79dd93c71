"""Test archives of runs: read back as written, and refused when a part is missing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from coordination.base.errors import FormatError
from coordination.formats.run_archive import read_archive, write_archive

ROWS = [
    ("runs", {"id": "r", "finished_at": datetime(2027, 1, 31, 12, tzinfo=UTC)}),
    ("costs", {"id": "c", "cost_usd": Decimal("0.10"), "took": timedelta(seconds=1.5)}),
    ("costs", {"id": "d", "cost_usd": None, "took": None}),
]


@pytest.fixture
def lines() -> list[bytes]:
    return list(write_archive("run", {"run_id": "r"}, ROWS))


def test_an_archive_is_read_back_row_by_row(lines: list[bytes]) -> None:
    assert list(read_archive(lines)) == [
        {"record": "runs", "id": "r", "finished_at": "2027-01-31T12:00:00+00:00"},
        {"record": "costs", "id": "c", "cost_usd": "0.10", "took": 1.5},
        {"record": "costs", "id": "d", "cost_usd": None, "took": None},
    ]


def damaged(lines: list[bytes]) -> Iterator[tuple[list[bytes], str]]:
    yield lines[:-1], "its last line is missing"
    yield [], "its last line is missing"
    yield [*lines[:2], *lines[3:]], "should have 3 rows and has 2"
    yield [*lines[:2], lines[1], *lines[2:]], "should have 3 rows and has 4"
    yield lines[1:], "not an archive of a run"
    yield [lines[0], *lines], "not an archive of a run"
    yield [*lines[:2], b"[1]\n", *lines[3:]], "not an archive of a run"
    yield [*lines[:2], lines[2][:-5]], "not JSON"
    yield [lines[0].replace(b'"version":1', b'"version":2'), *lines[1:]], "version 2 of archives is unknown"


def test_an_archive_that_is_not_whole_is_refused(lines: list[bytes]) -> None:
    for broken, why in damaged(lines):
        with pytest.raises(FormatError) as refused:
            list(read_archive(broken))

        assert why in refused.value.sentence()
