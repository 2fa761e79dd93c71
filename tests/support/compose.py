"""docker-compose.yml as Docker Compose reads it: variables filled in, services in the order in which they may start."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tests.support.sources import ROOT

FILE = ROOT / "docker-compose.yml"

# A dollar sign and what follows it; the last alternative matches all forms that we do not use.
_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?::-(?P<default>[^${}]*))?\}|(?P<plain>[A-Za-z_]\w*)|(?P<odd>))"
)


def raw() -> dict[str, Any]:
    """Return the file as YAML, with its anchors merged and its variables as they are written."""
    loaded = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def filled_in(value: Any, variables: Mapping[str, str]) -> Any:
    """Return *value* with ``$$``, ``$NAME``, ``${NAME}`` and ``${NAME:-default}`` replaced in all its texts."""
    if isinstance(value, dict):
        return {key: filled_in(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled_in(inner, variables) for inner in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _meaning(match, variables), value)
    return value


def _meaning(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match["dollar"]:
        return "$"
    name = match["name"] or match["plain"]
    if name is None:
        raise ValueError(f"not a form of variable that these tests know: {match.string!r}")
    result = variables.get(name, "")
    return result or match["default"] or ""


def start_order(services: Mapping[str, Any]) -> list[str]:
    """Return the services' names, each after its dependencies; AssertionError when there is no such order."""
    done: list[str] = []
    while len(done) < len(services):
        ready = [name for name, service in services.items() if name not in done and _needs(service) <= {*done}]
        assert ready, f"these wait for each other: {sorted({*services} - {*done})}"
        done += ready
    return done


def _needs(service: Mapping[str, Any]) -> set[str]:
    return {*service.get("depends_on", {})}


def conditions(services: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Return every (service, the service it waits for, the condition it waits for)."""
    for name, service in services.items():
        for other, rule in service.get("depends_on", {}).items():
            yield name, other, rule["condition"]
