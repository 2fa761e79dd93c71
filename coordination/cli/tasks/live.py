"""Live progress of a run: on a terminal a view that is redrawn, elsewhere a line for each event."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from coordination.base.durations import show_duration
from coordination.base.errors import CoordinationError, DatabaseUnavailable
from coordination.base.money import show_usd
from coordination.base.wording import plural
from coordination.cli import terminal
from coordination.cli.hints import rewrite
from coordination.cli.tasks.stalled_run import StalledRun
from coordination.domain.jobs.changed_files import sentence_of
from coordination.domain.tasks.events import Event, EventType
from coordination.domain.tasks.tasks import OPEN, RunRecord, RunState

if TYPE_CHECKING:
    from coordination.api.runs import Run

_REDRAW = 0.2
_MOST_RUNNING = 12
_PRINTED = {
    EventType.COMPLETED,
    EventType.FAILED,
    EventType.CANCELED,
    EventType.RETRIED,
    EventType.HEARTBEAT_LOST,
    EventType.HANDED_BACK,
    EventType.BLOCKED,
}


def follow(
    run: Run, *, problem: Callable[[], CoordinationError | None], quiet: bool, needs_worker: bool = False
) -> list[dict[str, Any]]:
    """Follow *run* until it has ended, or has stalled without a terminal; return the obstacles in that case.

    *needs_worker*: see StalledRun. Raises what *problem* returns when the stack is lost.
    """
    stall = StalledRun(run, needs_worker=needs_worker)
    if quiet:

        def warn(record: RunRecord) -> None:
            if words := stall.news(record):
                print(f"coord: {words}", file=sys.stderr, flush=True)

        has_ended = _wait_for_end(run, problem, warn, stall)
    elif sys.stdout.isatty():
        has_ended = _view(run, problem, stall)
    else:
        has_ended = _lines(run, problem, stall)
    return [] if has_ended else stall.as_json()


def _wait_for_end(
    run: Run, problem: Callable[[], CoordinationError | None], each: Callable[[RunRecord], None], stall: StalledRun
) -> bool:
    """Wait until the run has ended (True), or has stalled finally (False)."""
    while True:
        try:
            record = run.record
        except DatabaseUnavailable:
            time.sleep(1)
            continue
        each(record)
        if record.state is not RunState.OPEN:
            return True
        if stall.is_final:
            return False
        if (error := problem()) is not None:
            raise error
        time.sleep(_REDRAW)


def _lines(run: Run, problem: Callable[[], CoordinationError | None], stall: StalledRun) -> bool:
    """Print a line when a task ends or is retried, for logs and pipes."""
    record = run.record
    print(f"run {run.id} of {record.project}: {plural(record.total, 'task')}", flush=True)
    cursor = "0.0"
    started: dict[str, datetime] = {}

    def print_news(record: RunRecord) -> None:
        print_events(record)
        if words := stall.news(record):
            print(words, flush=True)

    def print_events(record: RunRecord) -> None:
        nonlocal cursor
        while True:
            page = run._events_after(cursor)  # noqa: SLF001 - a page at a time, between reads of the state
            for event in page:
                if event.type is EventType.CLAIMED and event.key:
                    started[event.key] = event.at
                if event.type in _PRINTED:
                    print(_line(event, started.get(event.key or ""), record), flush=True)
            if not page:
                return
            cursor = page[-1].cursor

    has_ended = _wait_for_end(run, problem, print_news, stall)
    print_events(run.record)
    return has_ended


def _line(event: Event, started_at: datetime | None, record: RunRecord) -> str:
    ended = sum(number for state, number in record.counts.items() if state not in OPEN)
    details = f" after {show_duration(event.at - started_at)}" if started_at is not None else ""
    names = ("why", "error") if event.type is EventType.BLOCKED else ("error", "why")
    why = next((event.payload[name] for name in names if event.payload.get(name)), "")
    if effect := sentence_of(event.payload.get("effect")):
        details = f"{details}, {effect}"
    parts = [f"{event.at.astimezone():%H:%M:%S}", f"{ended}/{record.total}", f"{event.key}", f"{event.type}{details}"]
    return "  ".join(parts) + (f": {why}" if why else "")


def _view(run: Run, problem: Callable[[], CoordinationError | None], stall: StalledRun) -> bool:
    from rich.live import Live

    console = terminal.console()
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        return _wait_for_end(run, problem, lambda record: live.update(_draw(run, record, stall.words(record))), stall)


def _draw(run: Run, record: RunRecord, reason: str | None) -> Any:
    """Draw progress, cost, running tasks, and why nothing is running."""
    from rich.console import Group
    from rich.markup import escape
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    ended = sum(number for state, number in record.counts.items() if state not in OPEN)
    head = Table.grid(padding=(0, 1))
    counts = ", ".join(f"{number} {state}" for state, number in record.counts.items() if number)
    head.add_row(
        Text(record.project, style="bold"),
        ProgressBar(total=max(record.total, 1), completed=ended, width=30),
        f"{ended}/{record.total}",
        show_usd(record.cost_usd)
        + (f" + {plural(record.unpriced_calls, 'call')} of unknown price" if record.unpriced_calls else ""),
        Text(counts, style="dim"),
    )
    running = Table(box=None, padding=(0, 2), show_header=False)
    rows = run.running()
    for row in rows[:_MOST_RUNNING]:
        running.add_row(
            "  " + escape(row["key"]),
            Text(row["title"] if row["title"] != row["key"] else "", overflow="ellipsis", no_wrap=True),
            show_duration(row["now"] - row["started_at"]),
            Text(f"attempt {row['number']} on {row['worker']}", style="dim"),
        )
    more = [Text(f"  … and {len(rows) - _MOST_RUNNING} more", style="dim")] if len(rows) > _MOST_RUNNING else []
    reasons = [] if reason is None else [Text(rewrite(reason), style="yellow")]
    return Group(head, running, *more, *reasons)
