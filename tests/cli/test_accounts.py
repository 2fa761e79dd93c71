"""Test ``coord accounts``: how it asks for values, what it shows and never shows; and other commands about accounts."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from coordination.adapters.account_store import Accounts
from coordination.base.errors import NOT_COMPLETED
from coordination.base.host import host
from coordination.domain.jobs.accounts import SecretPlace
from tests.support.command import Coord

KEY = "sk-ant-0123456789"


def run_with_input(coord: Coord, value: bytes, *argv: str) -> subprocess.CompletedProcess[bytes]:
    """Run one command with *value* on its stdin."""
    return subprocess.run(
        [sys.executable, "-m", "coordination.cli", *argv],
        cwd=coord.cwd,
        env=coord.environment,
        input=value,
        capture_output=True,
        check=False,
        timeout=90,
    )


def account_values(coord: Coord, account: str) -> dict[str, str]:
    return dict(Accounts(coord.home).held(account).values)


@pytest.fixture
def work(coord: Coord) -> Coord:
    """Create the account claude@work."""
    Accounts(coord.home).set("claude@work", "ANTHROPIC_API_KEY", KEY, kept=SecretPlace.FILE)
    return coord


def test_a_value_comes_from_stdin_and_is_printed_nowhere(coord: Coord) -> None:
    done = run_with_input(
        coord, f"{KEY}\n".encode(), "accounts", "set", "claude@work", "ANTHROPIC_API_KEY", "--keep", "file"
    )

    assert done.returncode == 0, done.stderr
    assert b"ANTHROPIC_API_KEY of claude@work is kept in" in done.stdout
    assert KEY.encode() not in done.stdout + done.stderr
    assert account_values(coord, "claude@work") == {"ANTHROPIC_API_KEY": KEY}


def test_at_a_terminal_each_value_is_asked_for_without_echo(coord: Coord) -> None:
    """Read a typed value without echo, which a terminal does unless the program turns it off."""
    ours, theirs = pty.openpty()
    command = ["accounts", "set", "work", "FIRST_KEY", "SECOND_KEY", "REGION=eu", "--keep", "file"]
    process = subprocess.Popen(
        [sys.executable, "-m", "coordination.cli", *command],
        cwd=coord.cwd,
        env=coord.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: os.login_tty(theirs),  # noqa: PLW1509 - no thread of this process holds a lock for it
    )
    os.close(theirs)
    shown = b""
    for name, value in (("FIRST_KEY", f"{KEY}1"), ("SECOND_KEY", f"{KEY}2")):
        while f"{name} of work (not shown): ".encode() not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, f"{value}\n".encode())
    try:
        while more := os.read(ours, 1000):
            shown += more
    except OSError:  # how Linux reports that the other side is closed
        pass
    os.close(ours)

    assert process.wait(60) == 0, shown
    assert KEY.encode() not in shown
    assert account_values(coord, "work") == {"FIRST_KEY": f"{KEY}1", "SECOND_KEY": f"{KEY}2", "REGION": "eu"}


@pytest.mark.parametrize(
    ("value", "argv"),
    [
        (b"", ["work", "MY_KEY"]),
        (b"short\n", ["work", "MY_KEY"]),
        (b"\xff\xfe01234567", ["work", "MY_KEY"]),
        (KEY.encode(), ["work", "MY_KEY", "OTHER_KEY"]),
        (KEY.encode(), ["work", "REGION=eu", f"MY_KEY={KEY}"]),
        (KEY.encode(), ["../work", "MY_KEY"]),
        (KEY.encode(), ["work", "COORD_TOKEN"]),
        (KEY.encode(), ["work", "MY_KEY", "--keep", "setting"]),
    ],
)
def test_what_cannot_be_kept_is_refused_unseen_and_changes_nothing(coord: Coord, value: bytes, argv: list[str]) -> None:
    done = run_with_input(coord, value, "accounts", "set", *argv)

    assert done.returncode == 2, (done.stdout, done.stderr)
    assert KEY.encode() not in done.stdout + done.stderr
    assert not (coord.home / "accounts").exists()


def test_lists_and_shows_names_and_places_and_no_secret(work: Coord) -> None:
    work("accounts", "set", "claude@work", "CLAUDE_CONFIG_DIR=/srv/max")

    listed, shown = work("accounts", "list"), work("accounts", "show", "claude@work")
    as_json = [work("accounts", "list", "--json"), work("accounts", "show", "claude@work", "--json")]

    assert "ANTHROPIC_API_KEY, CLAUDE_CONFIG_DIR" in listed.out
    assert "/srv/max" in shown.out
    assert as_json[0].json["accounts"] == [
        {
            "account": "claude@work",
            "variables": [
                {"name": "ANTHROPIC_API_KEY", "kept": "file"},
                {"name": "CLAUDE_CONFIG_DIR", "kept": "setting", "value": "/srv/max"},
            ],
        }
    ]
    for result in (listed, shown, *as_json):
        assert KEY not in result.out + result.err


def test_one_that_cannot_be_used_does_not_hide_the_others_and_is_wrong_for_the_doctor(work: Coord) -> None:
    assert "1 account, with secrets in" in work("doctor", code=None).out
    Accounts(work.home).set("open", "MY_KEY", KEY, kept=SecretPlace.FILE)
    (work.home / "accounts" / "open.json").chmod(0o644)

    listed, examined = work("accounts", "list"), work("doctor", code=NOT_COMPLETED)

    assert "claude@work" in listed.out
    assert "other users may open it. Run: chmod 600" in listed.out
    assert "wrong  accounts: " in examined.out
    assert KEY not in listed.out + examined.out


def test_unset_forgets_a_variable_or_the_account(work: Coord) -> None:
    work("accounts", "set", "claude@work", "REGION=eu")

    work("accounts", "unset", "claude@work", "REGION")
    assert account_values(work, "claude@work") == {"ANTHROPIC_API_KEY": KEY}
    work("accounts", "unset", "claude@work")

    assert "There is no account claude@work on" in work("accounts", "show", "claude@work", code=None).err
    assert "No accounts." in work("accounts", "list").out


def test_check_warns_of_accounts_that_this_machine_does_not_know(work: Coord, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        """
version: 1
defaults: {account: team}
questions: {agent: claude, account: claude@answers}
tasks:
  - {key: a, run: {agent: claude, prompt: x, account: claude@work}}
  - {key: b, run: {chat: "openai:m", prompt: x, account: openai@b}}
"""
    )

    result = work("check", plan)

    named = [line.split()[5] for line in result.out.splitlines() if line.startswith("warning: There is no account")]
    assert named == ["claude@answers", "openai@b", "team"]
    assert f"on {host()}. Where the plan's workers run, set it: coord accounts set team VARIABLE" in result.out
    warnings = work("check", plan, "--json").json["warnings"]
    assert [one["name"] for one in warnings if one["code"] == "account_missing"] == named
