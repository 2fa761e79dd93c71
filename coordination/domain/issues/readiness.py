"""Which issues are ready, by the rules of a Beads version. Pure, and linear in issues and edges."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from coordination.domain.issues.record import (
    BLOCKS,
    CONDITIONAL_BLOCKS,
    PARENT_CHILD,
    WAITS_FOR,
    Issue,
    IssueDependency,
)
from coordination.domain.issues.rules import ALL_CHILDREN, ANY_CHILDREN, TOMBSTONE, RuleSet, rule_set

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def ready(issues: Sequence[Issue], rules: str | RuleSet, now: datetime) -> list[Issue]:
    """Return the issues that are ready at *now*: most urgent first, then the newest, then by id."""
    readiness = IssueReadiness(issues, rules, now)
    return sort_issues(issue for issue in readiness.issues.values() if readiness.is_ready(issue))


def sort_issues(issues: Iterable[Issue]) -> list[Issue]:
    """Return the issues sorted as trackers list them: by priority, then newest first, then by id."""
    by_id = sorted(issues, key=lambda issue: issue.id)
    by_id.sort(key=lambda issue: issue.created_at or _LONG_AGO, reverse=True)
    by_id.sort(key=lambda issue: issue.priority)
    return by_id


@dataclass(frozen=True, slots=True)
class IssueDeferral:
    """An edge that blocks now. ``waits_on``: the open children that a gate waits for, or the blocker itself.

    ``needs_all`` False: one of them is enough. ``hopeless``: completing them would not unblock the issue.
    """

    edge: IssueDependency
    waits_on: tuple[str, ...]
    needs_all: bool = True
    hopeless: bool = False


class IssueReadiness:
    """All issues of a file under one set of rules at one moment."""

    def __init__(self, issues: Sequence[Issue], rules: str | RuleSet, now: datetime) -> None:
        self.rules = rule_set(rules)
        self.now = now
        self.issues = {issue.id: issue for issue in issues if self.rules.tombstones_exist or issue.status != TOMBSTONE}
        self.edges: dict[str, list[IssueDependency]] = defaultdict(list)
        self.children: dict[str, list[str]] = defaultdict(list)
        self._gates: dict[tuple[str, str], tuple[bool, tuple[str, ...]]] = {}
        for issue in issues:
            for edge in issue.dependencies:
                if edge.issue_id in self.issues:
                    self.edges[edge.issue_id].append(edge)
                    if edge.type == PARENT_CHILD:
                        self.children[edge.depends_on_id].append(edge.issue_id)

    @cached_property
    def holds(self) -> dict[str, list[IssueDeferral]]:
        """The blocking edges of each issue that has some."""
        blocking_by_id: dict[str, list[IssueDeferral]] = {}
        for issue_id in self.edges:
            if self.rules.takes_part(self.issues[issue_id]):
                blocking = [hold for edge in self.edges[issue_id] if (hold := self._hold(edge)) is not None]
                if blocking:
                    blocking_by_id[issue_id] = blocking
        return blocking_by_id

    @cached_property
    def blocked(self) -> frozenset[str]:
        """The issues that are blocked, by themselves or through a parent."""
        return frozenset(self.reached_from(self.holds))

    def reached_from(self, sources: Iterable[str]) -> dict[str, int]:
        """Return *sources* and all descendants that inherit from them, with the number of levels between."""
        levels = dict.fromkeys(sources, 0)
        queue = deque(levels)
        while queue:
            parent = queue.popleft()
            level = levels[parent] + 1
            if self.rules.inherit_levels is not None and level > self.rules.inherit_levels:
                continue
            for child in self.children.get(parent, ()):
                if child not in levels and self.rules.takes_part(self.issues[child]):
                    levels[child] = level
                    queue.append(child)
        return levels

    def is_ready(self, issue: Issue) -> bool:
        """Return whether nothing keeps *issue* from being ready."""
        return issue.id not in self.blocked and self.is_work(issue)

    def is_work(self, issue: Issue) -> bool:
        """Return whether *issue* would be ready if nothing blocked it."""
        return next(self.exclusions(issue), None) is None and next(self.deferrals(issue), None) is None

    def exclusions(self, issue: Issue) -> Iterator[str]:
        """Yield the reasons why *issue* is not work, whatever blocks it."""
        if issue.status != "open":
            yield f"its status is {issue.status}"
        if issue.pinned:
            yield "it is pinned"
        if issue.ephemeral:
            yield "it is ephemeral"
        if issue.issue_type in self.rules.not_work:
            yield f"its type is {issue.issue_type}"

    def deferrals(self, issue: Issue) -> Iterator[Issue]:
        """Yield *issue* itself and its direct parents, as far as they are deferred beyond now."""
        if issue.defer_until is not None and issue.defer_until > self.now:
            yield issue
        if self.rules.parent_defers:
            for edge in self.edges.get(issue.id, ()):
                parent = self.issues.get(edge.depends_on_id) if edge.type == PARENT_CHILD else None
                if parent and parent is not issue and parent.defer_until and parent.defer_until > self.now:
                    yield parent

    def _hold(self, edge: IssueDependency) -> IssueDeferral | None:
        target = self.issues.get(edge.depends_on_id)
        if edge.type in (BLOCKS, CONDITIONAL_BLOCKS):
            if target is None or not self.rules.target_blocks(target, edge.type):
                return None
            hopeless = edge.type == CONDITIONAL_BLOCKS and self.rules.conditional_needs_failure
            return IssueDeferral(edge, (target.id,), hopeless=hopeless)
        if edge.type != WAITS_FOR:
            return None
        spawner, gate = self.gate_of(edge)
        if target is None and not self.rules.spawner_in_metadata:
            return None
        holds, open_ = self._gates.get((spawner, gate)) or self._check_gate(spawner, gate)
        return IssueDeferral(edge, open_, needs_all=gate != ANY_CHILDREN, hopeless=not open_) if holds else None

    def _check_gate(self, spawner: str, gate: str) -> tuple[bool, tuple[str, ...]]:
        """Return, cached by gate, whether the gate holds, and its open children."""
        children = [self.issues[child] for child in dict.fromkeys(self.children.get(spawner, ()))]
        open_ = tuple(child.id for child in children if child.status not in self.rules.settled_child)
        self._gates[spawner, gate] = result = (self.rules.gate_holds(gate, children), open_)
        return result

    def gate_of(self, edge: IssueDependency) -> tuple[str, str]:
        """Return (spawner, gate) of a ``waits-for`` edge."""
        gate = edge.metadata.get("gate")
        spawner = edge.metadata.get("spawner_id") if self.rules.spawner_in_metadata else None
        return (edge.depends_on_id if spawner is None else str(spawner), ALL_CHILDREN if gate is None else str(gate))
