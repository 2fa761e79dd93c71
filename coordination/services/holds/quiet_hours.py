"""Quiet hours: none of a project's jobs starts between two times of day, e.g. while people use the machines.

``coord projects change NAME --set 'quiet_hours={"from": "22:00", "to": "07:00", "zone": "Europe/Berlin"}'``
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, select

from coordination.base.calendars import check_zone
from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.projects.projects import Project
from coordination.domain.tasks.explanations import TaskBlocker
from coordination.domain.tasks.next_steps import NextStep
from coordination.domain.tasks.tasks import BlockReason, TaskState
from coordination.services.holds.base import ClaimRequest, Decision, Held, HeldTask, Hold, shown
from coordination.store.queries.money import budgets
from coordination.store.queries.predicates import has_setting
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks.claims import Candidate
from coordination.store.types import db_now

_SETTING = "quiet_hours"
_HINT = 'Write {"from": "22:00", "to": "07:00", "zone": "Europe/Berlin"}; without a zone, that of the workspace counts'


@dataclass(frozen=True, slots=True)
class Window:
    """The time between two times of day. ``zone`` None: that of the workspace."""

    start: time
    end: time
    zone: str | None

    def until(self, now: datetime, zone: tzinfo) -> datetime | None:
        """Return the end of the window that *now* is in; None when it is in none.

        A time of day that the clocks show twice begins a window the first time, and ends one the second time. One that
        they skip is as long after midnight as it would have been.
        """
        today = now.astimezone(zone).date()
        nights = 0 if self.start < self.end else 1
        for day in (today - timedelta(days=1), today):
            ends = [_moment(day + timedelta(days=nights), self.end, zone, fold=fold) for fold in (0, 1)]
            if _moment(day, self.start, zone, fold=0) <= now < max(ends):
                return max(ends)
        return None


def _moment(day: date, at: time, zone: tzinfo, *, fold: int) -> datetime:
    return datetime.combine(day, at.replace(fold=fold), tzinfo=zone).astimezone(UTC)


def parse(value: Any) -> Window:
    """Return the window that the setting describes; Refused for what describes none."""
    if not isinstance(value, Mapping) or not {"from", "to"} <= value.keys() <= {"from", "to", "zone"}:
        raise Refused(f"{_SETTING} needs from and to, not {excerpt(value)}", hint=_HINT, field=_SETTING)
    start, end = (_time(value[name]) for name in ("from", "to"))
    if start == end:
        raise Refused(f"{_SETTING} begins and ends at {start:%H:%M}: no job could ever start", field=_SETTING)
    zone = value.get("zone")
    if zone is not None and not isinstance(zone, str):
        raise Refused(f"The zone of {_SETTING} is a name, not {excerpt(zone)}", hint=_HINT, field=_SETTING)
    return Window(start, end, None if zone is None else check_zone(zone))


def _time(text: object) -> time:
    try:
        return datetime.strptime(str(text), "%H:%M").time()  # noqa: DTZ007 - a time of day, in a zone that is apart
    except ValueError:
        raise Refused(f"{excerpt(text)} is no time of day", hint=_HINT, field=_SETTING) from None


class QuietHours(Hold):
    """Holds tasks until the end of their project's quiet hours."""

    name = _SETTING
    reason = BlockReason.POLICY
    condition = has_setting(_SETTING)
    setting = _SETTING
    follows_settings = True
    passes = True

    def check(self, value: Any) -> None:
        """Refuse hours that make no sense."""
        parse(value)

    def decide(self, request: ClaimRequest, rows: Sequence[Candidate]) -> Decision:
        """Hold the tasks of the projects that have quiet hours now."""
        ends = self._ends(request, {row.project_id for row in rows}, lock=False)
        if ends and not request.wait:
            return Decision(skipped=[row.id for row in rows if row.project_id in ends])
        if ends:  # under a lock: whoever changes the hours at the same time would not see what is held back after it
            ends = self._ends(request, ends.keys(), lock=True)
        return Decision(
            {
                row.id: Held(f"quiet hours of its project until {shown(ends[row.project_id])}", ends[row.project_id])
                for row in rows
                if row.project_id in ends
            }
        )

    def _ends(self, request: ClaimRequest, ids: Collection[str], *, lock: bool) -> dict[str, datetime]:
        """Return when the quiet hours end of those of these projects that have them now."""
        found = projects.get_many(request.tx, request.workspace_id, sorted(ids), lock=lock)
        ends = {project.id: _until(request.tx, project) for project in found}
        return {project_id: until for project_id, until in ends.items() if until is not None}

    def explain(self, held: HeldTask) -> Iterator[TaskBlocker]:
        """Say until when the quiet hours last."""
        about, task = held.about, held.task
        if self.reason not in held.reasons and (task is None or task.state is not TaskState.QUEUED):
            return
        project = projects.get(about.tx, about.workspace_id, about.task.project_id)
        until = held.not_before if self.reason in held.reasons else None
        if until is None and project is not None:
            until = _until(about.tx, project)
        if until is not None and project is not None:
            then = NextStep("end them with", f"coord projects change {shlex.quote(project.name)} --set {_SETTING}=null")
            words = f"quiet hours of its project until {shown(until)}"
            yield TaskBlocker(self.name, words, via=held.via, until=until, steps=(then,))


def _until(tx: Connection, project: Project) -> datetime | None:
    """Return when the project's quiet hours end; None when it has none now."""
    value = project.settings.get(_SETTING)
    try:
        window = None if value is None else parse(value)
    except Refused:  # stored by a program that did not check it
        window = None
    if window is None:
        return None
    zone = window.zone or budgets.zone(tx, project.workspace_id) or "UTC"
    return window.until(tx.execute(select(db_now())).scalar_one(), ZoneInfo(zone))


HOLD = QuietHours()
