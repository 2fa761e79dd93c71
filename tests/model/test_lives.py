"""Test random operations on a project against a plain model: after every step the whole store matches the model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from coordination.base.errors import IllegalMove
from coordination.base.ids import new_id
from coordination.domain.plans.plans import Concurrency, Defaults
from coordination.domain.tasks.attempts import Claim, Outcome, Usage
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import OnDependencyFailure
from coordination.flows.fleet.rescue_worker import rescue_worker
from coordination.flows.projects.change_project import pause_project, resume_project
from coordination.flows.tasks.retry_tasks import retry_run
from coordination.services.attempts.end import close_runs
from coordination.store.engine import Store
from tests.model.picture import flaws, take
from tests.model.profiles import DEEP, PROFILE
from tests.model.reference import Reference, RefTask, Report
from tests.support.world import World

MOST_RUNS = 3
LONG = timedelta(hours=1)  # no wait ends by itself while a test runs

_a_task = st.fixed_dictionaries(
    {
        "needs": st.sets(st.integers(1, 4), max_size=2),
        "policy": st.sampled_from(["cancel", "block", "run"]),
        "max_attempts": st.integers(1, 2),
        "repeatable": st.sampled_from([True, True, False]),
        "priority": st.integers(0, 2),
        "agent": st.sampled_from([None, None, "ada"]),
        "concurrency_key": st.sampled_from([None, None, "deploy"]),
        "later": st.sampled_from([False, False, False, True]),
    }
)
_limits = st.fixed_dictionaries(
    {"project": st.sampled_from([None, 2, 3]), "ada": st.sampled_from([None, 1]), "deploy": st.sampled_from([None, 2])}
)
_outcomes = st.sampled_from([Outcome.COMPLETED, Outcome.COMPLETED, Outcome.FAILED, *Outcome])
_picks = st.integers(0, 200)
MOSTLY = 160


class Lives(RuleBasedStateMachine):
    """One project in a workspace of its own, and its model."""

    store: ClassVar[Store]

    @initialize(tasks=st.lists(_a_task, min_size=1, max_size=5), limits=_limits)
    def begin(self, tasks, limits) -> None:
        self.world = World(self.store, name=new_id())
        self.model = Reference()
        self.workers = [self.world.worker, self.world.register(new_id())]
        self.fences: dict[tuple[str, int], Claim] = {}
        self.steps = 0
        self._submit(tasks, limits)

    @precondition(lambda self: len(self.model.runs) < MOST_RUNS)
    @precondition(lambda self: self.seldom(4))
    @rule(tasks=st.lists(_a_task, min_size=1, max_size=4), limits=_limits)
    def submit(self, tasks, limits) -> None:
        self._submit(tasks, limits)

    @rule(picks=st.lists(_picks, min_size=1, max_size=4), worker=st.integers(0, 1))
    def claim(self, picks, worker) -> None:
        ready = [key for key, task in self.model.tasks.items() if task.state == "queued" and task.waits != "future"]
        keys = list(dict.fromkeys(self._key(pick, ready) for pick in picks))
        expected = self.model.claim(keys, self.workers[worker])

        got = self.world.claim(*keys, worker=self.workers[worker])

        assert got == expected
        self.fences |= {(key, self.model.tasks[key].attempt): self.world.claims[key] for key in got}

    @precondition(lambda self: self.fences)
    @rule(
        picks=st.lists(_picks, min_size=1, max_size=3),
        outcomes=st.lists(_outcomes, min_size=3, max_size=3),
        retryable=st.booleans(),
        began=st.booleans(),
        spends=st.booleans(),
    )
    def finish(self, picks, outcomes, retryable, began, spends) -> None:
        """End any attempts together: those that own their tasks, and those from long ago."""
        fences = sorted(self.fences, key=lambda fence: (self._running(fence), fence), reverse=True)
        chosen = [fences[pick % len(fences)] for pick in picks]
        # One of each task: two of one task have a test of their own below, which is known to fail.
        self._report(dict(chosen).items(), outcomes, retryable, began, spends)

    @precondition(lambda self: self._superseded())
    @rule(pick=_picks, outcome=_outcomes, spends=st.booleans())
    def finish_late(self, pick, outcome, spends) -> None:
        """Report an end from an attempt whose task runs again."""
        late = self._superseded()
        self._report([late[pick % len(late)]], [outcome], True, True, spends)

    def _report(self, fences, outcomes, retryable, began, spends) -> None:
        reports = [
            Report(*fence, outcome.value, retryable, began, cost=new_id() if spends else None)
            for fence, outcome in zip(fences, outcomes, strict=False)
        ]
        self.model.finish(reports)

        self.world.write(
            *[
                self.world.decide(
                    self.fences[report.key, report.number],
                    Outcome(report.outcome),
                    retryable=retryable,
                    job_started=began,
                    usage=(Usage("m", id=report.cost),) if report.cost else (),
                )
                for report in reports
            ]
        )

    @precondition(lambda self: self.seldom(4))
    @rule(pick=_picks)
    def cancel(self, pick) -> None:
        self.model.cancel([self._key(pick)])
        self.world.cancel(self._key(pick))

    @precondition(lambda self: self.seldom(13))
    @rule(pick=_picks)
    def cancel_run(self, pick) -> None:
        task = self.model.tasks[self._key(pick)]
        self.model.cancel_run(task.run)
        self.world.cancel_run(self.run_ids[task.run])

    @rule(pick=_picks)
    def retry(self, pick) -> None:
        key = self._key(pick, [key for key in self.model.tasks if self.model.may_retry(key)])
        if not self.model.may_retry(key):
            with pytest.raises(IllegalMove):
                self.world.retry(key)
            return

        assert self.world.retry(key) == set(self.model.retry(key))

    @precondition(lambda self: self.seldom(7))
    @rule(pick=_picks)
    def retry_run(self, pick) -> None:
        run = self.model.tasks[self._key(pick)].run
        reopened = self.model.retry_run(run)

        ids = self.store.transact(lambda tx: retry_run(tx, self.world.workspace, self.run_ids[run], actor="ann"))

        assert set(ids) == {self.world.ids[key] for key in reopened}

    @precondition(lambda self: len(self.fences) > 1)
    @precondition(lambda self: self.seldom(5))
    @rule()
    def hold(self) -> None:
        self.model.on_hold = True
        self.store.transact(lambda tx: pause_project(tx, self.world.workspace, self.world.project_id))

    @precondition(lambda self: self.model.on_hold)
    @rule()
    def resume(self) -> None:
        self.model.resume()
        self.store.transact(lambda tx: resume_project(tx, self.world.workspace, self.world.project_id, actor="ann"))

    @precondition(lambda self: any(attempt.outcome is None for attempt in self.model.attempts.values()))
    @precondition(lambda self: self.seldom(3))
    @rule(pick=_picks)
    def a_lease_runs_out(self, pick) -> None:
        fences = [fence for fence, attempt in self.model.attempts.items() if attempt.outcome is None]
        fence = fences[pick % len(fences)]
        self.model.attempts[fence].expired = True
        self.world.expire(fence[0])

    @rule(pick=_picks)
    def a_wait_is_over(self, pick) -> None:
        waiting = [key for key, task in self.model.tasks.items() if task.waits == "future"]
        if waiting:
            key = waiting[pick % len(waiting)]
            self.model.tasks[key].waits = "past"
            self.world.make_due(key)

    @precondition(lambda self: self.seldom(7))
    @rule(which=st.integers(0, 1), suspect=st.booleans(), alone=st.booleans())
    def a_worker_dies(self, which, suspect, alone) -> None:
        dead = self.workers[which]
        open_fences = self.model.attempts.items()
        lost = [fence for fence, at in open_fences if at.worker == dead and at.outcome is None]
        self.model.lose(lost, suspect=suspect, alone=alone)
        started = frozenset((self.world.ids[key], number) for key, number in lost) if suspect else frozenset()

        self.store.transact(lambda tx: rescue_worker(tx, dead, started=started, alone=alone))

        self.workers[which] = self.world.register(new_id())

    @precondition(lambda self: self.seldom(2))
    @rule()
    def tick(self) -> None:
        assert (self.world.tick() is not None) == self.model.tick()

    @precondition(lambda self: self.seldom(6))
    @rule()
    def close_runs(self) -> None:
        """Check that no run is left to close: each was closed by the end of its last task."""
        assert self.store.transact(lambda tx: close_runs(tx, self.world.workspace, self.run_ids.values())) == []

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        self.steps += 1
        picture = take(self.store, self.world.workspace)

        assert picture.picture == self.model.picture()
        assert flaws(picture) == []

    def seldom(self, every: int) -> bool:
        """Return whether to do what would otherwise end most sequences early, or fill them with refusals."""
        return self.steps % every == every - 1

    def _submit(self, tasks, limits) -> None:
        run = f"r{len(self.model.runs)}"
        keys = [f"{run}t{number}" for number in range(len(tasks))]
        created = [
            RefTask(
                key,
                run,
                order=len(self.model.tasks) + number,
                needs=tuple(keys[number - back] for back in sorted(task["needs"]) if back <= number),
                policy=task["policy"],
                max_attempts=task["max_attempts"],
                repeatable=task["repeatable"],
                priority=task["priority"],
                limits=(
                    "project",
                    *([f"agent:{task['agent']}"] if task["agent"] else []),
                    *([f"key:{task['concurrency_key']}"] if task["concurrency_key"] else []),
                ),
                waits="future" if task["later"] else None,
            )
            for number, (key, task) in enumerate(zip(keys, tasks, strict=True))
        ]
        caps = {"project": limits["project"], "agent:ada": limits["ada"], "key:deploy": limits["deploy"]}
        caps = {name: cap for name, cap in caps.items() if cap is not None}
        if any(task["concurrency_key"] for task in tasks) and "key:deploy" not in self.model.caps | caps:
            caps["key:deploy"] = 1
        submitted = self.world.submit(
            *[f"{task.key} < {' '.join(task.needs)}" for task in created],
            name=run,
            concurrency=Concurrency(
                project=limits["project"],
                agents={"ada": limits["ada"]} if limits["ada"] else {},
                keys={"deploy": limits["deploy"]} if limits["deploy"] else {},
            ),
            defaults=Defaults(backoff=Backoff(initial=LONG, maximum=LONG)),
            tasks={
                key: {
                    "on_dependency_failure": OnDependencyFailure(task["policy"]),
                    "not_before": datetime.now(UTC) + LONG if task["later"] else None,
                    **{name: task[name] for name in ("max_attempts", "repeatable", "priority", "agent")},
                    "concurrency_key": task["concurrency_key"],
                }
                for key, task in zip(keys, tasks, strict=True)
            },
        )
        self.model.submit(run, created, caps, [key for key, task in zip(keys, tasks, strict=True) if task["agent"]])
        self.run_ids = {**getattr(self, "run_ids", {}), run: submitted.run_id}

    def _key(self, pick: int, likely: list[str] | None = None) -> str:
        """Return a task, mostly one of the likely ones, so that sequences progress."""
        keys = likely if likely and pick < MOSTLY else list(self.model.tasks)
        return keys[pick % len(keys)]

    def _superseded(self) -> list[tuple[str, int]]:
        tasks = self.model.tasks
        return [
            fence for fence in self.fences if tasks[fence[0]].state == "running" and fence[1] < tasks[fence[0]].attempt
        ]

    def _running(self, fence: tuple[str, int]) -> bool:
        return self.model.attempts[fence].outcome is None


@pytest.mark.timeout(7200 if DEEP else 300)
def test_random_lives_go_as_the_model_says(store: Store) -> None:
    run_state_machine_as_test(type("LivesHere", (Lives,), {"store": store}), settings=PROFILE)


def test_an_old_and_the_present_attempt_of_a_task_may_report_together(store: Store) -> None:
    """End both in one transaction, as a worker may that was cut off and claimed its own task again."""
    world = World(store)
    world.submit("a", "b", concurrency=Concurrency(project=2))
    world.claim("a")
    before = world.claims["a"]
    world.expire("a")
    world.tick()
    world.claim("a", "b")

    world.write(
        *[world.decide(claim, usage=(Usage("m", id=str(claim.attempt)),)) for claim in (before, world.claims["a"])]
    )

    picture = take(store, world.workspace)
    assert flaws(picture) == []
    assert picture.picture.stories["a"][-1] == ("completed", 2)
    assert picture.picture.costs == {"1": ("a", 1, True), "2": ("a", 2, False)}
    assert picture.picture.slots == {"project": (2, 1)}
