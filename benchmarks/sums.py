"""Summaries beside very many cost records: by day, by month and by everything else; and counting them all."""

# ruff: noqa: S608 - the SQL is made of numbers

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from sqlalchemy import text

from benchmarks import goals
from benchmarks.bench import STORES, Bench
from benchmarks.measure import series
from benchmarks.report import Line
from coordination import connect
from coordination.api.connection import Coordination
from coordination.settings import load_settings

_TIMES = 10
_MOST_EMBEDDED = 1_000_000
_TOP = 50
_PROJECTS, _MODELS, _AGENTS, _OF_A_RUN, _DAYS = 20, 10, 50, 1_000, 730
_INDEXES = ("run_id", "project_id", "session_id", "occurred", "task_id", "corrects")
_COLUMNS = (
    "workspace_id, id, project_id, session_id, run_id, agent_id, model, input_tokens, output_tokens, "
    "cached_input_tokens, total_tokens, cost_usd, stale, occurred_at, recorded_at, settles, extra"
)


def measure(bench: Bench) -> list[Line]:
    """Milliseconds of each summary, and the rate at which records are counted."""
    lines = []
    for kind in STORES:
        wanted = min(bench.records, _MOST_EMBEDDED) if kind == "sqlite" else bench.records
        count = max(2 * _OF_A_RUN, int(wanted * bench.scale))
        with connect(load_settings(bench.environment(kind, database=5))) as co:
            began = time.perf_counter()
            _fill(co, kind, count)
            filled = time.perf_counter()
            co.costs.check(repair=True)
            counted = time.perf_counter() - filled
            print(f"   {kind}: {count:,} records in {filled - began:.0f} s, counted in {counted:.0f} s", flush=True)
            for name, ask in _questions(co).items():
                took = [_median(ask) for _ in range(bench.rounds)]
                lines.append(Line(f"{name}, {count:,} records", kind, series(took, "ms"), goal=goals.SUMMARY))
            rate = series([count / counted / 1000], "thousand/s")
            lines.append(Line(f"coord costs check --repair, {count:,} records", kind, rate))
    return lines


def _questions(co: Coordination) -> dict[str, Callable[[], object]]:
    """What people ask."""
    one_project = "p-7"
    questions: dict[str, Callable[[], object]] = {
        f"costs by {by}": lambda by=by: co.costs.summary(by, top=_TOP if by in {"session", "run"} else None)  # type: ignore[misc]
        for by in ("project", "session", "run", "agent", "model", "month", "day")
    }
    return questions | {
        "costs of one project by model, 100 days": lambda: co.costs.summary(
            "model", project=one_project, since="2026-03-15", until="2026-06-22"
        ),
        "costs of all time": co.costs.total,
        "forecast": co.costs.forecast,
    }


def _median(ask: Callable[[], object]) -> float:
    ask()
    took = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        ask()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def _fill(co: Coordination, kind: str, count: int) -> None:
    """So many calls, evenly over two years that end today; a session and a run have a thousand each."""
    runtime = co.runtime
    with runtime.store.write() as tx:
        for number in range(_PROJECTS):
            now = "utc_now()" if kind == "sqlite" else "now()"
            tx.execute(
                text(
                    "INSERT INTO projects (id, workspace_id, name, identity, status, settings, budgets, "
                    "model_restrictions, metadata, stopped, created_at) VALUES "
                    f"(:id, :ws, :name, :name, 'active', '{{}}', '{{}}', '{{}}', '{{}}', false, {now})"
                ),
                {"id": f"03000000-0000-7000-8000-{number:012d}", "ws": runtime.workspace_id, "name": f"p-{number}"},
            )
        statement, drop, make = _sql(kind)
        for each in drop:
            tx.execute(text(each))
        tx.execute(text(statement), {"ws": runtime.workspace_id, "count": count, "step": _DAYS * 86400 / count})
        for each in make:
            tx.execute(text(each))
    if kind != "sqlite":
        with runtime.store.write() as tx:
            tx.execute(text("ANALYZE costs"))


def _sql(kind: str) -> tuple[str, list[str], list[str]]:
    """The statement that makes the calls; the indexes go before it and come back after it."""
    model = f"'model-' || (i * 7 % {_MODELS})"
    if kind == "sqlite":
        ids = "printf('03000000-0000-7000-8000-%012d', {})"
        at = "strftime('%Y-%m-%dT%H:%M:%S', 'now', '-' || CAST((:count - i) * :step AS INTEGER) || ' seconds')"
        moment, usd, extra = f"{at} || '.000000+00:00'", "printf('0.%06d', i * 31 % 100000)", "'{}'"
        numbers = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count)"
        false, workspace = "0", ":ws"
    else:
        ids = "('03000000-0000-7000-8000-' || lpad(({})::text, 12, '0'))::uuid"
        moment, usd = "now() - make_interval(secs => (:count - i) * :step)", "(i * 31 % 100000)::numeric / 1000000"
        numbers = "WITH n AS (SELECT i FROM generate_series(0, CAST(:count AS bigint) - 1) AS i)"
        false, workspace, extra = "false", "CAST(:ws AS uuid)", "'{}'::json"
    run = f"i / {_OF_A_RUN}"
    values = (
        f"{workspace}, 'c-' || i, {ids.format(f'{run} % {_PROJECTS}')}, 's-' || ({run}), {ids.format(run)}, "
        f"{ids.format(f'{run} % {_AGENTS}')}, {model}, i % 5000, i % 700, 0, i % 5000 + i % 700, {usd}, {false}, "
        f"{moment}, {moment}, {false}, {extra}"
    )
    drop = [f"DROP INDEX ix_costs_{name}" for name in _INDEXES]
    of = {
        "run_id": "(run_id)",
        "project_id": "(project_id, occurred_at)",
        "session_id": "(session_id)",
        "occurred": "(workspace_id, occurred_at)",
        "task_id": "(task_id) WHERE task_id IS NOT NULL",
        "corrects": "(workspace_id, corrects) WHERE corrects IS NOT NULL",
    }
    make = [f"CREATE INDEX ix_costs_{name} ON costs {of[name]}" for name in _INDEXES]
    return f"INSERT INTO costs ({_COLUMNS}) {numbers} SELECT {values} FROM n", drop, make
