"""Test names of accounts, their values, and the jobs for which a plan's default account counts."""

from __future__ import annotations

import pytest

from coordination.base.errors import Refused
from coordination.domain.agents.agents import Profile
from coordination.domain.jobs import AgentCall, ChatCall, Shell, parse_job
from coordination.domain.jobs.accounts import (
    LONGEST_VALUE,
    account_fits,
    check_account,
    check_secret,
    check_setting,
    check_variable,
)
from coordination.domain.plans.plan_expansion import apply_overlay
from tests.support.refusals import refuses


@pytest.mark.parametrize("name", ["work", "claude@work", "claude@max-2", "a.b_c@d.e", "7"])
def test_an_account_is_one_word_or_an_agent_with_a_label(name: str) -> None:
    assert check_account(name) == name


@pytest.mark.parametrize(
    "name", ["", "@work", "claude@", "a@b@c", "../x", "a/b", "a b", ".a", "-a", "{{ x }}", "a\n", "x" * 65, None, 7]
)
def test_what_could_be_a_path_or_an_option_names_no_account(name: object) -> None:
    with refuses(Refused, field="account"):
        check_account(name)


@pytest.mark.parametrize("name", ["COORD_HOME", "PATH", "LD_PRELOAD", "PYTHONPATH", "a b", "A=B", ""])
def test_variables_that_decide_how_jobs_run_are_in_no_account(name: str) -> None:
    with refuses(Refused, field="variable"):
        check_variable(name)


def test_a_secret_is_long_enough_to_be_hidden_and_refused_without_being_shown() -> None:
    check_secret("MY_KEY", "12345678")

    for value in ("1234567", "   ", "12345678\0", "x" * (LONGEST_VALUE + 1)):
        with refuses(Refused, field="value") as refused:
            check_secret("MY_KEY", value)
        assert value.strip() == "" or value not in str(refused.value)


def test_a_setting_is_no_secret_and_a_folder_is_absolute() -> None:
    for name, value in (
        ("CLAUDE_CONFIG_DIR", "/home/ada/max"),
        ("OPENAI_BASE_URL", "https://x.test/v1"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/x.json"),
    ):
        assert check_setting(name, value) == value

    for name, value in (
        ("ANTHROPIC_API_KEY", "sk-1"),
        ("OPENAI_BASE_URL", "https://ada:pw@x.test"),
        ("MY_KEY", "sk-1"),
        ("CODEX_HOME", "relative"),
        ("CODEX_HOME", "~/x"),
    ):
        with refuses(Refused, field="value") as refused:
            check_setting(name, value)
        assert "sk-1" not in str(refused.value)
        assert ":pw" not in str(refused.value)


def test_a_default_is_for_the_agent_or_the_provider_before_the_at() -> None:
    claude, codex, chat = "claude", "codex", ChatCall("openai:gpt-5-mini", "x").provider

    assert [account_fits("claude@work", one) for one in (claude, codex, chat)] == [True, False, False]
    assert [account_fits("openai@work", one) for one in (claude, codex, chat)] == [False, False, True]
    assert [account_fits("work", one) for one in (claude, codex, chat, Shell("x").provider)] == [
        True,
        True,
        True,
        False,
    ]


def test_agents_and_chats_name_an_account_and_other_jobs_do_not() -> None:
    for body in ({"agent": "claude", "prompt": "x", "account": "claude@work"}, {"chat": "openai:m", "prompt": "x"}):
        work = parse_job({**body, "account": body.get("account", "work")})
        assert parse_job(work.to_json()) == work
        assert work.to_json()["account"] == body.get("account", "work")
    for body in ({"shell": "true"}, {"python": "time:time"}):
        with refuses(Refused, field="account"):
            parse_job({**body, "account": "work"})
    for account in ("no/name", 7, "codex@work"):
        with refuses(Refused, field="account"):
            parse_job({"agent": "claude", "prompt": "x", "account": account})


def test_a_job_s_account_goes_before_that_of_its_agent_which_may_not_be_another_program_s() -> None:
    agent = Profile("bob", runner={"agent": "claude", "account": "claude@bob"})

    assert agent.build_job(AgentCall("bob", "x")).account == "claude@bob"
    assert agent.build_job(AgentCall("bob", "x", account="claude@work")).account == "claude@work"
    with refuses(Refused, field="account"):
        agent.build_job(AgentCall("bob", "x", account="codex@work"))


def test_a_variant_of_another_program_has_no_account_of_the_first() -> None:
    run = {"agent": "claude", "prompt": "x", "account": "claude@work"}

    assert apply_overlay(run, {"model": "opus"})["account"] == "claude@work"
    assert "account" not in apply_overlay(run, {"agent": "codex"})
    assert apply_overlay({**run, "account": "work"}, {"agent": "codex"})["account"] == "work"
    assert apply_overlay(run, {"account": "claude@max2"})["account"] == "claude@max2"
