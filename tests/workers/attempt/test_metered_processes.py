"""Test that each process of an attempt is metered while it runs and ended at a cap: job, gates, setup, git, tools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from coordination.base.money import plus
from coordination.domain.tasks.attempts import AttemptEnd, Outcome, Usage
from tests.support.chats import SERVER
from tests.support.model_server import ToolUse, running_model_server
from tests.support.repositories import Checkout, Site, agent, merged_meanwhile
from workers.runners.base import Control, StopReason
from workers.runners.registry import Runners

DOLLAR = """echo '{"model": "m", "cost_usd": 1}' >> "$COORD_COSTS"; """
ENDLESS = f"while :; do {DOLLAR} sleep 0.2; done"
CAP = 2


class Till:
    """Records what an attempt spends, and enforces the budget that ends it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.used: Sequence[Usage] = ()
        self.control = site.control(on_usage=self._spent, is_settled=lambda: True)

    def _spent(self, used: Sequence[Usage]) -> None:
        self.used = used
        if self.dollars > CAP:
            self.control.stop(StopReason.BUDGET)

    @property
    def dollars(self) -> Decimal:
        result = Decimal(0)
        for one in self.used:
            result = plus(result, one.cost_usd or Decimal(0))
        return result

    def run(self, key: str, work: dict[str, object] | str, **changes: object) -> AttemptEnd:
        with self.control:
            return self.site.attempt(self.site.claim(key, work, **changes), self.control)


@pytest.fixture
def runners() -> Iterator[Runners]:
    created = Runners()
    yield created
    created.close()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "shop")


@pytest.fixture
def site(runners: Runners, checkout: Checkout, tmp_path: Path) -> Iterator[Site]:
    created = Site(runners, checkout, tmp_path / "site")
    yield created
    assert created.left_behind() == []


@pytest.fixture
def till(site: Site) -> Till:
    return Till(site)


@pytest.mark.parametrize("kind", [None, {"kind": "git-worktree"}], ids=["folder", "worktree"])
def test_a_gate_is_stopped_and_that_is_no_failure(till: Till, kind: dict[str, str] | None) -> None:
    result = till.run("a", f"{DOLLAR} echo x > x", gates=[ENDLESS], checkout=kind)

    assert (result.outcome, result.error) == (Outcome.DEFERRED, "no money is left for it")
    assert till.dollars > CAP
    assert sum(one.cost_usd or 0 for one in result.usage) == till.dollars
    assert "feedback" not in result.carry_over


def test_short_gates_are_counted_one_after_the_other(till: Till) -> None:
    result = till.run("a", "true", gates=[DOLLAR] * 9, checkout=None)

    assert result.outcome is Outcome.DEFERRED
    assert till.dollars == CAP + 1, "each is counted before the next one begins"


def test_a_setup_command_is_stopped_and_counted(till: Till) -> None:
    result = till.run("a", "true", checkout={"kind": "git-worktree", "setup": ENDLESS})

    assert result.outcome is Outcome.DEFERRED
    assert not result.job_started
    assert till.dollars > CAP


def test_what_a_setup_command_spent_is_beside_what_its_job_spent(till: Till) -> None:
    result = till.run("a", DOLLAR, checkout={"kind": "git-worktree", "setup": DOLLAR})

    assert result.outcome is Outcome.COMPLETED
    assert till.dollars == 2


def test_a_filter_of_git_is_counted_and_stopped(till: Till, checkout: Checkout, tmp_path: Path) -> None:
    script = tmp_path / "ask.sh"
    script.write_text(f"{DOLLAR}\ncat\n")
    checkout.git("config", "filter.ask.clean", f"sh {script}")
    (checkout.path / ".git" / "info" / "attributes").write_text("*.txt filter=ask\n")

    result = till.run("a", "for i in 1 2 3 4 5; do echo $i > $i.txt; done")

    assert till.dollars > CAP
    assert result.outcome is Outcome.DEFERRED


def test_gates_on_what_a_merge_made_are_stopped_and_the_work_is_not_done_again(
    till: Till, site: Site, checkout: Checkout
) -> None:
    other = merged_meanwhile(site, "b", "echo b > b.part")
    gate = f"test $(ls *.part | wc -l) -lt 2 || {{ {ENDLESS}; }}"

    result = till.run("a", agent(f"{DOLLAR} echo a > a.part; {other}"), gates=[gate])

    assert result.outcome is Outcome.DEFERRED
    assert till.dollars > CAP
    assert "commit" in result.carry_over["merge"]
    assert checkout.git("ls-tree", "--name-only", site.branch).split() == ["b.part", "readme.txt"]


def test_a_tool_of_a_chat_is_stopped_and_counted(till: Till) -> None:
    with running_model_server([ToolUse("sh", {"command": ENDLESS}), "never"]) as server:
        work = {"chat": "openai:m-1", "prompt": "Go", "url": f"{server.url}/v1", "tools": [SERVER]}
        with till.control:
            claim = till.site.claim("a", work, checkout=None, workdir=None)
            result = till.site.runners.by_kind[claim.job_kind].run(claim, till.control)

    assert result.outcome is Outcome.DEFERRED
    assert till.dollars > CAP
    assert sum(one.cost_usd or 0 for one in result.usage) == till.dollars
    assert server.served == 1


def test_a_chat_makes_no_call_before_what_its_tool_spent_is_settled(till: Till) -> None:
    requests: list[Decimal] = []
    control = Control(
        scratch=till.site.folder / "scratch",
        on_usage=lambda used: setattr(till, "used", used),
        is_settled=lambda: (requests.append(till.dollars), True)[1],
    )
    with running_model_server([ToolUse("sh", {"command": DOLLAR}), "fine"]) as server, control:
        work = {"chat": "openai:m-1", "prompt": "Go", "url": f"{server.url}/v1", "tools": [SERVER]}
        claim = till.site.claim("a", work, checkout=None, workdir=None)
        result = till.site.runners.by_kind[claim.job_kind].run(claim, control)

    assert result.outcome is Outcome.COMPLETED
    assert requests[-1] == 1
