"""Test that the checker finds every kind of corruption: a valid store and its evidence, with one change at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from coordination.domain.plans.plans import Concurrency
from coordination.domain.tasks.attempts import Usage
from coordination.store import schema
from coordination.store.engine import open_store
from tests.chaos.checker import Promises, check, facts
from tests.chaos.checker.rules import Kind, rescued_in_time
from tests.support.world import World, plan_of


@dataclass
class Story:
    """A store in which tasks ran, the evidence of their jobs, and the promises."""

    url: str
    ids: dict[str, str]
    evidence: Path
    lines: list[str] = field(default_factory=list)
    promises: Promises = field(default_factory=Promises)

    def say(self, kind: str, key: str, attempt: int, execution: str, more: str = "") -> None:
        """Append one line of evidence."""
        up = len(self.lines) / 10
        self.lines.append(f"{kind} {self.ids[key]} {attempt} {execution} 100 1 {up:.4f} {more}".rstrip())

    def line(self, kind: str, execution: str) -> int:
        """Return the position of that line."""
        return next(
            place
            for place, text in enumerate(self.lines)
            if text.startswith(f"{kind} ") and text.split()[3] == execution
        )

    def sql(self, statement: str, **values: str) -> None:
        """Change the store."""
        engine = create_engine(self.url.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as tx:
            tx.execute(text(statement), values)
        engine.dispose()

    def violations(self) -> list[tuple[Kind, str]]:
        """Return the checker's violations."""
        self.evidence.write_text("".join(f"{line}\n" for line in self.lines))
        return [(violation.kind, violation.what) for violation in check(self.url, self.evidence, self.promises)]

    def kinds(self) -> set[Kind]:
        """Return the kinds of the violations."""
        return {kind for kind, _ in self.violations()}


class Teller:
    """Creates a valid history: a lost attempt, a cost, an edge, limits, a job that must not be repeated."""

    def __init__(self, url: str, evidence: Path) -> None:
        self._store = open_store(url)
        self._world = World(self._store)
        self._story = Story(url, self._world.ids, evidence)

    def tell(self) -> Story:
        """Create all of it."""
        submitted = self._world.submit_plan(
            plan_of(
                "first",
                "then < first",
                "spend",
                "one",
                "two",
                "pay",
                tasks={
                    "first": {"max_attempts": 3},
                    "one": {"concurrency_key": "deploy"},
                    "two": {"concurrency_key": "deploy"},
                    "pay": {"repeatable": False},
                },
                concurrency=Concurrency(project=4),
            )
        )
        self._story.promises = Promises(runs={submitted.run_id: 6}, limits={"shop": 4}, keys={"shop": {}})
        self._lose("first")
        self._do("first", 2)
        self._do("then")
        self._do("spend", cost=Decimal("0.250000"))
        for key in ("one", "two", "pay"):
            self._do(key)
        self._store.close()
        return self._story

    def _do(self, key: str, attempt: int = 1, *, cost: Decimal | None = None) -> None:
        """Claim a task, write its evidence, and complete it."""
        execution = f"{key}{attempt}"
        assert self._world.claim(key) == [key]
        self._story.say("B", key, attempt, execution)
        usage = ()
        if cost is not None:
            call = f"{execution}-0"
            for kind in "cC":
                self._story.say(kind, key, attempt, execution, f"{call} {int(cost * 1_000_000)}")
            usage = (Usage(model="chaos", cost_usd=cost, extra={"call": call}),)
        self._story.say("E", key, attempt, execution)
        self._world.finish(key, output=execution, usage=usage)

    def _lose(self, key: str) -> None:
        """Claim a task, begin it, and lose the worker."""
        assert self._world.claim(key) == [key]
        for kind in "BT":
            self._story.say(kind, key, 1, f"{key}1")
        self._world.expire(key)
        self._world.tick()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Create the history on SQLite once."""
    folder = tmp_path_factory.mktemp("told")
    url = f"sqlite:///{folder / 'coord.db'}"
    store = open_store(url)
    schema.prepare(store)
    store.close()
    return Teller(url, folder / "evidence").tell()


@pytest.fixture
def story(told: Story, tmp_path: Path) -> Story:
    """Provide a copy of it, to be changed."""
    copy = tmp_path / "coord.db"
    shutil.copyfile(told.url.removeprefix("sqlite:///"), copy)
    return replace(told, url=f"sqlite:///{copy}", evidence=tmp_path / "evidence", lines=list(told.lines))


def sql(*statements: str) -> Callable[[Story], None]:
    """Return a change of the store: ``:first`` and so on are the tasks' ids."""

    def doctor(story: Story) -> None:
        for statement in statements:
            values = {key: task_id for key, task_id in story.ids.items() if f":{key}" in statement}
            story.sql(statement, **values)

    return doctor


def again(key: str, execution: str, *, attempt: int = 9) -> Callable[[Story], None]:
    """Return a change: another execution in the evidence, after all others."""

    def doctor(story: Story) -> None:
        for kind in "BE":
            story.say(kind, key, attempt, execution)

    return doctor


def late(execution: str, key: str) -> Callable[[Story], None]:
    """Return a change: an effect of an old attempt after the next one began."""

    def doctor(story: Story) -> None:
        story.say("T", key, 1, execution)

    return doctor


def moved(kind: str, execution: str, *, to: str, of: str) -> Callable[[Story], None]:
    """Return a change: a line of evidence right behind another one."""

    def doctor(story: Story) -> None:
        line = story.lines.pop(story.line(kind, execution))
        story.lines.insert(story.line(to, of) + 1, line)

    return doctor


def without(kind: str, execution: str) -> Callable[[Story], None]:
    """Return a change: a missing line of evidence."""

    def doctor(story: Story) -> None:
        del story.lines[story.line(kind, execution)]

    return doctor


def acknowledged(story: Story) -> None:
    story.promises = Promises(runs={**story.promises.runs, "00000000-0000-0000-0000-000000000000": 3})


_EVENT = (
    "INSERT INTO events (txid, workspace_id, project_id, run_id, task_id, attempt, type, payload, created_at) "
    "SELECT txid, workspace_id, project_id, run_id, task_id, {attempt}, '{type}', '{{}}', created_at "
    "FROM events WHERE task_id = :{key} AND type = 'claimed' AND attempt = 1"
)
_COST = (
    "INSERT INTO costs (workspace_id, id, project_id, run_id, task_id, attempt, model, input_tokens, output_tokens, "
    "cached_input_tokens, total_tokens, cost_usd, stale, occurred_at, recorded_at, settles, extra) "
    "SELECT workspace_id, 'again', project_id, run_id, task_id, attempt, model, input_tokens, output_tokens, "
    "cached_input_tokens, total_tokens, cost_usd, stale, occurred_at, recorded_at, settles, {extra} FROM costs"
)

DOCTORED = {
    "a task that never ended": (
        Kind.LOST,
        sql("UPDATE tasks SET state = 'queued', finished_at = NULL WHERE id = :then"),
    ),
    "a completion that nobody wrote down": (
        Kind.LOST,
        sql("DELETE FROM events WHERE task_id = :then AND type = 'completed'"),
    ),
    "an acknowledged run that is not there": (Kind.LOST, acknowledged),
    "an attempt without an end": (
        Kind.LOST,
        sql("UPDATE attempts SET finished_at = NULL, outcome = NULL WHERE task_id = :first AND number = 1"),
    ),
    "a second completion in the log": (Kind.DOUBLED, sql(_EVENT.format(attempt=1, type="completed", key="first"))),
    "a second completed attempt": (
        Kind.DOUBLED,
        sql("UPDATE attempts SET outcome = 'completed' WHERE task_id = :first AND number = 1"),
    ),
    "a claim after the end": (Kind.DOUBLED, sql(_EVENT.format(attempt=2, type="claimed", key="then"))),
    "a run that ended twice": (
        Kind.DOUBLED,
        sql(
            "INSERT INTO events (txid, workspace_id, project_id, run_id, type, created_at) "
            "SELECT txid, workspace_id, project_id, run_id, type, created_at FROM events "
            "WHERE type = 'run_finished'"
        ),
    ),
    "a failure that no job has said": (
        Kind.CHARGED,
        sql(
            "UPDATE attempts SET outcome = 'failed', error = 'killed by SIGKILL' WHERE task_id = :first AND number = 1"
        ),
    ),
    "a task that failed for a lost worker": (
        Kind.CHARGED,
        sql(
            "UPDATE attempts SET outcome = 'lost', output = NULL WHERE task_id = :then",
            "UPDATE tasks SET state = 'failed' WHERE id = :then",
        ),
    ),
    "one attempt that was executed twice": (Kind.DOUBLED, again("one", "one9", attempt=1)),
    "an effect of a lost attempt beside the next one": (Kind.OVERLAP, late("first1", "first")),
    "an output left by a lost attempt": (
        Kind.FENCE,
        sql("UPDATE attempts SET output = '\"late\"' WHERE task_id = :first AND number = 1"),
    ),
    "an output that is another attempt's": (
        Kind.FENCE,
        sql("UPDATE attempts SET output = '\"first1\"' WHERE task_id = :first AND number = 2"),
    ),
    "a completion of a job that did not come to its end": (Kind.FENCE, without("E", "then1")),
    "a claim before the dependency completed": (
        Kind.EARLY,
        sql("UPDATE events SET seq = -1 WHERE task_id = :then AND type = 'claimed'"),
    ),
    "a job that began before the dependency was through": (Kind.EARLY, moved("B", "then1", to="B", of="first2")),
    "an edge that nobody satisfied": (
        Kind.EARLY,
        sql("UPDATE dependencies SET satisfied_at = NULL WHERE child_id = :then"),
    ),
    "two at once under one key": (Kind.LIMIT, moved("B", "two1", to="B", of="one1")),
    "a slot that is still taken": (Kind.SLOT, sql("UPDATE slots SET used = 1 WHERE name = 'project'")),
    "a job repeated that must not be": (Kind.REPEATED, again("pay", "pay9")),
    "a cost that is not in the ledger": (Kind.COST_MISSING, sql("DELETE FROM costs")),
    "a cost that is there twice": (Kind.COST_DOUBLED, sql(_COST.format(extra="extra"))),
    "an attempt of no task": (Kind.ORPHAN, sql("UPDATE attempts SET task_id = 'nobody' WHERE task_id = :pay")),
    "an edge to no task": (Kind.ORPHAN, sql("UPDATE dependencies SET parent_id = 'nobody' WHERE child_id = :then")),
    "tasks of no run": (Kind.ORPHAN, sql("UPDATE tasks SET run_id = 'nowhere' WHERE id = :pay")),
    "a cost that nobody made": (Kind.COST_WRONG, sql(_COST.format(extra="'{}'"))),
}


def test_what_is_sound_is_left_alone(story: Story) -> None:
    assert story.violations() == []


@pytest.mark.parametrize("name", DOCTORED)
def test_the_checker_finds(story: Story, name: str) -> None:
    kind, doctor = DOCTORED[name]

    doctor(story)

    assert kind in story.kinds()


def test_the_checker_finds_too_many_of_a_project_at_once(story: Story) -> None:
    story.promises = Promises(limits={"shop": 1})
    story.lines.insert(story.line("B", "one1"), story.lines.pop(story.line("B", "two1")))

    assert Kind.LIMIT in story.kinds()


def test_a_lost_attempts_money_may_be_missing_but_not_that_of_one_whose_end_is_known(story: Story) -> None:
    for kind in "cC":
        story.say(kind, "first", 1, "first1", "first1-0 1000")
    lost = {kind for kind, what in story.violations() if "first1-0" in what}

    for kind in "cC":
        story.say(kind, "first", 2, "first2", "first2-0 1000")
    names = {kind for kind, what in story.violations() if "first2-0" in what}

    assert lost == set()
    assert names == {Kind.COST_MISSING}


def test_a_persons_retry_of_what_must_not_be_repeated_is_no_violation(story: Story) -> None:
    again("pay", "pay9")(story)
    before = Kind.REPEATED in story.kinds()

    story.sql(
        "INSERT INTO events (txid, workspace_id, project_id, run_id, task_id, type, payload, created_at) "
        "SELECT txid, workspace_id, project_id, run_id, task_id, 'retried', '{\"by\": \"person\"}', created_at "
        "FROM events WHERE task_id = :pay AND type = 'created'",
        pay=story.ids["pay"],
    )

    assert before
    assert Kind.REPEATED not in story.kinds()


def test_every_kind_that_a_rule_can_name_has_a_doctored_store() -> None:
    elsewhere = {Kind.LATE, Kind.LEFT, Kind.DEADLOCK}  # not found by a rule over the store

    assert {kind for kind, _ in DOCTORED.values()} == {*Kind} - elsewhere


def test_a_limit_is_what_was_promised_not_what_the_store_says(story: Story) -> None:
    story.sql("UPDATE slots SET cap = 100")
    story.lines.insert(story.line("B", "one1") + 1, story.lines.pop(story.line("B", "two1")))

    assert Kind.LIMIT in story.kinds()


def test_a_rescue_is_late_when_nothing_excuses_it(story: Story) -> None:
    story.sql("UPDATE attempts SET lease_until = '2026-01-01T00:00:00.000000+00:00' WHERE number = 1")
    story.sql("UPDATE attempts SET finished_at = '2026-01-01T00:00:30.000000+00:00' WHERE outcome = 'lost'")
    began = datetime(2026, 1, 1, tzinfo=UTC).timestamp()

    def late(*disturbed: tuple[float, float]) -> list[Kind]:
        return [violation.kind for violation in rescued_in_time(facts.read(story.url), disturbed, 20)]

    assert late() == [Kind.LATE]
    assert late((began + 3, began + 9), (began + 5, began + 10)) == [Kind.LATE]  # seven seconds, not eleven
    assert late((began - 60, began + 11)) == []


def test_postgresql_is_read_like_sqlite(postgres_url: str, tmp_path: Path) -> None:
    story = Teller(postgres_url, tmp_path / "evidence").tell()
    sound = story.violations()

    for name in ("an output left by a lost attempt", "a slot that is still taken", "a cost that is there twice"):
        DOCTORED[name][1](story)

    assert sound == []
    assert story.kinds() == {Kind.FENCE, Kind.SLOT, Kind.COST_DOUBLED}
