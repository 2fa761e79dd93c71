"""Test ``coord simulate`` on plan files: numbers with an interval, unknown values, and no change of the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Coord
from tests.support.refusals import check_refused


@pytest.fixture
def said(tmp_path: Path) -> Path:
    """Return a plan of two agents after a command, with estimates for some of them only."""
    path = tmp_path / "said.yaml"
    path.write_text(
        """
version: 1
budget: {usd: 100}
tasks:
  - {key: build, run: {shell: "make"}, estimate: {duration: 2m}}
  - {key: fix, needs: [build], run: {agent: claude, prompt: "Mend it"}, estimate: {usd: 0.5, duration: 10m}}
  - {key: other, needs: [build], run: {agent: claude, prompt: "That"}, estimate: {usd: 0.5, duration: 1m}}
"""
    )
    return path


def test_a_plan_that_nobody_has_run_is_simulated_by_what_it_says(coord_on_each: Coord, said: Path) -> None:
    coord = coord_on_each

    prediction = coord("simulate", said, "--slots", "2", "--json").json
    people = coord("simulate", said, "--slots", "2").out

    assert [leg["key"] for leg in prediction["path"]] == ["build", "fix"]
    assert prediction["duration"]["p10"] < 12 * 60 < prediction["duration"]["p90"]
    assert 0.5 < float(prediction["usd"]["p50"]) < 2
    assert (prediction["tasks"], prediction["slots"], prediction["within_budget"]) == (3, 2, 1)
    assert (prediction["untimed"], prediction["uncosted"]) == ([], [])
    for words in (
        "3, 2 in parallel",
        "in 8 of 10 rounds",
        "$100.00, which is enough in 100%",
        "critical path",
        "agent:claude",
    ):
        assert words in people
    assert "No runs yet" in coord("runs", "list").out, "nothing was stored"


def test_what_nobody_knows_is_named_until_something_is_assumed(coord: Coord, plan: Path) -> None:
    bare = coord("simulate", plan).out
    assumed = coord("simulate", plan, "--assume", "30s", "--json").json

    assert "at least" in bare
    assert "The duration of these is unknown and counts as zero: shell:echo, shell:true" in bare
    assert "--assume 30s" in bare
    assert assumed["untimed"] == []
    assert 60 < assumed["duration"]["p50"] < 240, "four in a row"


def test_bad_input_is_one_sentence(coord: Coord, tmp_path: Path, plan: Path) -> None:
    cyclic = tmp_path / "cyclic.yaml"
    cyclic.write_text("version: 1\ntasks:\n  - {key: a, needs: [a], run: {shell: ls}}\n")

    for arguments in ((), (tmp_path / "none.yaml",), (cyclic,), (plan, "--assume", "soon")):
        refused = coord("simulate", *arguments, code=2)

        check_refused(refused)
        assert not refused.out


def test_a_number_of_slots_below_one_is_refused_before_anything_is_read(coord: Coord, plan: Path) -> None:
    refused = coord("simulate", plan, "--slots", "0", code=2)

    assert "greater than or equal to 1" in refused.err
    assert not refused.out


@pytest.mark.full
def test_a_run_shows_what_was_expected_beside_what_came(coord: Coord, tmp_path: Path) -> None:
    path = tmp_path / "nap.yaml"
    path.write_text("version: 1\ntasks:\n  - {key: nap, run: {shell: sleep 1.2}}\n")
    coord.process("run", path)
    first = coord("runs", "list", "--json").json["runs"][0]

    coord.process("run", path)

    second = coord("runs", "list", "--json").json["runs"][0]
    shown = coord("runs", "show", second["id"]).out
    assert first["predicted"] is None
    assert second["predicted"]["duration"][0] < 1.5
    assert "in 8 of 10 rounds" in shown
    line = next(line for line in shown.splitlines() if line.startswith("duration"))
    assert line.split()[-1].endswith("s")
    assert coord("runs", "show", second["id"], "--json").json["predicted"] == second["predicted"]
    assert "predicted" not in coord("runs", "show", first["id"]).out
