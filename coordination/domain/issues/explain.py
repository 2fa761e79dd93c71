"""Why an issue is ready or not: every blocker and its path, every deferral, every exclusion."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from coordination.base.errors import NotFound
from coordination.base.json_values import to_json_types
from coordination.base.wording import excerpt
from coordination.domain.issues.readiness import IssueDeferral, IssueReadiness
from coordination.domain.issues.record import (
    BLOCKS,
    CONDITIONAL_BLOCKS,
    EXTERNAL,
    PARENT_CHILD,
    WAITS_FOR,
    Issue,
    IssueDependency,
    one_line,
)
from coordination.domain.issues.rules import ANY_CHILDREN, RuleSet

_AFFECTS = frozenset({BLOCKS, CONDITIONAL_BLOCKS, WAITS_FOR, PARENT_CHILD})


class DependencyPath(StrEnum):
    """How something keeps an issue from being ready."""

    DIRECT = "direct"  # by a dependency of the issue
    INHERITED = "inherited"  # by a dependency of a parent or a further ancestor
    DANGLING = "dangling"  # not in the file: does not block
    DEFERRED = "deferred"  # the issue or its parent is deferred


@dataclass(frozen=True, slots=True)
class IssueBlocker:
    """Something that blocks, or (dangling) would. ``via``: the parents that it comes through, the nearest first."""

    way: DependencyPath
    id: str
    kind: str | None = None
    status: str | None = None
    title: str | None = None
    via: tuple[str, ...] = ()
    until: datetime | None = None
    children: tuple[str, ...] = ()
    detail: str = ""

    @property
    def blocks(self) -> bool:
        """Whether it keeps the issue from being ready."""
        return self.way is not DependencyPath.DANGLING

    def line(self) -> str:
        """Return one line for people."""
        blocker = f"{self.id} ({self.status})" if self.status else self.id
        title = f": {one_line(self.title)}" if self.title else ""
        if self.way is DependencyPath.DEFERRED:
            until = f"until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else "until later"
            return f"deferred {until}" if not self.via else f"deferred {until} through its parent {self.via[0]}"
        if self.way is DependencyPath.DANGLING:
            return f"dangling: {self.kind} {self.id}, {self.detail}; it does not block"
        through = f" through {' -> '.join(self.via)}" if self.via else ""
        return f"blocked {'directly' if not self.via else 'by inheritance'} by {blocker}{through}, {self.detail}{title}"

    def to_json(self) -> dict[str, Any]:
        """Return the form that --json prints."""
        return {"way": self.way.value, "blocks": self.blocks, **to_json_types(self)}


@dataclass(frozen=True, slots=True)
class IssueExplanation:
    """Why one issue is ready or not. ``excluded``: what else rules it out, as half sentences."""

    id: str
    title: str
    status: str
    rules: str
    ready: bool
    excluded: tuple[str, ...]
    blockers: tuple[IssueBlocker, ...]

    def lines(self) -> list[str]:
        """Return the verdict for people, then one line per reason."""
        verdict = "ready" if self.ready else "not ready"
        return [
            f"{self.id} {one_line(self.title)}: {verdict} by the rules of {self.rules}",
            *(f"  left out: {reason}" for reason in self.excluded),
            *(f"  {blocker.line()}" for blocker in self.blockers),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the form that --json prints."""
        return {**to_json_types(self), "blockers": [blocker.to_json() for blocker in self.blockers]}


def explain(issues: Sequence[Issue], issue_id: str, rules: str | RuleSet, now: datetime) -> IssueExplanation:
    """Explain why the issue is ready or not at *now*. Raises NotFound when the file has no such issue."""
    readiness = IssueReadiness(issues, rules, now)
    issue = readiness.issues.get(issue_id) or next((issue for issue in issues if issue.id == issue_id), None)
    if issue is None:
        raise NotFound(f"There is no issue {excerpt(issue_id)} among these {len(issues):,}")
    exists = issue.id in readiness.issues
    excluded = tuple(readiness.exclusions(issue)) if exists else ("it is deleted",)
    blockers = [
        *_direct(readiness, issue),
        *_inherited(readiness, issue),
        *(
            IssueBlocker(
                DependencyPath.DEFERRED,
                by.id,
                via=() if by is issue else (by.id,),
                status=by.status,
                until=by.defer_until,
            )
            for by in readiness.deferrals(issue)
        ),
        *_dangling(readiness, issue),
    ]
    return IssueExplanation(
        id=issue.id,
        title=issue.title,
        status=issue.status,
        rules=readiness.rules.name,
        ready=exists and readiness.is_ready(issue),
        excluded=excluded,
        blockers=tuple(dict.fromkeys(blockers)),
    )


def _direct(readiness: IssueReadiness, issue: Issue) -> Iterator[IssueBlocker]:
    for hold in readiness.holds.get(issue.id, ()):
        yield _blocker(readiness, hold, ())


def _inherited(readiness: IssueReadiness, issue: Issue) -> Iterator[IssueBlocker]:
    """Yield the blockers of all ancestors, the nearest first, each by its shortest path, without cycles."""
    if not readiness.rules.takes_part(issue):
        return
    seen = {issue.id}
    queue: deque[tuple[str, tuple[str, ...]]] = deque([(issue.id, ())])
    while queue:
        child, via = queue.popleft()
        if len(via) == readiness.rules.inherit_levels:
            continue
        for edge in readiness.edges.get(child, ()):
            parent = edge.depends_on_id
            if edge.type != PARENT_CHILD or parent in seen or parent not in readiness.blocked:
                continue
            seen.add(parent)
            for hold in readiness.holds.get(parent, ()):
                yield _blocker(readiness, hold, (*via, parent))
            queue.append((parent, (*via, parent)))


def _dangling(readiness: IssueReadiness, issue: Issue) -> Iterator[IssueBlocker]:
    blocking_edges = {id(hold.edge) for hold in readiness.holds.get(issue.id, ())}
    for edge in readiness.edges.get(issue.id, ()):
        target = edge.depends_on_id
        if edge.type not in _AFFECTS or id(edge) in blocking_edges or target in readiness.issues:
            continue
        detail = "which belongs to another project" if target.startswith(EXTERNAL) else "which is not in the file"
        yield IssueBlocker(DependencyPath.DANGLING, target, edge.type, detail=detail)


def _blocker(readiness: IssueReadiness, hold: IssueDeferral, via: tuple[str, ...]) -> IssueBlocker:
    edge = hold.edge
    target = readiness.issues.get(edge.depends_on_id)
    return IssueBlocker(
        way=DependencyPath.INHERITED if via else DependencyPath.DIRECT,
        id=edge.depends_on_id,
        kind=edge.type,
        status=target.status if target else None,
        title=target.title if target else None,
        via=via,
        children=hold.waits_on if edge.type == WAITS_FOR else (),
        detail=_detail(readiness, hold, edge),
    )


def _detail(readiness: IssueReadiness, hold: IssueDeferral, edge: IssueDependency) -> str:
    if edge.type == WAITS_FOR:
        spawner, gate = readiness.gate_of(edge)
        whose = f"children of {spawner}" if spawner != edge.depends_on_id else "its children"
        children = ", ".join(hold.waits_on) or "there are none"
        return (
            f"waits-for one of {whose} ({children})" if gate == ANY_CHILDREN else f"waits-for all {whose} ({children})"
        )
    if hold.hopeless:
        return f"{edge.type}, continues only if that is closed as failed"
    return edge.type
