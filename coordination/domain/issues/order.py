"""What waits for what when issues are worked off in one run, and which never get their turn. Linear in the edges."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from coordination.domain.issues.readiness import IssueDeferral, IssueReadiness
from coordination.domain.issues.record import Issue

Graph = Mapping[str, list[str]]

_NAMED = 12


class ExclusionReason(StrEnum):
    """Why an open issue gets no job."""

    NO_WORK = "no_work"  # pinned, ephemeral, deferred, or of a type that is never worked off
    BLOCKED = "blocked"  # it waits for something that will not be done in this run
    CYCLE = "cycle"  # it waits for itself, round some corners


@dataclass(frozen=True, slots=True)
class ExcludedIssue:
    """An open issue without a job, and why, as half a sentence."""

    id: str
    why: str
    because: ExclusionReason


def work_order(
    board: IssueReadiness, work: Mapping[str, Issue]
) -> tuple[dict[str, list[str]], dict[str, ExcludedIssue]]:
    """(what each issue of *work* waits for, in the order of *work*; those that can get no turn, with why)."""
    turns = _Turns(board, work)
    turns.leave_out([ExcludedIssue(key, why, ExclusionReason.BLOCKED) for key, why in turns.hopeless.items()])
    graph = {issue_id: turns.needs(issue_id) for issue_id in work if issue_id not in turns.out}
    turns.leave_out([left for group in _cycles(graph) for left in _in_cycle(group, graph)])
    return {issue_id: turns.needs(issue_id) for issue_id in work if issue_id not in turns.out}, turns.out


def no_work(board: IssueReadiness, issue: Issue) -> ExcludedIssue:
    """Why an open issue is no work at all."""
    reasons = list(board.exclusions(issue))
    for by in board.deferrals(issue):
        until = f"until {by.defer_until:%Y-%m-%d %H:%M} UTC"
        reasons.append(f"it is deferred {until}" if by is issue else f"its parent {by.id} is deferred {until}")
    return ExcludedIssue(issue.id, " and ".join(reasons), ExclusionReason.NO_WORK)


class _Turns:
    """Who waits for whom: for all of ``every[id]``, and for at least one child of each gate in ``gates[id]``."""

    def __init__(self, board: IssueReadiness, work: Mapping[str, Issue]) -> None:
        self.board = board
        self.work = work
        self.out: dict[str, ExcludedIssue] = {}
        self.hopeless: dict[str, str] = {}
        self.every: dict[str, dict[str, None]] = defaultdict(dict)
        self.gates: dict[str, list[IssueDeferral]] = defaultdict(list)
        self.waiting: dict[str, dict[str, None]] = defaultdict(dict)
        for source, holds in board.holds.items():
            for issue_id in board.reached_from([source]):
                if issue_id in work:
                    for hold in holds:
                        self._add(issue_id, hold, "" if source == issue_id else f", through {source}")

    def _add(self, issue_id: str, hold: IssueDeferral, through: str) -> None:
        if hold.hopeless:
            of = "the failure" if hold.waits_on else "a child"
            self.hopeless.setdefault(issue_id, f"it waits for {of} of {hold.edge.depends_on_id}{through}")
            return
        for blocker in hold.waits_on:
            self.waiting[blocker][issue_id] = None
        if not hold.needs_all:
            self.gates[issue_id].append(hold)
            if why := self._shut(issue_id):
                self.hopeless.setdefault(issue_id, why)
            return
        for blocker in hold.waits_on:
            self.every[issue_id][blocker] = None
            if blocker not in self.work:
                self.hopeless.setdefault(issue_id, f"it waits for {self._stranger(blocker)}{through}")

    def _stranger(self, blocker: str) -> str:
        issue = self.board.issues[blocker]
        why = f"it is {issue.status}" if issue.status != "open" else no_work(self.board, issue).why
        return f"{blocker}, but {why}"

    def needs(self, issue_id: str) -> list[str]:
        """The issues with a job that this one waits for."""
        found = dict(self.every.get(issue_id, {}))
        for gate in self.gates.get(issue_id, ()):
            found.update(dict.fromkeys(self._able(issue_id, gate)))
        return list(found)

    def leave_out(self, gone: Iterable[ExcludedIssue]) -> None:
        """Leave these out, and with them whatever waits for them."""
        queue = deque(gone)
        while queue:
            left = queue.popleft()
            if left.id in self.out:
                continue
            self.out[left.id] = left
            for issue_id in self.waiting.get(left.id, ()):
                if left.id in self.every.get(issue_id, {}):
                    why: str | None = f"it waits for {left.id}, which is left out"
                else:
                    why = self._shut(issue_id)
                if why:
                    queue.append(ExcludedIssue(issue_id, why, ExclusionReason.BLOCKED))

    def _shut(self, issue_id: str) -> str | None:
        """Which gate of the issue nobody is left to open, as half a sentence."""
        for gate in self.gates.get(issue_id, ()):
            if not self._able(issue_id, gate):
                return f"it waits for any child of {gate.edge.depends_on_id}, and none is worked off"
        return None

    def _able(self, issue_id: str, gate: IssueDeferral) -> list[str]:
        """The children with a job that can open the gate."""
        return [other for other in gate.waits_on if other in self.work and other not in self.out and other != issue_id]


def _in_cycle(group: list[str], graph: Graph) -> list[ExcludedIssue]:
    members = set(group)
    if len(group) <= _NAMED:
        why = {issue_id: " -> ".join(_way_round(issue_id, graph, members)) for issue_id in group}
    else:  # the way round of each would take longer than it helps
        named = f"{', '.join(group[:_NAMED])} and {len(group) - _NAMED:,} more wait for each other"
        why = dict.fromkeys(group, named)
    return [ExcludedIssue(key, f"it waits for itself: {way}", ExclusionReason.CYCLE) for key, way in why.items()]


def _cycles(graph: Graph) -> list[list[str]]:
    """The groups that wait for themselves (strongly connected components, Tarjan's way, without recursion)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: dict[str, None] = {}
    found: list[list[str]] = []
    for root in graph:
        path = [] if root in index else [(root, iter(graph[root]))]
        while path:
            node, rest = path[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                stack[node] = None
            following = next(rest, None)
            if following is None:
                path.pop()
                if path:
                    parent = path[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == index[node]:
                    group = _popped(stack, node)
                    if len(group) > 1 or node in graph[node]:
                        found.append(group)
            elif following not in index:
                path.append((following, iter(graph[following])))
            elif following in stack:
                low[node] = min(low[node], index[following])
    return found


def _popped(stack: dict[str, None], node: str) -> list[str]:
    group = [stack.popitem()[0]]
    while group[-1] != node:
        group.append(stack.popitem()[0])
    return group[::-1]


def _way_round(start: str, graph: Graph, group: set[str]) -> list[str]:
    """A shortest way from *start* back to it inside *group*."""
    came_from: dict[str, str] = {}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for following in graph[node]:
            if following == start:
                way = [node]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return [*reversed(way), start]
            if following in group and following not in came_from:
                came_from[following] = node
                queue.append(following)
    return [start, start]
