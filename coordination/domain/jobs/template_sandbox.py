"""The small language that templates speak, and its limits: expressions, ``if``, ``for``, ``set``, over JSON values.

Jinja reads and runs it. What could run for ever, grow without bound or reach a Python object has no way in: no calls
except ``range``, no methods, no macros, no files; loops, sizes and numbers are counted against one Budget per render.
Imports jinja2 at once, so import this module only where a text holds a template.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

from jinja2 import StrictUndefined, nodes, pass_environment
from jinja2.environment import Environment
from jinja2.filters import FILTERS
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import SandboxedEnvironment
from jinja2.visitor import NodeTransformer

from coordination.base.errors import Refused
from coordination.base.wording import excerpt

MAX_OUTPUT = 10_000_000
MAX_STEPS = 100_000
MAX_NESTING = 10
_MAX_BITS = 256
_MAX_WORK = 20 * MAX_OUTPUT
_ITEM = 10  # what a number or an empty list counts in characters

_BORROWED = (
    *("abs", "capitalize", "default", "dictsort", "first", "float", "int", "items", "last", "length", "list", "lower"),
    *("map", "max", "min", "reject", "rejectattr", "reverse", "round", "select", "selectattr", "sort", "title"),
    *("trim", "truncate", "unique", "upper"),
)
"""Jinja's own filters that cannot make much out of little; those that can have counted versions here."""

_STATEMENTS = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Assign)


class EvaluationBudget:
    """What one render may still use: steps of loops, characters of text, and work done on values."""

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.work = _MAX_WORK
        self.output = MAX_OUTPUT

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise Refused(f"its loops run more than {MAX_STEPS:,} times")

    def touch(self, size: int) -> None:
        """Account for an operation on *size* characters or items, before it is done."""
        if size > MAX_OUTPUT:
            raise Refused(f"it makes a value larger than {MAX_OUTPUT:,} characters")
        self.work -= size + 1
        if self.work < 0:
            raise Refused("it computes too much")

    def emit(self, size: int) -> None:
        self.output -= size
        if self.output < 0:
            raise Refused(f"it makes more than {MAX_OUTPUT:,} characters of text")


class TemplateSandbox(SandboxedEnvironment):
    """Jinja with JSON values only. *finalize* turns the value of each ``{{ … }}`` into the text that replaces it."""

    intercepted_binops = frozenset(["+", "*", "**", "%", "//", "/", "-"])

    def __init__(self, budget: EvaluationBudget, finalize: Callable[[Any], str]) -> None:
        # A comment in Jinja begins with {#, and so does the length of a variable in a shell (${#name}): no comments
        # here, for the sign that begins one cannot be written in a plan.
        super().__init__(
            undefined=StrictUndefined,
            finalize=finalize,
            autoescape=False,
            optimized=False,
            keep_trailing_newline=True,
            comment_start_string="\0{#",
            comment_end_string="#}\0",
            cache_size=0,
        )
        self.budget = budget
        self.globals = {"range": self._range}
        self.filters = {name: FILTERS[name] for name in _BORROWED} | {
            "join": _join,
            "replace": _replace,
            "split": _split,
            "lines": _lines,
            "sum": _sum,
            "string": as_text,
            "json": _json,
            "tojson": _json,
            _COUNTED: _counted,
            _WEIGHED: _weighed,
        }

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Names lead to members of JSON objects, never to methods: a task called ``items`` is just a task."""
        if isinstance(obj, LoopContext) and not attribute.startswith("_"):
            return getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Undefined):
            str(obj)  # raises, with the name that is missing
        if isinstance(obj, Mapping | list | tuple | str):
            try:
                return obj[argument]
            except (LookupError, TypeError):
                pass
        if isinstance(obj, Mapping):
            names = ", ".join(sorted(map(str, obj))[:20]) or "nothing"
            return self.undefined(hint=f"there is no {excerpt(argument)}, only {names}")
        return self.undefined(hint=f"a {_kind(obj)} has no {excerpt(argument)}")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = all(isinstance(side, int | float) for side in (left, right))
        if numbers and operator != "**":
            if any(isinstance(side, int) and side.bit_length() > _MAX_BITS for side in (left, right)):
                raise Refused("it computes with numbers that are too large")
        elif operator == "+" and type(left) is type(right) and isinstance(left, str | list):
            self.budget.touch(len(left) + len(right))
        elif not any(isinstance(side, Undefined) for side in (left, right)):
            raise Refused(f"{operator} cannot be used between a {_kind(left)} and a {_kind(right)}")
        return super().call_binop(context, operator, left, right)

    def _range(self, *bounds: int) -> range:
        numbers = range(*bounds)
        self.budget.touch(len(numbers))
        return numbers


_COUNTED = "counted steps"  # names with a space: the grammar has no way to say them
_WEIGHED = "weighed value"


@pass_environment
def _counted(environment: Environment, items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _budget(environment).step()
        yield item


@pass_environment
def _weighed(environment: Environment, value: Any) -> Any:
    _budget(environment).touch(len(value) if isinstance(value, Sized) and not isinstance(value, Undefined) else 1)
    return value


@pass_environment
def _join(environment: Environment, value: Iterable[Any], between: str = "", attribute: str | int | None = None) -> str:
    items = [environment.getitem(item, attribute) if attribute is not None else item for item in value]
    texts = [as_text(item) for item in items]
    _budget(environment).touch(sum(map(len, texts)) + len(str(between)) * len(texts))
    return str(between).join(texts)


@pass_environment
def _replace(environment: Environment, value: Any, old: str, new: str) -> str:
    text, new = as_text(value), as_text(new)
    _budget(environment).touch(len(text) + text.count(old) * len(new))
    return text.replace(old, new)


def _split(value: Any, between: str | None = None) -> list[str]:
    return as_text(value).split(between)


def _lines(value: Any) -> list[str]:
    return as_text(value).splitlines()


def _sum(value: Iterable[Any]) -> float:
    total: float = 0
    for number in value:
        if not isinstance(number, int | float):
            raise Refused(f"sum adds numbers, not a {_kind(number)}")
        total += number
    return total


def _json(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False)


def _budget(environment: Environment) -> EvaluationBudget:
    assert isinstance(environment, TemplateSandbox)  # noqa: S101 - the filters exist in no other environment
    return environment.budget


def plain(value: Any) -> Any:
    """*value* as JSON: what is lazy becomes a list; Refused for what has no form in JSON or too many characters."""
    left = MAX_OUTPUT  # a list of lists of the same list is small in memory and endless on paper

    def copy(value: Any) -> Any:
        nonlocal left
        left -= _ITEM + (len(value) if isinstance(value, str) else 0)
        if left < 0:
            raise Refused(f"it makes a value larger than {MAX_OUTPUT:,} characters")
        if isinstance(value, Undefined):
            str(value)  # raises, with the name that is missing
        if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
            return value
        if isinstance(value, Mapping):
            return {str(key): copy(item) for key, item in value.items()}
        if isinstance(value, list | tuple | range | Iterator):
            return [copy(item) for item in value]
        raise Refused(f"a {_kind(value)} cannot be written as JSON")

    return copy(value)


def as_text(value: Any) -> str:
    """*value* as it appears inside a text: a text as it is, everything else as JSON."""
    value = plain(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _kind(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "number beyond all bounds"
    names = {str: "text", bool: "truth value", int: "number", float: "number", dict: "JSON object", list: "list"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


class TemplateGuard(NodeTransformer):
    """Refuses what the small language does not have, and puts the counters in: on loops, filters and joined texts."""

    def __init__(self) -> None:
        self.depth = 0

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if isinstance(node, nodes.Stmt) and not isinstance(node, _STATEMENTS):
            raise Refused(f"{{% {_word(node)} %}} is not available; there are if, for and set")
        return super().generic_visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - the visitor's naming
        if node.recursive:
            raise Refused("a recursive loop is not available")
        return self._nested(node)

    def visit_If(self, node: nodes.If) -> nodes.Node:  # noqa: N802
        return self._nested(node)

    def _nested(self, node: nodes.For | nodes.If) -> nodes.Node:
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise Refused(f"its if and for are nested deeper than {MAX_NESTING} levels")
        self.generic_visit(node)
        self.depth -= 1
        if isinstance(node, nodes.For):
            node.iter = _filtered(node.iter, _COUNTED)
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802
        if not isinstance(node.node, nodes.Name) or node.node.name != "range":
            raise Refused("only range(…) can be called; use a filter, such as x|items or x|split(',')")
        return self.generic_visit(node)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if node.node is not None:
            node.node = _filtered(node.node, _WEIGHED)
        return node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:  # noqa: N802
        if isinstance(node.value, float) and not math.isfinite(node.value):
            raise Refused("a number in it is too large")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno, environment=node.environment), "join")


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


def _word(node: nodes.Node) -> str:
    names = {"AssignBlock": "set … endset", "FilterBlock": "filter", "CallBlock": "call", "FromImport": "from"}
    return names.get(type(node).__name__, type(node).__name__.lower())
