"""Names on the command line and in Python: unknown ones are refused in a sentence, and nothing else is changed."""

from __future__ import annotations

import functools
import json
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import typer
import yaml
from hypothesis import strategies as st

from coordination.api.connection import Coordination
from coordination.base.errors import CoordinationError
from coordination.base.ids import SHORTEST_PART
from coordination.base.printable import KEPT
from coordination.cli.main import app
from coordination.runtime import open_runtime
from coordination.settings import load_settings
from tests.fuzz.driver import drive
from tests.fuzz.values import spoiled, spoiled_text, texts
from tests.support.command import CommandResult, Coord, coord_in

_NOT_ASKED = {"run", "resume", "up", "down", "worker", "beat", "mcp", "tasks shell", "doctor", "rekey", "migrate"}
"""What starts processes, or watches for as long as it takes."""

_FILES = {"file", "plan", "repo", "beads", "rules", "archive", "assume"}
_FOLLOWS = {"-f", "--follow", "--live", "--repair"}
_PLAN = {
    "version": 1,
    "name": "nightly",
    "project": {"name": "shop"},
    "session": "main",
    "defaults": {"max_attempts": 1},
    "tasks": [
        {"key": "build", "title": "Build it", "priority": 3, "run": {"shell": "true"}},
        {"key": "Build", "agent": "ada", "run": {"agent": "claude", "prompt": "p", "model": "m"}},
        {"key": "b-0", "run": {"shell": "true", "env": {"A": "b"}}, "outputs": ["out/*.txt"]},
        {"key": "é.ß", "run": {"python": "os:getcwd"}},
    ],
}
_WORDS = [
    *("shop", "other", "nightly", "build", "Build", "b-0", "é.ß", "ada", "bob", "main", "m", "claude"),
    *("project", "workspace", "agent", "run", "task", "session", "day", "month", "completed", "failed", "queued"),
    *("0", "1", "5", "-3", "1.50", "1h", "1d", "UTC", "Europe/Rome", "1", "10%", "fail", "pause", "k=v", '{"a": 1}'),
    *(
        "plan.yaml",
        "https://git.example.org/acme/shop.git",
        "git@example.org:a/b",
        "example.org/acme/other",
        "2026-01-01",
    ),
]
_TABLES = {
    "tasks": "key, state, priority, run_id, project_id, (SELECT name FROM principals WHERE principals.id = agent_id)",
    "runs": "name, project_id, finished_at IS NULL, 1, 1, 1",
    "projects": "name, identity, status, path, settings, description",
    "agents": "(SELECT name FROM principals WHERE principals.id = agents.id), 1, 1, 1, 1, 1",
}


@dataclass(frozen=True, slots=True)
class Command:
    """One command, the kinds of its arguments and its options."""

    path: tuple[str, ...]
    arguments: Sequence[Any]
    options: Sequence[Any]


@functools.cache
def commands() -> list[Command]:
    """Return all commands but those that start a process."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[Command]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*path, name))
        if not hasattr(command, "commands") and " ".join(path) not in _NOT_ASKED:
            arguments = [one for one in command.params if one.param_type_name == "argument"]
            yield Command(path, arguments, [one for one in command.params if one.param_type_name == "option"])

    return list(walk(typer.main.get_command(app), ()))


class Shop:
    """A home with two projects, three runs and two agents, and the command line in the folder of the first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.coord: Coord = coord_in(folder)
        (self.coord.cwd / "plan.yaml").write_text(yaml.safe_dump(_PLAN, allow_unicode=True))
        (self.coord.cwd / "other.yaml").write_text(yaml.safe_dump({**_PLAN, "project": {"name": "other"}}))
        for name in ("ada", "bob"):
            self.coord("agents", "create", name, "--runner", "claude")
        for plan in ("plan.yaml", "other.yaml", "plan.yaml"):
            self.coord("submit", plan)
        self.database = self.coord.home / "coordination.db"
        with closing(sqlite3.connect(self.database)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.saved = folder / "saved.db"
        shutil.copyfile(self.database, self.saved)
        self.rows = self.all_rows()
        self.ids = sorted(one for _, one in self.rows)
        self.around = self._around()

    def restore(self) -> None:
        """Restore the store, and the folder."""
        for suffix in ("-wal", "-shm"):
            Path(f"{self.database}{suffix}").unlink(missing_ok=True)
        shutil.copyfile(self.saved, self.database)
        for path in self.coord.cwd.iterdir():
            if path.name not in {"plan.yaml", "other.yaml"}:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def all_rows(self) -> dict[tuple[str, str], tuple[Any, ...]]:
        """Return (table, id) -> the columns that a command could change."""
        with closing(sqlite3.connect(self.database)) as db:
            return {
                (table, row[0]): row[1:]
                for table, columns in _TABLES.items()
                for row in db.execute(f"SELECT id, {columns} FROM {table}")  # noqa: S608 - constants
            }

    def names_of(self, table: str, row: tuple[Any, ...]) -> Iterator[str]:
        """Return the names of a row, or of the row that it belongs to."""
        yield str(row[0])
        if table == "projects":
            yield str(row[1])
        if table == "tasks":
            for holder, number in (("runs", 3), ("projects", 4)):
                yield row[number]
                yield from self.names_of(holder, self.rows[holder, row[number]])
            yield str(row[5])
        if table == "runs":
            yield row[1]
            yield from self.names_of("projects", self.rows["projects", row[1]])

    def is_named(self, table: str, id_: str, row: tuple[Any, ...], said: Sequence[str]) -> bool:
        """Return whether one of the words names the row: exactly, or by a part of an id that is long enough."""
        names = {id_, *self.names_of(table, row)}
        for word in {part for one in said for part in (one, one.strip(), one.partition("=")[2])}:
            low = word.lower()
            if word in names or any(
                len(low) >= SHORTEST_PART and one in self.ids and (one.startswith(low) or one.endswith(low))
                for one in names
            ):
                return True
        return False

    def _around(self) -> set[str]:
        """Return what is beside the home and the folder of the project, where odd names would lead."""
        beside = [self.folder, self.folder.parent, self.folder.parent.parent]
        return {str(path) for place in beside for path in place.iterdir()} | {
            name for name in ("/nowhere", "/x") if Path(name).exists()
        }

    def check(self, argv: Sequence[str]) -> None:
        """Run the command, and check its effects."""
        self.restore()
        done = self.coord(*argv, code=None)
        check_shown(done, argv)
        after = self.all_rows()
        here = argv[0] in {"submit", "import"}  # into the project of the folder
        for (table, id_), row in self.rows.items():
            now = after.get((table, id_))
            if now == row or here:
                continue
            assert done.code == 0, f"{argv} exited {done.code} and changed {table} {row} to {now}"
            assert self.is_named(table, id_, row, argv), f"{argv} changed {table} {id_} {row} to {now}: {done.out}"
        if done.code:
            assert after.keys() == self.rows.keys(), f"{argv} exited {done.code} and made {after.keys() - self.rows}"
        assert self._around() == self.around, f"{argv} wrote beside its folders"


def check_shown(done: CommandResult, argv: Sequence[str]) -> None:
    """Check for a documented exit status, one sentence for a refusal, and no control characters."""
    shown = f"{argv!r}\nexit {done.code}\n{done.out[:2000]}\n{done.err[:2000]}"
    assert done.code in {0, 1, 2}, shown
    assert "Traceback" not in done.err, shown
    assert "this is a bug" not in done.err, shown
    for text in (done.out, done.err):
        assert all(one.isprintable() or one in KEPT for one in text), shown
        assert len(text) < 400_000, f"{argv!r} printed {len(text)} characters"
    if done.code == 2 and "Usage: " not in done.err:
        sentence = done.err
        assert sentence.startswith("coord: "), shown
        assert sentence.count("\n") == 1, shown
        assert len(sentence) < 3_000, shown
    if "--json" in argv and "Usage: " not in done.out and done.code == 0:
        check_json(done.out, shown)


def check_json(out: str, shown: str) -> None:
    """Check for one document, or one a line."""
    try:
        json.loads(out or "{}")
    except ValueError:
        try:
            for line in out.split("\n"):
                json.loads(line or "{}")
        except ValueError:
            raise AssertionError(f"no JSON: {shown}") from None


@st.composite
def command_lines(draw: st.DrawFn, shop: Shop) -> list[str]:
    """Draw a command with names that are valid, nearly valid, or odd."""
    command = draw(st.sampled_from(commands()))
    right = st.one_of(
        st.sampled_from(_WORDS),
        st.sampled_from(shop.ids),
        st.tuples(st.sampled_from(shop.ids), st.integers(0, 36), st.booleans()).map(
            lambda part: part[0][: part[1]] if part[2] else part[0][part[1] :]
        ),
    )
    word = st.one_of(right, right, right.flatmap(spoiled_text), texts)
    files = st.sampled_from(
        ["plan.yaml", "other.yaml", "no.yaml", ".", "-", "new", "new file", "x\x1b[2J", "n\0", "é\ud800"]
    )
    argv = list(command.path)
    for option in command.options:
        if (
            option.opts[0] in {"--help", "-h"}
            or _FOLLOWS & set(option.opts)
            or not (option.required or draw(st.integers(0, 5)) == 0)
        ):
            continue
        argv.append(option.opts[0])
        if not option.is_flag:
            argv.append(draw(files if option.name in _FILES else word))
    if draw(st.booleans()):
        argv.append("--")
    for argument in command.arguments:
        for _ in range(
            draw(st.integers(0, 3)) if argument.nargs < 0 else 1 if argument.required else draw(st.integers(0, 1))
        ):
            argv.append(draw(files if argument.name in _FILES else word))  # noqa: PERF401 - drawn one by one
    return argv


class Plans:
    """Plans with changed names: refused in a sentence, or stored and shown."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    def check(self, plan: Any) -> None:
        """Check and submit it, and check what was stored."""
        shop = self.shop
        shop.restore()
        (shop.coord.cwd / "new.json").write_text(json.dumps(plan), encoding="utf-8")
        for command in ("check", "submit"):
            done = shop.coord(command, "new.json", code=None)
            check_shown(done, [command, repr(plan)])
        if done.code == 0:
            for argv in (["runs", "list"], ["projects", "list"], ["runs", "list", "--json"], ["status"]):
                check_shown(shop.coord(*argv), argv)
            newest = shop.coord("runs", "list", "--json").json["runs"][0]
            listed = shop.coord("tasks", "list", newest["id"], "--json")
            check_shown(listed, ["tasks", "list"])
            for task in listed.json["tasks"]:
                for argv in (["tasks", "show", task["id"]], ["explain", task["id"]], ["tasks", "prompt", task["id"]]):
                    check_shown(shop.coord(*argv, code=None), [*argv, repr(plan)])
                assert shop.coord("tasks", "cancel", task["id"], "--json").json["task"] == task["id"]
        else:
            assert shop.all_rows() == shop.rows, f"refused, and changed the store: {plan}"
        assert shop._around() == shop.around


class Lookups:
    """The same names in Python: a result has the name, and unknown names are refused."""

    def __init__(self, shop: Shop) -> None:
        shop.restore()
        self.shop = shop
        self.co = Coordination(open_runtime(load_settings({"COORD_HOME": str(shop.coord.home)})))

    def check(self, asked: tuple[str, str, str | None]) -> None:
        """Look one name up."""
        what, name, project = asked
        try:
            match what:
                case "run" | "task":
                    result = getattr(self.co, what)(name, project=project).record
                case "agent":
                    result = self.co.agents.get(name)
                case _:
                    result = self.co.project(name)
        except CoordinationError as error:
            sentence = error.sentence()
        else:
            row = self.shop.rows[f"{what}s", result.id]
            assert self.shop.is_named(f"{what}s", result.id, row, [name]), f"{asked} found {row}"
            return
        assert "\n" not in sentence
        assert len(sentence) < 3_000, f"{len(sentence)} characters about {what}"


@st.composite
def lookups(draw: st.DrawFn, shop: Shop) -> tuple[str, str, str | None]:
    """Draw what is searched, its name, and the project in which (for runs and tasks)."""
    right = st.one_of(st.sampled_from(_WORDS), st.sampled_from(shop.ids))
    word = st.one_of(right, right.flatmap(spoiled_text), texts)
    kind = draw(st.sampled_from(["run", "task", "project", "agent"]))
    return kind, draw(word), draw(st.one_of(st.none(), word)) if kind in {"run", "task"} else None


def fuzz(folder: Path, *, seed: int, inputs: int) -> int:
    """Use half of the inputs for command lines, a quarter for plans, a quarter for look-ups in Python."""
    tree = functools.cache(typer.main.get_command)  # its creation takes longer than most commands
    with patch("typer.main.get_command", tree):
        inner = folder / "outer" / "inner"
        inner.mkdir(parents=True)
        shop = Shop(inner)
        count = drive(command_lines(shop), shop.check, seed=seed, inputs=inputs - 2 * (inputs // 4))
        count += drive(spoiled(_PLAN), Plans(shop).check, seed=seed, inputs=inputs // 4)
        asking = Lookups(shop)
        try:
            return count + drive(lookups(shop), asking.check, seed=seed, inputs=inputs // 4)
        finally:
            asking.co.close()
