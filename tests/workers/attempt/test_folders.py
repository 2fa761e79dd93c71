"""Test that attempts' folders and sockets go with their worker, also a killed one; tokens have the store's key."""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordination.base.errors import DatabaseUnavailable, TokenRefused
from coordination.domain.access.attempt_tokens import Scope, derive_key, verify
from coordination.domain.plans.plan_expansion import ANSWER
from coordination.domain.tasks.attempts import Claim
from coordination.services.access.attempt_tokens import check_token
from coordination.services.fleet import broker_keys
from coordination.store.engine import Store
from coordination.store.queries.fleet import workers
from tests.support.jobs import claim_of
from tests.support.processes import Processes
from tests.support.sources import ROOT
from tests.support.world import World
from workers.attempt.folders import AttemptFolders
from workers.attempt.steps import agent_channel
from workers.attempt.steps.agent_channel import TokenIssuer, token_claims
from workers.runners import scratch_dirs
from workers.runners.scratch_dirs import IN_HOME, IN_TEMPORARY, delete_abandoned

KILLED = """
import signal, sys
from pathlib import Path
from workers.attempt.folders import AttemptFolders
from workers.runners.scratch_dirs import IN_HOME, create
from workers.attempt.report_socket import ReportServer
from tests.support.jobs import claim_of

folders, server = AttemptFolders(create(Path(sys.argv[1]), IN_HOME).path), ReportServer()
with folders.make(claim_of({"shell": "true"})) as folder:
    server.listen(folders.address(folder), lambda line, peer: {})
    (folder / "file").touch()
    print("listens at", folders.address(folder), flush=True)
    signal.pause()
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Provide a folder whose path is shorter than those that pytest makes."""
    with tempfile.TemporaryDirectory(prefix="x", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.parametrize("deep", [False, True], ids=["short", "too long for a socket"])
def test_folders_and_sockets_of_a_killed_worker_are_taken_away(
    short_folder: Path,
    processes: Processes,
    deep: bool,  # noqa: FBT001
) -> None:
    root = short_folder / ("x" * 100 if deep else "y")
    owner = processes.start_python("-c", KILLED, root, cwd=ROOT)
    address = Path(owner.wait_for(r"^listens at (/.+)$")[1])
    link = scratch_dirs.TEMPORARY in address.parents and address.parents[2].name.startswith(IN_TEMPORARY)
    assert (address.exists(), link) == (True, deep)

    owner.kill()
    assert delete_abandoned(root, IN_HOME) == 1
    delete_abandoned(scratch_dirs.TEMPORARY, IN_TEMPORARY)

    assert not address.exists()
    assert list(root.iterdir()) == []


def test_a_job_that_finds_coord_on_its_path_gets_no_other(tmp_path: Path) -> None:
    folders = AttemptFolders(tmp_path)
    folders.program = None
    with folders.make(claim_of({"shell": "true"})) as folder:
        assert folders.programs(folder) is None
        folders.program = Path(sys.executable)
        bin_ = folders.programs(folder)
        assert bin_ is not None
        assert (Path(bin_) / "coord").resolve() == Path(sys.executable).resolve()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def world(store: Store) -> World:
    world = World(store)
    world.submit("a", tasks={"a": {"agent": "bob"}})
    world.claim("a")
    return world


def test_the_token_of_an_attempt_is_accepted_by_the_store(world: World) -> None:
    token = TokenIssuer(world.store).issue(world.claims["a"])

    with world.store.read() as tx:
        checked = check_token(tx, token, workspace_id=world.workspace, scope=Scope.DISCOVER)
    assert (checked.task_id, checked.attempt, checked.agent) == (world.ids["a"], 1, "bob")


def test_attempts_that_start_after_the_key_was_replaced_have_tokens_with_the_new_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = TokenIssuer(world.store)
    former = issuer.issue(world.claims["a"])
    broker_keys.rotate(world.store)
    monkeypatch.setattr(agent_channel, "_FRESH", 0.0)

    token = issuer.issue(world.claims["a"])

    with world.store.read() as tx:
        assert check_token(tx, token, workspace_id=world.workspace, scope=Scope.REPORT)
        with pytest.raises(TokenRefused):
            check_token(tx, former, workspace_id=world.workspace, scope=Scope.REPORT)


def test_who_answers_a_question_may_neither_ask_nor_add_work(world: World) -> None:
    claim: Claim = world.claims["a"]
    claim.options["role"] = {ANSWER: "x"}  # type: ignore[index]

    assert token_claims(claim).scopes == {Scope.REPORT}
    key = derive_key(world.store.transact(workers.get_or_create_broker_key))
    assert verify(key, TokenIssuer(world.store).issue(claim)).scopes == {Scope.REPORT}


def test_while_the_database_is_away_the_last_known_key_signs_or_a_token_counts_nowhere_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise DatabaseUnavailable("The database is away")

    monkeypatch.setattr(agent_channel, "_FRESH", 0.0)
    issuer, unknown = TokenIssuer(world.store), TokenIssuer(world.store)
    token = issuer.issue(world.claims["a"])
    monkeypatch.setattr(workers, "find_broker_key", away)
    monkeypatch.setattr(secrets, "token_hex", lambda _: "random")

    assert issuer.issue(world.claims["a"]) == token
    assert unknown.issue(world.claims["a"]) == "random"
