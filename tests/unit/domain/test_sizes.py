"""Test sizes as people write them."""

from __future__ import annotations

import pytest

from coordination.base.errors import Refused
from coordination.base.sizes import LARGEST, parse_size, show_size, write_size
from tests.support.refusals import refuses


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("1", 1),
        (4096, 4096),
        ("2GiB", 2 << 30),
        ("512 MiB", 512 << 20),
        ("1.5kB", 1_500),
        ("1.5Ki", 1_536),
        ("3K", 3_000),
        ("2G", 2_000_000_000),
        ("1PiB", 1 << 50),
    ],
)
def test_a_size_is_read(written: str | int, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize(
    "written", ["", "0", "-1", "1e3", "GiB", "2XB", "2 G i B", "9999PiB", "1\n2", True, None, "nan", "٣"]
)
def test_what_is_none_is_refused(written: object) -> None:
    with refuses(Refused):
        parse_size(written)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 999, 1_000, 1_024, 1_536, 2 << 30, LARGEST])
def test_what_is_written_is_read_back(size: int) -> None:
    assert parse_size(write_size(size)) == size


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (812, "812 bytes"),
        (1_024, "1 KiB"),
        (1_000, "1 KiB"),
        (1_572_864, "1.5 MiB"),
        (2 << 30, "2 GiB"),
    ],
)
def test_a_size_is_shown_in_few_letters(size: int, shown: str) -> None:
    assert show_size(size) == shown
