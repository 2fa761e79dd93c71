"""The JSON Schema of a chat's answer, which is sent to the model and always checked here.

References to other documents are not fetched. A pattern that takes too long to match counts as a mismatch, because
matching blocks the whole process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import regex
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError, best_match
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

from coordination.base import json_values
from coordination.base.errors import Refused
from coordination.base.json_values import json_problem
from workers.runners.output import one_line

NAME = "final_result"
"""The tool that the model calls to answer."""

_WRAP = "answer"
_DEFINITIONS = ("$defs", "definitions")
_LONGEST = 300
_PATTERN_SECONDS = 0.2


class SchemaMismatchError(Exception):
    """The answer does not match the schema, with the reason."""


class OutputSchema:
    """A schema. Raises Refused when it is invalid."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = dict(schema)
        if problem := _unsafe_part(self._schema):
            raise Refused(f"schema cannot be checked: {problem}", field="schema")
        try:
            Draft202012Validator.check_schema(self._schema)
        except SchemaError as error:
            path = "/".join(map(str, error.absolute_path))
            raise Refused(
                f"schema is no JSON Schema: {one_line(error.message, _LONGEST)}" + (f" (at {path})" if path else "")
            ) from None
        self._validator = _Validator(self._schema, registry=Registry())
        self._wrapped = self._schema.get("type") != "object"

    @property
    def for_model(self) -> dict[str, Any]:
        """Return the schema for the model: always of an object, because many providers accept no other."""
        if not self._wrapped:
            return self._schema
        definitions: dict[str, Any] = {key: self._schema[key] for key in _DEFINITIONS if key in self._schema}
        inner = {key: value for key, value in self._schema.items() if key not in definitions}
        return {"type": "object", "properties": {_WRAP: inner}, "required": [_WRAP], **definitions}

    def of_text(self, text: str) -> Any:
        """Return the value of a JSON *text*, fenced or not. Raises SchemaMismatchError."""
        bare = text.strip()
        if bare.startswith("```") and bare.endswith("```"):
            bare = bare.strip("`").removeprefix("json")
        try:
            value = json_values.parse_json(bare)
        except (ValueError, RecursionError):
            raise SchemaMismatchError("it is not JSON") from None
        return self.check(value)

    def check(self, value: Any) -> Any:
        """Return the value, or the one in the arguments of a call. Raises SchemaMismatchError."""
        if self._wrapped and isinstance(value, Mapping) and set(value) == {_WRAP}:
            value = value[_WRAP]
        if problem := json_problem(value):
            raise SchemaMismatchError(f"it {problem}")
        try:
            error = best_match(self._validator.iter_errors(value))
        except (Unresolvable, RecursionError) as unusable:
            raise Refused(f"schema cannot be checked: {one_line(str(unusable), _LONGEST)}", field="schema") from None
        if error is not None:
            path = "/".join(map(str, error.absolute_path))
            raise SchemaMismatchError(one_line(error.message, _LONGEST) + (f" (at {path})" if path else ""))
        return value


def _unsafe_part(schema: Mapping[str, Any]) -> str | None:
    """Return why *schema* cannot be checked in limited time, or at all."""
    stack: list[Any] = [schema]
    while stack:
        item = stack.pop()
        if isinstance(item, Mapping):
            if isinstance(item.get("patternProperties"), Mapping):
                return "patternProperties is not supported; write pattern, or propertyNames"
            pattern = item.get("pattern")
            if isinstance(pattern, str):
                try:
                    regex.compile(pattern)
                except regex.error as error:
                    return f"the pattern {one_line(pattern, 60)!r} cannot be read: {error}"
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return None


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:  # noqa: ARG001 - jsonschema's
    if not isinstance(instance, str):
        return
    try:
        match = regex.search(pattern, instance, timeout=_PATTERN_SECONDS)
    except TimeoutError:
        match = None
    if not match:
        yield ValidationError(f"{one_line(instance, 100)!r} does not match {pattern!r}")


_Validator: Any = extend(Draft202012Validator, {"pattern": _pattern})
