"""The keys of every view, and where they are stored: ``python -m tests.support.json_views`` writes the file again.

Each view is called with an example of every argument, made from its annotations.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import types
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntFlag
from importlib import import_module
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from coordination import views
from coordination.base.json_values import to_json_types

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests" / "data" / "json_views.txt"
HELPERS = {"fields"}

_EXAMPLES: Mapping[Any, Any] = {
    str: "text",
    int: 1,
    float: 1.0,
    bool: True,
    Decimal: Decimal(1),
    datetime: datetime(2027, 1, 1, tzinfo=UTC),
    date: date(2027, 1, 1),
    timedelta: timedelta(seconds=1),
    Path: Path("folder"),
    range: range(1, 2),
    Any: "anything",
    object: "anything",
}


def all_views() -> Iterator[tuple[str, Any]]:
    """Yield the name and the function of each view."""
    for path in sorted(Path(views.__path__[0]).glob("*.py")):
        if path.stem in {"__init__", *HELPERS}:
            continue
        module = import_module(f"coordination.views.{path.stem}")
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                yield f"{path.stem}.{name}", value


def stored_text() -> str:
    """Return the stored keys."""
    return FILE.read_text(encoding="utf-8")


def current_text() -> str:
    """Return the present keys of the views, one view a line."""
    lines = (f"{name}: {' '.join(sorted(_keys(example_view(view)))) or '-'}\n" for name, view in all_views())
    return "# The keys of each view. Written by: python -m tests.support.json_views\n" + "".join(lines)


def example_view(view: Any) -> Any:
    """Return the JSON of a view of examples."""
    hints = get_type_hints(view, globalns=_namespace(view))
    hints.pop("return")
    parameters = inspect.signature(view).parameters
    arguments = {name: example(hint) for name, hint in hints.items() if parameters[name].kind is not _REST}
    return to_json_types(view(**arguments))


_REST = inspect.Parameter.VAR_KEYWORD


def example(hint: Any) -> Any:  # noqa: PLR0911 - one line a kind of type
    """Return a value of that type without empty parts, except mappings, whose keys are not those of the view."""
    if hint in _EXAMPLES:
        return _EXAMPLES[hint]
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        return example(next(one for one in inner if one is not type(None)))
    if origin is tuple:
        return tuple(example(one) for one in inner if one is not Ellipsis)
    if origin in {list, Sequence} or hint in {list, Sequence}:
        return [example(one) for one in inner]
    if origin in {dict, Mapping, Counter} or hint in {dict, Mapping, Counter}:
        return (origin or hint)() if (origin or hint) in {dict, Counter} else {}
    if isinstance(hint, type) and issubclass(hint, IntFlag):
        return hint(0)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint))
    if isinstance(hint, type) and hasattr(hint, "_fields"):
        return hint(**{name: example(one) for name, one in get_type_hints(hint).items()})
    record = origin or hint  # of a generic record
    types_of = dict(zip(getattr(record, "__parameters__", ()), inner, strict=True))
    hints = get_type_hints(record, globalns=vars(sys.modules[record.__module__]))
    names = [field.name for field in dataclasses.fields(record) if field.init]
    return record(**{name: example(types_of.get(hints[name], hints[name])) for name in names})


def _namespace(view: Any) -> dict[str, Any]:
    """Return the names of a view's module, including those that it imports for types alone."""
    module = sys.modules[view.__module__]
    names = dict(vars(module))
    for node in ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, []), module.__name__, "exec"), names)  # noqa: S102 - our own imports
    return names


def _keys(value: Any, place: str = "") -> Iterator[str]:
    """Yield the keys of a document and of its nested documents, except those in lists, which are views too."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{place}{name}"
            yield from _keys(inner, f"{place}{name}.")


def main() -> None:
    """Write the file."""
    FILE.write_text(current_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
