"""Random lives of small graphs, against a plain model: the store and the flows never do anything the model does not."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from coordination.domain.attempts import Outcome
from coordination.domain.plans import Concurrency
from coordination.domain.tasks import OnDependencyFailure
from coordination.store.engine import open_store
from tests.support.world import World

CAP = 2
TERMINAL = {"completed", "failed", "canceled"}


class Model:
    """What should be: dictionaries and loops, no database."""

    def __init__(self, needs: dict[str, list[str]], policy: dict[str, str], attempts: int) -> None:
        self.needs, self.policy, self.max_attempts = needs, policy, attempts
        self.open = {key: set(parents) for key, parents in needs.items()}
        self.state = {key: "blocked" if parents else "queued" for key, parents in needs.items()}
        self.attempt = dict.fromkeys(needs, 0)
        self.failures = dict.fromkeys(needs, 0)
        self.losses = dict.fromkeys(needs, 0)
        self.by_dependency: set[str] = set()
        self.leases: set[tuple[str, int]] = set()  # open attempts, of canceled tasks too

    def claim(self, key: str) -> bool:
        if self.state[key] != "queued" or len(self.leases) >= CAP:
            return False
        self.state[key] = "running"
        self.attempt[key] += 1
        self.leases.add((key, self.attempt[key]))
        return True

    def settle(self, key: str) -> None:
        """The end of a parent reaches its children."""
        for child, parents in self.open.items():
            if key not in parents:
                continue
            if self.state[key] == "completed" or self.policy[child] == "run":
                parents.discard(key)
                if self.state[child] == "blocked" and not parents:
                    self.state[child] = "queued"
            elif self.policy[child] == "cancel" and self.state[child] not in TERMINAL:
                self.state[child] = "canceled"
                self.by_dependency.add(child)
                self.settle(child)

    def end(self, key: str, number: int, outcome: Outcome) -> None:
        self.leases.discard((key, number))
        if self.state[key] != "running" or self.attempt[key] != number:
            return
        if outcome is Outcome.COMPLETED:
            self.state[key] = "completed"
        elif outcome is Outcome.HANDED_BACK:
            self.state[key] = "queued"
            return
        else:
            self.failures[key] += outcome is Outcome.FAILED
            self.losses[key] += outcome is Outcome.LOST
            over = self.failures[key] >= self.max_attempts if outcome is Outcome.FAILED else self.losses[key] >= 3
            self.state[key] = "failed" if over else "queued"
        if self.state[key] in TERMINAL:
            self.settle(key)

    def cancel(self, key: str) -> None:
        if self.state[key] not in TERMINAL:
            self.state[key] = "canceled"
            self.by_dependency.discard(key)
            self.settle(key)

    def retry(self, key: str) -> None:
        wave = [key]
        while wave:
            for each in wave:
                self.state[each] = "blocked" if self.open[each] else "queued"
                self.failures[each] = self.losses[each] = 0
                self.by_dependency.discard(each)
            wave = [
                child
                for child, parents in self.open.items()
                if child in self.by_dependency and self.state[child] == "canceled" and parents & set(wave)
            ]


class Lives(RuleBasedStateMachine):
    """One store, one run, and the model beside it."""

    template: Path

    @initialize(data=st.data(), size=st.integers(2, 6), attempts=st.integers(1, 2))
    def begin(self, data, size: int, attempts: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        shutil.copyfile(self.template, self.folder / "coord.db")
        self.store = open_store(f"sqlite:///{self.folder / 'coord.db'}")
        self.world = World(self.store)
        keys = [f"t{n}" for n in range(size)]
        needs = {
            key: data.draw(st.lists(st.sampled_from(keys[:n]), unique=True, max_size=3)) if n else []
            for n, key in enumerate(keys)
        }
        policy = {key: data.draw(st.sampled_from(["cancel", "block", "run"])) for key in keys}
        self.model = Model(needs, policy, attempts)
        self.fences: dict[tuple[str, int], object] = {}
        self.world.submit(
            *[f"{key} < {' '.join(needs[key])}" for key in keys],
            concurrency=Concurrency(project=CAP),
            tasks={
                key: {"on_dependency_failure": OnDependencyFailure(policy[key]), "max_attempts": attempts}
                for key in keys
            },
        )

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    def _key(self, pick: int) -> str:
        keys = list(self.model.state)
        return keys[pick % len(keys)]

    @rule(pick=st.integers(0, 5))
    def claim(self, pick: int) -> None:
        key = self._key(pick)
        self.world.make_due(key)
        expected = self.model.claim(key)

        got = self.world.claim(key)

        assert got == ([key] if expected else [])
        if got:
            self.fences[key, self.model.attempt[key]] = self.world.claims[key]

    @precondition(lambda self: self.fences)
    @rule(
        pick=st.integers(0, 30),
        outcome=st.sampled_from([Outcome.COMPLETED, Outcome.COMPLETED, Outcome.FAILED, Outcome.HANDED_BACK]),
    )
    def end(self, pick: int, outcome: Outcome) -> None:
        """Any attempt that ever was may report: the one that holds the task, or one from long ago."""
        fence = sorted(self.fences)[pick % len(self.fences)]
        self.world.finish(self.fences[fence], outcome)
        self.model.end(*fence, outcome)

    @precondition(lambda self: self.model.leases)
    @rule(pick=st.integers(0, 5))
    def lose(self, pick: int) -> None:
        key, _number = sorted(self.model.leases)[pick % len(self.model.leases)]
        self.world.expire(key)
        self.world.tick()
        for lost in [lease for lease in self.model.leases if lease[0] == key]:
            self.model.end(*lost, Outcome.LOST)

    @rule(pick=st.integers(0, 5))
    def cancel(self, pick: int) -> None:
        self.world.cancel(self._key(pick))
        self.model.cancel(self._key(pick))

    @rule(pick=st.integers(0, 5))
    def retry(self, pick: int) -> None:
        key = self._key(pick)
        if self.model.state[key] in ("failed", "canceled"):
            self.world.retry(key)
            self.model.retry(key)

    @rule()
    def tick(self) -> None:
        self.world.tick()

    @invariant()
    def the_store_is_as_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        model, world = self.model, self.world
        assert world.states() == model.state
        rows = world.sql("SELECT key, pending, attempt, reasons FROM tasks")
        for key, pending, attempt, reasons in rows:
            assert attempt == model.attempt[key]
            assert bool(reasons) == (model.state[key] == "blocked")
            if model.state[key] == "blocked":
                assert pending == len(model.open[key]) > 0
        assert world.used() == {"project": len(model.leases)}
        assert world.open_edges() == sum(map(len, model.open.values()))


@pytest.mark.timeout(200)
def test_random_lives_go_as_the_model_says(_sqlite_template: Path) -> None:  # noqa: PT019 - the file, not its effect
    Lives.template = _sqlite_template

    run_state_machine_as_test(
        Lives,
        settings=settings(
            max_examples=20,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
