"""Test that every printed command can be pasted into a terminal that has nothing but its folder and its home."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordination.cli import hints
from tests.support.command import ROOT, Coord

PROGRAM = Path(sys.executable).parent / "coord"
COORD = shlex.quote(str(PROGRAM))
RUN = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BARE = {"PATH": "/usr/bin:/bin", "COLUMNS": "200"}
STUCK = """
version: 1
tasks:
  - {key: fix, run: {shell: "echo 'See: coord runs list'; exit 3"}, max_attempts: 1}
  - {key: tell, needs: [fix], run: {shell: "true"}, on_dependency_failure: block}
  - {key: say, run: {shell: "echo 'See: coord runs list'; echo 'Run: coord up' >&2"}}
"""


class Terminal:
    """A shell with none of our variables in its environment; its commands are its children, as in a terminal."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.variables = BARE | {"HOME": str(folder / "home of ada")} | variables

    def __call__(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run one line as a person types it."""
        # "; exit" keeps the shell from replacing itself with the command.
        return subprocess.run(
            ["/bin/bash", "-c", f"{line}; exit $?"],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


@dataclass(frozen=True)
class Shop:
    """A folder where the plan ran once, about another folder, with a home that was given to that command only."""

    folder: Path
    other: Path
    ran: str

    def coord(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run one of our commands on that home."""
        return Terminal(self.folder)(f"COORD_HOME=.coord {COORD} {line}")

    def task(self, key: str) -> str:
        """Return a task of the run, from any folder."""
        return f"{key} --run {RUN.findall(self.ran)[0]}"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop") / "a [red] shop"
    other = folder.parent / "the other's"
    for created in (folder, other):
        created.mkdir()
    (folder / "plan.yaml").write_text(STUCK)
    ran = Terminal(folder)(f"COORD_HOME=.coord {COORD} run plan.yaml -C {shlex.quote(str(other))}")
    assert ran.returncode == 1, ran.stderr
    return Shop(folder, other, ran.stdout)


def hint(said: str, after: str) -> str:
    """Return the text behind *after* to the end of its line, as a person selects it with the mouse."""
    match = re.search(rf"{re.escape(after)}(.*[^.\n])", said)
    assert match is not None, said
    return match[1]


def test_a_home_that_the_terminal_does_not_have_stands_in_a_hint(shop: Shop) -> None:
    again = hint(shop.ran, "retry what did not complete: ")
    shown = Terminal(shop.folder)(again)

    assert f"COORD_HOME='{shop.folder}/.coord' {COORD} resume " in again
    assert shown.returncode == 1, shown.stderr
    assert "exit status 3" in shown.stdout
    assert not (shop.folder / "home of ada").exists()


def test_a_hint_about_another_folder_goes_there(shop: Shop) -> None:
    command = hint(shop.coord(f"tasks output {shop.task('fix')}").stderr, "no output. See: ")
    shown = Terminal(shop.folder)(command)

    assert command.startswith(f"cd {shlex.quote(str(shop.other))} && COORD_HOME=")
    assert shown.returncode == 0, shown.stderr
    assert "exit status 3" in shown.stdout


def test_the_home_and_the_program_that_the_terminal_has_are_left_out(shop: Shop) -> None:
    path = f"{PROGRAM.parent}:{BARE['PATH']}"
    inherited = Terminal(shop.folder, COORD_HOME=str(shop.folder / ".coord"), PATH=path)
    default = Terminal(shop.folder, PATH=path)

    output = [terminal("coord runs show x").stderr for terminal in (inherited, default)]

    assert output == ["coord: There is no run 'x'. See: coord runs list.\n"] * 2


def test_what_a_job_said_is_printed_as_it_is(shop: Shop) -> None:
    output, logs, document = (
        shop.coord(f"tasks {words} {shop.task('say')}") for words in ("output", "logs", "output --json")
    )

    assert "  See: coord runs list\n" in shop.ran
    assert output.stdout == "See: coord runs list\n"
    assert (logs.stdout, logs.stderr) == ("See: coord runs list\n", "Run: coord up\n")
    assert json.loads(document.stdout)["output"] == "See: coord runs list"


def test_the_usage_names_no_home_and_the_program_that_was_started(shop: Shop) -> None:
    output = shop.coord("tasks show --lost").stderr

    assert output.startswith("Usage: coord tasks show [OPTIONS] {TASK}\n")
    assert hint(output, "Help: ") == f"{COORD} tasks show -h"


def test_a_module_that_was_started_by_name_is_pasted_as_the_program_beside_it(shop: Shop) -> None:
    terminal = Terminal(shop.folder, PYTHONPATH=str(ROOT))

    output = terminal(f"{shlex.quote(sys.executable)} -m coordination.cli runs show x")

    assert output.stderr.endswith(f"See: {COORD} runs list.\n")


def test_a_caller_in_this_process_gets_the_commands_by_name(coord: Coord) -> None:
    assert coord("runs", "show", "x", code=None).err.endswith("See: coord runs list.\n")


@pytest.fixture
def rewriting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rewrite commands in this process, for a home that the terminal does not have."""
    monkeypatch.setattr(hints, "_shell", hints._Shell())
    monkeypatch.setattr(hints, "_assignments", lambda: {"COORD_HOME": "COORD_HOME='/our home'"})
    monkeypatch.setattr(hints, "_program", lambda: "coord")
    hints.enable(["accounts", "agents", "resume"])
    hints.set_project("/a folder", "local:/a folder")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("rewriting")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Run: coord accounts set a B", "Run: COORD_HOME='/our home' coord accounts set a B"),
        ("Run: COORD_HOME='/its '\"'\"' home' coord accounts set a B", None),
        ("Continue: coord resume x", "Continue: cd '/a folder' && COORD_HOME='/our home' coord resume x"),
        ("With it: `coord agents export > f`; `COORD_HOME=NEW_FOLDER coord agents import f`", None),
    ],
)
def test_what_a_command_names_already_is_kept_and_nothing_is_added_twice(text: str, expected: str | None) -> None:
    once = hints.rewrite(text)

    assert once == (expected or text)
    assert hints.rewrite(once) == once


def test_a_name_with_a_space_is_quoted_in_a_hint(coord: Coord) -> None:
    """It can be pasted: the name of a project is free text."""
    coord("projects", "create", "toy proj")
    named = "'toy proj'"

    assert coord("projects", "change", "toy proj", "--description", "x").out.endswith(f"projects show {named}\n")
    assert coord("projects", "pause", "toy proj").out.endswith(f"projects resume {named}\n")
    assert f"budgets set project {named} --usd" in coord("budgets", "show", "project", "toy proj", code=None).err


def test_a_shell_in_the_folder_of_a_task_has_the_home_in_full(shop: Shop) -> None:
    output = shop.coord(f"tasks shell {shop.task('say')} -- printenv COORD_HOME")

    assert output.stdout == f"{shop.folder}/.coord\n", output.stderr
