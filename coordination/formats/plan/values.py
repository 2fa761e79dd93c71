"""Value types that only plans have: jobs, needs, gates, checkouts, variants, supervision, budgets and estimates.

Checks beyond a value's form are in the domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from coordination.base.durations import write_duration
from coordination.base.errors import Refused
from coordination.base.fields import (
    DURATION,
    MAPPING,
    MONEY,
    TEXT,
    Field,
    Table,
    ValueType,
    at,
    check_keys,
    choice,
    load_fields,
    number_or_text,
    plain,
    record,
    schema_of,
    text,
    texts,
    type_refusal,
    whole,
    write_fields,
)
from coordination.domain.jobs import JOBS, KINDS, Job, parse_job, preparation
from coordination.domain.jobs.checkouts import (
    GATE_TIMEOUT,
    MAX_GATES,
    Checkout,
    CheckoutKind,
    Gate,
    parse_checkout,
    parse_gates,
)
from coordination.domain.money.caps import CAPS, MAX_TOKENS, parse_caps
from coordination.domain.money.estimates import MAX_ESTIMATED_TOKENS, parse_estimate
from coordination.domain.plans.plan_expansion import ANSWERER, MOST_VARIANTS, check_supervisor, supervision_of
from coordination.domain.plans.plans import MAX_KEY, BudgetCap, Dependency
from coordination.domain.tasks.tasks import DependencyKind

_SHORT = 60
_SOME_TEXT = {"type": "string", "minLength": 1}
KEY = text(longest=MAX_KEY, pattern=r"^[^\s-]\S*$", description="Letters, digits and . _ - / :")
NAME = text(longest=MAX_KEY)


# --- the job


def _load_run(value: Any, place: str) -> Job:
    if not isinstance(value, Mapping):
        hint = f"Write run: {{shell: {value!r}}}" if isinstance(value, str) and len(value) < _SHORT else None
        raise type_refusal(place, f"a mapping with one of the keys {', '.join(KINDS)}", value, hint=hint)
    kinds = [kind for kind in KINDS if kind in value]
    if len(kinds) == 1:
        return at(place, JOBS[kinds[0]].from_json, value)
    check_keys(value, [*KINDS, *(name for kind in kinds for name in JOBS[kind].field_names())], place, place=place)
    raise Refused(f"{place} needs one of the keys {', '.join(KINDS)}" + (", not several" if kinds else ""), field=place)


RUN = ValueType(
    _load_run, {"oneOf": [schema_of(job.table) for job in JOBS.values()]}, lambda value: parse_job(value).to_json()
)


# --- needs

NEED: Table = (Field("key", KEY, required=True), Field("kind", choice(DependencyKind)))


def _load_needs(value: Any, place: str) -> tuple[str | Dependency, ...]:
    if isinstance(value, str | Mapping):
        return (_load_need(value, place),)
    if not isinstance(value, list):
        hint = 'Write keys that look like numbers in quotes: ["1"]'
        raise type_refusal(place, "a key or a list of keys", value, hint=hint)
    return tuple(_load_need(item, f"{place}[{index}]") for index, item in enumerate(value))


def _load_need(item: Any, place: str) -> str | Dependency:
    if isinstance(item, Mapping):
        return load_fields(item, NEED, Dependency, place=place)
    if not isinstance(item, str):
        raise type_refusal(place, "the key of a task", item, hint="Write a key that looks like a number in quotes")
    return item


_NEED = {"anyOf": [KEY.schema, schema_of(NEED)]}
NEEDS = ValueType(
    _load_needs,
    {"anyOf": [*_NEED["anyOf"], {"type": "array", "items": _NEED}]},
    lambda needs: [need if isinstance(need, str) else write_fields(need, NEED) for need in needs],
)


# --- checkouts and gates

_PATHS = texts(shortest=1, most=preparation.MOST_NAMES)
_MERGE = (Field("commit", TEXT, required=True), Field("task", TEXT, required=True))
_DATABASE = (Field("clone", TEXT, required=True), Field("variable", TEXT))
_CHECKOUT: Table = (
    Field("kind", text(words=tuple(CheckoutKind))),
    Field("base", TEXT, "Where the run's branch begins: a branch, tag or commit. Default: HEAD."),
    Field("keep_failed", DURATION, "How long the worktree of a failed attempt is kept."),
    Field("merge", record(dict, _MERGE), "A half-merged change, set by the merge queue."),
    Field("setup", TEXT, "A command that prepares the worktree, run once per content of the lock files."),
    Field("lock", _PATHS, "Files whose content decides when setup runs again. Default: well-known lock files."),
    Field("copy", _PATHS, "Files and folders of your checkout that are copied into the worktree."),
    Field("share", _PATHS, "Paths created by setup that worktrees link to, read-only. All others are copied."),
    Field(
        "ports", whole(0, preparation.MOST_PORTS), "How many free ports the job gets, as PORT, COORD_PORT_1 and so on."
    ),
    Field("database", record(dict, _DATABASE), "A database of which each attempt gets a copy."),
)
_GATE: Table = (Field("run", TEXT), Field("timeout", DURATION), Field("name", NAME))


def _load_checkout(value: Any, place: str) -> Checkout:
    if isinstance(value, Mapping):
        value = load_fields(value, _CHECKOUT, dict, place=place)
        if (keep_failed := value.get("keep_failed")) is not None:
            value["keep_failed"] = keep_failed.total_seconds()
    elif not isinstance(value, str):
        raise type_refusal(place, "a kind or a mapping", value)
    return at(place, parse_checkout, value)


def _write_checkout(value: Any) -> Any:
    checkout = parse_checkout(value)
    body = checkout.to_json()
    if checkout.keep_failed is not None:
        body["keep_failed"] = write_duration(checkout.keep_failed)
    return body if len(body) > 1 else body["kind"]


CHECKOUT = ValueType(
    _load_checkout,
    {"anyOf": [{"enum": [*CheckoutKind]}, {**schema_of(_CHECKOUT), "required": ["kind"]}]},
    _write_checkout,
)


def _load_gates(value: Any, place: str) -> tuple[Gate, ...]:
    if not isinstance(value, str | list):
        raise type_refusal(place, "a command or a list of commands", value)
    return at(place, parse_gates, value if isinstance(value, str) else _load_gate_items(value, place))


def _load_gate_items(items: list[Any], place: str) -> list[Any]:
    if any(not isinstance(item, str | Mapping) for item in items):
        raise Refused(f"{place} must contain commands", hint='Write them in quotes: ["pytest -q"]', field=place)
    defaults: dict[str, Any] = {"run": "", "timeout": GATE_TIMEOUT}
    return [
        load_fields(item, _GATE, lambda **gate: Gate(**{**defaults, **gate}), place=f"{place}[{index}]")
        if isinstance(item, Mapping)
        else item
        for index, item in enumerate(items)
    ]


def _write_gates(value: Any) -> list[Any]:
    bodies = [(gate, gate.to_json()) for gate in parse_gates(value)]
    return [
        body if isinstance(body, str) else body | {"timeout": write_duration(gate.timeout)} for gate, body in bodies
    ]


GATES = ValueType(
    _load_gates,
    {
        "anyOf": [
            _SOME_TEXT,
            {
                "type": "array",
                "maxItems": MAX_GATES,
                "items": {"anyOf": [_SOME_TEXT, {**schema_of(_GATE), "required": ["run"]}]},
            },
        ]
    },
    _write_gates,
)


# --- supervision and variants

SUPERVISOR = ValueType(
    lambda value, place: at(place, check_supervisor, value, ANSWERER),
    {"anyOf": [_SOME_TEXT, {"type": "object"}]},
    lambda value: plain(check_supervisor(value, ANSWERER)),
)
_REVIEWER = ValueType(lambda value, _place: value, SUPERVISOR.schema, plain)
SUPERVISION = record(
    lambda **agents: supervision_of(agents),
    (
        Field("assess", _REVIEWER, "The agent that assesses each agent task before the work."),
        Field("analyze", _REVIEWER, "The agent that analyzes the result."),
    ),
)


def _load_variants(value: Any, place: str) -> int | tuple[dict[str, Any], ...]:
    if value in (0, []) and value is not False:  # an empty value would count as not set
        raise Refused(f"{place} are from 2 to {MOST_VARIANTS}, not 0", field=place)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        hint = "Write [{agent: claude}, {agent: codex}]"
        raise type_refusal(place, "a number, or a list of what differs", value, hint=hint)
    return tuple(MAPPING.load(item, f"{place}[{index}]") for index, item in enumerate(value))


VARIANTS = ValueType(
    _load_variants,
    {
        "anyOf": [
            {"type": "integer", "minimum": 2, "maximum": MOST_VARIANTS},
            {"type": "array", "items": {"type": "object"}, "minItems": 2, "maxItems": MOST_VARIANTS},
        ]
    },
    plain,
)


# --- budgets and estimates

_COUNT = whole(0, MAX_TOKENS)


def _make_cap(**values: Any) -> BudgetCap:
    cap = BudgetCap(**values)
    parse_caps(cap.to_mapping())
    return cap


BUDGET = record(
    _make_cap,
    (
        Field("usd", MONEY, "US dollars."),
        Field("tokens", _COUNT, "Tokens."),
        Field("starts", _COUNT, "Starts of agents and chats, with any outcome."),
        Field("max_unpriced_calls", _COUNT, "Calls of models whose price is unknown; default 0 with usd."),
        Field("on_exceed", text(words=("block", "warn", "downgrade"))),
        Field("warn_at", whole(1, 100), "Percent of the cap."),
        Field("downgrade_to", TEXT, "The cheaper model, for on_exceed: downgrade."),
    ),
    more={"anyOf": [{"required": [name]} for name in CAPS]},
)


def _write_estimate(estimate: Any) -> dict[str, Any]:
    body = parse_estimate(estimate)
    if "usd" in body:
        body["usd"] = number_or_text(Decimal(body["usd"]))
    if "duration" in body:
        body["duration"] = write_duration(timedelta(seconds=body["duration"]))
    return body


ESTIMATE = record(
    lambda **values: parse_estimate(values),
    (Field("usd", MONEY), Field("tokens", whole(0, MAX_ESTIMATED_TOKENS)), Field("duration", DURATION)),
    write=_write_estimate,
)
