"""Choose what follows when attempts have ended: claims for the threads that go on, and tasks to enqueue."""

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
    """What a worker can take on, and how.

    ``window``: messages that a project may have out. ``bundle``: how many tasks of a kind share a message. ``claim``
    claims tasks in the same transaction, without waiting, for ``idle_threads`` threads that would go on. Without
    ``refill`` the window is only filled when more became ready than those threads take. ``fill_later``: not in this
    transaction, if any of them goes on, so that they need not wait for it.
    """

    window: int
    bundle: Callable[[str], int]
    claim: Callable[[Sequence[str]], list[Claim]] | None = None
    idle_threads: int = 0
    refill: bool = True
    fill_later: bool = False


@dataclass(frozen=True, slots=True)
class NextWork:
    """What the caller does after its commit: run ``claims`` (a message's worth for each thread), enqueue ``enqueue``.

    ``unfilled``: more may be ready than is claimed, and the project's window was left for the caller to fill.
    """

    claims: list[list[Claim]] = field(default_factory=list)
    enqueue: list[ReadyTask] = field(default_factory=list)
    unfilled: bool = False

    @property
    def runs(self) -> set[str]:
        """Return the runs that go on with these claims."""
        return {claim.run_id for share in self.claims for claim in share}


def next_work(
    tx: Connection, workspace_id: str, project_id: str, effects: EndEffects, terms: DispatchTerms
) -> NextWork:
    """Claim what idle threads go on with, and mark what is to be enqueued; after ``finish``, in its transaction."""
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
    enqueue = dispatch_window.fill(
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
    """Return claims of short tasks for idle threads: of what was just released, else of what waits in the store.

    And whether nothing is left in the store that could be enqueued.
    """
    candidates, seen_all = [task.ready for task in effects.released], False
    if not candidates:
        room = terms.idle_threads * _LARGEST_SHARE
        rows = ready.next_to_enqueue(tx, workspace_id, project_id, room=room)
        candidates = [dispatch_window.ready_of(row) for row in rows]
        seen_all = len(rows) < room
    wanted = dispatch_window.shares(candidates, wanted=terms.idle_threads, bundle=terms.bundle)
    claims = {each.task_id: each for each in claim([id_ for share in wanted for id_ in share])} if wanted else {}
    shares = [[claims[id_] for id_ in share if id_ in claims] for share in wanted]
    return [share for share in shares if share], seen_all and len(claims) == len(candidates)
