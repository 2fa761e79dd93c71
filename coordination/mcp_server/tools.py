"""What a tool is: a function with a description and the schema of its arguments, which are checked here.

Standard library only, and little of it: ``coord mcp`` inside a job has to answer its agent's first request in time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from textwrap import dedent
from typing import Any, NamedTuple

from coordination.base.errors import CoordinationError, Refused

TEXT = {"type": "string"}
NUMBER = {"type": "number"}
FLAG = {"type": "boolean"}
TEXTS = {"type": "array", "items": TEXT}
ANYTHING: dict[str, Any] = {}

_SHOWN = 60

_NAMES = {"string": "a text", "number": "a number", "boolean": "true or false", "array": "a list of texts"}


class Tool(NamedTuple):
    """One tool. *arguments*: the JSON Schema of each argument; those in *needed* have to be given."""

    call: Callable[..., str]
    arguments: Mapping[str, Mapping[str, Any]] = {}
    needed: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.call.__name__

    def declaration(self) -> dict[str, Any]:
        """Return the tool as ``tools/list`` has it."""
        schema: dict[str, Any] = {"type": "object", "properties": {**self.arguments}, "additionalProperties": False}
        if self.needed:
            schema["required"] = [*self.needed]
        return {"name": self.name, "description": _description(self.call), "inputSchema": schema}


def call(tools: Sequence[Tool], name: str, given: Mapping[str, Any] | None) -> tuple[str, bool]:
    """Call the tool of that name; return its answer, or one sentence about what is wrong, and whether it failed."""
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        names = ", ".join(tool.name for tool in tools)
        return Refused(f"There is no tool {_shown(name)}", hint=f"Call one of: {names}").sentence(), True
    try:
        return tool.call(**_checked(tool, given or {})), False
    except CoordinationError as error:
        return error.sentence(), True
    except Exception as error:  # noqa: BLE001 - whoever calls is told, and the server goes on
        return f"{name} failed unexpectedly with {type(error).__name__}: {_shown(str(error))}. This is a bug.", True


def _checked(tool: Tool, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as the tool takes them. Raises Refused."""
    hint = f"Call {tool.name} with: {_signature(tool)}" if tool.arguments else f"Call {tool.name} without arguments"
    if strange := [name for name in given if name not in tool.arguments]:
        raise Refused(f"{tool.name} has no argument {_shown(strange[0])}", hint=hint, field=strange[0])
    # Models say null for what they leave out.
    said = {name: value for name, value in given.items() if value is not None or tool.arguments[name] is ANYTHING}
    if missing := [name for name in tool.needed if name not in said]:
        raise Refused(f"{tool.name} lacks the argument {missing[0]}", hint=hint, field=missing[0])
    return {name: _value(tool, name, value, hint) for name, value in said.items()}


def _value(tool: Tool, name: str, value: Any, hint: str) -> Any:
    type_ = tool.arguments[name].get("type")
    if type_ is None or _is(type_, value):
        return value
    if isinstance(value, str):  # models at times write a number, a list or true as a text
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            read = None
        if _is(type_, read):
            return read
    raise Refused(f"{tool.name}: {name} is {_NAMES[type_]}, not {_shown(value)}", hint=hint, field=name)


def _is(type_: str, value: Any) -> bool:
    match type_:
        case "string":
            return isinstance(value, str)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case _:
            return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _signature(tool: Tool) -> str:
    said = [f"{name} ({_NAMES.get(one.get('type', ''), 'any value')})" for name, one in tool.arguments.items()]
    for number, name in enumerate(tool.arguments):
        if name not in tool.needed:
            said[number] = f"{said[number][:-1]}, optional)"
    return ", ".join(said)


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _description(function: Callable[..., str]) -> str:
    first, _, rest = (function.__doc__ or "").strip().partition("\n")
    return f"{first}\n{dedent(rest)}".strip()
