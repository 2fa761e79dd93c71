"""Test which issues are ready by the rules of two Beads versions, and why others are not."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordination.base.errors import NotFound, Refused
from coordination.domain.issues.explain import DependencyPath, explain
from coordination.domain.issues.readiness import IssueReadiness, ready
from coordination.domain.issues.record import Issue, IssueDependency
from coordination.domain.issues.rules import ENDED, RULE_SETS
from coordination.formats.beads import read_issues
from tests.support.issues import BOTH, LATER, NEW, NOW, OLD, issue, planned, ready_ids
from tests.support.refusals import refuses

DATA = Path(__file__).resolve().parents[2] / "data"
EXPECTED = json.loads((DATA / "ready_expected.json").read_text(encoding="utf-8"))


def blocked_ids(issues: list[Issue], rules: str) -> list[str]:
    """Return the issues that are blocked and neither closed nor pinned."""
    readiness = IssueReadiness(issues, rules, NOW)
    return sorted(key for key in readiness.blocked if readiness.issues[key].status not in ENDED)


class TestRealFiles:
    @pytest.mark.parametrize("name", EXPECTED)
    @pytest.mark.parametrize(("rules", "version"), [(NEW, "v1_0_5"), (OLD, "v0_47_1")])
    def test_ready_and_blocked_are_what_that_version_gives_in_its_order(self, name, rules, version):
        issues = read_issues((DATA / name).read_bytes())

        assert [result.id for result in ready(issues, rules, NOW)] == EXPECTED[name][f"ready_{version}"]
        assert blocked_ids(issues, rules) == EXPECTED[name][f"blocked_{version}"]

    @pytest.mark.parametrize("name", EXPECTED)
    @BOTH
    def test_every_blocked_issue_is_told_at_least_one_blocker_and_no_ready_one_is(self, name, rules):
        issues = read_issues((DATA / name).read_bytes())
        blocked = set(blocked_ids(issues, rules))

        for result in issues[::7]:
            explanation = explain(issues, result.id, rules, NOW)

            if result.id in blocked:
                assert any(
                    blocker.way in (DependencyPath.DIRECT, DependencyPath.INHERITED) for blocker in explanation.blockers
                )
            if explanation.ready:
                assert not any(blocker.blocks for blocker in explanation.blockers)
                assert not explanation.excluded

    @pytest.mark.parametrize("name", EXPECTED)
    @BOTH
    def test_the_plan_of_the_open_issues_can_be_stored(self, name, rules):
        needs, left = planned(rules, *read_issues((DATA / name).read_bytes()))

        assert [key for key, waits in needs.items() if not waits] == EXPECTED[name][
            "ready_v1_0_5" if rules == NEW else "ready_v0_47_1"
        ]
        assert len(needs) + len(left) == EXPECTED[name]["open"]


class TestOrder:
    def test_most_urgent_first_then_newest_then_by_id(self):
        early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
        issues = [
            issue("undated"),
            issue("b", created_at=early),
            issue("a", created_at=early),
            issue("newest", created_at=late),
            issue("later", priority=1, created_at=late),
        ]

        assert ready_ids(NEW, *issues) == ["newest", "a", "b", "undated", "later"]


class TestCandidates:
    @BOTH
    @pytest.mark.parametrize("status", ["in_progress", "blocked", "deferred", "closed", "pinned", "hooked", "own"])
    def test_only_open_issues_are_ready(self, rules, status):
        assert ready_ids(rules, issue("a", status=status)) == []

    @BOTH
    @pytest.mark.parametrize("flag", ["pinned", "ephemeral"])
    def test_pinned_and_ephemeral_issues_are_not(self, rules, flag):
        assert ready_ids(rules, issue("a", **{flag: True})) == []

    @pytest.mark.parametrize("kind", ["merge-request", "gate", "molecule", "message", "agent", "role", "rig"])
    def test_some_types_are_never_work_and_two_of_them_only_since_1_0(self, kind):
        assert ready_ids(NEW, issue("a", issue_type=kind)) == []
        assert ready_ids(OLD, issue("a", issue_type=kind)) == (["a"] if kind in ("role", "rig") else [])

    @BOTH
    def test_an_unknown_type_is_work(self, rules):
        assert ready_ids(rules, issue("a", issue_type="convoy")) == ["a"]

    @BOTH
    def test_a_deferred_issue_is_ready_from_its_moment_on(self, rules):
        assert ready_ids(rules, issue("a", defer_until=LATER), issue("b", defer_until=NOW)) == ["b"]

    def test_a_deferred_parent_holds_its_own_children_only_and_only_since_1_0(self):
        family = [
            issue("p", defer_until=LATER),
            issue("c", ("parent-child", "p")),
            issue("g", ("parent-child", "c")),
        ]

        assert ready_ids(NEW, *family) == ["g"]
        assert ready_ids(OLD, *family) == ["c", "g"]


class TestBlocks:
    @pytest.mark.parametrize(
        ("status", "new", "old"),
        [
            ("open", True, True),
            ("in_progress", True, True),
            ("blocked", True, True),
            ("deferred", True, True),
            ("hooked", True, True),
            ("review", True, False),
            ("closed", False, False),
            ("pinned", False, False),
            ("tombstone", False, False),
        ],
    )
    def test_which_statuses_of_the_target_block(self, status, new, old):
        issues = [issue("a", ("blocks", "b")), issue("b", status=status)]

        assert ("a" not in ready_ids(NEW, *issues)) is new
        assert ("a" not in ready_ids(OLD, *issues)) is old

    @BOTH
    @pytest.mark.parametrize(
        "kind", ["related", "discovered-from", "tracks", "until", "blocked-by", "follows", "replies-to", "x"]
    )
    def test_associations_and_unknown_types_do_not_block(self, rules, kind):
        assert "a" in ready_ids(rules, issue("a", (kind, "b")), issue("b"))

    @BOTH
    @pytest.mark.parametrize("target", ["gone", "external:shop:checkout"])
    @pytest.mark.parametrize("kind", ["blocks", "conditional-blocks", "waits-for", "parent-child"])
    def test_a_target_outside_of_the_file_does_not_block(self, rules, target, kind):
        assert ready_ids(rules, issue("a", (kind, target))) == ["a"]

    @pytest.mark.parametrize(
        ("status", "reason", "new", "old"),
        [
            ("open", None, True, True),
            ("hooked", None, True, False),
            ("closed", "done", False, True),
            ("closed", None, False, True),
            ("closed", "Tests FAILED twice", False, False),
            ("closed", "won't fix", False, False),
            ("closed", "wontfix", False, False),
            ("closed", "cancelled", False, False),
            ("closed", "canceled", False, False),
            ("closed", "rejected", False, False),
            ("closed", "abandoned", False, False),
            ("closed", "was blocked", False, False),
            ("closed", "an error", False, False),
            ("closed", "timeout", False, False),
            ("closed", "aborted", False, False),
        ],
    )
    def test_a_condition_is_met_by_any_end_since_1_0_and_by_failure_before(self, status, reason, new, old):
        issues = [issue("a", ("conditional-blocks", "b")), issue("b", status=status, close_reason=reason)]

        assert ("a" not in ready_ids(NEW, *issues)) is new
        assert ("a" not in ready_ids(OLD, *issues)) is old

    @BOTH
    def test_a_cycle_of_blockers_ends_and_nobody_in_it_is_ready(self, rules):
        cycle = [issue("a", ("blocks", "b")), issue("b", ("blocks", "c")), issue("c", ("blocks", "a")), issue("d")]

        assert ready_ids(rules, *cycle) == ["d"]

    @BOTH
    def test_an_edge_written_in_another_issues_record_counts_for_the_issue_it_names(self, rules):
        carrier = Issue("c", "t", "{}", dependencies=(IssueDependency("a", "b", "blocks"),))

        assert ready_ids(rules, issue("a"), issue("b"), carrier) == ["b", "c"]


class TestWaitsFor:
    @staticmethod
    def scene(gate: dict, *children: str) -> list[Issue]:
        return [
            issue("w", ("waits-for", "s", gate)),
            issue("s", status="closed"),
            *(issue(f"k{n}", ("parent-child", "s"), status=status) for n, status in enumerate(children)),
        ]

    @pytest.mark.parametrize(
        ("gate", "children", "new", "old"),
        [
            ({}, [], False, False),
            ({}, ["open"], True, True),
            ({}, ["closed", "open"], True, True),
            ({}, ["closed", "closed"], False, False),
            ({}, ["pinned"], False, True),
            ({}, ["review"], True, True),
            ({"gate": "all-children"}, ["closed", "open"], True, True),
            ({"gate": "any-children"}, ["open", "open"], True, True),
            ({"gate": "any-children"}, ["closed", "open"], False, False),
            ({"gate": "any-children"}, [], False, True),
            ({"gate": "any-children"}, ["pinned"], False, True),
            ({"gate": "most-children"}, ["open"], True, False),
            ({"gate": None}, ["open"], True, True),
        ],
    )
    def test_gates_hold_as_each_version_has_it(self, gate, children, new, old):
        issues = self.scene(gate, *children)

        assert ("w" not in ready_ids(NEW, *issues)) is new
        assert ("w" not in ready_ids(OLD, *issues)) is old

    def test_the_spawner_in_the_metadata_counted_before_1_0(self):
        issues = [
            issue("w", ("waits-for", "s", {"spawner_id": "other"})),
            issue("s", status="closed"),
            issue("other", status="closed"),
            issue("k", ("parent-child", "other")),
        ]

        assert "w" in ready_ids(NEW, *issues)
        assert "w" not in ready_ids(OLD, *issues)


class TestInheritance:
    @BOTH
    def test_children_of_a_blocked_parent_are_blocked_at_any_depth(self, rules):
        family = [
            issue("p", ("blocks", "b")),
            issue("b"),
            issue("c", ("parent-child", "p")),
            issue("g", ("parent-child", "c")),
        ]

        assert ready_ids(rules, *family) == ["b"]

    @BOTH
    def test_an_open_parent_that_is_not_blocked_holds_nobody(self, rules):
        assert ready_ids(rules, issue("p"), issue("c", ("parent-child", "p"))) == ["c", "p"]

    @pytest.mark.parametrize("status", ["closed", "pinned"])
    def test_a_parent_that_is_over_handed_its_block_on_before_1_0(self, status):
        family = [issue("p", ("blocks", "b"), status=status), issue("b"), issue("c", ("parent-child", "p"))]

        assert ready_ids(NEW, *family) == ["b", "c"]
        assert ready_ids(OLD, *family) == ["b"]

    def test_before_1_0_it_ends_after_fifty_levels(self):
        chain = [issue("n0", ("blocks", "b")), issue("b")]
        chain += [issue(f"n{level}", ("parent-child", f"n{level - 1}")) for level in range(1, 61)]

        assert ready_ids(NEW, *chain) == ["b"]
        assert sorted(ready_ids(OLD, *chain)) == ["b", *(f"n{level}" for level in range(51, 61))]

    @BOTH
    def test_parents_in_a_circle_do_not_hang_it(self, rules):
        circle = [
            issue("p", ("parent-child", "q"), ("blocks", "b")),
            issue("q", ("parent-child", "p")),
            issue("b"),
            issue("x", ("parent-child", "y")),
            issue("y", ("parent-child", "x")),
            issue("z", ("parent-child", "z")),
        ]

        assert ready_ids(rules, *circle) == ["b", "x", "y", "z"]


class TestRules:
    def test_unknown_rules_are_refused_with_those_there_are(self):
        with refuses(Refused):
            ready([], "beads-2.0", NOW)

    @BOTH
    def test_ten_thousand_issues_take_little(self, rules):
        issues = [
            issue(
                f"i{n}",
                ("blocks", f"i{(n * 7) % 10_000}"),
                ("parent-child", f"i{n - 1}"),
                ("waits-for", f"i{n % 10}"),
                ("blocks", f"i{n - 50}"),
                status="closed" if n % 3 else "open",
            )
            for n in range(10_000)
        ]

        started = time.process_time()  # other processes on the machine do not count
        ready(issues, rules, NOW)

        assert time.process_time() - started < 2.5

    @given(st.data())
    @pytest.mark.parametrize("rules", list(RULE_SETS))
    def test_the_blocked_set_is_the_least_that_the_rules_close(self, rules, data):
        names = [f"i{n}" for n in range(data.draw(st.integers(1, 7)))]
        kinds = st.sampled_from(["blocks", "parent-child", "waits-for", "conditional-blocks"])
        edges = st.lists(st.tuples(kinds, st.sampled_from([*names, "gone"])), max_size=3)
        statuses = st.sampled_from(["open", "closed", "pinned", "review"])
        issues = [issue(name, *data.draw(edges), status=data.draw(statuses)) for name in names]

        board = IssueReadiness(issues, rules, NOW)

        blocked: set[str] = set()
        while True:  # the definition, the slow way
            more = {
                each.id
                for each in issues
                if board.rules.takes_part(each)
                and (each.id in board.holds or any(parent in blocked for parent in each.parents))
            }
            if more == blocked:
                break
            blocked = more
        assert board.blocked == blocked


class TestExplain:
    def test_names_every_blocker_and_its_way(self):
        issues = [
            issue(
                "a",
                ("blocks", "b"),
                ("conditional-blocks", "d"),
                ("waits-for", "s"),
                ("parent-child", "p"),
                ("blocks", "gone"),
                ("blocks", "external:shop:pay"),
                ("blocks", "done"),
                ("related", "b2"),
                defer_until=LATER,
                pinned=True,
            ),
            issue("b", status="in_progress", title="The\x1b[31m first\nblocker"),
            issue("d"),
            issue("s", status="closed"),
            issue("k", ("parent-child", "s")),
            issue("done", status="closed"),
            issue("p", ("parent-child", "q"), ("blocks", "b"), defer_until=LATER),
            issue("q", ("blocks", "b2")),
            issue("b2"),
        ]

        explanation = explain(issues, "a", NEW, NOW)

        assert not explanation.ready
        assert explanation.excluded == ("it is pinned",)
        assert [(each.way, each.id, each.via) for each in explanation.blockers] == [
            (DependencyPath.DIRECT, "b", ()),
            (DependencyPath.DIRECT, "d", ()),
            (DependencyPath.DIRECT, "s", ()),
            (DependencyPath.INHERITED, "b", ("p",)),
            (DependencyPath.INHERITED, "b2", ("p", "q")),
            (DependencyPath.DEFERRED, "a", ()),
            (DependencyPath.DEFERRED, "p", ("p",)),
            (DependencyPath.DANGLING, "gone", ()),
            (DependencyPath.DANGLING, "external:shop:pay", ()),
        ]
        assert explanation.blockers[0].status == "in_progress"
        assert explanation.blockers[2].children == ("k",)
        assert explanation.blockers[5].until == LATER
        text = "\n".join(explanation.lines())
        for part in ("not ready", "pinned", "blocked directly by b (in_progress)", "p -> q", "2027-01-02", "gone"):
            assert part in text
        assert "\x1b" not in text
        assert len(explanation.lines()) == 1 + len(explanation.excluded) + len(explanation.blockers)

    def test_says_json_that_a_program_can_read(self):
        explanation = explain([issue("a", ("blocks", "b")), issue("b")], "a", NEW, NOW)

        answer = json.loads(json.dumps(explanation.to_json()))

        assert answer["ready"] is False
        assert answer["blockers"][0] == {
            "way": "direct",
            "blocks": True,
            "id": "b",
            "kind": "blocks",
            "status": "open",
            "title": "Title of b",
            "via": [],
            "until": None,
            "children": [],
            "detail": "blocks",
        }

    @BOTH
    def test_a_ready_issue_has_no_reasons(self, rules):
        explanation = explain([issue("a")], "a", rules, NOW)

        assert explanation.ready
        assert explanation.lines() == [f"a Title of a: ready by the rules of {rules}"]

    def test_a_dangling_target_is_named_and_holds_nothing(self):
        explanation = explain([issue("a", ("blocks", "gone"))], "a", NEW, NOW)

        assert explanation.ready
        assert [(each.way, each.blocks) for each in explanation.blockers] == [(DependencyPath.DANGLING, False)]

    def test_a_deleted_issue_says_so(self):
        assert explain([issue("a", status="tombstone")], "a", NEW, NOW).excluded == ("it is deleted",)
        assert explain([issue("a", status="tombstone")], "a", OLD, NOW).excluded == ("its status is tombstone",)

    def test_a_closed_condition_says_what_it_waits_for(self):
        issues = [issue("a", ("conditional-blocks", "b")), issue("b", status="closed", close_reason="done")]

        assert "only if that is closed as failed" in explain(issues, "a", OLD, NOW).lines()[1]

    def test_an_unknown_id_is_not_found(self):
        with refuses(NotFound):
            explain([issue("a")], "b", NEW, NOW)

    @BOTH
    def test_circles_of_parents_end(self, rules):
        circle = [issue("p", ("parent-child", "q"), ("blocks", "b")), issue("q", ("parent-child", "p")), issue("b")]

        assert [each.via for each in explain(circle, "q", rules, NOW).blockers] == [("p",)]
