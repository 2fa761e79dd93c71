"""Test calls without a price, through a real worker: the right dollars at once, or later, and never twice."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path

from coordination.domain.jobs import AgentCall
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from tests.support.command import Coord
from tests.support.fleet import Fleet

READS = {
    "format": "jsonl",
    "result": "answer",
    "model": "by",
    "input_tokens": "in",
    "output_tokens": "out",
    "cached_input_tokens": "cached",
    "cost_usd": "usd",
}


def agent(**line: object) -> AgentCall:
    """Return a custom agent that prints one line and its usage."""
    text = json.dumps({"answer": "done", **line})
    return AgentCall("custom", "work", command=["/bin/sh", "-c", f"cat >/dev/null; echo '{text}'"], reads=READS)


def test_what_an_agent_used_is_in_dollars_at_once_or_after_a_price_is_set_and_only_once(
    fleet: Fleet, tmp_path: Path
) -> None:
    coord = Coord(
        tmp_path / "home", tmp_path, {name: value for name, value in fleet.env.items() if name[:6] == "COORD_"}
    )
    fleet.worker("-c", "2")
    reporting = (
        """echo '{"model": "gpt-5-mini", "input_tokens": 1000000, "reasoning_output_tokens": 400000, """
        """"output_tokens": 500000, "priced_by": "me"}' >> "$COORD_COSTS" """
    )
    run = fleet.submit(
        Task("known", agent(**{"by": "openai:gpt-5-mini", "in": 1_000_000, "out": 100_000, "cached": 600_000})),
        Task("unknown", agent(**{"by": "house-llama", "in": 2_000_000, "out": 0})),
        Task("told", agent(**{"by": "gpt-5-mini", "in": 9_000_000, "out": 9_000_000, "usd": 0.5})),
        Task("shell", {"shell": reporting}),
    )
    assert run.wait(timeout=60) is RunState.COMPLETED

    # a quarter of a dollar a million in, a fortieth cached, two out
    dollars = {"unknown": "0", "told": "0.5"}
    dollars["known"] = str(Decimal("0.4") * Decimal("0.25") + Decimal("0.6") * Decimal("0.025") + Decimal("0.2"))
    dollars["shell"] = "1.25"
    assert {key: run.task(key).cost for key in dollars} == {key: Decimal(usd) for key, usd in dollars.items()}
    assert (run.cost, run.record.unpriced_calls) == (Decimal("2.065"), 1)
    records = {one["model"] + (one["cost_usd"] or ""): one for one in coord("costs", "list", "--json").json["costs"]}
    assert records["gpt-5-mini0.5"]["extra"] == {}
    assert records["gpt-5-mini1.25"]["extra"]["priced_by"].startswith("genai-prices 0.")
    assert records["openai:gpt-5-mini0.315"]["extra"]["prices"] == {
        "of": "openai/gpt-5-mini",
        "input": "0.25",
        "cached_input": "0.025",
        "output": "2",
    }
    shown = coord("costs", "summary", "--json").json["total"]
    assert shown == {"cost_usd": "2.065", "calls": 4, "unpriced_calls": 1}

    assert "$0.00 + 1 call of unknown price" in coord("tasks", "show", "unknown").out
    assert "$2.06 + 1 unknown" in coord("runs", "list").out or "$2.07 + 1 unknown" in coord("runs", "list").out
    coord("prices", "set", "house-llama", "--input", "0.1", "--output", "0.1")
    coord("costs", "reprice")
    coord("costs", "reprice")

    shown = coord("costs", "summary", "--json").json["total"]
    assert shown == {"cost_usd": "2.265", "calls": 4, "unpriced_calls": 0}
    assert (run.cost, run.record.unpriced_calls) == (Decimal("2.265"), 0)
    assert run.task("unknown").cost == Decimal("0.2")
    time.sleep(1.1)  # a worker checks for new prices once a second
    again = fleet.submit(Task("unknown", agent(**{"by": "house-llama", "in": 2_000_000, "out": 0})))
    assert again.wait(timeout=60) is RunState.COMPLETED
    assert (again.cost, again.record.unpriced_calls) == (Decimal("0.2"), 0)
