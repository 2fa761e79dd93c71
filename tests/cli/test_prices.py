"""Test prices by command: looked up, set, removed; and costs of the ledger that get prices later, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import Coord
from tests.support.refusals import check_refused

PRICED, UNKNOWN = "claude-sonnet-4-6", "house-llama"


def line(number: int, model: str, cost: str = "0.0", **usage: object) -> str:
    used = {"model": model, "input_tokens": 1_000_000, "output_tokens": 0, "timestamp": "2026-10-01T00:00:00Z", **usage}
    text = json.dumps({"id": f"c{number}", "usage": used, "session_id": "s"})
    return text.replace('"model"', f'"cost_usd":{cost},"model"', 1) + "\n"


@pytest.fixture
def ledger(coord_on_each: Coord, tmp_path: Path) -> Coord:
    path = tmp_path / "costs.jsonl"
    unknown = {"pricing_available": False}
    path.write_text(
        line(1, PRICED) + line(2, PRICED) + line(3, PRICED, "1.5") + line(4, UNKNOWN, **unknown) + line(5, UNKNOWN)
    )
    coord_on_each("costs", "import", path)
    return coord_on_each


def test_a_price_is_looked_up_set_and_taken_back(coord_on_each: Coord) -> None:
    coord = coord_on_each
    assert "No prices are set" in coord("prices", "list").out
    quote = coord("prices", "show", "openai:gpt-5-mini", "--json").json
    assert (quote["known"], quote["of"]) == (True, "openai/gpt-5-mini")
    assert quote["by"].startswith("genai-prices 0.")
    assert quote["usd_per_million_tokens"] == {"input": "0.25", "cached_input": "0.025", "output": "2"}
    assert "more than 200,000 tokens" in coord("prices", "show", "claude-sonnet-4-5").out
    missing = coord("prices", "show", UNKNOWN)
    assert "There is no price for house-llama: it is not in the price list." in missing.out
    assert "Set one with: coord prices set house-llama --input USD --output USD" in missing.out
    assert coord("prices", "show", UNKNOWN, "--json").json["known"] is False

    coord("prices", "set", "GPT-5-mini", "--input", "1.25", "--output", "10", "--cached-input", "0.125")
    coord("projects", "create", "shop", code=None)
    coord("prices", "set", "gpt-5-mini", "--input", "0", "--output", "0", "--project", "shop")

    shown = coord("prices", "show", "gpt-5-mini", "--json").json
    assert (shown["by"], shown["usd_per_million_tokens"]["cached_input"]) == ("override of the workspace", "0.125")
    assert coord("prices", "show", "gpt-5-mini", "--project", "shop", "--json").json["by"] == "override of the project"
    rows = coord("prices", "list", "--json").json["prices"]
    assert [(row["model"], row["project"]) for row in rows] == [("gpt-5-mini", None), ("gpt-5-mini", "shop")]
    assert all(row["set_by"].startswith("user:") for row in rows)
    assert "(all)" in coord("prices", "list").out
    coord("prices", "delete", "gpt-5-mini")
    check_refused(coord("prices", "delete", "gpt-5-mini", code=2))
    coord("prices", "delete", "GPT-5-MINI", "-p", "shop")
    assert coord("prices", "list", "--json").json["prices"] == []


def test_a_name_with_brackets_is_shown_with_a_command_that_a_shell_takes(coord: Coord) -> None:
    coord("projects", "create", "shop", code=None)
    name = "claude-sonnet-4-20250514[1m]"

    shown = coord("prices", "show", name, "--project", "shop").out

    assert f"There is no price for {name}: the list has no price for its long context." in shown
    assert f"coord prices set '{name}' --input USD --output USD --project shop" in shown
    coord("prices", "set", name, "--input", "6", "--output", "22.5", "--project", "shop")
    assert coord("prices", "show", name, "-p", "shop", "--json").json["usd_per_million_tokens"]["input"] == "6"
    assert coord("prices", "show", name, "--json").json["known"] is False


@pytest.mark.parametrize(
    ("model", "price"),
    [
        *(("m", bad) for bad in ("-1", "nan", "1e309", "inf", "0." + "0" * 29 + "1", "much", "")),
        *((bad, "1") for bad in ("", "  ", "x" * 201)),
    ],
)
def test_what_is_no_price_is_refused_and_nothing_is_set(coord: Coord, model: str, price: str) -> None:
    output = coord("prices", "set", model, f"--input={price}", "--output", "1", code=2)

    check_refused(output)
    assert coord("prices", "list", "--json").json["prices"] == []


def test_an_unknown_project_is_refused(coord: Coord) -> None:
    for command in (("set", "m", "--input", "1", "--output", "1"), ("show", "m"), ("delete", "m")):
        check_refused(coord("prices", *command, "--project", "nowhere", code=2))


def test_what_was_taken_in_as_free_is_shown_and_priced_when_that_is_asked_for(ledger: Coord) -> None:
    before = ledger("costs", "summary", "--json").json
    assert before["zero_cost_calls_of_priced_models"] == {PRICED: 2}
    assert before["total"] == {"cost_usd": "1.5", "calls": 5, "unpriced_calls": 1}
    output = ledger("costs", "summary").out
    assert "2 calls that used tokens were reported as free" in output
    assert "coord costs reprice --zero --dry-run" in output

    untouched = ledger("costs", "reprice", "--json").json
    assert (untouched["corrected_calls"], untouched["left"]) == (
        0,
        [{"model": UNKNOWN, "why": "it is not in the price list", "calls": 1}],
    )
    tried = ledger("costs", "reprice", "--zero", "--dry-run", "--json").json
    assert (tried["dry_run"], tried["corrected_calls"], tried["added_usd"]) == (True, 2, "6")
    assert ledger("costs", "summary", "--json").json == before
    assert "2 of 4 calls corrected; the sum is $6.00 larger." in ledger("costs", "reprice", "--zero").out
    assert "0 of 2 calls corrected" in ledger("costs", "reprice", "--zero").out

    after = ledger("costs", "summary", "--json").json
    assert after["zero_cost_calls_of_priced_models"] == {}
    assert after["total"] == {"cost_usd": "7.5", "calls": 5, "unpriced_calls": 1}


def test_a_price_that_is_set_settles_what_was_unknown_and_twice_is_once(ledger: Coord) -> None:
    ledger("prices", "set", UNKNOWN, "--input", "0.4", "--output", "0")

    done = [ledger("costs", "reprice", "--since", "2026-01-01", "--json").json for _ in range(2)]

    assert [(one["corrected_calls"], one["added_usd"]) for one in done] == [(1, "0.4"), (0, "0")]
    assert done[0]["corrected"] == [
        {"model": UNKNOWN, "priced_by": "override of the workspace", "calls": 1, "usd": "0.4"}
    ]
    assert ledger("costs", "summary", "--json").json["total"] == {"cost_usd": "1.9", "calls": 5, "unpriced_calls": 0}
    records = {one["id"]: one for one in ledger("costs", "list", "--json").json["costs"]}
    created = records["c4~priced"]
    assert (created["corrects"], created["settles"], created["cost_usd"], created["input_tokens"]) == (
        "c4",
        True,
        "0.4",
        0,
    )
    assert created["extra"]["prices"] == {"of": UNKNOWN, "input": "0.4"}
    assert created["extra"]["corrected_by"].startswith("user:")
    assert created["occurred_at"] == records["c4"]["occurred_at"]
    shown = ledger("costs", "list").out
    assert "corrects c4 by override of the workspace" in shown
    assert "as reported" in shown


def test_what_a_stale_attempt_spent_is_marked_for_people_too(coord_on_each: Coord, tmp_path: Path) -> None:
    path = tmp_path / "stale.jsonl"
    mark = '"coordination":{"stale":true},"session_id"'
    path.write_text(line(1, PRICED, "1.5").replace('"session_id"', mark) + line(2, PRICED, "2.5"))
    coord_on_each("costs", "import", path)

    shown = coord_on_each("costs", "list").out

    assert shown.count("stale") == 1
    assert "as reported, stale" in shown


def test_a_time_that_is_none_is_refused(coord: Coord) -> None:
    check_refused(coord("costs", "reprice", "--since", "yesterday-ish", code=2))
