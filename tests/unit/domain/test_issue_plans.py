"""Test the plan that works off the open issues in dependency order, and which issues it leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordination.base.errors import Refused
from coordination.domain.issues.plan import key_of, plan_from_issues, shell_job
from coordination.domain.issues.readiness import ready
from coordination.domain.issues.rules import RULE_SETS
from coordination.domain.plans import graph
from coordination.domain.plans.plans import MAX_KEY, MAX_TITLE
from coordination.formats.beads import read_issues
from tests.support.issues import BOTH, LATER, NEW, NOW, OLD, issue, planned, ready_ids
from tests.support.refusals import refuses

DATA = Path(__file__).resolve().parents[2] / "data"
EXPECTED = json.loads((DATA / "ready_expected.json").read_text(encoding="utf-8"))


class TestPlan:
    @BOTH
    def test_each_issue_waits_for_its_own_blockers_and_for_those_of_its_ancestors(self, rules):
        needs, left = planned(
            rules,
            issue("a", ("blocks", "b"), ("parent-child", "p"), priority=2),
            issue("p", ("blocks", "c"), priority=1),
            issue("b"),
            issue("c"),
            issue("done", status="closed"),
        )

        assert needs == {"b": [], "c": [], "p": ["c"], "a": ["b", "c"]}
        assert left == {}

    def test_urgent_issues_get_the_higher_priority(self):
        issues = [issue("urgent", priority=0), issue("minor", priority=4), issue("odd", priority=10**30)]

        plan, _ = plan_from_issues(issues, rules=NEW, now=NOW, run_for=shell_job("true"))

        assert [(task.key, task.priority) for task in plan.tasks] == [("urgent", 4), ("minor", 0), ("odd", -1000)]

    def test_the_job_is_told_of_its_issue(self):
        text = json.dumps(
            {"id": "a", "title": "Fix it", "design": "so", "notes": "", "labels": ["x"], "owner": "dave", "priority": 1}
        )

        plan, _ = plan_from_issues(
            read_issues(text.encode()), rules=NEW, now=NOW, run_for=shell_job("agent", {"MODE": "fast"})
        )

        [task] = plan.tasks
        assert task.input["issue"] == {
            "id": "a",
            "title": "Fix it",
            "design": "so",
            "status": "open",
            "priority": 1,
            "issue_type": "task",
            "assignee": None,
            "labels": ["x"],
            "parent": None,
        }
        assert task.run == {
            "shell": "agent",
            "env": {"MODE": "fast", "COORD_ISSUE_ID": "a", "COORD_ISSUE_TITLE": "Fix it"},
        }
        assert task.metadata == {"issue": "a"}

    def test_a_title_that_looks_like_a_template_is_never_run_as_one(self):
        plan, _ = plan_from_issues(
            [issue("a", title="Render {{ 7 * 7 }}")], rules=NEW, now=NOW, run_for=shell_job("agent")
        )

        graph.check_plan(plan)
        assert plan.tasks[0].run["env"]["COORD_ISSUE_TITLE"] == "{{ input.issue.title }}"

    def test_titles_become_one_line_that_fits_and_the_input_keeps_them_whole(self):
        issues = [issue("a", title="one\ntwo\x1b" + "x" * 600), issue("b", title=" ")]

        plan, _ = plan_from_issues(issues, rules=NEW, now=NOW, run_for=shell_job("true"))

        graph.check_plan(plan)
        assert len(plan.tasks[0].title) == MAX_TITLE
        assert plan.tasks[0].title.startswith("one two xxx")
        assert plan.tasks[0].input["issue"]["title"] == issues[0].title
        assert plan.tasks[1].title == "b"

    @pytest.mark.parametrize("issue_id", ["-rf", "a b", "ä", "x" * 300, "a\nb", "☃", "a{{b}}"])
    def test_an_id_that_is_no_key_gets_one_of_its_own(self, issue_id):
        needs, _ = planned(NEW, issue(issue_id), issue("z", ("blocks", issue_id)))

        assert needs["z"] == [key_of(issue_id)]
        assert len(key_of(issue_id)) <= MAX_KEY
        assert len({key_of(issue_id), key_of(f"{issue_id} "), key_of(f" {issue_id}")}) == 3

    @BOTH
    def test_what_waits_for_work_that_is_not_done_here_is_left_out_with_all_that_waits_for_it(self, rules):
        needs, left = planned(
            rules,
            issue("free"),
            issue("a", ("blocks", "busy")),
            issue("b", ("blocks", "a")),
            issue("c", ("parent-child", "p")),
            issue("p", ("blocks", "put-off")),
            issue("d", ("blocks", "mail")),
            issue("busy", status="in_progress"),
            issue("put-off", defer_until=LATER),
            issue("mail", issue_type="message"),
        )

        assert list(needs) == ["free"]
        assert set(left) == {*"abcdp", "put-off", "mail"}
        assert left["put-off"].why == "it is deferred until 2027-01-02 00:00 UTC"
        assert left["mail"].why == "its type is message"
        assert left["a"].why == "it waits for busy, but it is in_progress"
        assert left["b"].why == "it waits for a, which is excluded"
        assert left["c"].why == "it waits for put-off, but it is deferred until 2027-01-02 00:00 UTC, through p"
        assert left["d"].why == "it waits for mail, but its type is message"

    @BOTH
    def test_issues_that_wait_for_each_other_are_left_out_by_name(self, rules):
        needs, left = planned(
            rules,
            issue("a", ("blocks", "b")),
            issue("b", ("blocks", "c")),
            issue("c", ("blocks", "a")),
            issue("tail", ("blocks", "a")),
            issue("self", ("blocks", "self")),
            issue("free"),
        )

        assert list(needs) == ["free"]
        assert left["a"].why == "it waits for itself: a -> b -> c -> a"
        assert left["self"].why == "it waits for itself: self -> self"
        assert left["tail"].why == "it waits for a, which is excluded"

    def test_a_long_circle_is_named_in_part(self):
        circle = [issue(f"i{n}", ("blocks", f"i{(n + 1) % 5000}")) for n in range(5000)]

        _, left = planned(NEW, issue("free"), *circle)

        assert len(left) == 5000
        assert "4,988 more" in left["i17"].why

    def test_a_condition_that_only_a_failure_meets_is_not_planned(self):
        issues = [issue("a", ("conditional-blocks", "b")), issue("b")]

        assert planned(NEW, *issues)[0] == {"b": [], "a": ["b"]} or planned(NEW, *issues)[0] == {"a": ["b"], "b": []}
        needs, left = planned(OLD, *issues)
        assert list(needs) == ["b"]
        assert left["a"].why == "it waits for the failure of b"

    def test_a_gate_waits_for_all_open_children(self):
        needs, _ = planned(
            NEW,
            issue("w", ("waits-for", "s")),
            issue("s", status="closed"),
            issue("k1", ("parent-child", "s")),
            issue("k2", ("parent-child", "s")),
            issue("k3", ("parent-child", "s"), status="closed"),
        )

        assert needs["w"] == ["k1", "k2"]

    @BOTH
    def test_a_gate_for_any_child_needs_one_that_is_worked_off(self, rules):
        gate = {"gate": "any-children"}
        children = [
            issue("k1", ("parent-child", "s"), status="in_progress"),
            issue("k2", ("parent-child", "s"), ("blocks", "busy")),
            issue("busy", status="in_progress"),
        ]
        common = [issue("w", ("waits-for", "s", gate)), issue("s", status="closed"), issue("v", ("blocks", "w"))]

        some, _ = planned(rules, *common, *children, issue("k3", ("parent-child", "s")))
        none, left = planned(rules, *common, *children, issue("free"))

        assert some["w"] == ["k3"]
        assert list(none) == ["free"]
        assert left["w"].why == "it waits for any child of s, and none gets a task"
        assert left["v"].why == "it waits for w, which is excluded"

    def test_who_waits_for_any_child_of_its_own_parent_does_not_wait_for_itself(self):
        needs, _ = planned(
            NEW,
            issue("w", ("waits-for", "s", {"gate": "any-children"}), ("parent-child", "s")),
            issue("s", status="closed"),
            issue("k", ("parent-child", "s")),
        )

        assert needs["w"] == ["k"]

    def test_nothing_to_do_is_said(self):
        with refuses(Refused):
            plan_from_issues([issue("a", status="closed")], rules=NEW, now=NOW, run_for=shell_job("true"))

    @given(st.data())
    @pytest.mark.parametrize("rules", list(RULE_SETS))
    def test_worked_in_the_plans_order_every_issue_is_ready_when_its_turn_comes(self, rules, data):
        names = [f"i{n}" for n in range(data.draw(st.integers(1, 8)))]
        kinds = st.sampled_from(["blocks", "parent-child", "waits-for"])
        edges = st.lists(st.tuples(kinds, st.sampled_from(names)), max_size=3)
        statuses = st.sampled_from(["open", "open", "open", "closed", "in_progress"])
        issues = {name: issue(name, *data.draw(edges), status=data.draw(statuses)) for name in names}
        try:
            plan, left = plan_from_issues(list(issues.values()), rules=rules, now=NOW, run_for=shell_job("true"))
        except Refused:
            assert not ready(list(issues.values()), rules, NOW)
            return

        for key in graph.topological_order(plan):
            assert key in ready_ids(rules, *issues.values())
            issues[key] = issue(key, *[(e.type, e.depends_on_id) for e in issues[key].dependencies], status="closed")

        assert not set(ready_ids(rules, *issues.values())) & {out.id for out in left}
