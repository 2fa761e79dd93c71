"""Test the ledger in the Python API: import, sum, forecast, check, export; on both stores."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from coordination import connect
from coordination.base.errors import NotFound, Refused
from coordination.settings import load_settings

LINES = "".join(
    f'{{"id":"c{index}","usage":{{"model":"m{index % 2}","input_tokens":1,"output_tokens":1,"cost_usd":0.{index}1,'
    f'"timestamp":"2026-0{index}-28T23:30:00.123456789Z"}},"session_id":"s","own":1.50}}\n'
    for index in range(1, 6)
)


def test_what_was_spent_is_asked_for_in_python(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "costs.jsonl"
    path.write_text(LINES)
    with connect(load_settings({"COORD_DATABASE_URL": store_url, "COORD_HOME": str(tmp_path / "home")})) as co:
        done = co.costs.import_file(path)

        assert (done.read, done.new, done.project) == (5, 5, tmp_path.name)
        assert co.costs.total().cost_usd == Decimal("1.55")
        assert co.costs.total(since="2026-02", until=date(2026, 4, 28)).calls == 3
        assert [group.key for group in co.costs.summary("model")] == ["m1", "m0"]
        assert [group.key for group in co.costs.summary("month", project=tmp_path.name)] == [
            f"2026-0{month}" for month in range(1, 6)
        ]
        assert [group.key for group in co.costs.summary("session", top=1)] == ["s"]
        assert co.costs.forecast().zone == co.costs.timezone == "UTC"
        assert co.costs.set_timezone("Europe/Berlin").repaired
        assert co.costs.summary("day")[0].key == "2026-01-29"
        assert not co.costs.check().wrong
        assert b"".join(co.costs.export("as-read")).decode() == LINES
        for wrong in (
            lambda: co.costs.summary("planet"),
            lambda: co.costs.summary(top=0),
            lambda: co.costs.total(since="soon"),
            lambda: co.costs.set_timezone("Mars"),
            lambda: co.costs.import_file(tmp_path / "nothing"),
        ):
            with pytest.raises(Refused):
                wrong()
        with pytest.raises(NotFound):
            co.costs.forecast(project="nowhere")


def test_calls_of_unknown_price_get_the_one_that_is_known_now(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "costs.jsonl"
    path.write_text(
        "".join(
            f'{{"id":"{model}","usage":{{"model":"{model}","input_tokens":100000,"output_tokens":0,"total_tokens":100000,'
            f'"timestamp":"2027-01-0{day}T00:00:00Z"}},"session_id":"s"}}\n'
            for day, model in enumerate(("claude-sonnet-4-5", "nobodys"), 1)
        )
    )
    with connect(load_settings({"COORD_DATABASE_URL": store_url, "COORD_HOME": str(tmp_path / "home")})) as co:
        co.costs.import_file(path)
        assert (co.costs.total().cost_usd, co.costs.total().unpriced_calls) == (0, 2)

        would = co.costs.reprice(dry_run=True)
        later = co.costs.reprice(since="2027-01-02", project=tmp_path.name)
        assert (would.corrected, later.corrected, co.costs.total().cost_usd) == (1, 0, 0)
        done = co.costs.reprice()

        assert (done.looked_at, done.corrected, done.added_usd) == (2, 1, Decimal("0.3"))
        assert (co.costs.total().cost_usd, co.costs.total().unpriced_calls) == (Decimal("0.3"), 1)
        assert co.costs.reprice().corrected == 0
        with pytest.raises(NotFound):
            co.costs.reprice(project="nowhere")
