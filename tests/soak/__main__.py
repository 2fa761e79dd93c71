"""``python -m tests.soak --minutes 60``: mixed work, a fault every 20 s, then what has grown. Exit 1: too much has."""

# ruff: noqa: T201 - it prints

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import redis

from tests.soak.faults import Faults
from tests.soak.load import Load
from tests.soak.sampling import Sampler, Surroundings
from tests.soak.servers import BEAT, HURT, LEASE_SECONDS, STAYS, Servers, kept, running_servers
from tests.soak.verdict import Trend, quarters, slower, trend
from tests.support.processes import until

_FAULT_EVERY = 20.0
_SAMPLE_EVERY = 5.0
_ENDED_WITHIN = 60 + 10 * LEASE_SECONDS
_KOMBU_KEEPS = "coord:_kombu.binding"


def main(argv: Sequence[str]) -> int:
    """Run the soak, print the table, write the JSON; return 1 when a bound was exceeded."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--store", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-faults", action="store_true", help="only the load")
    parser.add_argument("--out", type=Path, default=Path("build/soak"), help="where the figures and logs go")
    options = parser.parse_args(argv)
    place = options.out / f"{options.store}-{datetime.now(UTC):%Y%m%dT%H%M%S}"

    with running_servers(options.store) as servers:
        load, sampler = Load(servers, seed=options.seed), Sampler(servers, every=_SAMPLE_EVERY)
        faults = Faults(servers, every=_FAULT_EVERY, seed=options.seed)
        load.start()
        sampler.start()
        if not options.no_faults:
            faults.start()
        end = time.monotonic() + options.minutes * 60
        while time.monotonic() < end and faults.broken is None:
            time.sleep(1)
        if not options.no_faults:
            faults.stop()
        load.stop()
        still_open = load.still_open(within=_ENDED_WITHIN)
        sampler.stop()
        servers.running[BEAT].stop()
        until(lambda: not waiting(servers), within=timedelta(seconds=30), what="the queues are empty")
        for role in (STAYS, HURT):
            servers.running[role].stop()
        left = leftovers(servers)
        probe = quarters(load.latencies())
        report: dict[str, Any] = {
            "store": options.store,
            "minutes": options.minutes,
            "seed": options.seed,
            "faults": dict(faults.done),
            "runs": load.submitted,
            "refused_submissions": load.refused,
            "tasks": load.counted(),
            "open_runs": still_open,
            "redis_keys_left": left,
            "probe": [asdict(quarter) for quarter in probe or ()],
        }
        kept(servers, place)

    trends = [created for life in sampler.lives.values() if (created := trend(life)) is not None]
    problems = [problem for each in trends for problem in each.too_much]
    problems += slower(*probe) if probe else ["the probe was too seldom done to say anything"]
    if still_open:
        problems.append(f"{still_open} runs had not ended {_ENDED_WITHIN:g} s after the last fault")
    if left:
        problems.append(f"left in Redis: {', '.join(left)}")
    if faults.broken is not None:
        problems.append(f"a fault could not be done: {faults.broken!r}")
    report |= {"trends": [asdict(each) for each in trends], "problems": problems}
    (place / "soak.json").write_text(json.dumps(report | sampler.json(), indent=1))
    show(report, trends, sampler.surroundings)
    print(f"figures and logs: {place}")
    return 1 if problems else 0


def waiting(servers: Servers) -> int:
    """Return the number of messages in the queues."""
    with servers.redis.client() as client:
        return sum(int(client.llen(f"coord:{name}")) for name in ("jobs", "supervise"))


def leftovers(servers: Servers) -> list[str]:
    """Return keys in Redis without a purpose, once every worker has ended. Kombu's table of queues is permanent."""
    try:
        with servers.redis.client() as client:
            keys = [key.decode() for key in client.keys("*")]
    except redis.RedisError as error:
        return [f"(Redis does not answer: {error})"]
    return sorted(key for key in keys if not key.startswith(_KOMBU_KEEPS))


def show(found: dict[str, Any], trends: Sequence[Trend], looks: Sequence[Surroundings]) -> None:
    """Print the numbers as a table."""
    print(f"\n{found['minutes']:g} minutes on {found['store']}, seed {found['seed']}")
    print(f"faults: {sum(found['faults'].values())}  {found['faults']}")
    print(f"runs: {found['runs']} (and {found['refused_submissions']} refused during faults)  tasks: {found['tasks']}")
    print(
        f"\n{'process':<20}{'lived s':>8}{'PSS MB':>8}{'own MB/h':>10}{'children MB/h':>15}{'fds':>6}{'fds/h':>7}",
        end="",
    )
    print(f"{'threads':>9}{'zombies':>9}")
    for each in trends:
        print(f"{each.role:<20}{each.seconds:>8.0f}{each.pss:>8.1f}{each.mb_an_hour:>10.1f}", end="")
        print(f"{each.children_mb_an_hour:>15.1f}{each.descriptors:>6.0f}{each.descriptors_an_hour:>7.1f}", end="")
        print(f"{each.threads:>9}{each.lasting_zombies:>9}")
    if looks:
        first, last = looks[0], looks[-1]
        for name in ("redis_keys", "redis_mb", "database_mb", "backends", "backends_pss"):
            print(f"{name.replace('_', ' '):<20}{_number(getattr(first, name))} -> {_number(getattr(last, name))}")
    for name, quarter in zip(("first", "last"), found["probe"], strict=False):
        print(f"probe, {name} quarter: p50 {quarter['p50']:.3f} s, p95 {quarter['p95']:.3f} s ({quarter['probes']})")
    print("\n" + ("\n".join(f"TOO MUCH: {problem}" for problem in found["problems"]) or "within all bounds"))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
