"""How far sixty-four jobs side by side pass a cap: ours, a plain check before spending, and an agent's own option.

All race on one store for half of what they would spend in all. Only ours reserves before it spends.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from decimal import Decimal
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, Table, func, insert, select
from sqlalchemy.exc import OperationalError

from benchmarks import goals
from benchmarks.bench import STORES, Bench
from benchmarks.measure import series
from benchmarks.places import ROOT
from benchmarks.report import Line
from coordination.domain.plans.plans import BudgetCap
from coordination.store.engine import Store, open_store
from coordination.store.queries.money import budgets
from coordination.store.schema import prepare
from tests.support.model_server import running_model_server
from tests.support.money_race import ESTIMATE, watch
from tests.support.npm import CLAUDE, npm_program
from tests.support.world import World

_JOBS = 10_000
_PROCESSES, _THREADS = 4, 16
_WORKS_FOR = 0.005  # seconds between the check and the bill, where a model would think
_CLAUDE_CAP = "0.001"


def measure(bench: Bench) -> list[Line]:
    """Percent of the cap that was spent beyond it."""
    count = bench.size(_JOBS)
    what = f"overspend, {count:,} jobs on {_PROCESSES * _THREADS} workers"
    lines = []
    for kind in STORES:
        ours = series([_ours(bench, kind, count)], "% of the cap")
        lines.append(Line(f"{what}: money reserved in the claim", kind, ours, goal=goals.OVERSPEND))
        checked = [_check_then_spend(bench, kind, count) for _ in range(bench.rounds)]
        lines.append(Line(f"{what}: a check of the sum before each job", kind, series(checked, "% of the cap")))
    what = f"overspend of one Claude Code with --max-budget-usd {_CLAUDE_CAP}"
    claude = _claude()
    if claude is None:
        lines.append(Line(what, "claude", None, note="npm does not bring it here"))
    else:
        lines.append(Line(what, "claude", series([claude], "% of the cap")))
    return lines


def _beyond(spent: Decimal, cap: Decimal) -> float:
    return float(max(spent - cap, Decimal(0)) / cap * 100)


def _ours(bench: Bench, kind: str, count: int) -> float:
    url = bench.database(kind)
    store = open_store(url)
    try:
        prepare(store)
        world = World(store, name="race")
        cap = ESTIMATE * count / 4
        world.submit(*(f"t{number}" for number in range(count)), budget=BudgetCap(cap))
        watch(store)  # the database refuses a commit that passes it
        argv = [sys.executable, "-m", "tests.support.money_race", url, world.workspace, world.project_id]
        racing = [
            subprocess.Popen([*argv, str(number), str(_THREADS)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
            for number in range(_PROCESSES)
        ]
        for process in racing:
            process.communicate(timeout=3600)
        with store.read() as tx:
            (one,) = budgets.list_budgets(tx, world.workspace)
            use = budgets.read_uses(tx, world.workspace, [(one.id, "")])[one.id, ""]
        return _beyond(use.committed.usd, cap)
    finally:
        store.close()


def _check_then_spend(bench: Bench, kind: str, count: int) -> float:
    """What most tools do: the sum is asked, and if it is below the cap, the job runs and is billed."""
    url = bench.blank_database() if kind == "postgresql" else f"sqlite:///{bench.folder / f'check-{time.time_ns()}.db'}"
    store = open_store(url)
    spending = Table("spending", MetaData(), Column("id", Integer, primary_key=True), Column("micros", Integer))
    with store.write() as tx:
        spending.metadata.create_all(tx)
    cap = int(ESTIMATE * 1_000_000) * count // 4
    left = iter(range(count))
    lock = threading.Lock()

    def work(seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - a schedule, no secret
        while True:
            with lock:
                if next(left, None) is None:
                    return
            if _sum(store, spending) >= cap:
                return
            time.sleep(_WORKS_FOR)
            cost = chance.randrange(int(ESTIMATE * 1_000_000) + 1)
            store.transact(lambda tx, cost=cost: tx.execute(insert(spending), {"micros": cost}))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(_PROCESSES * _THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = _sum(store, spending)
    store.close()
    return _beyond(Decimal(spent), Decimal(cap))


def _sum(store: Store, spending: Table) -> int:
    while True:
        try:
            with store.read() as tx:
                return int(tx.execute(select(func.coalesce(func.sum(spending.c.micros), 0))).scalar_one())
        except OperationalError:
            time.sleep(0.01)


def _claude() -> float | None:
    """One real Claude Code against a stand-in for its provider, which bills nobody; None where npm has none."""
    home = Path(tempfile.gettempdir()) / "coordination-benchmarks"
    home.mkdir(exist_ok=True)
    try:
        program = npm_program(CLAUDE, "claude", home)
    except BaseException:  # noqa: BLE001 - a test would be skipped here
        return None
    with running_model_server(["Done."]) as server, tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "HOME": folder, "ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": "sk-of-nobody"}
        ran = subprocess.run(
            [program, "-p", "Say done.", "--output-format", "json", "--max-budget-usd", _CLAUDE_CAP],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    answer = json.loads(ran.stdout, parse_float=Decimal)
    return _beyond(Decimal(answer["total_cost_usd"]), Decimal(_CLAUDE_CAP))
