"""The graph: what cannot run is refused with file and line before anything is stored."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordination.domain import graph
from coordination.domain.limits import Limits
from coordination.domain.plans import (
    MAX_KEY,
    MAX_TASKS,
    Backoff,
    BudgetCap,
    Concurrency,
    Defaults,
    Dependency,
    Plan,
    Task,
)
from coordination.domain.tasks import DependencyKind
from coordination.errors import PlanError

ECHO = {"shell": "echo hello"}


def task(key, *needs, **more):
    return Task(key, more.pop("run", ECHO), needs=needs, **more)


def plan(*tasks, **more):
    lines = {task.key: number * 10 for number, task in enumerate(tasks, start=1)}
    return Plan(tasks, source="plan.yaml", lines=lines, **more)


def refusal(*tasks, **more):
    with pytest.raises(PlanError) as refused:
        graph.check(plan(*tasks, **more))
    return refused.value


def test_a_sound_plan_passes():
    graph.check(
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
        assert "no tasks" in refusal().sentence()

    def test_too_many_tasks(self):
        one = task("a")

        with pytest.raises(PlanError, match=f"at most {MAX_TASKS:,}"):
            graph.check(Plan([one] * (MAX_TASKS + 1)))

    @pytest.mark.parametrize("key", ["", "a b", "a\n", "-x", "a\0", "a;b", "x" * (MAX_KEY + 1), None, 5])
    def test_a_bad_key_is_refused(self, key):
        with pytest.raises(PlanError):
            graph.check(Plan([task(key)]))

    def test_a_repeated_key_names_both_tasks(self):
        with pytest.raises(PlanError, match="number 1 and 3 have the same key 'a'"):
            graph.check(Plan([task("a"), task("b"), task("a")]))


class TestNeeds:
    def test_an_unknown_task_is_refused_with_line_and_the_likely_one(self):
        error = refusal(task("lint"), task("fix", "lnt"))

        assert error.sentence() == (
            "plan.yaml:20: Task 'fix': it needs 'lnt', which is not in the plan. Did you mean 'lint'?"
        )
        assert (error.source, error.line) == ("plan.yaml", 20)

    def test_a_task_cannot_need_itself(self):
        assert "needs itself" in refusal(task("a", "a")).message

    def test_a_task_is_needed_once(self):
        assert "twice" in refusal(task("a"), task("b", "a", Dependency("a", DependencyKind.RELATED))).message

    def test_one_text_is_not_a_list_of_letters(self):
        assert "Write ['lint']" in refusal(task("lint"), Task("fix", ECHO, needs="lint")).sentence()

    def test_an_unknown_parent_is_refused(self):
        assert "parent 'epci'" in refusal(task("epic"), task("a", parent="epci")).message

    def test_parents_do_not_go_round(self):
        assert "a -> b -> a" in refusal(task("a", parent="b"), task("b", parent="a")).message


class TestCycles:
    def test_the_whole_cycle_is_named_and_nothing_beside_it(self):
        error = refusal(task("start"), task("a", "b", "start"), task("b", "c"), task("c", "a"), task("tail", "a"))

        assert "a -> b -> c -> a" in error.message
        assert "tail" not in error.message
        assert error.line == 20

    def test_a_long_cycle_is_cut(self):
        count = 100_000
        tasks = [task(f"t{i}", f"t{(i + 1) % count}") for i in range(count)]

        error = refusal(*tasks)

        assert "more …" in error.message
        assert len(error.message) < 500

    @pytest.mark.parametrize("kind", [DependencyKind.RELATED, DependencyKind.DISCOVERED_FROM])
    def test_what_does_not_hold_back_makes_no_cycle(self, kind):
        graph.check(plan(task("a", "b"), task("b", Dependency("a", kind))))

    def test_a_parent_child_dependency_holds_back(self):
        error = refusal(task("a", "b"), task("b", Dependency("a", DependencyKind.PARENT_CHILD)))

        assert "a -> b -> a" in error.message

    def test_the_order_is_that_of_the_plan_where_nothing_else_is_said(self):
        order = graph.topological_order(plan(task("c"), task("b", "d"), task("a"), task("d", "a")))

        assert order == ["c", "a", "d", "b"]

    @given(st.data())
    def test_every_task_comes_after_all_it_waits_for(self, data):
        count = data.draw(st.integers(1, 30))
        ranks = data.draw(st.permutations(range(count)))
        needs = {i: [j for j in data.draw(st.sets(st.integers(0, count - 1))) if ranks[j] < ranks[i]] for i in ranks}
        drawn = plan(*(task(f"t{i}", *(f"t{j}" for j in needs[i])) for i in range(count)))

        graph.check(drawn)
        order = {key: place for place, key in enumerate(graph.topological_order(drawn))}

        assert len(order) == count
        assert all(order[f"t{j}"] < order[f"t{i}"] for i in ranks for j in needs[i])

    @given(st.integers(2, 20), st.data())
    def test_any_edge_back_from_an_ancestor_is_found(self, count, data):
        first = data.draw(st.integers(0, count - 2))
        last = data.draw(st.integers(first + 1, count - 1))
        tasks = [task(f"t{i}", *([f"t{i - 1}"] if i else [])) for i in range(count)]
        tasks[first] = replace(tasks[first], needs=(*tasks[first].needs, f"t{last}"))

        with pytest.raises(PlanError, match="need each other"):
            graph.check(plan(*tasks))


class TestFields:
    def test_a_title_of_100_000_characters_is_named_but_not_repeated(self):
        error = refusal(task("a", title="x" * 100_000))

        assert "title has 100,000 characters, at most 500" in error.message
        assert len(error.sentence()) < 300

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"title": " "}, "title is empty"),
            ({"title": "a\x1b[2J"}, "one line without control characters"),
            ({"title": "a\0b"}, "NUL"),
            ({"title": "\ud800"}, "surrogate"),
            ({"title": 5}, "title must be a text"),
            ({"max_attempts": 0}, "max_attempts"),
            ({"max_attempts": True}, "max_attempts"),
            ({"timeout": timedelta(0)}, "timeout must be longer than zero"),
            ({"timeout": timedelta(days=99_999)}, "timeout"),
            ({"timeout": 30}, "timeout"),
            ({"stall_timeout": timedelta(seconds=-1)}, "stall_timeout"),
            ({"backoff": Backoff(factor=0.5)}, "backoff.factor"),
            ({"backoff": Backoff(factor=float("nan"))}, "backoff.factor"),
            ({"backoff": Backoff(initial=timedelta(-1))}, "backoff.initial"),
            ({"priority": 1.5}, "priority"),
            ({"priority": 10**10}, "priority"),
            ({"repeatable": "no"}, "repeatable"),
            ({"on_dependency_failure": "explode"}, "on_dependency_failure can be cancel, block, run"),
            ({"not_before": datetime(2030, 1, 1)}, "offset from UTC"),  # noqa: DTZ001 - the mistake itself
            ({"due": "tomorrow"}, "due must be a moment"),
            ({"input": {"x": float("nan")}}, "input holds nan"),
            ({"input": {"x": {1, 2}}}, "input holds a set"),
            ({"input": {"x": [{5: 1}]}}, "key 5 at x[0]"),
            ({"input": {"x": "\0"}}, "NUL"),
            ({"input": [1]}, "input must map names"),
            ({"metadata": {"x": datetime(2030, 1, 1, tzinfo=UTC)}}, "metadata holds a datetime"),
            ({"agent": ""}, "agent is empty"),
            ({"concurrency_key": "x" * 1000}, "concurrency_key has 1,000 characters"),
            ({"workdir": "a\0"}, "workdir"),
            ({"limits": {"memory": 5}}, "limits must be Limits"),
            ({"estimate": {"usd": -1}}, "estimate.usd must be an amount that is not negative"),
            ({"estimate": {"cost": 1}}, "estimate has no 'cost'"),
            ({"limits": Limits(memory=0)}, "limits.memory must be a whole number from 1"),
            ({"limits": Limits(memory=True)}, "limits.memory"),
            ({"limits": Limits(files=3)}, "limits.files must be a whole number from 16"),
            ({"limits": Limits(cpu=timedelta(milliseconds=5))}, "limits.cpu must be from one second"),
            ({"limits": Limits(output=-1)}, "limits.output"),
            ({"outputs": "report.md"}, "outputs must be a list of paths"),
            ({"outputs": [""]}, "outputs must hold paths"),
            ({"outputs": [5]}, "outputs must hold paths"),
            ({"outputs": ["/etc/passwd"]}, "outputs holds '/etc/passwd', which is not inside the job's folder"),
            ({"outputs": ["a/../../b"]}, "not inside the job's folder"),
            ({"outputs": ["a\0"]}, "outputs holds a path with control characters"),
            ({"outputs": ["x" * 1_001]}, "outputs holds a path of 1,001 characters"),
            ({"outputs": ["x"] * 101}, "outputs names 101 paths; at most 100"),
            ({"run": {"shell": "echo \0"}}, "its job holds a NUL"),
            ({"run": {"shell": "  "}}, "needs a command"),
            ({"run": {"python": "no colon"}}, "package.module:function"),
            ({"run": {"python": "a:b", "args": {"x": object()}}}, "holds a object"),
            ({"run": {"shell": "x", "env": {"A=B": "c"}}}, "env"),
            ({"run": lambda: None}, "could not import"),
            ({"run": 5}, "not int"),
        ],
    )
    def test_a_bad_value_is_refused_at_its_task(self, change, says):
        error = refusal(task("ok"), task("bad", **change))

        assert says in error.sentence()
        assert "'bad'" in error.message
        assert error.line == 20

    def test_a_value_that_contains_itself_is_refused(self):
        loop = []
        loop.append(loop)

        assert "contains itself" in refusal(task("a", input={"x": loop})).message

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            ({"defaults": Defaults(max_attempts=0)}, "defaults: max_attempts"),
            ({"defaults": Defaults(timeout=timedelta(0))}, "defaults: timeout"),
            ({"defaults": Defaults(limits=Limits(files=1))}, "defaults: limits.files"),
            ({"concurrency": Concurrency(project=0)}, "concurrency.project"),
            ({"concurrency": Concurrency(keys={"deploy": -1})}, "concurrency.keys.deploy"),
            ({"budget": BudgetCap(Decimal(-1))}, "cannot be negative"),
            ({"budget": BudgetCap(Decimal("NaN"))}, "not an amount of money"),
            ({"budget": BudgetCap(1.5)}, "an exact amount"),
            ({"budget": BudgetCap()}, "no cap"),
            ({"budget": BudgetCap(Decimal(1), "explode")}, "on_exceed"),
            ({"name": "a\nb"}, "name must be one line"),
            ({"python_path": ["\0"]}, "python_path"),
        ],
    )
    def test_a_bad_rule_of_the_plan_is_refused(self, more, says):
        assert says in refusal(task("a"), **more).message

    def test_a_template_that_uses_a_task_that_is_not_needed_is_refused_at_its_line(self):
        error = refusal(task("lint"), task("fix", run={"shell": "echo {{ needs.lint.output }}"}))

        assert "does not need 'lint'" in error.message
        assert error.line == 20

    def test_the_output_of_a_merely_related_task_cannot_be_used(self):
        related = Dependency("lint", DependencyKind.RELATED)

        error = refusal(task("lint"), task("fix", related, run={"shell": "echo {{ needs.lint.output }}"}))

        assert "does not need 'lint'" in error.message


class TestCost:
    def test_ten_thousand_tasks_are_checked_in_a_moment(self):
        big = plan(*(task(f"t{i}", *{f"t{i // 2}", f"t{i // 3}"} - {f"t{i}"}) for i in range(10_000)))

        started = time.process_time()
        graph.check(big)
        spent = time.process_time() - started

        assert spent < 1.0  # a tenth of it on a quiet machine

    def test_a_chain_as_deep_as_the_plan_is_large_needs_no_stack(self):
        count = 100_000
        chain = plan(*(task(f"t{i}", *([f"t{i + 1}"] if i + 1 < count else [])) for i in range(count)))

        graph.check(chain)

        assert graph.topological_order(chain)[0] == f"t{count - 1}"


class TestOneJobOfManyTasks:
    def test_it_is_read_once_and_shared(self):
        works = graph.check(Plan([Task("a", ECHO), Task("b", ECHO), Task("c", dict(ECHO))]))

        assert works["a"] is works["b"]
        assert works["c"] is not works["a"]
        assert works["c"] == works["a"]

    def test_a_template_of_it_is_checked_against_the_needs_of_each_task(self):
        uses_a = {"shell": "echo {{ needs.a.output }}"}

        with pytest.raises(PlanError, match="'c'"):
            graph.check(Plan([Task("a", ECHO), Task("b", uses_a, needs=["a"]), Task("c", uses_a)]))
