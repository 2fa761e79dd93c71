"""Test the graph: an invalid one is refused with file and line before anything is stored."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordination.base.errors import PlanError
from coordination.domain.jobs.resource_limits import Limits
from coordination.domain.plans import graph
from coordination.domain.plans.plans import MAX_KEY, MAX_TASKS, BudgetCap, Concurrency, Defaults, Dependency, Plan, Task
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import DependencyKind
from tests.support.refusals import refuses

ECHO = {"shell": "echo hello"}


def task(key, *needs, **more):
    return Task(key, more.pop("run", ECHO), needs=needs, **more)


def plan(*tasks, **more):
    lines = {task.key: number * 10 for number, task in enumerate(tasks, start=1)}
    return Plan(tasks, source="plan.yaml", lines=lines, **more)


def refusal(*tasks, field, line=None, **more):
    with refuses(PlanError, field=field, line=line) as refused:
        graph.check_plan(plan(*tasks, **more))
    return refused.value


def test_a_sound_plan_passes():
    graph.check_plan(
        plan(
            task("a", title="First", priority=-5, input={"x": [1, {"y": None}]}),
            task("ns/b:1.2_x-y", "a", timeout=timedelta(minutes=1), backoff=Backoff()),
            task("prüfen", Dependency("a", DependencyKind.RELATED), parent="a", not_before=datetime.now(UTC)),
            budget=BudgetCap(Decimal("1.5")),
            concurrency=Concurrency(project=2, agents={"dave": 1}),
        )
    )


class TestKeys:
    def test_no_tasks(self):
        assert refusal(field="tasks").source == "plan.yaml"

    def test_too_many_tasks(self):
        one = task("a")

        with refuses(PlanError, field="tasks"):
            graph.check_plan(Plan([one] * (MAX_TASKS + 1)))

    @pytest.mark.parametrize("key", ["", "a b", "a\n", "-x", "a\0", "a;b", "x" * (MAX_KEY + 1), None, 5])
    def test_a_bad_key_is_refused(self, key):
        with pytest.raises(PlanError):
            graph.check_plan(Plan([task(key)]))

    def test_a_repeated_key_names_both_tasks(self):
        with refuses(PlanError, field="tasks.a.key"):
            graph.check_plan(Plan([task("a"), task("b"), task("a")]))


class TestNeeds:
    def test_an_unknown_task_is_refused_with_line_and_the_likely_one(self):
        error = refusal(task("lint"), task("fix", "lnt"), field="tasks.fix.needs", line=20)

        assert error.source == "plan.yaml"

    def test_a_task_cannot_need_itself(self):
        refusal(task("a", "a"), field="tasks.a.needs", line=10)

    def test_a_task_is_needed_once(self):
        twice = task("b", "a", Dependency("a", DependencyKind.RELATED))

        refusal(task("a"), twice, field="tasks.b.needs", line=20)

    def test_one_text_is_not_a_list_of_letters(self):
        refusal(task("lint"), Task("fix", ECHO, needs="lint"), field="tasks.fix.needs", line=20)

    def test_an_unknown_parent_is_refused(self):
        refusal(task("epic"), task("a", parent="epci"), field="tasks.a.parent", line=20)

    def test_parents_do_not_go_round(self):
        refusal(task("a", parent="b"), task("b", parent="a"), field="tasks.a.parent", line=10)


class TestCycles:
    def test_the_whole_cycle_is_named_and_nothing_beside_it(self):
        cycle = (task("a", "b", "start"), task("b", "c"), task("c", "a"))

        refusal(task("start"), *cycle, task("tail", "a"), field="tasks.a.needs", line=20)

    def test_a_long_cycle_is_cut(self):
        count = 100_000
        tasks = [task(f"t{i}", f"t{(i + 1) % count}") for i in range(count)]

        error = refusal(*tasks, field="tasks.t0.needs", line=10)

        assert len(error.message) < 500

    @pytest.mark.parametrize("kind", [DependencyKind.RELATED, DependencyKind.DISCOVERED_FROM])
    def test_what_does_not_hold_back_makes_no_cycle(self, kind):
        graph.check_plan(plan(task("a", "b"), task("b", Dependency("a", kind))))

    def test_a_parent_child_dependency_holds_back(self):
        refusal(task("a", "b"), task("b", Dependency("a", DependencyKind.PARENT_CHILD)), field="tasks.a.needs", line=10)

    def test_the_order_is_that_of_the_plan_where_nothing_else_is_said(self):
        order = graph.topological_order(plan(task("c"), task("b", "d"), task("a"), task("d", "a")))

        assert order == ["c", "a", "d", "b"]

    @given(st.data())
    def test_every_task_comes_after_all_it_waits_for(self, data):
        count = data.draw(st.integers(1, 30))
        ranks = data.draw(st.permutations(range(count)))
        needs = {i: [j for j in data.draw(st.sets(st.integers(0, count - 1))) if ranks[j] < ranks[i]] for i in ranks}
        drawn = plan(*(task(f"t{i}", *(f"t{j}" for j in needs[i])) for i in range(count)))

        graph.check_plan(drawn)
        order = {key: place for place, key in enumerate(graph.topological_order(drawn))}

        assert len(order) == count
        assert all(order[f"t{j}"] < order[f"t{i}"] for i in ranks for j in needs[i])

    @given(st.integers(2, 20), st.data())
    def test_any_edge_back_from_an_ancestor_is_found(self, count, data):
        first = data.draw(st.integers(0, count - 2))
        last = data.draw(st.integers(first + 1, count - 1))
        tasks = [task(f"t{i}", *([f"t{i - 1}"] if i else [])) for i in range(count)]
        tasks[first] = replace(tasks[first], needs=(*tasks[first].needs, f"t{last}"))

        with pytest.raises(PlanError) as refused:
            graph.check_plan(plan(*tasks))

        assert str(refused.value.field).endswith(".needs")


class TestFields:
    def test_a_title_of_100_000_characters_is_named_but_not_repeated(self):
        error = refusal(task("a", title="x" * 100_000), field="tasks.a.title", line=10)

        assert len(error.sentence()) < 300

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"title": " "}, "tasks.bad.title"),
            ({"title": "a\x1b[2J"}, "tasks.bad.title"),
            ({"title": "a\0b"}, "tasks.bad.title"),
            ({"title": "\ud800"}, "tasks.bad.title"),
            ({"title": 5}, "tasks.bad.title"),
            ({"max_attempts": 0}, "tasks.bad.max_attempts"),
            ({"max_attempts": True}, "tasks.bad.max_attempts"),
            ({"timeout": timedelta(0)}, "tasks.bad.timeout"),
            ({"timeout": timedelta(days=99_999)}, "tasks.bad.timeout"),
            ({"timeout": 30}, "tasks.bad.timeout"),
            ({"stall_timeout": timedelta(seconds=-1)}, "tasks.bad.stall_timeout"),
            ({"backoff": Backoff(factor=0.5)}, "tasks.bad.backoff.factor"),
            ({"backoff": Backoff(factor=float("nan"))}, "tasks.bad.backoff.factor"),
            ({"backoff": Backoff(initial=timedelta(-1))}, "tasks.bad.backoff.initial"),
            ({"priority": 1.5}, "tasks.bad.priority"),
            ({"priority": 10**10}, "tasks.bad.priority"),
            ({"repeatable": "no"}, "tasks.bad.repeatable"),
            ({"on_dependency_failure": "explode"}, "tasks.bad.on_dependency_failure"),
            ({"not_before": datetime(2030, 1, 1)}, "tasks.bad.not_before"),  # noqa: DTZ001 - the mistake itself
            ({"due": "tomorrow"}, "tasks.bad.due"),
            ({"input": {"x": float("nan")}}, "tasks.bad.input"),
            ({"input": {"x": {1, 2}}}, "tasks.bad.input"),
            ({"input": {"x": [{5: 1}]}}, "tasks.bad.input"),
            ({"input": {"x": "\0"}}, "tasks.bad.input"),
            ({"input": [1]}, "tasks.bad.input"),
            ({"metadata": {"x": datetime(2030, 1, 1, tzinfo=UTC)}}, "tasks.bad.metadata"),
            ({"agent": ""}, "tasks.bad.agent"),
            ({"concurrency_key": "x" * 1000}, "tasks.bad.concurrency_key"),
            ({"workdir": "a\0"}, "tasks.bad.workdir"),
            ({"limits": {"memory": 5}}, "tasks.bad.limits"),
            ({"estimate": {"usd": -1}}, "tasks.bad.estimate.usd"),
            ({"estimate": {"cost": 1}}, "tasks.bad.estimate.cost"),
            ({"limits": Limits(memory=0)}, "tasks.bad.limits"),
            ({"limits": Limits(memory=True)}, "tasks.bad.limits"),
            ({"limits": Limits(files=3)}, "tasks.bad.limits"),
            ({"limits": Limits(cpu=timedelta(milliseconds=5))}, "tasks.bad.limits"),
            ({"limits": Limits(output=-1)}, "tasks.bad.limits"),
            ({"outputs": "report.md"}, "tasks.bad.outputs"),
            ({"outputs": [""]}, "tasks.bad.outputs"),
            ({"outputs": [5]}, "tasks.bad.outputs"),
            ({"outputs": ["/etc/passwd"]}, "tasks.bad.outputs"),
            ({"outputs": ["a/../../b"]}, "tasks.bad.outputs"),
            ({"outputs": ["a\0"]}, "tasks.bad.outputs"),
            ({"outputs": ["x" * 1_001]}, "tasks.bad.outputs"),
            ({"outputs": ["x"] * 101}, "tasks.bad.outputs"),
            ({"expects": "miracles"}, "tasks.bad.expects"),
            ({"expects": "changes", "run": {"shell": "ls"}}, "tasks.bad.expects"),
            ({"expects": "changes", "run": {"chat": "openai:m", "prompt": "x"}}, "tasks.bad.expects"),
            ({"run": {"shell": "echo \0"}}, "tasks.bad.run"),
            ({"run": {"shell": "  "}}, "tasks.bad.run.shell"),
            ({"run": {"python": "no colon"}}, "tasks.bad.run.python"),
            ({"run": {"python": "a:b", "args": {"x": object()}}}, "tasks.bad.run.args"),
            ({"run": {"shell": "x", "env": {"A=B": "c"}}}, "tasks.bad.run.env"),
            ({"run": lambda: None}, "tasks.bad.run"),
            ({"run": 5}, "tasks.bad.run"),
        ],
    )
    def test_a_bad_value_is_refused_at_its_task(self, change, field):
        with refuses(PlanError, field=field, line=20):
            graph.check_plan(plan(task("ok"), task("bad", **change)))

    def test_a_value_that_contains_itself_is_refused(self):
        loop = []
        loop.append(loop)

        refusal(task("a", input={"x": loop}), field="tasks.a.input", line=10)

    @pytest.mark.parametrize(
        ("more", "field"),
        [
            ({"defaults": Defaults(max_attempts=0)}, "defaults.max_attempts"),
            ({"defaults": Defaults(timeout=timedelta(0))}, "defaults.timeout"),
            ({"defaults": Defaults(limits=Limits(files=1))}, "defaults.limits"),
            ({"concurrency": Concurrency(project=0)}, "concurrency.project"),
            ({"concurrency": Concurrency(keys={"deploy": -1})}, "concurrency.keys.deploy"),
            ({"budget": BudgetCap(Decimal(-1))}, "budget.usd"),
            ({"budget": BudgetCap(Decimal("NaN"))}, "budget.usd"),
            ({"budget": BudgetCap(1.5)}, "budget"),
            ({"budget": BudgetCap()}, "budget"),
            ({"budget": BudgetCap(Decimal(1), "explode")}, "budget.on_exceed"),
            ({"name": "a\nb"}, "name"),
            ({"python_path": ["\0"]}, "python_path"),
        ],
    )
    def test_a_bad_rule_of_the_plan_is_refused(self, more, field):
        with refuses(PlanError, field=field):
            graph.check_plan(plan(task("a"), **more))

    def test_a_template_that_uses_a_task_that_is_not_needed_is_refused_at_its_line(self):
        uses_it = task("fix", run={"shell": "echo {{ needs.lint.output }}"})

        refusal(task("lint"), uses_it, field="tasks.fix.run", line=20)

    def test_the_output_of_a_merely_related_task_cannot_be_used(self):
        related = Dependency("lint", DependencyKind.RELATED)

        uses_it = task("fix", related, run={"shell": "echo {{ needs.lint.output }}"})

        refusal(task("lint"), uses_it, field="tasks.fix.run", line=20)


class TestCost:
    def test_ten_thousand_tasks_are_checked_in_a_moment(self):
        big = plan(*(task(f"t{i}", *{f"t{i // 2}", f"t{i // 3}"} - {f"t{i}"}) for i in range(10_000)))

        started = time.process_time()
        graph.check_plan(big)
        spent = time.process_time() - started

        assert spent < 1.0  # a tenth of it on a quiet machine

    @pytest.mark.full
    def test_a_chain_as_deep_as_the_plan_is_large_needs_no_stack(self):
        count = 100_000
        chain = plan(*(task(f"t{i}", *([f"t{i + 1}"] if i + 1 < count else [])) for i in range(count)))

        graph.check_plan(chain)

        assert graph.topological_order(chain)[0] == f"t{count - 1}"


class TestOneJobOfManyTasks:
    def test_it_is_read_once_and_shared(self):
        works = graph.check_plan(Plan([Task("a", ECHO), Task("b", ECHO), Task("c", dict(ECHO))]))

        assert works["a"] is works["b"]
        assert works["c"] is not works["a"]
        assert works["c"] == works["a"]

    def test_a_template_of_it_is_checked_against_the_needs_of_each_task(self):
        uses_a = {"shell": "echo {{ needs.a.output }}"}

        with refuses(PlanError, field="tasks.c.run"):
            graph.check_plan(Plan([Task("a", ECHO), Task("b", uses_a, needs=["a"]), Task("c", uses_a)]))
