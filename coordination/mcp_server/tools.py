"""Tools: functions with a description and a schema of their arguments, which are checked here.

Imports little, because ``coord mcp`` inside a job must answer its agent's first request in time.
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

_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "str": TEXT,
    "float": NUMBER,
    "bool": FLAG,
    "list[str]": TEXTS,
    "Any": ANYTHING,
}
_SHOWN = 60

_NAMES = {"string": "a string", "number": "a number", "boolean": "true or false", "array": "a list of strings"}


class Tool(NamedTuple):
    """One tool. *arguments*: the JSON Schema of each argument; those in *needed* are required."""

    call: Callable[..., str]
    arguments: Mapping[str, Mapping[str, Any]] = {}
    needed: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the name of the function."""
        return self.call.__name__

    def declaration(self) -> dict[str, Any]:
        """Return the declaration of the tool for ``tools/list``."""
        schema: dict[str, Any] = {"type": "object", "properties": {**self.arguments}, "additionalProperties": False}
        if self.needed:
            schema["required"] = [*self.needed]
        return {"name": self.name, "description": _description(self.call), "inputSchema": schema}


def make_tool(function: Any) -> Tool:
    """Return the tool of a function with an argument for each parameter; keywords with a default can be omitted."""
    hints = {name: hint.removesuffix(" | None") for name, hint in function.__annotations__.items() if name != "return"}
    needed = tuple(name for name in hints if name not in (function.__kwdefaults__ or {}))
    return Tool(function, {name: _SCHEMAS[hint] for name, hint in hints.items()}, needed)


def call(tools: Sequence[Tool], name: str, arguments: Mapping[str, Any] | None) -> tuple[str, bool]:
    """Call the tool of that name. Return its result, or an error in one sentence, and whether it failed."""
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        names = ", ".join(tool.name for tool in tools)
        return Refused(f"There is no tool {_shown(name)}", hint=f"Call one of: {names}").sentence(), True
    try:
        return tool.call(**_check_arguments(tool, arguments or {})), False
    except CoordinationError as error:
        return error.sentence(), True
    except Exception as error:  # noqa: BLE001 - the caller gets an error, and the server continues
        return f"{name} failed unexpectedly with {type(error).__name__}: {_shown(str(error))}. This is a bug.", True


def _check_arguments(tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked arguments. Raises Refused."""
    hint = f"Call {tool.name} with: {_signature(tool)}" if tool.arguments else f"Call {tool.name} without arguments"
    if unknown := [name for name in arguments if name not in tool.arguments]:
        raise Refused(f"{tool.name} has no argument {_shown(unknown[0])}", hint=hint, field=unknown[0])
    # Models may write null for an omitted argument.
    present = {
        name: value for name, value in arguments.items() if value is not None or tool.arguments[name] is ANYTHING
    }
    if missing := [name for name in tool.needed if name not in present]:
        raise Refused(f"{tool.name} lacks the argument {missing[0]}", hint=hint, field=missing[0])
    return {name: _value(tool, name, value, hint) for name, value in present.items()}


def _value(tool: Tool, name: str, value: Any, hint: str) -> Any:
    type_ = tool.arguments[name].get("type")
    if type_ is None or _is(type_, value):
        return value
    if isinstance(value, str):  # models may write a number, a list or true as a string
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            parsed = None
        if _is(type_, parsed):
            return parsed
    raise Refused(f"{tool.name}: {name} must be {_NAMES[type_]}, not {_shown(value)}", hint=hint, field=name)


def _is(type_: str, value: Any) -> bool:
    match type_:
        case "string":
            return isinstance(value, str)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case _:
            return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _signature(tool: Tool) -> str:
    types = {name: _NAMES.get(schema.get("type", ""), "any value") for name, schema in tool.arguments.items()}
    return ", ".join(f"{name} ({type_}{'' if name in tool.needed else ', optional'})" for name, type_ in types.items())


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _description(function: Callable[..., str]) -> str:
    first, _, rest = (function.__doc__ or "").strip().partition("\n")
    return f"{first}\n{dedent(rest)}".strip()
