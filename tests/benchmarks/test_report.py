"""Test goals and tables: how the measurements are presented."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import flow, goals, peers, report
from benchmarks.goals import Goal, Verdict
from benchmarks.measure import series
from benchmarks.report import Line

HOW: dict[str, Any] = {
    "date": "2030-01-02 03:04 UTC",
    "command": "python -m benchmarks",
    "machine": "2 cores",
    "load": 0.5,
    "python": "3.11.7",
    "servers": {"Valkey": "9.1.2"},
    "libraries": {"celery": "5.7.0", "dbos": "not installed"},
    "rounds": 3,
    "worker_processes": 1,
}


class TestGoals:
    @pytest.mark.parametrize(
        ("value", "verdict"),
        [(11, Verdict.WANT), (10, Verdict.WANT), (9.9, Verdict.MUST), (3, Verdict.MUST), (2.9, Verdict.MISSED)],
    )
    def test_more_may_be_better(self, value: float, verdict: Verdict) -> None:
        assert Goal(3, 10, more=True).verdict(value) is verdict

    @pytest.mark.parametrize(
        ("value", "verdict"), [(0.1, Verdict.WANT), (0.2, Verdict.MUST), (0.5, Verdict.MUST), (0.6, Verdict.MISSED)]
    )
    def test_less_may_be_better(self, value: float, verdict: Verdict) -> None:
        assert Goal(0.5, 0.12).verdict(value) is verdict

    def test_a_mark_is_shown_with_its_direction_and_unit(self) -> None:
        assert Goal(3, 10, more=True).shown(3, "x") == ">= 3x"
        assert Goal(25, 5).shown(25, "ms") == "<= 25 ms"

    def test_what_is_wanted_is_never_less_than_what_must_be(self) -> None:
        marks = [goal for goal in vars(goals).values() if isinstance(goal, Goal)]

        assert len(marks) > 10
        assert [goal for goal in marks if goal.verdict(goal.want) is not Verdict.WANT] == []


class TestLines:
    def test_a_figure_with_a_goal_says_how_far_it_came(self) -> None:
        shown = report.show(Line("hop", "sqlite", series([0.3, 0.2, 0.4], "x"), goal=goals.HOP))

        assert "0.3x (0.2 to 0.4)" in shown
        assert shown.endswith("must <= 0.5x  want <= 0.12x  reached: must")

    def test_a_peer_that_is_not_there_is_named(self) -> None:
        assert "not measured: dbos is not installed" in report.show(
            Line("no-ops", "dbos", None, note="dbos is not installed")
        )

    def test_a_line_survives_its_way_through_the_file(self) -> None:
        lines = [
            Line("hop", "sqlite", series([0.3, 0.2], "x"), goal=goals.HOP),
            Line("release", "sqlite", series([1.0], "ms"), ratio=1.1, target="<= 1.3x of 1,000"),
            Line("no-ops", "dbos", None, note="dbos is not installed"),
        ]

        assert [report.line_of(json.loads(json.dumps(line.to_json()))) for line in lines] == lines

    def test_ratios_are_taken_to_those_peers_that_are_there_and_the_others_are_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(peers.NEEDS, "dbos", "a_package_that_nobody_has")
        results = {"celery": [2.0, 4.0], "sqlite": [1.0, 1.0], "postgresql": [1.0, 2.0]}
        targets = {"celery": goals.THROUGHPUT_BESIDE_CELERY, "dbos": goals.THROUGHPUT_BESIDE_DBOS}

        lines = flow.rates("no-ops", results, 10, ("celery", "dbos"), targets)

        assert {(line.what, line.where): line.series and line.series.values for line in lines} == {
            ("no-ops", "celery"): (5.0, 2.5),
            ("no-ops", "sqlite"): (10.0, 10.0),
            ("no-ops", "postgresql"): (10.0, 5.0),
            ("no-ops, beside celery", "sqlite"): (2.0, 4.0),
            ("no-ops, beside celery", "postgresql"): (2.0, 2.0),
            ("no-ops", "dbos"): None,
        }
        assert lines[-1].note == "a_package_that_nobody_has is not installed (make bench installs it)"


class TestThePage:
    def page(self, folder: Path) -> Path:
        page = folder / "README.md"
        page.write_text(f"# Before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
        return page

    def test_the_tables_replace_the_old_ones_and_nothing_else(self, tmp_path: Path) -> None:
        page = self.page(tmp_path)

        report.save("hops", [Line("hop", "sqlite", series([0.1], "x"), goal=goals.HOP)], HOW, folder=tmp_path)

        text = page.read_text(encoding="utf-8")
        assert text.startswith("# Before\n")
        assert text.endswith(f"{report.END}\nafter\n")
        assert "old" not in text
        assert text.count("| hop | sqlite | 0.1x (0.1 to 0.1) | <= 0.5x | <= 0.12x | want |") == 2  # summary and part
        assert "Valkey 9.1.2, celery 5.7.0, dbos not installed" in text

    def test_a_part_that_is_measured_again_replaces_only_itself(self, tmp_path: Path) -> None:
        self.page(tmp_path)
        report.save("fan", [Line("fan", "sqlite", series([1.0], "s"))], HOW, folder=tmp_path)
        report.save("hops", [Line("hop", "sqlite", series([2.0], "ms"))], HOW, folder=tmp_path)

        report.save("hops", [Line("hop", "sqlite", series([3.0], "ms"))], HOW, folder=tmp_path)

        kept = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
        assert {part: result["results"][0]["median"] for part, result in kept.items()} == {"fan": 1.0, "hops": 3.0}

    def test_the_parts_are_shown_in_their_own_order_and_not_in_that_of_the_measurements(self, tmp_path: Path) -> None:
        self.page(tmp_path)
        for part in ("fan", "of old", "hops"):
            line = Line(part, "sqlite", series([1.0], "s"))

            report.save(part, [line], HOW, order=("limits", "hops", "fan"), folder=tmp_path)

        text = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert [line for line in text.splitlines() if line.startswith("### ")] == ["### hops", "### fan", "### of old"]

    def test_what_all_parts_of_a_run_share_is_told_once(self) -> None:
        results = [Line("hop", "sqlite", series([1.0], "ms")).to_json()]
        later = {**HOW, "date": "2030-01-02 03:14 UTC", "load": 1.5}
        another = {**HOW, "rounds": 5}
        document = {
            name: {"about": how, "results": results} for name, how in {"a": HOW, "b": later, "c": another}.items()
        }

        text = "\n".join(report.tables(document))

        assert text.count("Valkey 9.1.2") == 2
        assert "### b\n2030-01-02 03:14 UTC, in the same run; load 1.5 at the end." in text

    def test_a_table_has_as_many_cells_in_every_row(self) -> None:
        lines = [
            Line("hop", "sqlite", series([0.3], "x"), goal=goals.HOP),
            Line("release", "sqlite", series([1.0], "ms"), ratio=1.1, target="<= 1.3x"),
            Line("no-ops", "dbos", None, note="not here"),
        ]
        document = {"hops": {"about": HOW, "results": [line.to_json() for line in lines]}}

        rows = [line for line in report.tables(document) if line.startswith("|")]

        part = rows[-5:]
        assert "beside" in part[0]
        assert {row.count("|") for row in part} == {8}

    def test_the_machine_is_described_without_its_name(self) -> None:
        import platform

        assert "cores" in report.machine()
        assert platform.node() == "" or f" {platform.node()}" not in report.machine()
