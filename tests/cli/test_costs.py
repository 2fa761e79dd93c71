"""Test the ledger by command: imported once, added up exactly, exported unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import Coord
from tests.support.refusals import check_refused


def line(number: int, cost: str, **more: object) -> str:
    usage = (
        f'"model":"m{number % 2}","input_tokens":{number},"output_tokens":1,"total_tokens":{number + 1},'
        f'"cost_usd":{cost},"timestamp":"2026-11-{10 + number}T23:30:00.123456789-02:00"'
    )
    rest = "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in more.items())
    return f'{{"id":"c{number}","usage":{{{usage}}},"session_id":"s{number % 3}"{rest}}}\n'


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "costs.jsonl"
    path.write_text("".join(line(number, f"0.{number}000000000000001", foreign=number) for number in range(1, 6)))
    return path


def test_a_file_is_taken_in_once_however_often_it_is_imported(coord_on_each: Coord, ledger: Path) -> None:
    first = coord_on_each("costs", "import", ledger, "--json").json
    second = coord_on_each("costs", "import", ledger, "--json").json

    assert (first["read"], first["new"]) == (5, 5)
    assert (second["read"], second["new"]) == (5, 0)
    assert [record["id"] for record in coord_on_each("costs", "list", "--json").json["costs"]] == [
        "c5",
        "c4",
        "c3",
        "c2",
        "c1",
    ]


def test_sums_are_exact_whatever_they_are_of(coord_on_each: Coord, ledger: Path) -> None:
    coord = coord_on_each
    coord("costs", "import", ledger)

    sums = {
        by: {
            group["key"]: group["cost_usd"] for group in coord("costs", "summary", "--by", by, "--json").json["groups"]
        }
        for by in ("model", "session", "day", "run", "agent")
    }

    assert sums["model"] == {"m0": "0.6000000000000002", "m1": "0.9000000000000003"}
    assert sums["session"] == {"s0": "0.3000000000000001", "s1": "0.5000000000000002", "s2": "0.7000000000000002"}
    assert list(sums["day"]) == [f"2026-11-{day}" for day in range(12, 17)]  # by UTC, where each was a day later
    assert sums["run"] == sums["agent"] == {None: "1.5000000000000005"}
    by_project = coord("costs", "summary", "--json").json
    assert [(group["name"], group["calls"]) for group in by_project["groups"]] == [("shop", 5)]
    assert by_project["total"]["cost_usd"] == "1.5000000000000005"
    assert coord("costs", "summary", "--since", "2026-11-15", "--json").json["total"]["calls"] == 2


def test_the_ledger_is_written_as_it_was_read_or_in_one_shape(
    coord_on_each: Coord, ledger: Path, tmp_path: Path
) -> None:
    coord_on_each("costs", "import", ledger)

    coord_on_each("costs", "export", tmp_path / "out.jsonl", "--shape", "as-read")
    flat = coord_on_each("costs", "export", "--shape", "flat").out.splitlines()

    assert (tmp_path / "out.jsonl").read_text() == ledger.read_text()
    assert all(json.loads(one)["model"] in ("m0", "m1") for one in flat)


def test_a_bad_line_is_named_and_nothing_of_the_file_is_stored(coord: Coord, tmp_path: Path) -> None:
    path = tmp_path / "costs.jsonl"
    path.write_text(line(1, "0.1") + line(2, '"much"'))

    output = coord("costs", "import", path, code=2)

    check_refused(output)
    assert coord("costs", "list", "--json").json == {"costs": []}


def test_an_unknown_price_is_counted_and_not_added_as_nothing(coord: Coord, tmp_path: Path) -> None:
    path = tmp_path / "costs.jsonl"
    path.write_text(line(1, "0.25") + line(2, "null"))
    coord("costs", "import", path)

    assert coord("costs", "summary", "--json").json["total"] == {"cost_usd": "0.25", "calls": 2, "unpriced_calls": 1}
    assert "1 of them of unknown price" in coord("costs", "summary").out
