"""Which models the jobs of a project may use: allowed and denied names with wildcards.

A pattern is compared with the name as the job writes it (``openai:gpt-5-mini``, ``openai/gpt-5-mini``, ``opus``), and
with its part after the provider (``claude-haiku-4-5`` of ``us.anthropic.claude-haiku-4-5``). It always matches the
identical name, whatever its characters; a bracket that names a variant (``[1m]``) is literal beside wildcards too. Case
is ignored. Denied names win over allowed ones. Jobs without a model (commands, functions) are not restricted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import zip_longest
from typing import Any

from coordination.base.errors import Refused
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.jobs import ChatCall, job_class
from coordination.domain.money.model_names import without_region
from coordination.domain.tasks.next_steps import NextStep, Situation, steps

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
    """Patterns of models' names. ``allow`` None: all that are not denied."""

    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Return the policy as a text for people."""
        parts = [] if self.allow is None else [f"allowed: {_join_patterns(self.allow)}"]
        return "; ".join([*parts, *([f"denied: {_join_patterns(self.deny)}"] if self.deny else [])])


def parse_restrictions(stored: Mapping[str, Any]) -> ModelPolicy | None:
    """Parse a project's restrictions; None if there are none. Raises Refused when they are invalid."""
    for name in stored:
        if name not in KEYS:
            hint = did_you_mean(str(name), KEYS) or f"There are {' and '.join(KEYS)}"
            raise Refused(f"Restrictions of models have no {excerpt(name)}", hint=hint, field=str(name))
    patterns = {name: _patterns(name, stored[name]) for name in KEYS if stored.get(name) is not None}
    if "allow" in patterns and not patterns["allow"]:
        message = "allow names no model, so no job with a model could run"
        raise Refused(message, hint="Leave it out to allow all of them", field="allow")
    policy = ModelPolicy(patterns.get("allow"), patterns.get("deny", ()))
    return None if policy == ModelPolicy() else policy


def _patterns(name: str, patterns: object) -> tuple[str, ...]:
    if not isinstance(patterns, list | tuple) or not all(
        isinstance(pattern, str) and pattern.strip() for pattern in patterns
    ):
        raise Refused(f"{name} must be a list of models' names, not {excerpt(patterns)}", hint=_HINT, field=name)
    if len(patterns) > _MOST or any(len(pattern) > _LONGEST for pattern in patterns):
        raise Refused(f"{name} has at most {_MOST} names of at most {_LONGEST} characters", field=name)
    return tuple(pattern.strip() for pattern in patterns)


def refusal(work: Mapping[str, Any], policy: ModelPolicy, *, rendered: bool = False) -> str | None:
    """Return, as half a sentence, why the job may not run. Names with templates are checked once *rendered*."""
    if not job_class(work).asks_a_model:
        return None
    names = list(model_names(work))
    if not names and policy.allow is not None:
        return f"it names no model, and the project allows only some ({policy.sentence()})"
    for name in names:
        if ("{{" not in name or rendered) and not _is_allowed(name, policy):
            return f"the project does not allow the model {excerpt(name)} ({policy.sentence()})"
    return None


def steps_to_allow(project: str, stored: Mapping[str, Any], works: Iterable[Mapping[str, Any]]) -> tuple[NextStep, ...]:
    """Return the commands that change the *stored* restrictions of a project so that they allow the models of *works*.

    The name of a model that only a worker knows, because of a template, is MODEL.
    """
    try:
        policy = parse_restrictions(stored) or ModelPolicy()
        options = _options_to_allow(policy, works)
    except Refused as error:  # stored by a version that did not validate it
        options = ["--models", f"{error.field}=null"]
    return steps(Situation.MODEL, project=project, models=options)[: 2 if options else 1]


def _options_to_allow(policy: ModelPolicy, works: Iterable[Mapping[str, Any]]) -> list[str]:
    allow, deny = policy.allow, policy.deny
    for work in works:
        names = list(model_names(work))
        if not names:
            allow = None
        if refusal(work, policy) is None:  # a model in a template is the forbidden one
            names = ["MODEL"] if any("{{" in name for name in names) else []
            deny = () if names else deny
        for name in names:
            if "{{" not in name:
                deny = tuple(pattern for pattern in deny if _is_allowed(name, ModelPolicy(deny=(pattern,))))
                allow = allow if allow is None or _is_allowed(name, ModelPolicy(allow)) else (*allow, name)
    changes = (("allow", policy.allow, allow), ("deny", policy.deny, deny))
    return [
        option
        for key, before, after in changes
        if after != before
        for option in ("--models", f"{key}={json.dumps(after or None, ensure_ascii=False)}")
    ]


def _is_allowed(name: str, policy: ModelPolicy) -> bool:
    forms = _forms(name)
    if any(_matches(pattern, form) for pattern in policy.deny for form in forms):
        return False
    allow = policy.allow
    return allow is None or any(_matches(pattern, form) for pattern in allow for form in forms)


def _matches(pattern: str, form: str) -> bool:
    text = pattern.lower()
    return form == text or fnmatchcase(form, _VARIANT.sub(r"[[]\1]", text))


def _forms(name: str) -> list[str]:
    """Return the name, the name with a colon after its provider, and the text after each separator."""
    whole = name.strip().lower()
    suffixes = [whole[mark.end() :] for mark in re.finditer("[:/]", whole)]
    suffixes += [short for text in (whole, *suffixes) if (short := without_region(text)) != text]
    return [whole, re.sub("/", ":", whole, count=1), *(form for form in suffixes if form)]


def model_names(work: Mapping[str, Any]) -> Iterator[str]:
    """Yield every model that the job names: as its model, in its program's arguments, in its environment."""
    if job_class(work) is ChatCall:
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


def _join_patterns(patterns: Sequence[str]) -> str:
    more = f", and {len(patterns) - _SHOWN} more" if len(patterns) > _SHOWN else ""
    return ", ".join(patterns[:_SHOWN]) + more
