"""The template language, a restricted Jinja: expressions, ``if``, ``for`` and ``set`` on JSON values.

Templates cannot run forever, grow without bound or reach Python objects: there are no calls except ``range``, no
methods, macros or files; loops, sizes and numbers count against one EvaluationBudget per render.
This module imports jinja2, which is slow, so import it only when a text contains a template.
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
_ITEM = 10  # characters that a number or an empty list counts as

_JINJA_FILTERS = (
    *("abs", "capitalize", "default", "dictsort", "first", "float", "int", "items", "last", "length", "list", "lower"),
    *("map", "max", "min", "reject", "rejectattr", "reverse", "round", "select", "selectattr", "sort", "title"),
    *("trim", "truncate", "unique", "upper"),
)
"""Filters of Jinja whose results cannot be much larger than their input; the others have counted versions here."""

_STATEMENTS = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Assign)


class EvaluationBudget:
    """What one render may still use: loop steps, characters of output, and work on values."""

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.work = _MAX_WORK
        self.output = MAX_OUTPUT

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise Refused(f"its loops run more than {MAX_STEPS:,} times")

    def touch(self, size: int) -> None:
        """Count an operation on *size* characters or items, before it runs."""
        if size > MAX_OUTPUT:
            raise Refused(f"it produces a value larger than {MAX_OUTPUT:,} characters")
        self.work -= size + 1
        if self.work < 0:
            raise Refused("it computes too much")

    def emit(self, size: int) -> None:
        self.output -= size
        if self.output < 0:
            raise Refused(f"it produces more than {MAX_OUTPUT:,} characters of text")


class TemplateSandbox(SandboxedEnvironment):
    """A Jinja environment for JSON values only. *finalize* returns the text that replaces a value of ``{{ … }}``."""

    intercepted_binops = frozenset(["+", "*", "**", "%", "//", "/", "-"])

    def __init__(self, budget: EvaluationBudget, finalize: Callable[[Any], str]) -> None:
        # Comments are disabled by a start sign that plans cannot contain, because Jinja's own one, {#, is part of
        # the length of a variable in a shell: ${#name}.
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
        self.filters = {name: FILTERS[name] for name in _JINJA_FILTERS} | {
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
        """Return a member of a JSON object, never a method, so that a task may have a key such as ``items``."""
        if isinstance(obj, LoopContext) and not attribute.startswith("_"):
            return getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Undefined):
            str(obj)  # raises with the missing name
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


_COUNTED = "counted steps"  # names with a space, which templates cannot contain
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
    """Return *value* as a JSON value, with iterators as lists. Raises Refused for other types and for large values."""
    remaining = MAX_OUTPUT  # nested lists that share items are small in memory and huge when written

    def copy(value: Any) -> Any:
        nonlocal remaining
        remaining -= _ITEM + (len(value) if isinstance(value, str) else 0)
        if remaining < 0:
            raise Refused(f"it produces a value larger than {MAX_OUTPUT:,} characters")
        if isinstance(value, Undefined):
            str(value)  # raises with the missing name
        if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
            return value
        if isinstance(value, Mapping):
            return {str(key): copy(item) for key, item in value.items()}
        if isinstance(value, list | tuple | range | Iterator):
            return [copy(item) for item in value]
        raise Refused(f"a {_kind(value)} cannot be written as JSON")

    return copy(value)


def as_text(value: Any) -> str:
    """Return *value* as it appears inside a text: a text unchanged, everything else as JSON."""
    value = plain(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _kind(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "number that is not finite"
    names = {str: "text", bool: "truth value", int: "number", float: "number", dict: "JSON object", list: "list"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


class TemplateGuard(NodeTransformer):
    """Refuses constructs outside of the template language, and adds counters to loops, filters and concatenations."""

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
