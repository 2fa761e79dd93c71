"""Random plans from a seed: layers, chains, fans; short, long, failing, spending, unrepeatable jobs; limits."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from coordination.domain.plans.plans import Concurrency, Defaults, Plan, ProjectRef, Task
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import OnDependencyFailure
from tests.chaos.evidence import SAY

JOBS = Path(__file__).parent / "jobs"

_RETRIES = Backoff(initial=timedelta(milliseconds=100), factor=1.5, maximum=timedelta(seconds=1))
# A stopped child answers nobody; without this its slot would be in use until it continues.
_TIMEOUT = timedelta(seconds=20)
_ATTEMPTS = 8

_MIX = {
    "noop": 40,
    "busy": 20,
    "flaky": 6,
    "spender": 10,
    "shell": 8,
    "family": 4,
    "once": 6,
    "later": 2,
    "keyed": 8,
    "long": 4,
}


@dataclass(frozen=True, slots=True)
class Project:
    """A project of a run, and its fixed limits."""

    name: str
    folder: Path
    limit: int | None
    keys: Mapping[str, int]


def projects_in(folder: Path, choice: random.Random, count: int) -> list[Project]:
    """Return some projects with limits and some without."""
    created = []
    for number in range(count):
        place = folder / f"project-{number}"
        place.mkdir()
        limit = choice.choice((None, None, 3, 5))
        created.append(Project(f"chaos-{number}", place, limit, {"two": 2, "three": 3}))
    return created


def plan(project: Project, choice: random.Random, evidence: Path, *, size: int) -> Plan:
    """Return one plan of about *size* tasks."""
    shape = choice.choice(("layers", "layers", "chain", "fan", "loose"))
    edges = _SHAPES[shape](choice, size)
    kinds = choice.choices([*_MIX], [*_MIX.values()], k=len(edges))
    keys = [f"{kind}-{number}" for number, kind in enumerate(kinds)]
    tasks = [
        _task(key, kind, [keys[need] for need in needs], choice, str(evidence))
        for key, kind, needs in zip(keys, kinds, edges, strict=True)
    ]
    return Plan(
        tasks,
        name=shape,
        project=ProjectRef(name=project.name, path=str(project.folder)),
        defaults=Defaults(timeout=_TIMEOUT, max_attempts=_ATTEMPTS, backoff=_RETRIES),
        concurrency=Concurrency(project=project.limit, keys=project.keys),
        python_path=[str(JOBS)],
    )


def _layers(choice: random.Random, size: int) -> list[list[int]]:
    edges: list[list[int]] = []
    before: list[int] = []
    while len(edges) < size:
        layer = range(len(edges), len(edges) + choice.randint(1, 12))
        edges += [choice.sample(before, min(len(before), choice.randint(1, 4))) for _ in layer]
        before = list(layer)
    return edges


def _chain(choice: random.Random, size: int) -> list[list[int]]:
    return [[number - 1] if number else [] for number in range(min(size, 40))]


def _fan(choice: random.Random, size: int) -> list[list[int]]:
    middle = list(range(1, max(2, size - 1)))
    return [[], *([0] for _ in middle), middle]


def _loose(choice: random.Random, size: int) -> list[list[int]]:
    return [[] for _ in range(size)]


_SHAPES = {"layers": _layers, "chain": _chain, "fan": _fan, "loose": _loose}


def _task(key: str, kind: str, needs: list[str], choice: random.Random, evidence: str) -> Task:
    more: dict[str, Any] = {"priority": choice.choice((0, 0, 0, 5, -5))}
    if choice.random() < 0.05:  # one in twenty
        more["on_dependency_failure"] = OnDependencyFailure.RUN
    if kind == "once":
        more |= {"repeatable": False, "max_attempts": 1}
    if kind == "keyed":
        more["concurrency_key"] = choice.choice(("one", "two", "three"))  # a key without a named limit is limited to 1
    return Task(key, _job(kind, choice, evidence), needs=needs, **more)


def _job(kind: str, choice: random.Random, evidence: str) -> dict[str, Any]:  # noqa: C901, PLR0911 - one case a kind
    def python(name: str, **arguments: Any) -> dict[str, Any]:
        return {"python": f"chaos_jobs:{name}", "args": {"evidence": evidence, **arguments}}

    def shell(script: str) -> dict[str, Any]:
        return {"shell": SAY + script, "env": {"EVIDENCE": evidence}}

    seconds = round(choice.uniform(0.02, 0.5), 3)
    match kind:
        case "noop":
            return python("noop")
        case "busy" | "once":
            return python("busy", seconds=seconds)
        case "flaky":
            return python("flaky", seconds=seconds / 4, failures=choice.randint(1, 2))
        case "spender":
            return python(
                "spender", seconds=seconds, calls=choice.randint(1, 3), microdollars=choice.randint(1, 999_999)
            )
        case "later":
            return shell(
                'say B; [ "$COORD_ATTEMPT" -gt 1 ] || { say F; exit 75; }; say E; echo "${COORD_ATTEMPT_ID##*.}"'
            )
        case "family":
            child = "while :; do say G; sleep 0.1; done"
            return shell(f"say B; setsid sh -c '{SAY.replace(chr(39), '')}{child}' & {_ticks(choice)}")
        case "long" if choice.random() < 0.5:  # longer than a lease: it still runs when another worker may claim it
            return python("busy", seconds=round(choice.uniform(3, 9), 1))
        case "long":
            return shell(f"say B; {_ticks(choice, choice.randint(30, 80))}")
        case _:
            return shell(f"say B; {_ticks(choice)}")


def _ticks(choice: random.Random, count: int | None = None) -> str:
    count = count or choice.choice((1, 2, 3, 5, 8, 15, 25))
    return (
        f'i=0; while [ $i -lt {count} ]; do sleep 0.1; say T; i=$((i+1)); done; say E; echo "${{COORD_ATTEMPT_ID##*.}}"'
    )
