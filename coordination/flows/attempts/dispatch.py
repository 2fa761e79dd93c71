"""Choose the next work after attempts have ended: claims for idle threads, and tasks to enqueue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from coordination.domain.tasks.attempts import Claim
from coordination.services.attempts.end_effects import EndEffects
from coordination.services.tasks import dispatch_window
from coordination.store.queries.tasks import ready
from coordination.store.queries.tasks.ready import ReadyTask

_LARGEST_SHARE = 64


@dataclass(frozen=True, slots=True)
class DispatchTerms:
    """The capacity of a worker, and how it claims and enqueues.

    ``window``: the number of messages that a project may have enqueued. ``bundle``: how many tasks of a kind share a
    message. ``claim`` claims tasks in the same transaction, without waiting, for ``idle_threads`` threads. Without
    ``refill`` the window is filled only if more became ready than was claimed. ``fill_later``: leave that to the
    caller if any thread has a claim, so that the thread can start.
    """

    window: int
    bundle: Callable[[str], int]
    claim: Callable[[Sequence[str]], list[Claim]] | None = None
    idle_threads: int = 0
    refill: bool = True
    fill_later: bool = False


@dataclass(frozen=True, slots=True)
class NextWork:
    """The work after the commit: run ``claims`` (one message's worth per thread) and enqueue ``enqueue``.

    ``unfilled``: more tasks may be ready, and the caller has to fill the project's window.
    """

    claims: list[list[Claim]] = field(default_factory=list)
    enqueue: list[ReadyTask] = field(default_factory=list)
    unfilled: bool = False

    @property
    def runs(self) -> set[str]:
        """Return the runs of these claims."""
        return {claim.run_id for share in self.claims for claim in share}


def next_work(
    tx: Connection, workspace_id: str, project_id: str, effects: EndEffects, terms: DispatchTerms
) -> NextWork:
    """Claim tasks for idle threads, and mark tasks to enqueue. Call it after ``finish``, in its transaction."""
    shares: list[list[Claim]] = []
    nothing_left = False
    if terms.idle_threads and terms.claim:
        shares, nothing_left = _shares(tx, workspace_id, project_id, effects, terms, terms.claim)
    claimed = sum(map(len, shares))
    more_ready = bool(effects.retry_in or effects.newly_ready or len(effects.freed) > claimed)
    if not more_ready and (nothing_left or not terms.refill):
        return NextWork(shares)
    if terms.fill_later and claimed:
        return NextWork(shares, unfilled=True)
    expected = terms.bundle(effects.ends[0].claim.kind) if effects.ends else 1
    enqueue = dispatch_window.fill_window(
        tx, workspace_id, project_id, window=terms.window, bundle=terms.bundle, expected=expected
    )
    return NextWork(shares, enqueue)


def _shares(  # noqa: PLR0917 - called once, in the order of its parameters
    tx: Connection,
    workspace_id: str,
    project_id: str,
    effects: EndEffects,
    terms: DispatchTerms,
    claim: Callable[[Sequence[str]], list[Claim]],
) -> tuple[list[list[Claim]], bool]:
    """Claim short tasks for idle threads: tasks that were just released, else other ready tasks of the project.

    Return the claims by thread, and whether no other task of the project could be enqueued.
    """
    candidates, is_complete = [task.ready for task in effects.released], False
    if not candidates:
        room = terms.idle_threads * _LARGEST_SHARE
        rows = ready.next_to_enqueue(tx, workspace_id, project_id, room=room)
        candidates = [dispatch_window.parse_ready_task(row) for row in rows]
        is_complete = len(rows) < room
    id_shares = dispatch_window.split_into_shares(candidates, threads=terms.idle_threads, bundle=terms.bundle)
    claims = {each.task_id: each for each in claim([id_ for share in id_shares for id_ in share])} if id_shares else {}
    shares = [[claims[id_] for id_ in share if id_ in claims] for share in id_shares]
    return [share for share in shares if share], is_complete and len(claims) == len(candidates)
