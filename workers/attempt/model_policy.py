"""Asks before a job begins whether it may: its model, by its project's rules; a reported task, by what it was lent."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable, Refused
from coordination.domain.access.authority import Rights, lend, rights_of
from coordination.domain.jobs.resource_limits import limits_of
from coordination.domain.money.estimates import asks_a_model
from coordination.domain.projects.model_policy import parse_restrictions, refusal
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.store.engine import Store
from coordination.store.queries.projects import projects

_FRESH = 1.0
_REMEMBERED = 1_000


class ModelRules:
    """What each project says of models: at most a second old, or as it is now before a job ends by it. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Mapping[str, Any]]] = {}

    def ended(self, claim: Claim) -> AttemptEnd | None:
        """The end of an attempt that may not begin; None when it may. *claim*: with its templates filled in."""
        if not asks_a_model(claim.work):
            return None
        try:
            why = _refused(claim, known) if (known := self._remembered(claim)) is not None else None
            if known is None or why is not None:  # nothing ends for good by what may have been changed since
                why = _refused(claim, self._asked(claim))
        except DatabaseUnavailable as error:  # it waits, and is charged nothing
            return AttemptEnd(Outcome.DEFERRED, error=error.sentence(), began=False)
        return None if why is None else AttemptEnd(Outcome.FAILED, error=why, retryable=False, began=False)

    def _remembered(self, claim: Claim) -> Mapping[str, Any] | None:
        with self._lock:
            known = self._known.get(claim.project_id)
        return known[1] if known is not None and monotonic() - known[0] < _FRESH else None

    def _asked(self, claim: Claim) -> Mapping[str, Any]:
        asked = monotonic()
        with self._store.read() as tx:
            project = projects.get(tx, claim.workspace_id, claim.project_id)
        found = {} if project is None else project.model_restrictions
        with self._lock:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[claim.project_id] = (asked, found)
        return found


def check_authority(claim: Claim) -> None:
    """Refuse a task that a job reported if it goes beyond what that job may. *claim*: as stored, not rendered.

    Folders are compared by their real paths, here and now: a job may have made a link since the task was added. The
    priority is not: it has had its effect, and a person may have raised it.
    """
    held = rights_of(claim.authority)
    if held is None:
        return
    asked = Rights(
        claim.work,
        () if claim.workdir is None else (os.path.realpath(claim.workdir),),
        claim.options.get("workspace", {}),
        claim.timeout,
        claim.stall_timeout,
        limits_of(claim.options),
        claim.agent,
        max_attempts=claim.max_attempts,
    )
    lend(replace(held, folders=[os.path.realpath(place) for place in held.folders]), asked, models=False)


def _refused(claim: Claim, rules: Mapping[str, Any]) -> str | None:
    try:
        restrictions = parse_restrictions(rules)
        return None if restrictions is None else refusal(claim.work, restrictions, rendered=True)
    except Refused as error:  # said before it was checked: nobody knows what was meant, so nothing is begun
        return f"which models the project allows cannot be understood: {error.message}"
