"""Test that work gets at most its cause's rights: every right, compared one by one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from coordination.base.errors import Refused
from coordination.domain.access.authority import Rights, check_within, rights_of
from coordination.domain.jobs import AgentCall
from coordination.domain.jobs.resource_limits import Limits
from tests.support.refusals import refuses

HOUR = timedelta(hours=1)
AMOUNTS: dict[str, Any] = {"max_starts": 3, "max_attempts": 2, "priority": 5}
SHELL = {"shell": "make", "env": {"MODE": "fast"}}
AGENT = {
    "agent": "claude",
    "prompt": "x",
    "model": "haiku",
    "args": ["--verbose"],
    "secrets": ["TEAM_KEY"],
    "env": {"ANTHROPIC_BASE_URL": "https://gate"},
}
CUSTOM = {"agent": "custom", "prompt": "x", "command": ["tool", "{prompt}"]}
CHAT = {
    "chat": "openai:gpt-5-mini",
    "prompt": "x",
    "url": "https://models.example/v1",
    "secrets": ["TEAM_KEY", "OTHER"],
    "tools": ["coord", {"command": ["files"], "env": {"ROOT": "/srv"}}],
    "settings": {"max_steps": 5, "max_tokens": 1_000},
}


def granted(work: Any, **more: Any) -> Rights:
    return Rights(work, ("/srv/shop",), timeout=HOUR, limits=Limits(memory=1_000), **AMOUNTS, **more)


def requested_rights(work: Any, **more: Any) -> Rights:
    return replace(Rights(work, ("/srv/shop",), timeout=HOUR, limits=Limits(memory=1_000), **AMOUNTS), **more)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (SHELL, {"shell": "anything"}),
        (SHELL, {"python": "os:getcwd", "args": {"x": 1}, "env": {"MODE": "fast"}}),
        (AGENT, {**AGENT, "prompt": "something else"}),
        (AGENT, {**AGENT, "secrets": [], "env": {}, "tools": ["coord"]}),
        (AGENT, {"shell": "true"}),
        ({**AGENT, "account": "claude@work"}, {**AGENT, "account": "claude@work"}),
        ({**AGENT, "account": "claude@work"}, {"shell": "true"}),
        ({**CHAT, "account": "openai@work"}, {**CHAT, "account": "openai@work"}),
        (CUSTOM, {**CUSTOM, "prompt": "y"}),
        (CHAT, {**CHAT, "prompt": "y", "system": "z", "schema": {"type": "string"}, "tools": ["coord"]}),
        (CHAT, {**CHAT, "secrets": ["TEAM_KEY"], "settings": {"max_steps": 1, "max_tokens": 10, "temperature": 1}}),
    ],
)
def test_what_the_reporter_may_do_is_lent(mine: Any, theirs: Any) -> None:
    check_within(granted(mine), requested_rights(theirs))


@pytest.mark.parametrize(
    ("mine", "theirs", "field"),
    [
        (SHELL, AGENT, "run"),
        (SHELL, CUSTOM, "run"),
        (SHELL, CHAT, "run"),
        (AGENT, CHAT, "run"),
        (AGENT, {**AGENT, "account": "claude@work"}, "run.account"),
        ({**AGENT, "account": "claude@work"}, AGENT, "run.account"),
        ({**AGENT, "account": "claude@work"}, {**AGENT, "account": "claude@max2"}, "run.account"),
        (CHAT, {**CHAT, "account": "openai@work"}, "run.account"),
        ({**CHAT, "account": "openai@work"}, CHAT, "run.account"),
        (CHAT, AGENT, "run"),
        (CHAT, SHELL, "run"),
        (CHAT, {"python": "os:getcwd"}, "run"),
        ({**AGENT, "args": ["--allowedTools", "Read"]}, {"shell": "true"}, "run"),
        (SHELL, {"shell": "x", "env": {"LD_PRELOAD": "/srv/shop/x.so"}}, "run.env"),
        (SHELL, {"shell": "x", "env": {"MODE": "other"}}, "run.env"),
        (AGENT, {**AGENT, "agent": "codex"}, "run.agent"),
        (AGENT, {**AGENT, "command": ["sh", "-c", "env"]}, "run.command"),
        (AGENT, {**AGENT, "args": ["--dangerously-skip-permissions"]}, "run.args"),
        (AGENT, {**AGENT, "args": []}, "run.args"),
        (AGENT, {**AGENT, "model": "opus"}, "run.model"),
        (AGENT, {key: value for key, value in AGENT.items() if key != "model"}, "run.model"),
        (AGENT, {**AGENT, "secrets": ["TEAM_KEY", "OTHER"]}, "run.secrets"),
        (AGENT, {**AGENT, "env": {"ANTHROPIC_BASE_URL": "https://evil"}}, "run.env"),
        (CUSTOM, {**CUSTOM, "command": ["sh", "{prompt}"]}, "run.command"),
        (CUSTOM, {**CUSTOM, "resume": ["sh", "{session}"]}, "run.resume"),
        ({**CUSTOM, "args": ["{{ input.x }}"]}, {**CUSTOM, "args": ["{{ input.x }}"]}, "run.args"),
        (CHAT, {**CHAT, "url": "https://evil.example"}, "run.url"),
        (CHAT, {key: value for key, value in CHAT.items() if key != "url"}, "run.url"),
        (CHAT, {**CHAT, "chat": "openai:gpt-5"}, "run.chat"),
        (CHAT, {**CHAT, "secrets": ["OTHER"]}, "run.secrets"),
        (CHAT, {**CHAT, "secrets": []}, "run.secrets"),
        (CHAT, {**CHAT, "tools": [{"command": ["sh"]}]}, "run.tools"),
        (CHAT, {**CHAT, "settings": {"max_steps": 6, "max_tokens": 10}}, "run.settings"),
        (CHAT, {**CHAT, "settings": {"max_tokens": 10}}, "run.settings"),
        (CHAT, {**CHAT, "settings": {"max_steps": 5}}, "run.settings"),
    ],
)
def test_a_job_beyond_that_of_the_reporter_is_refused(mine: Any, theirs: Any, field: str) -> None:
    with refuses(Refused, field=field):
        check_within(granted(mine), requested_rights(theirs))
    again = rights_of(granted(mine).to_json())
    assert again is not None
    with refuses(Refused, field=field):
        check_within(again, requested_rights(theirs))


@pytest.mark.parametrize(
    ("wider", "field"),
    [
        ({"folders": ["/srv"]}, "workdir"),
        ({"folders": ["/srv/shop/../other"]}, "workdir"),
        ({"folders": ["/srv/shopping"]}, "workdir"),
        ({"folders": ["shop"]}, "workdir"),
        ({"folders": ["/"]}, "workdir"),
        ({"timeout": 2 * HOUR}, "timeout"),
        ({"timeout": None}, "timeout"),
        ({"limits": Limits(memory=2_000)}, "limits"),
        ({"limits": Limits()}, "limits"),
        ({"max_starts": 4}, "max_starts"),
        ({"max_attempts": 3}, "max_attempts"),
        ({"priority": 6}, "priority"),
        ({"agent": "bob"}, "agent"),
        ({"checkout": {"kind": "git-worktree", "base": "main"}}, "checkout"),
        ({"checkout": {"kind": "git-worktree", "merge": {"commit": "a", "task": "b"}}}, "checkout.merge"),
    ],
)
def test_wider_bounds_are_refused(wider: dict[str, Any], field: str) -> None:
    with refuses(Refused, field=field):
        check_within(granted(SHELL), requested_rights(SHELL, **wider))


def test_a_worktree_is_not_left_for_the_checkout_or_another_base() -> None:
    mine = granted(AGENT, checkout={"kind": "git-worktree", "base": "main"})
    check_within(mine, requested_rights(AGENT, checkout={"kind": "git-worktree", "base": "main", "keep_failed": 5}))
    for other in ({}, {"kind": "git-worktree"}, {"kind": "git-worktree", "base": "release"}):
        with refuses(Refused, field="checkout"):
            check_within(mine, requested_rights(AGENT, checkout=other))


def test_folders_below_are_lent_and_without_one_only_a_temporary_one() -> None:
    check_within(granted(SHELL), requested_rights(SHELL, folders=["/srv/shop/api"]))
    with refuses(Refused, field="workdir"):
        check_within(Rights(SHELL), Rights(SHELL, ("/srv",)))
    check_within(Rights(SHELL), Rights(SHELL))


def test_every_folder_of_the_chain_holds() -> None:
    chain = Rights(SHELL, ("/srv", "/srv/shop"))
    with refuses(Refused, field="workdir"):
        check_within(chain, Rights(SHELL, ("/srv/other",)))
    with refuses(Refused, field="workdir"):
        check_within(replace(chain, folders=("/srv/shop", "/etc")), Rights(SHELL, ("/etc",)))


def test_rights_are_stored_without_what_only_the_job_needs_and_read_back() -> None:
    stored = granted(AGENT, agent="ann", stall_timeout=HOUR).to_json()
    assert "prompt" not in stored["work"]
    again = rights_of(stored)
    assert again is not None
    assert again.to_json() == stored
    check_within(again, requested_rights(AGENT, agent="ann", stall_timeout=HOUR))
    assert rights_of(None) is None
    chosen = rights_of(Rights(None, ("/srv",)).to_json())
    assert chosen is not None
    check_within(chosen, Rights(AGENT, ("/srv/x",), agent="bob"))


def test_a_budget_may_choose_another_model_before_the_claim() -> None:
    check_within(granted(AGENT), requested_rights({**AGENT, "model": "cheaper"}), models=False)
    check_within(granted(CHAT), requested_rights({**CHAT, "chat": "openai:cheaper"}), models=False)
    with refuses(Refused, field="run.chat"):
        check_within(granted(CHAT), requested_rights({**CHAT, "chat": "other:cheaper"}), models=False)


def test_an_agent_whose_restrictions_are_lifted_runs_commands() -> None:
    assert AgentCall.runs_commands(
        {"agent": "claude", "args": ["--permission-mode", "x", "--dangerously-skip-permissions"]}
    )
    assert not AgentCall.runs_commands({"agent": "codex", "args": ["--sandbox", "read-only"]})
    assert not AgentCall.runs_commands({"agent": "claude", "command": ["claude", "--disallowedTools", "Bash"]})
