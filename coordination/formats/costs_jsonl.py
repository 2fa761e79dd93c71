"""Lossless streaming conversion between ZeroClaw's costs.jsonl, with one model call per line, and cost records.

Two shapes are read: nested, with usage in its own object (as the program writes it), and flat (as its documentation
shows it). The original line is kept in the record's ``extra``, so that nanoseconds, number formats and unknown fields
are exported unchanged. A call with ``pricing_available: false`` has an unknown cost, whatever ``cost_usd`` contains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from math import isfinite
from typing import Any, Literal

from coordination.base import json_values
from coordination.base.errors import FormatError, Refused
from coordination.base.ids import is_id
from coordination.base.money import usd
from coordination.domain.money.costs import TOKEN_COUNTS, CostRecord

Shape = Literal["nested", "flat", "as-read"]

MOST_BYTES = 1_000_000
"""The maximum of a line."""

_LONGEST = 500  # characters of a name, so that PostgreSQL can index it
_SUFFIX = 50  # additional characters of a correction's id

_MOST = 10**12  # tokens of a call: more than any model reads, and sums of many calls do not overflow
_LAST_WORD = 5  # characters of a word that may be cut: false
_LINE, _SHAPE = "line", "shape"
READ_AS = frozenset({_LINE, _SHAPE})
"""The keys in ``extra`` with the original line, for exports."""

_FOREIGN_TASK = ("goal_task_id", "task_id")
_USAGE = ("model", *TOKEN_COUNTS, "cost_usd", "pricing_available", "timestamp")
_OWN = "coordination"
_HINT = "Repair or remove the line"


def numbered_costs(
    lines: Iterable[bytes], *, source: str | None = None, torn: Callable[[int], None] | None = None
) -> Iterator[tuple[int, CostRecord]]:
    """Yield (line, record) for each record of a file. Raises FormatError, with file and line, for an invalid one.

    *torn* is called with the number of an incomplete last line, which has no line end and is not JSON; without *torn*,
    such a line is invalid.
    """
    for number, line in enumerate(lines, start=1):
        try:
            if len(line) > MOST_BYTES:
                raise Refused(f"the line is longer than {MOST_BYTES:,} bytes")  # noqa: TRY301 - one place names the line
            parsed_line = json_values.parse_line(number, line, decimals=True)
            record = None if parsed_line is None else _record(*parsed_line)
        except Refused as refused:
            if torn is not None and not line.endswith(b"\n") and _is_torn(line):
                torn(number)
                return
            raise FormatError(refused.message, source=source, line=number, hint=_HINT, field=refused.field) from None
        if record is not None:
            yield number, record


def _is_torn(line: bytes) -> bool:
    """Return whether the line is the beginning of a record."""
    if len(line) > MOST_BYTES or not line.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
        return False
    try:
        json_values.parse_json(line.decode("utf-8", "replace"))
    except json.JSONDecodeError as error:
        # The error of an unterminated string has the position of its beginning.
        is_open_text, rest = error.msg.startswith("Unterminated"), error.doc.rstrip()[error.pos :]
        return is_open_text or (len(rest) <= _LAST_WORD and not rest.endswith("}") and error.msg != "Extra data")
    except (ValueError, RecursionError):
        return False
    return False


def write_costs(records: Iterable[CostRecord], shape: Shape = "nested") -> Iterator[bytes]:
    """Yield the lines of a file that reads back as these records; ``as-read`` repeats imported lines unchanged."""
    for record in records:
        line = record.extra.get(_LINE)
        if isinstance(line, str):
            is_shaped = shape in ("as-read", record.extra.get(_SHAPE))
            text = line if is_shaped else _text(_shaped(json_values.parse_json_exactly(line), shape))
        else:
            text = _text(_shaped(_foreign(record), shape))
        yield text.encode() + b"\n"


def _record(text: str, line: dict[str, Any]) -> CostRecord:
    inner = line.get("usage")
    nested = isinstance(inner, dict) and "model" in inner
    usage: Mapping[str, Any] = inner if isinstance(inner, dict) and nested else line
    for place in (usage, line):
        if (currency := place.get("currency")) is not None and currency not in {"USD", "usd"}:
            raise Refused(
                f"the amount is in {json_values.show_value(currency)}; only US dollars can be counted", field="currency"
            )
    input_tokens, output_tokens = _tokens(usage, "input_tokens"), _tokens(usage, "output_tokens")
    extra = {_SHAPE: "nested" if nested else "flat", _LINE: text}
    for name in _FOREIGN_TASK:
        if isinstance(value := line.get(name), str):
            extra[name] = value
    body = line.get(_OWN)
    own = _own(body) if isinstance(body, dict) else _NO_OWN_FIELDS
    extra |= own["extra"]
    return CostRecord(
        id=_required(line, "id", most=_LONGEST + (_SUFFIX if own["corrects"] is not None else 0)),
        session_id=_optional(line, "session_id", most=_LONGEST),
        agent=_optional(line, "agent_alias", most=_LONGEST),
        model=_required(usage, "model", most=_LONGEST),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=_tokens(usage, "cached_input_tokens"),
        total_tokens=_tokens(usage, "total_tokens", min(input_tokens + output_tokens, _MOST)),
        cost_usd=_cost(usage, may_be_negative=own["corrects"] is not None),
        occurred_at=_moment(_required(usage, "timestamp")),
        extra=extra,
        project_id=own["project_id"],
        run_id=own["run_id"],
        task_id=own["task_id"],
        attempt=own["attempt"],
        stale=own["stale"],
        corrects=own["corrects"],
        settles=own["settles"],
        account=own["account"],
    )


def _cost(usage: Mapping[str, Any], *, may_be_negative: bool) -> Decimal | None:
    cost = usage.get("cost_usd")
    is_priced = usage.get("pricing_available")
    if is_priced not in (None, True, False):
        raise Refused("pricing_available must be true or false", field="pricing_available")
    if cost is None:
        return None
    if isinstance(cost, bool) or not isinstance(cost, int | Decimal):
        raise Refused("cost_usd must be a number", field="cost_usd")
    amount = usd(cost, field="cost_usd")
    if amount < 0 and not may_be_negative:
        raise Refused("cost_usd cannot be negative", field="cost_usd")
    return None if is_priced is False else amount


def _tokens(usage: Mapping[str, Any], name: str, default: int = 0) -> int:
    value = usage.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise Refused(f"{name} must be a whole number from 0 to {_MOST:,}", field=name)
    return value


def _required(record: Mapping[str, Any], name: str, *, most: int | None = None) -> str:
    value = _optional(record, name, most=most)
    if value is None:
        raise Refused(f"the record has no {name}", field=name)
    return value


def _optional(record: Mapping[str, Any], name: str, *, most: int | None = None) -> str | None:
    value = record.get(name)
    if value is not None and not isinstance(value, str):
        raise Refused(f"{name} must be a text", field=name)
    if value and most is not None and len(value) > most:
        raise Refused(f"{name} is longer than {most} characters", field=name)
    return value or None


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refused(
            f"timestamp must be a time like 2026-03-26T21:04:56Z, not {text[:40]!r}", field="timestamp"
        ) from None


def _own(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the additional fields of our own exports, which files of other programs do not have."""
    ids: dict[str, Any] = {name: _optional(own, name) for name in ("project_id", "run_id", "task_id")}
    for name, text in ids.items():
        if text is not None and not is_id(text):
            raise Refused(f"{_OWN}.{name} is not an id", field=f"{_OWN}.{name}")
        ids[name] = text and text.lower()
    attempt = own.get("attempt")
    if attempt is not None and (isinstance(attempt, bool) or not isinstance(attempt, int) or not 0 < attempt < 1 << 31):
        raise Refused(f"{_OWN}.attempt must be a whole number from 1 on", field=f"{_OWN}.attempt")
    corrects, extra = _optional(own, "corrects"), own.get("extra", {})
    if not isinstance(extra, dict):
        raise Refused(f"{_OWN}.extra must be an object", field=f"{_OWN}.extra")
    return {
        **ids,
        "attempt": attempt,
        "stale": own.get("stale") is True,
        "corrects": corrects,
        "settles": corrects is not None and own.get("settles") is True,
        "account": _optional(own, "account", most=_LONGEST),
        "extra": _plain(extra),
    }


def _plain(value: Any) -> Any:
    """Return *value* with Decimals converted to floats, which they were when they were written."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        value = float(value)
        if not isfinite(value):
            raise Refused(f"{_OWN}.extra contains a number that is too large", field=f"{_OWN}.extra")
    return value


def _foreign(record: CostRecord) -> dict[str, Any]:
    """Return a record in the form that ZeroClaw writes, with our additional fields."""
    own = {
        "project_id": record.project_id,
        "run_id": record.run_id,
        "task_id": record.task_id,
        "attempt": record.attempt,
        "stale": record.stale or None,
        "corrects": record.corrects,
        "settles": record.settles or None,
        "account": record.account,
        "extra": record.extra or None,
    }
    usage = {
        "model": record.model,
        "input_tokens": record.input_tokens,
        "output_tokens": record.output_tokens,
        "cached_input_tokens": record.cached_input_tokens or None,
        "total_tokens": record.total_tokens,
        "cost_usd": Decimal("0.0") if record.cost_usd is None else record.cost_usd,
        "pricing_available": False if record.cost_usd is None else None,
        "timestamp": record.occurred_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
    }
    return {
        "id": record.id,
        "usage": {name: value for name, value in usage.items() if value is not None},
        "session_id": record.session_id or "",
        **({"agent_alias": record.agent} if record.agent else {}),
        **({_OWN: fields} if (fields := {name: value for name, value in own.items() if value is not None}) else {}),
    }


def _shaped(line: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """Return the record in the given *shape*; unknown fields stay in their object."""
    inner = line.get("usage")
    usage = dict(inner) if isinstance(inner, dict) else {}
    if shape == "flat":
        flat = {name: usage.pop(name) for name in _USAGE if name in usage}
        others = {name: value for name, value in line.items() if name != "usage" or not isinstance(inner, dict)}
        return {**others, **flat, **({"usage": usage} if usage else {})}
    if "usage" in line and not isinstance(inner, dict):
        return line  # an unknown field has the name usage already
    usage |= {name: line[name] for name in _USAGE if name in line}
    others = {name: value for name, value in line.items() if name not in _USAGE and name != "usage"}
    return {"id": others.pop("id"), "usage": usage, **others}


def _text(value: Any) -> str:
    """Return compact JSON with exact decimals, which json.dumps cannot write."""
    if isinstance(value, dict):
        return (
            "{" + ",".join(f"{json.dumps(key, ensure_ascii=False)}:{_text(item)}" for key, item in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, Decimal):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


_NO_OWN_FIELDS = _own({})
