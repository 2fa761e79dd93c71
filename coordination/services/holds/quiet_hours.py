"""Quiet hours: no job of a project starts between two times of day, e.g. while people use the machines.

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

from coordination.base.clock import check_zone
from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.projects.projects import Project
from coordination.domain.tasks.explanations import TaskBlocker
from coordination.domain.tasks.next_steps import NextStep
from coordination.domain.tasks.tasks import BlockReason, TaskState
from coordination.services.holds.base import ClaimRequest, ExplainedTask, Hold, HoldDecision, HoldReason, format_moment
from coordination.store.queries.money import budgets
from coordination.store.queries.predicates import has_setting
from coordination.store.queries.projects import projects
from coordination.store.queries.tasks.claims import Candidate
from coordination.store.types import db_now

_SETTING = "quiet_hours"
_HINT = 'Write {"from": "22:00", "to": "07:00", "zone": "Europe/Berlin"}; the default zone is that of the workspace'


@dataclass(frozen=True, slots=True)
class QuietWindow:
    """The time between two times of day. ``zone`` None: the zone of the workspace."""

    start: time
    end: time
    zone: str | None

    def until(self, now: datetime, zone: tzinfo) -> datetime | None:
        """Return the end of the window that contains *now*; None: *now* is outside.

        A time of day that occurs twice (the clocks go back) starts a window the first time and ends one the second
        time. A skipped time counts as the same distance from midnight.
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


def parse_window(value: Any) -> QuietWindow:
    """Parse the setting. Raises Refused."""
    if not isinstance(value, Mapping) or not {"from", "to"} <= value.keys() <= {"from", "to", "zone"}:
        raise Refused(f"{_SETTING} needs from and to, not {excerpt(value)}", hint=_HINT, field=_SETTING)
    start, end = (_time(value[name]) for name in ("from", "to"))
    if start == end:
        raise Refused(f"{_SETTING} begins and ends at {start:%H:%M}: no job could ever start", field=_SETTING)
    zone = value.get("zone")
    if zone is not None and not isinstance(zone, str):
        raise Refused(f"The zone of {_SETTING} is a name, not {excerpt(zone)}", hint=_HINT, field=_SETTING)
    return QuietWindow(start, end, None if zone is None else check_zone(zone))


def _time(text: object) -> time:
    try:
        return datetime.strptime(str(text), "%H:%M").time()  # noqa: DTZ007 - the zone is separate
    except ValueError:
        raise Refused(f"{excerpt(text)} is not a time of day", hint=_HINT, field=_SETTING) from None


class QuietHoursHold(Hold):
    """Holds tasks until the end of their project's quiet hours."""

    name = _SETTING
    reason = BlockReason.POLICY
    condition = has_setting(_SETTING)
    setting = _SETTING
    follows_settings = True
    lifts_without_person = True

    def check(self, value: Any) -> None:
        """Raise Refused for invalid quiet hours."""
        parse_window(value)

    def decide(self, request: ClaimRequest, rows: Sequence[Candidate]) -> HoldDecision:
        """Hold the tasks of projects that have quiet hours now."""
        ends = self._ends(request, {row.project_id for row in rows}, lock=False)
        if ends and not request.wait:
            return HoldDecision(skipped=[row.id for row in rows if row.project_id in ends])
        if ends:  # check again under a lock: a concurrent change of the hours would miss tasks that are held after it
            ends = self._ends(request, ends.keys(), lock=True)
        reasons = {project_id: HoldReason(_words(until), until) for project_id, until in ends.items()}
        return HoldDecision({row.id: reasons[row.project_id] for row in rows if row.project_id in reasons})

    def _ends(self, request: ClaimRequest, ids: Collection[str], *, lock: bool) -> dict[str, datetime]:
        """Return the end of the quiet hours of each project that has them now."""
        records = projects.get_many(request.tx, request.workspace_id, sorted(ids), lock=lock)
        ends = {project.id: _until(request.tx, project) for project in records}
        return {project_id: until for project_id, until in ends.items() if until is not None}

    def explain(self, target: ExplainedTask) -> Iterator[TaskBlocker]:
        """Yield the end of the quiet hours."""
        about, task = target.about, target.task
        if self.reason not in target.reasons and (task is None or task.state is not TaskState.QUEUED):
            return
        project = projects.get(about.tx, about.workspace_id, about.task.project_id)
        until = target.not_before if self.reason in target.reasons else None
        if until is None and project is not None:
            until = _until(about.tx, project)
        if until is not None and project is not None:
            then = NextStep("end them with", f"coord projects change {shlex.quote(project.name)} --set {_SETTING}=null")
            yield TaskBlocker(self.name, _words(until), via=target.via, until=until, steps=(then,))


def _words(until: datetime) -> str:
    return f"quiet hours of its project until {format_moment(until)}"


def _until(tx: Connection, project: Project) -> datetime | None:
    """Return the end of the project's quiet hours; None: it has none now."""
    value = project.settings.get(_SETTING)
    try:
        window = None if value is None else parse_window(value)
    except Refused:  # stored by a version that did not validate it
        window = None
    if window is None:
        return None
    zone = window.zone or budgets.read_zone(tx, project.workspace_id) or "UTC"
    return window.until(tx.execute(select(db_now())).scalar_one(), ZoneInfo(zone))


HOLD = QuietHoursHold()
