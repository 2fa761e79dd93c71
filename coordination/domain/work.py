"""What a job is: a shell command or an importable Python function. Pure descriptions; workers/runners execute them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from coordination.errors import Refused

_TARGET = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")

KINDS = ("shell", "python")


@dataclass(frozen=True, slots=True)
class Shell:
    """A command for ``/bin/sh -c``. Its output is what it prints on stdout, without the last line break."""

    command: str
    env: Mapping[str, str] = field(default_factory=dict)

    kind = "shell"

    def to_json(self) -> dict[str, Any]:
        """As stored in the task's row."""
        body: dict[str, Any] = {"shell": self.command}
        if self.env:
            body["env"] = dict(self.env)
        return body


@dataclass(frozen=True, slots=True)
class PythonCall:
    """An importable function ``package.module:function`` with JSON-able keyword arguments.

    Its output is what it returns.
    """

    target: str
    args: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    kind = "python"

    def to_json(self) -> dict[str, Any]:
        """As stored in the task's row."""
        body: dict[str, Any] = {"python": self.target}
        if self.args:
            body["args"] = dict(self.args)
        if self.env:
            body["env"] = dict(self.env)
        return body


Work = Shell | PythonCall


def parse_work(value: object) -> Work:
    """A job from what a person or a stored row says: a Work, a function, or a mapping with the key shell or python.

    Raises Refused with one sentence that names what is wrong.
    """
    if isinstance(value, Shell | PythonCall):
        return _checked(value)
    if isinstance(value, Mapping):
        return _from_mapping(value)
    if callable(value):
        return PythonCall(target_of(value))
    raise Refused(f"A job is {{shell: …}} or {{python: …}}, not {type(value).__name__}")


def target_of(function: Callable[..., Any]) -> str:
    """``module:qualname`` of an importable function; Refused for lambdas, locals and methods of objects."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", "")
    if not module or module == "__main__" or "<" in name or not name:
        raise Refused(
            f"{function!r} cannot be run by a worker, because a worker could not import it",
            hint="Use a function at the top level of a module, not of the script itself",
        )
    return f"{module}:{name}"


def _from_mapping(value: Mapping[Any, Any]) -> Work:
    kinds = [kind for kind in KINDS if kind in value]
    if len(kinds) != 1:
        named = ", ".join(sorted(str(key) for key in value)) or "nothing"
        raise Refused(f"A job has one of the keys {' or '.join(KINDS)}; this one has {named}")
    allowed = {"shell": {"shell", "env"}, "python": {"python", "args", "env"}}[kinds[0]]
    for key in value:
        if key not in allowed:
            raise Refused(f"A {kinds[0]} job has no key {key!r}", hint=f"It may have: {', '.join(sorted(allowed))}")
    env = value.get("env", {})
    if not isinstance(env, Mapping) or not all(isinstance(k, str) and isinstance(v, str) for k, v in env.items()):
        raise Refused("env must map names to texts")
    if kinds[0] == "shell":
        return _checked(Shell(value["shell"], env=dict(env)))
    args = value.get("args", {})
    if not isinstance(args, Mapping) or not all(isinstance(key, str) for key in args):
        raise Refused("args must map parameter names to values")
    return _checked(PythonCall(value["python"], args=dict(args), env=dict(env)))


def _checked(work: Work) -> Work:
    if isinstance(work, Shell):
        if not isinstance(work.command, str) or not work.command.strip():
            raise Refused("A shell job needs a command, written as one text")
    elif not isinstance(work.target, str) or not _TARGET.match(work.target):
        raise Refused(f"{work.target!r} does not name a function", hint="Write it like package.module:function")
    return work
