"""The published readiness rules of two Beads versions, as data and as one question: does this edge block now?

The two differ where their users would notice:

=====================================  ==============================  =========================================
an issue is blocked                    beads-1.0 (v1.0.5)              beads-0.47 (v0.47.1)
=====================================  ==============================  =========================================
by a ``blocks`` target that is         neither closed nor pinned       open, in_progress, blocked, deferred, hooked:
                                                                       a custom status does not block
by a ``conditional-blocks`` target     like ``blocks``                 open (not: hooked), or closed by success;
                                                                       only a failure lets the issue go
by ``waits-for``                       while a child of the target is  the spawner in the metadata goes first, a
                                       open; gate any-children: until  pinned child counts as open, any-children
                                       one is closed                   with no child at all holds, unknown gates
                                                                       never do
through its parent                     while that is blocked, and      while that is blocked, even if closed, up to
                                       neither closed nor pinned       50 levels
by deferral                            its own or a direct parent's    its own only
by its type                            also role and rig               not role and rig
=====================================  ==============================  =========================================

beads-1.0 skips deletion marks (status tombstone) on import; 0.47 keeps them, and they block nothing. ``external:``
targets and targets that are not in the file block in neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.issues.record import CONDITIONAL_BLOCKS, Issue

TOMBSTONE = "tombstone"
ANY_CHILDREN = "any-children"
ALL_CHILDREN = "all-children"

ENDED = frozenset({"closed", "pinned"})
_OPEN_0_47 = frozenset({"open", "in_progress", "blocked", "deferred"})
_GONE_0_47 = frozenset({"closed", TOMBSTONE})
_NOT_WORK = frozenset({"merge-request", "gate", "molecule", "message", "agent"})

_FAILURE_WORDS = (
    "failed",
    "rejected",
    "wontfix",
    "won't fix",
    "canceled",
    "cancelled",
    "abandoned",
    "blocked",
    "error",
    "timeout",
    "aborted",
)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of one version. ``inherit_levels`` None: without limit."""

    name: str
    not_work: frozenset[str]  # types that are never ready
    parent_defers: bool
    ended_inherit: bool  # whether closed and pinned issues take part in inheriting
    inherit_levels: int | None
    conditional_needs_failure: bool
    spawner_in_metadata: bool
    tombstones_exist: bool
    closed_child: frozenset[str]  # statuses that count as closed for any-children
    settled_child: frozenset[str]  # statuses that no longer hold a gate that waits for all

    def target_blocks(self, target: Issue, kind: str) -> bool:
        """Return whether *target* blocks an issue that depends on it by ``blocks`` or ``conditional-blocks``."""
        if not self.conditional_needs_failure:
            return target.status not in ENDED
        if target.status in _OPEN_0_47:
            return True
        if kind == CONDITIONAL_BLOCKS:
            return target.status == "closed" and not closed_by_failure(target)
        return target.status == "hooked"

    def takes_part(self, issue: Issue) -> bool:
        """Return whether *issue* can be blocked, and its children through it."""
        return self.ended_inherit or issue.status not in ENDED

    def gate_holds(self, gate: str, children: list[Issue]) -> bool:
        """Return whether a ``waits-for`` gate over *children* blocks."""
        open_ = any(child.status not in self.settled_child for child in children)
        one_closed = any(child.status in self.closed_child for child in children)
        if self.spawner_in_metadata:
            return not one_closed if gate == ANY_CHILDREN else open_ and gate == ALL_CHILDREN
        return open_ and not (gate == ANY_CHILDREN and one_closed)


BEADS_1_0 = RuleSet(
    name="beads-1.0",
    not_work=_NOT_WORK | {"role", "rig"},
    parent_defers=True,
    ended_inherit=False,
    inherit_levels=None,
    conditional_needs_failure=False,
    spawner_in_metadata=False,
    tombstones_exist=False,
    closed_child=frozenset({"closed"}),
    settled_child=ENDED,
)
BEADS_0_47 = RuleSet(
    name="beads-0.47",
    not_work=_NOT_WORK,
    parent_defers=False,
    ended_inherit=True,
    inherit_levels=50,
    conditional_needs_failure=True,
    spawner_in_metadata=True,
    tombstones_exist=True,
    closed_child=_GONE_0_47,
    settled_child=_GONE_0_47,
)

RULE_SETS: Mapping[str, RuleSet] = {rules.name: rules for rules in (BEADS_1_0, BEADS_0_47)}


def rule_set(rules: str | RuleSet) -> RuleSet:
    """Return the rules of that name. Raises Refused for an unknown name."""
    if isinstance(rules, RuleSet):
        return rules
    try:
        return RULE_SETS[rules]
    except KeyError:
        raise Refused(f"There are no rules {excerpt(rules)}", hint=f"Choose one of: {', '.join(RULE_SETS)}") from None


def closed_by_failure(issue: Issue) -> bool:
    """Return whether the close reason has one of the words that 0.47 takes for a failure."""
    reason = (issue.close_reason or "").lower()
    return any(word in reason for word in _FAILURE_WORDS)
