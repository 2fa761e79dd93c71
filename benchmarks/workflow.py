"""Reads a recorded workflow (task ids, parents, run times) and knows how fast it could run at best. Runs nothing."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from math import isfinite
from pathlib import Path
from typing import Any

from benchmarks.places import HERE

MONTAGE = HERE / "data" / "montage-2122.json"


class BadWorkflowError(Exception):
    """A file that is no workflow; one sentence."""


@dataclass(frozen=True, slots=True)
class Step:
    """One task as it was recorded; ``seconds`` is its run time."""

    id: str
    parents: tuple[str, ...]
    seconds: float

    @property
    def program(self) -> str:
        """What ran, by the id without its number: ``mProject`` of ``mProject_ID0000017``; an identifier."""
        name = re.sub(r"[_-]?(ID)?\d+$", "", self.id) or "task"
        return re.sub(r"\W", "_", name, flags=re.ASCII)


@dataclass(frozen=True)
class Workflow:
    """Steps in an order in which each comes after its parents."""

    source: str
    steps: tuple[Step, ...]

    @cached_property
    def work(self) -> float:
        """Seconds of all steps, one after the other."""
        return sum(step.seconds for step in self.steps)

    @cached_property
    def critical_path(self) -> float:
        """Seconds of the longest chain of steps that wait for each other."""
        ends: dict[str, float] = {}
        for step in self.steps:
            ends[step.id] = step.seconds + max((ends[parent] for parent in step.parents), default=0.0)
        return max(ends.values())

    @cached_property
    def edges(self) -> int:
        """How many dependencies there are."""
        return sum(len(step.parents) for step in self.steps)

    def lower_bound(self, slots: int) -> float:
        """Seconds that no scheduler with so many slots can beat."""
        return max(self.critical_path, self.work / slots)

    def children(self) -> list[list[int]]:
        """By the number of each step, the numbers of those that wait for it."""
        numbers = {step.id: number for number, step in enumerate(self.steps)}
        found: list[list[int]] = [[] for _ in self.steps]
        for number, step in enumerate(self.steps):
            for parent in step.parents:
                found[numbers[parent]].append(number)
        return found

    def core(self, count: int) -> Workflow:
        """The *count* steps with most edges, and what is between them: a small one for a trial."""
        weight = {step.id: len(step.parents) for step in self.steps}
        for step in self.steps:
            for parent in step.parents:
                weight[parent] += 1
        kept = set(sorted(weight, key=lambda step: -weight[step])[:count])
        return Workflow(
            self.source,
            tuple(
                Step(step.id, tuple(parent for parent in step.parents if parent in kept), step.seconds)
                for step in self.steps
                if step.id in kept
            ),
        )


def read(path: Path) -> Workflow:
    """The workflow in *path* (JSON, or JSON compressed as ``.gz``); BadWorkflowError with one sentence otherwise."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        document = json.loads(raw)
    except OSError as error:
        raise BadWorkflowError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise BadWorkflowError(f"{path} is no JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("tasks"), list) or not document["tasks"]:
        raise BadWorkflowError(f"{path} is no workflow: it needs a list of tasks under the key 'tasks'")
    steps = {}
    for number, item in enumerate(document["tasks"], start=1):
        step = _step(path, number, item)
        if step.id in steps:
            raise BadWorkflowError(f"{path}: there are two tasks {step.id!r}")
        steps[step.id] = step
    return Workflow(str(document.get("source", path.name)), _ordered(path, steps))


def _step(path: Path, number: int, item: Any) -> Step:
    where = f"{path}: task {number}"
    if not isinstance(item, dict) or not isinstance(item.get("id"), str) or not item["id"]:
        raise BadWorkflowError(f"{where} has no id that is a text")
    parents, seconds = item.get("parents"), item.get("seconds")
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise BadWorkflowError(f"{where} ({item['id']}) needs a list of ids under 'parents'")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not isfinite(seconds) or seconds < 0:
        raise BadWorkflowError(f"{where} ({item['id']}) needs its run time, 0 or more, under 'seconds'")
    return Step(item["id"], tuple(dict.fromkeys(parents)), float(seconds))


def _ordered(path: Path, steps: dict[str, Step]) -> tuple[Step, ...]:
    for step in steps.values():
        if missing := [parent for parent in step.parents if parent not in steps]:
            raise BadWorkflowError(f"{path}: {step.id!r} waits for {missing[0]!r}, which does not exist")
    sorter = TopologicalSorter({step.id: step.parents for step in steps.values()})
    try:
        return tuple(steps[name] for name in sorter.static_order())
    except CycleError as error:
        raise BadWorkflowError(f"{path}: these wait for each other: {' -> '.join(error.args[1])}") from None
