"""Test that agents and chats get all variables of an account and no others, and that their output masks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordination.adapters.account_store import Accounts
from coordination.base.host import host
from coordination.domain.jobs.accounts import SecretPlace
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from tests.support.jobs import Bench
from tests.support.stand_in import DONE, StandIn, claude

KEY = "sk-ant-of-the-account"
OTHER = "sk-ant-of-the-worker"
ENVIRONMENT = 'env > "$0.env"'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COORD_HOME", str(tmp_path / "home"))
    for name in ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_BASE_URL", "TEAM_KEY"):
        monkeypatch.setenv(name, OTHER)
    return tmp_path / "home"


@pytest.fixture
def accounts(home: Path) -> Accounts:
    accounts = Accounts(home)
    accounts.set("claude@work", "ANTHROPIC_API_KEY", KEY, kept=SecretPlace.FILE)
    return accounts


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path)


def environment_of(stand_in: StandIn) -> dict[str, str]:
    """Return the environment that the stand-in had."""
    text = stand_in.path.with_name("agent.env").read_text()
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def run(bench: Bench, stand_in: StandIn, **more: Any) -> AttemptEnd:
    return bench.run(claude(stand_in(DONE, first=ENVIRONMENT), **more))


def test_an_agent_has_what_its_account_holds_and_nothing_of_the_workers(
    bench: Bench, stand_in: StandIn, accounts: Accounts
) -> None:
    accounts.set("claude@work", "MY_PROXY", "http://x.test", kept=SecretPlace.SETTING)

    result = run(bench, stand_in, account="claude@work")

    assert result.outcome is Outcome.COMPLETED, result.error
    had = environment_of(stand_in)
    assert (had["ANTHROPIC_API_KEY"], had["MY_PROXY"]) == (KEY, "http://x.test")
    assert OTHER not in had.values()


def test_a_log_in_in_a_folder_of_its_own_is_not_paid_by_the_workers_key(
    bench: Bench, stand_in: StandIn, accounts: Accounts
) -> None:
    accounts.set("claude@max2", "CLAUDE_CONFIG_DIR", "/srv/max2", kept=SecretPlace.SETTING)

    assert run(bench, stand_in, account="claude@max2").outcome is Outcome.COMPLETED

    had = environment_of(stand_in)
    assert had["CLAUDE_CONFIG_DIR"] == "/srv/max2"
    assert not {KEY, OTHER} & set(had.values())


def test_without_an_account_it_has_what_the_worker_has_and_nothing_of_any_account(
    bench: Bench, stand_in: StandIn, accounts: Accounts
) -> None:
    assert run(bench, stand_in).outcome is Outcome.COMPLETED

    assert environment_of(stand_in)["ANTHROPIC_API_KEY"] == OTHER
    assert KEY not in environment_of(stand_in).values()


def test_secrets_come_from_the_account_or_from_the_worker_but_no_log_in_does(
    bench: Bench, stand_in: StandIn, accounts: Accounts
) -> None:
    assert run(bench, stand_in, account="claude@work", secrets=["TEAM_KEY"]).outcome is Outcome.COMPLETED
    assert environment_of(stand_in)["TEAM_KEY"] == OTHER

    accounts.set("claude@work", "TEAM_KEY", f"{KEY}-team", kept=SecretPlace.FILE)
    assert run(bench, stand_in, account="claude@work", secrets=["TEAM_KEY"]).outcome is Outcome.COMPLETED
    assert environment_of(stand_in)["TEAM_KEY"] == f"{KEY}-team"

    result = run(bench, stand_in, account="claude@work", secrets=["CLAUDE_CODE_OAUTH_TOKEN"])
    assert "Neither the account claude@work" in (result.error or "")


def test_what_is_secret_of_it_is_hidden_and_what_is_a_setting_is_not(
    bench: Bench, stand_in: StandIn, accounts: Accounts
) -> None:
    accounts.set("claude@work", "PLAIN", "value-with-a-plain-name", kept=SecretPlace.FILE)
    accounts.set("claude@work", "REGION", "eu-central-1", kept=SecretPlace.SETTING)
    done = {**DONE, "result": f"I have {KEY}, value-with-a-plain-name and eu-central-1"}

    result = bench.run(claude(stand_in(done, first="env >&2"), account="claude@work"))

    assert result.output == "I have ***, *** and eu-central-1"
    assert KEY not in repr(result)
    assert "value-with-a-plain-name" not in repr(result)


def test_an_account_that_is_not_there_is_named_with_machine_and_command(
    bench: Bench, stand_in: StandIn, home: Path
) -> None:
    result = run(bench, stand_in, account="claude@nobody")

    assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
    assert result.error == (
        f"There is no account claude@nobody on {host()}. "
        f"Run there: COORD_HOME={home} coord accounts set claude@nobody ANTHROPIC_API_KEY."
    )
    assert not stand_in.path.with_name("agent.env").exists()


def test_an_account_that_cannot_log_its_program_in_is_not_run_with_another_log_in(
    bench: Bench, stand_in: StandIn, accounts: Accounts
) -> None:
    accounts.set("claude@empty", "MY_KEY", KEY, kept=SecretPlace.FILE)
    accounts.set("claude@open", "ANTHROPIC_API_KEY", KEY, kept=SecretPlace.FILE)
    (accounts.folder / "claude@open.json").chmod(0o644)

    empty, is_open = (run(bench, stand_in, account=name) for name in ("claude@empty", "claude@open"))

    assert f"The account claude@empty on {host()} has none of ANTHROPIC_API_KEY, " in (empty.error or "")
    assert "coord accounts set claude@empty ANTHROPIC_API_KEY" in (empty.error or "")
    assert "other users may open it" in (is_open.error or "")
    assert (empty.outcome, is_open.outcome) == (Outcome.FAILED, Outcome.FAILED)
    assert not stand_in.path.with_name("agent.env").exists()


def test_a_plan_does_not_set_what_its_account_decides(bench: Bench, stand_in: StandIn, accounts: Accounts) -> None:
    accounts.set("claude@work", "ANTHROPIC_MODEL", "opus", kept=SecretPlace.SETTING)

    result = run(bench, stand_in, account="claude@work", env={"ANTHROPIC_MODEL": "haiku"})

    assert "env sets ANTHROPIC_MODEL, which the account claude@work decides" in (result.error or "")


def test_a_custom_agent_has_the_variables_of_its_account(bench: Bench, stand_in: StandIn, accounts: Accounts) -> None:
    work = {"agent": "custom", "prompt": "x", "command": stand_in("done", first=ENVIRONMENT), "account": "claude@work"}

    assert bench.run(work).outcome is Outcome.COMPLETED
    assert environment_of(stand_in)["ANTHROPIC_API_KEY"] == KEY


REFUSED = {"type": "result", "is_error": True, "api_error_status": 401, "result": "no such key"}


def test_a_log_in_that_is_refused_names_the_account_the_machine_and_the_command(
    bench: Bench, stand_in: StandIn, accounts: Accounts, home: Path
) -> None:
    accounts.set("claude@max2", "CLAUDE_CONFIG_DIR", "/srv/max 2", kept=SecretPlace.SETTING)
    key, folder = (bench.run(claude(stand_in(REFUSED), account=name)).error for name in ("claude@work", "claude@max2"))

    assert key == (
        f"claude is not logged in with the account claude@work on {host()}: run there "
        f"COORD_HOME={home} coord accounts set claude@work ANTHROPIC_API_KEY (it said: no such key)"
    )
    assert folder == (
        f"claude is not logged in with the account claude@max2 on {host()}: run there "
        "CLAUDE_CONFIG_DIR='/srv/max 2' claude auth login (it said: no such key)"
    )


def test_a_limit_is_one_of_its_account(bench: Bench, stand_in: StandIn, accounts: Accounts) -> None:
    limit = {"type": "result", "is_error": True, "result": "You've hit your weekly limit · resets in 2 days"}

    result = bench.run(claude(stand_in(limit), account="claude@work"))

    assert result.limit is not None
    assert result.limit.account == "claude@work"


class TestChats:
    def test_its_key_is_that_of_its_account(self, provide, accounts: Accounts, monkeypatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", OTHER)
        accounts.set("openai@work", "OPENAI_API_KEY", KEY, kept=SecretPlace.FILE)
        with provide(f"It is {KEY}") as provider:
            result = provider.run(account="openai@work")

        assert provider.server.headers[0]["authorization"] == f"Bearer {KEY}"
        assert result.output == "It is ***"

    def test_it_is_refused_without_the_key_and_by_name(self, bench: Bench, accounts: Accounts, monkeypatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", OTHER)

        result = bench.run({"chat": "openai:m", "prompt": "x", "account": "claude@work"})

        assert f"the account claude@work on {host()} has no OPENAI_API_KEY" in (result.error or "")
        assert "coord accounts set claude@work OPENAI_API_KEY" in (result.error or "")

    def test_a_log_in_that_is_refused_names_the_account(self, provide, accounts: Accounts) -> None:
        accounts.set("openai@work", "OPENAI_API_KEY", KEY, kept=SecretPlace.FILE)
        with provide(401) as provider:
            result = provider.run(account="openai@work")

        assert f"openai:m-1 is not logged in with the account openai@work on {host()}" in (result.error or "")
