"""Test sums of costs by command: months of the user's time zone, forecasts, the check, and what a file reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from coordination.base.clock import day_of
from coordination.settings import load_settings
from coordination.store.engine import open_store
from tests.support.command import Coord
from tests.support.refusals import check_refused


def line(name: str, at: datetime | str, usd: str = "1", **usage: object) -> str:
    record = {"model": "m", "input_tokens": 1, "output_tokens": 1, "timestamp": str(at).replace(" ", "T"), **usage}
    return json.dumps({"id": name, "usage": record}).replace('"model"', f'"cost_usd":{usd},"model"', 1) + "\n"


def groups(coord: Coord, *asked: str) -> Mapping[str, str]:
    document = coord("costs", "summary", *asked, "--json").json
    return {group["key"]: group["cost_usd"] for group in document["groups"]}


def test_days_and_months_are_those_of_the_workspaces_zone(coord_on_each: Coord, tmp_path: Path) -> None:
    coord = coord_on_each
    path = tmp_path / "costs.jsonl"
    moments = ["2026-01-31T22:30:00Z", "2026-01-31T23:30:00Z", "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z"]
    path.write_text("".join(line(f"c{index}", at, f"{index + 1}") for index, at in enumerate(moments)))
    coord("costs", "import", path)
    assert groups(coord, "--by", "month") == {"2026-01": "3", "2026-03": "7"}

    assert "Europe/Berlin" in coord("workspace", "timezone", "Europe/Berlin").out
    output = coord("workspace", "timezone", "berlin", code=2)

    check_refused(output)
    assert coord("workspace", "timezone", "--json").json == {"timezone": "Europe/Berlin"}
    assert groups(coord, "--by", "month") == {"2026-01": "1", "2026-02": "2", "2026-03": "7"}
    assert groups(coord, "--by", "day", "--since", "2026-02", "--until", "2026-03-29") == {
        "2026-02-01": "2",
        "2026-03-29": "3",
    }
    assert groups(coord, "--by", "day", "--since", "2026-03-29T21:59:00Z") == {"2026-03-29": "3", "2026-03-30": "4"}
    assert groups(coord, "--by", "day", "--top", "2") == {"2026-03-30": "4", "2026-03-29": "3"}
    assert coord("costs", "summary", "--until", "2026-02", "--json").json["total"]["cost_usd"] == "3"
    for bad in (["--since", "soon"], ["--since", "2026-02", "--until", "2026-01"]):
        check_refused(coord("costs", "summary", *bad, code=2))
    assert coord("costs", "summary", "--top", "0", code=2).err


def test_the_forecast_says_how_fast_money_goes_and_where_the_month_ends(coord_on_each: Coord, tmp_path: Path) -> None:
    coord = coord_on_each
    nothing = coord("costs", "forecast")
    assert "There is no forecast for the month yet" in nothing.out
    assert coord("costs", "forecast", "--json").json["outlook"]["forecast"] is None
    now = datetime.now(UTC)
    path = tmp_path / "costs.jsonl"
    path.write_text("".join(line(f"c{ago}", now - timedelta(days=ago), "24") for ago in range(11)))
    coord("costs", "import", path)

    outlook = coord("costs", "forecast", "--json").json["outlook"]

    this_month = sum(day_of(now - timedelta(days=ago), "UTC")[:7] == day_of(now, "UTC")[:7] for ago in range(11))
    assert (outlook["spent_today_usd"], outlook["spent_month_usd"]) == ("24", str(24 * this_month))
    assert 24 <= float(outlook["burn"]["per_day"]) <= 28
    foretold = outlook["forecast"]
    low, middle, high = (float(foretold[name]) for name in ("low", "usd", "high"))
    assert 24 * this_month <= low <= middle <= high
    assert foretold["days"] == 10
    assert "month's end" in coord("costs", "forecast").out
    check_refused(coord("costs", "forecast", "--project", "nowhere", code=2))


def test_sums_that_are_not_those_of_the_records_are_found_and_mended(coord_on_each: Coord, tmp_path: Path) -> None:
    coord = coord_on_each
    path = tmp_path / "costs.jsonl"
    path.write_text(line("c1", datetime.now(UTC)) + line("c2", "2026-01-01T00:00:00Z"))
    coord("costs", "import", path)
    assert coord("costs", "check").out == "All sums match the records.\n"
    store = open_store(load_settings(coord.environment).database_url)
    with store.write() as tx:
        tx.execute(text("UPDATE rollups SET calls = calls + 1 WHERE dimension = 'model' AND grain = 'day'"))
    store.close()

    output = coord("costs", "check", code=1)
    assert "2 sums do not match the records. Correct them: coord costs check --repair" in output.out
    wrong = coord("costs", "check", "--json", code=1).json
    assert (wrong["right"], wrong["wrong"], wrong["examples"][0]["missing"]["calls"]) == (False, 2, -1)
    doctor = coord("doctor", code=None)
    assert "sums of costs: those of yesterday and today do not match the records" in doctor.out
    assert "2 wrong sums were corrected." in coord("costs", "check", "--repair").out
    assert coord("costs", "check", "--json").json["right"] is True
    assert "sums of costs: days begin in UTC" in coord("doctor", code=None).out


def test_importing_says_what_is_free_unknown_or_not_finished(coord: Coord, tmp_path: Path) -> None:
    path = tmp_path / "costs.jsonl"
    free = [line(f"f{index}", "2026-01-01T00:00:00Z", "0.0", model="claude-sonnet-4-6") for index in range(3)]
    path.write_text("".join(free) + line("u", "2026-01-01T00:00:00Z", "null") + line("torn", "2026-01-01")[:40])

    output = coord("costs", "import", path).out

    assert "Imported 4 of 4 records into the ledger of shop." in output
    assert "Line 5, the last, is unfinished and was skipped." in output
    assert "1 of them have no known price" in output
    assert "3 calls that used tokens were reported as free" in output
    assert "coord costs reprice --zero --dry-run" in output
    again = coord("costs", "import", path, "--json").json
    assert (again["new"], again["torn_line"], again["zero_cost_calls_of_priced_models"]) == (0, 5, {})
    assert coord("costs", "check").out == "All sums match the records.\n"


def test_an_id_with_another_amount_refuses_the_file(coord_on_each: Coord, tmp_path: Path) -> None:
    path = tmp_path / "costs.jsonl"
    path.write_text(line("c1", "2026-01-01T00:00:00Z"))
    coord_on_each("costs", "import", path)
    path.write_text(line("new", "2026-01-01T00:00:00Z") + line("c1", "2026-01-01T00:00:00Z", "2"))

    output = coord_on_each("costs", "import", path, code=2)

    check_refused(output)
    assert len(coord_on_each("costs", "list", "--json").json["costs"]) == 1


def test_a_file_that_is_not_there_is_one_sentence(coord: Coord, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.jsonl", tmp_path):
        output = coord("costs", "import", path, code=2)
        check_refused(output)


@pytest.mark.parametrize("command", [("costs", "forecast"), ("costs", "check"), ("costs", "summary", "--by", "month")])
def test_an_empty_ledger_is_no_mistake(coord: Coord, command: tuple[str, ...]) -> None:
    assert coord(*command).out
