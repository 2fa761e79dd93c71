"""Test how the usage that jobs report of their model calls is read."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from coordination.domain.tasks.attempts import Usage
from workers.runners import usage_file


def read(path: Path, *lines: str) -> tuple[tuple[Usage, ...], tuple[str, ...]]:
    (path / "costs.jsonl").write_text("".join(line + "\n" for line in lines))
    return usage_file.read_usage(str(path / "costs.jsonl"))


def test_no_file_is_no_usage(tmp_path: Path) -> None:
    assert usage_file.read_usage(str(tmp_path / "nothing")) == ((), ())


def test_a_flat_line_is_read(tmp_path: Path) -> None:
    line = (
        '{"id": "1", "session_id": "s", "model": "m", "input_tokens": 3, "output_tokens": 2, "total_tokens": 5,'
        ' "cached_input_tokens": 1, "cost_usd": 0.1000000000000000055, "timestamp": "2026-03-26T21:04:56.896438721Z",'
        ' "note": {"a": 1.5}}'
    )

    (usage,), warnings = read(tmp_path, line)

    assert warnings == ()
    assert usage == Usage(
        model="m",
        input_tokens=3,
        output_tokens=2,
        cached_input_tokens=1,
        total_tokens=5,
        cost_usd=Decimal("0.1000000000000000055"),
        id="1",
        session_id="s",
        at=datetime(2026, 3, 26, 21, 4, 56, 896438, tzinfo=UTC),
        extra={"note": {"a": 1.5}},
    )


def test_a_nested_line_is_read(tmp_path: Path) -> None:
    inner = '{"model": "m", "input_tokens": 3, "cost_usd": 0.0}'
    line = f'{{"id": "1", "usage": {inner}, "session_id": "s", "agent_alias": "k"}}'

    (usage,), _ = read(tmp_path, line)

    assert (usage.id, usage.session_id, usage.model, usage.input_tokens) == ("1", "s", "m", 3)
    assert usage.cost_usd == 0
    assert usage.extra == {"agent_alias": "k"}


@pytest.mark.parametrize("cost", ["", ', "cost_usd": null', ', "cost_usd": 0.0, "pricing_available": false'])
def test_an_unknown_price_stays_unknown(tmp_path: Path, cost: str) -> None:
    (usage,), _ = read(tmp_path, f'{{"model": "m"{cost}}}')

    assert usage.cost_usd is None


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[1]",
        "{}",
        '{"model": ""}',
        '{"model": "m", "cost_usd": -1}',
        '{"model": "m", "cost_usd": NaN}',
        '{"model": "m", "cost_usd": "much"}',
        '{"model": "m", "cost_usd": true}',
        '{"model": "m", "input_tokens": -1}',
        '{"model": "m", "input_tokens": 1.5}',
        '{"model": "m", "input_tokens": 1e300}',
        '{"model": "m", "timestamp": "yesterday"}',
        '{"model": "m", "timestamp": 12}',
        '{"model": "m", "id": 7}',
        "[" * 100_000,
        '{"model": "a\\u0000b"}',
    ],
)
def test_a_bad_line_is_a_warning_and_the_others_count(tmp_path: Path, line: str) -> None:
    usage, warnings = read(tmp_path, '{"model": "a"}', line, '{"model": "b"}')

    assert [each.model for each in usage] == ["a", "b"]
    assert len(warnings) == 1
    assert warnings[0].startswith("line 2 of the usage file was left out: ")


def test_what_only_we_may_say_beside_a_record_is_left_out(tmp_path: Path) -> None:
    line = '{"model": "m", "cost_usd": 1, "priced_by": "me", "prices": {}, "line": "x", "shape": "flat", "other": 1}'

    (usage,), warnings = read(tmp_path, line)

    assert (usage.extra, warnings) == ({"other": 1}, ())


def test_too_much_is_cut_with_a_warning(tmp_path: Path) -> None:
    usage, warnings = read(tmp_path, *['{"model": "m"}'] * (usage_file.MAX_LINES + 5))

    assert len(usage) == usage_file.MAX_LINES
    assert warnings == ("the usage file has more than 10,000 lines; the rest was not read",)


def test_a_file_without_end_is_read_up_to_its_limit(tmp_path: Path) -> None:
    filler = json.dumps({"model": "m", "note": "x" * 100_000})

    usage, warnings = read(tmp_path, *[filler] * 120)

    assert len(usage) == 99
    assert "longer than 10,000,000 bytes" in warnings[0]


def test_many_bad_lines_are_not_many_warnings(tmp_path: Path) -> None:
    _, warnings = read(tmp_path, *["bad"] * 100)

    assert len(warnings) == 21
    assert warnings[-1] == "80 more lines of the usage file were left out"


def test_warnings_stand_below_the_log() -> None:
    assert usage_file.with_warnings("said", ("odd",)) == "said\n[usage] odd"
    assert usage_file.with_warnings("", ()) is None


class TestFollowing:
    """Test that a job's report is read while it runs."""

    def test_only_what_is_new_and_whole_is_told(self, tmp_path: Path) -> None:
        reports: list[int] = []
        path = tmp_path / "costs.jsonl"
        following = usage_file.UsageFile(str(path), lambda used: reports.append(len(used)))
        following.poll()
        path.write_text('{"model": "m"}\n{"mod')
        following.poll()
        following.poll()
        path.write_text('{"model": "m"}\n{"model": "m"}\nnonsense\n')
        following.poll()

        assert reports == [1, 2]

    def test_lines_that_are_known_are_not_read_again_and_keep_their_numbers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[int] = []
        parsed = usage_file.json_values.parse_line
        monkeypatch.setattr(
            usage_file.json_values,
            "parse_line",
            lambda number, line, **more: read.append(number) or parsed(number, line, **more),
        )
        reports: list[list[tuple[str, int] | None]] = []
        path = tmp_path / "costs.jsonl"
        following = usage_file.UsageFile(str(path), lambda used: reports.append([one.line for one in used]))
        for _ in range(3):
            with path.open("a") as file:
                file.write('{"model": "m"}\n{"model": "m"}\n')
            following.poll()

        assert [number for number in read if number < 5] == [1, 2, 3, 3, 4]  # 3: what is behind the last line break
        assert reports[-1] == [(str(path), number) for number in range(1, 7)]

        path.write_text('{"model": "other"}\n')  # overwritten
        following.poll()
        assert reports[-1] == [(str(path), 1)]

    def test_an_error_of_who_records_it_is_not_taken_for_one_of_the_file(self, tmp_path: Path) -> None:
        def record(_: object) -> None:
            raise ConnectionResetError

        path = tmp_path / "costs.jsonl"
        path.write_text('{"model": "m"}\n')

        with pytest.raises(ConnectionResetError):
            usage_file.UsageFile(str(path), record).poll()

    def test_a_pipe_in_its_place_keeps_nobody_waiting(self, tmp_path: Path) -> None:
        path = tmp_path / "costs.jsonl"
        os.mkfifo(path)
        reports: list[object] = []

        usage_file.UsageFile(str(path), reports.append).poll()
        usage, warnings = usage_file.read_usage(str(path))

        assert (reports, usage) == ([], ())
        assert warnings == ("the usage file cannot be read: it is not a regular file",)


def test_an_amount_in_another_currency_is_no_known_price(tmp_path: Path) -> None:
    path = tmp_path / "costs.jsonl"
    path.write_text(
        '{"model": "m", "cost_usd": 2, "currency": "EUR"}\n{"model": "m", "cost_usd": 2, "currency": "usd"}\n'
    )

    usage, warnings = usage_file.read_usage(str(path))

    assert ([one.cost_usd for one in usage], warnings) == ([None, Decimal(2)], ())


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "of others").write_text('{"model": "m", "input_tokens": 5}\nprivate\n')
    (tmp_path / "costs").symlink_to(tmp_path / "of others")

    usage, (warning,) = usage_file.read_usage(str(tmp_path / "costs"))

    assert usage == ()
    assert "cannot be read" in warning
    reports: list[object] = []
    usage_file.UsageFile(str(tmp_path / "costs"), reports.append).poll()
    assert not reports
