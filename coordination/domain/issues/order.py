"""The order in which issues can be completed in one run, and those that can get no turn. Linear in the edges."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from coordination.domain.issues.readiness import IssueDeferral, IssueReadiness
from coordination.domain.issues.record import Issue

Graph = Mapping[str, list[str]]

_NAMED = 12


@dataclass(frozen=True, slots=True)
class ExcludedIssue:
    """An open issue without a task, and why, as half a sentence."""

    id: str
    why: str


def work_order(
    readiness: IssueReadiness, work: Mapping[str, Issue]
) -> tuple[dict[str, list[str]], dict[str, ExcludedIssue]]:
    """Return what each issue of *work* waits for, and the issues that can get no turn, by id."""
    waits = _WaitGraph(readiness, work)
    waits.exclude([ExcludedIssue(key, why) for key, why in waits.hopeless.items()])
    needs = {issue_id: waits.needs(issue_id) for issue_id in work if issue_id not in waits.excluded}
    waits.exclude([issue for group in _cycles(needs) for issue in _in_cycle(group, needs)])
    return {issue_id: waits.needs(issue_id) for issue_id in work if issue_id not in waits.excluded}, waits.excluded


def no_work(readiness: IssueReadiness, issue: Issue) -> ExcludedIssue:
    """Return an open issue that is not work, with the reasons."""
    reasons = list(readiness.exclusions(issue))
    for by in readiness.deferrals(issue):
        until = f"until {by.defer_until:%Y-%m-%d %H:%M} UTC"
        reasons.append(f"it is deferred {until}" if by is issue else f"its parent {by.id} is deferred {until}")
    return ExcludedIssue(issue.id, " and ".join(reasons))


class _WaitGraph:
    """Which issues wait for which: all of ``every[id]``, and at least one child of each gate in ``gates[id]``."""

    def __init__(self, readiness: IssueReadiness, work: Mapping[str, Issue]) -> None:
        self.readiness = readiness
        self.work = work
        self.excluded: dict[str, ExcludedIssue] = {}
        self.hopeless: dict[str, str] = {}
        self.every: dict[str, dict[str, None]] = defaultdict(dict)
        self.gates: dict[str, list[IssueDeferral]] = defaultdict(list)
        self.waiting: dict[str, dict[str, None]] = defaultdict(dict)
        for source, holds in readiness.holds.items():
            for issue_id in readiness.reached_from([source]):
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
            if why := self._closed_gate(issue_id):
                self.hopeless.setdefault(issue_id, why)
            return
        for blocker in hold.waits_on:
            self.every[issue_id][blocker] = None
            if blocker not in self.work:
                self.hopeless.setdefault(issue_id, f"it waits for {self._missing(blocker)}{through}")

    def _missing(self, blocker: str) -> str:
        issue = self.readiness.issues[blocker]
        why = f"it is {issue.status}" if issue.status != "open" else no_work(self.readiness, issue).why
        return f"{blocker}, but {why}"

    def needs(self, issue_id: str) -> list[str]:
        """Return the issues with a task that this one waits for."""
        needs = dict(self.every.get(issue_id, {}))
        for gate in self.gates.get(issue_id, ()):
            needs.update(dict.fromkeys(self._openers(issue_id, gate)))
        return list(needs)

    def exclude(self, issues: Iterable[ExcludedIssue]) -> None:
        """Exclude these issues, and all that wait for them."""
        queue = deque(issues)
        while queue:
            excluded = queue.popleft()
            if excluded.id in self.excluded:
                continue
            self.excluded[excluded.id] = excluded
            for issue_id in self.waiting.get(excluded.id, ()):
                if excluded.id in self.every.get(issue_id, {}):
                    why: str | None = f"it waits for {excluded.id}, which is excluded"
                else:
                    why = self._closed_gate(issue_id)
                if why:
                    queue.append(ExcludedIssue(issue_id, why))

    def _closed_gate(self, issue_id: str) -> str | None:
        """Return the gate of the issue that nobody can open, as half a sentence."""
        for gate in self.gates.get(issue_id, ()):
            if not self._openers(issue_id, gate):
                return f"it waits for any child of {gate.edge.depends_on_id}, and none gets a task"
        return None

    def _openers(self, issue_id: str, gate: IssueDeferral) -> list[str]:
        """Return the children with a task that can open the gate."""
        return [
            other for other in gate.waits_on if other in self.work and other not in self.excluded and other != issue_id
        ]


def _in_cycle(group: list[str], graph: Graph) -> list[ExcludedIssue]:
    members = set(group)
    if len(group) <= _NAMED:
        why = {issue_id: " -> ".join(_cycle_through(issue_id, graph, members)) for issue_id in group}
    else:  # the cycle through each would take too long to compute
        group_text = f"{', '.join(group[:_NAMED])} and {len(group) - _NAMED:,} more wait for each other"
        why = dict.fromkeys(group, group_text)
    return [ExcludedIssue(key, f"it waits for itself: {way}") for key, way in why.items()]


def _cycles(graph: Graph) -> list[list[str]]:
    """Return the groups that wait for themselves (strongly connected components, by Tarjan, without recursion)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: dict[str, None] = {}
    groups: list[list[str]] = []
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
                    group = _pop_group(stack, node)
                    if len(group) > 1 or node in graph[node]:
                        groups.append(group)
            elif following not in index:
                path.append((following, iter(graph[following])))
            elif following in stack:
                low[node] = min(low[node], index[following])
    return groups


def _pop_group(stack: dict[str, None], node: str) -> list[str]:
    group = [stack.popitem()[0]]
    while group[-1] != node:
        group.append(stack.popitem()[0])
    return group[::-1]


def _cycle_through(start: str, graph: Graph, group: set[str]) -> list[str]:
    """Return a shortest cycle through *start* inside *group*."""
    came_from: dict[str, str] = {}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for following in graph[node]:
            if following == start:
                path = [node]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return [*reversed(path), start]
            if following in group and following not in came_from:
                came_from[following] = node
                queue.append(following)
    return [start, start]
