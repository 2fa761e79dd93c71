"""Which models the jobs of a project may use: names with wildcards that are allowed, and that are denied. Pure.

A pattern is compared with the name as the job writes it (``openai:gpt-5-mini``, ``openai/gpt-5-mini``, ``opus``), and
with what is left of it without the provider in front (``claude-haiku-4-5`` of ``us.anthropic.claude-haiku-4-5``). It
always means the name that is written like it, whatever its characters; a bracket that names a variant (``[1m]``) stands
for itself beside wildcards too. Capitals do not matter. What is denied is not allowed by any other pattern. A job
without a model, a command or a function, is not concerned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import zip_longest
from typing import Any

from coordination.base.errors import Refused
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.jobs import ChatCall, kind_in
from coordination.domain.money.model_names import without_region

KEYS = ("allow", "deny")

_MOST = 200
_LONGEST = 200
_SHOWN = 6
_HINT = (
    'Write coord projects change NAME --models \'allow=["claude-*", "openai:gpt-5-*"]\' --models \'deny=["*opus*"]\''
)

_VARIANT = re.compile(r"\[([0-9]+[km]|[^\[\]]*=[^\[\]]*)\]")  # claude-opus-4-6[1m], composer-2.5[fast=true]

_OPTION = re.compile(r"--?[a-z-]*model(=(?P<value>.*))?", re.IGNORECASE | re.DOTALL)
_SHORT = ("codex", "gemini", "opencode")  # where -m names a model; elsewhere it may be anything
_CODEX = re.compile(r"(^|=|-c)\s*[\w.]*model\s*=\s*[\"']?(?P<value>[^\"'\s]+)")


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """Patterns of names. ``allow`` None: any that is not denied."""

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()

    def told(self) -> str:
        """For people: what holds."""
        parts = [] if self.allow is None else [f"allowed: {_listed(self.allow)}"]
        return "; ".join([*parts, *([f"denied: {_listed(self.deny)}"] if self.deny else [])])


def parse_restrictions(stored: Mapping[str, Any]) -> ModelPolicy | None:
    """What a project says, None when it restricts nothing; Refused for what cannot be understood."""
    for name in stored:
        if name not in KEYS:
            hint = did_you_mean(str(name), KEYS) or f"There are {' and '.join(KEYS)}"
            raise Refused(f"Restrictions of models have no {excerpt(name)}", hint=hint, field=str(name))
    given = {name: stored[name] for name in KEYS if stored.get(name) is not None}
    found = {name: _patterns(name, patterns) for name, patterns in given.items()}
    if "allow" in found and not found["allow"]:
        raise Refused(
            "allow names no model, so no job with a model could run",
            hint="Leave it out to allow all of them",
            field="allow",
        )
    made = ModelPolicy(found.get("allow"), found.get("deny", ()))
    return None if made == ModelPolicy() else made


def _patterns(name: str, patterns: object) -> tuple[str, ...]:
    if not isinstance(patterns, list | tuple) or not all(isinstance(one, str) and one.strip() for one in patterns):
        raise Refused(f"{name} must be a list of names of models, not {excerpt(patterns)}", hint=_HINT, field=name)
    if len(patterns) > _MOST or any(len(one) > _LONGEST for one in patterns):
        raise Refused(f"{name} has at most {_MOST} names of at most {_LONGEST} characters", field=name)
    return tuple(one.strip() for one in patterns)


def refusal(work: Mapping[str, Any], restrictions: ModelPolicy, *, rendered: bool = False) -> str | None:
    """Why the job may not run, as half a sentence; None when it may.

    A name that a template will stand for is looked at once it is *rendered*.
    """
    if not kind_in(work).asks_a_model:
        return None
    names = list(named(work))
    if not names and restrictions.allow is not None:
        return f"it names no model, and the project allows only some ({restrictions.told()})"
    for name in names:
        if ("{{" not in name or rendered) and not _may(name, restrictions):
            return f"the project does not allow the model {excerpt(name)} ({restrictions.told()})"
    return None


def _may(name: str, restrictions: ModelPolicy) -> bool:
    forms = _forms(name)
    if any(_means(pattern, form) for pattern in restrictions.deny for form in forms):
        return False
    allow = restrictions.allow
    return allow is None or any(_means(pattern, form) for pattern in allow for form in forms)


def _means(pattern: str, form: str) -> bool:
    text = pattern.lower()
    return form == text or fnmatchcase(form, _VARIANT.sub(r"[[]\1]", text))


def _forms(name: str) -> list[str]:
    """The name, the same with a colon after its provider, and what stands behind each mark in it."""
    whole = name.strip().lower()
    behind = [whole[mark.end() :] for mark in re.finditer("[:/]", whole)]
    behind += [short for each in (whole, *behind) if (short := without_region(each)) != each]
    return [whole, re.sub("/", ":", whole, count=1), *(form for form in behind if form)]


def named(work: Mapping[str, Any]) -> Iterator[str]:
    """Every model that the job names: as its model, in the arguments of its program, in variables for it."""
    if kind_in(work) is ChatCall:
        yield str(work["chat"])
        return
    if work.get("model"):
        yield str(work["model"])
    agent = str(work.get("agent"))
    for value in _in_arguments(agent, [*map(str, work.get("command") or ()), *map(str, work.get("args") or ())]):
        yield from (part.strip() for part in value.split(",") if part.strip() and "{model}" not in part)
    for name, value in (work.get("env") or {}).items():
        if str(name).upper().endswith("_MODEL") and str(value).strip():
            yield str(value)


def _in_arguments(agent: str, arguments: Sequence[str]) -> Iterator[str]:
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        if option := _OPTION.fullmatch(argument):
            yield option["value"] if option["value"] is not None else following
        elif agent in _SHORT and argument.startswith("-m") and not argument.startswith("--"):
            yield argument[2:].removeprefix("=") or following
        elif agent == "codex" and (setting := _CODEX.search(argument)):
            yield setting["value"]


def _listed(patterns: Sequence[str]) -> str:
    more = f", and {len(patterns) - _SHOWN} more" if len(patterns) > _SHOWN else ""
    return ", ".join(patterns[:_SHOWN]) + more
