"""``coord prices …``: what a model's calls cost, by the list that comes along and by what people set."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.cli.options import AsJson, connected, print_json

if TYPE_CHECKING:
    from coordination.client import Coordination
    from coordination.domain.money.pricing import Price, Rate

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model, as it stands in coord costs list.")]
OfProject = Annotated[
    str | None, typer.Option("--project", "-p", metavar="NAME", help="In this project only (default: in all).")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Prices: what a model's calls cost.")
    group.command("list")(list_)
    group.command("show")(show)
    group.command("set")(set_)
    group.command("delete")(delete)
    app.add_typer(group, name="prices")


def list_(*, as_json: AsJson = False) -> None:
    """The prices that are set here; all other models have the price of the list."""
    from coordination.adapters import price_list
    from coordination.cli.tables import show as table
    from coordination.store.queries.money import prices
    from coordination.store.queries.projects import projects

    with connected() as co, co.runtime.store.read() as tx:
        found = prices.listed(tx, co.runtime.workspace_id)
        ids = {one.project_id for one in found if one.project_id is not None}
        names = projects.names_of(tx, co.runtime.workspace_id, ids)
    if as_json:
        rows = [
            {
                "model": one.model,
                "project_id": one.project_id,
                "project": names.get(one.project_id or ""),
                "usd_per_million_tokens": _rates(one.price),
                "set_by": one.set_by,
                "set_at": one.set_at,
            }
            for one in found
        ]
        print_json({"prices": rows, "list": price_list.name()})
        return
    table(
        ["model", "project", *(word for word, _ in _WORDS), "set by", "set"],
        [
            (
                one.model,
                names.get(one.project_id or "") or "(all)",
                *(_shown(getattr(one.price, kind)) for _, kind in _WORDS),
                one.set_by,
                one.set_at,
            )
            for one in found
        ],
        empty="No prices are set.",
    )
    print(f"\nDollars per million tokens. Other models: {price_list.name()}; see: coord prices show MODEL")


def show(model: Model, *, project: OfProject = None, as_json: AsJson = False) -> None:
    """Which price calls of a model have now, and whose it is."""
    from coordination.adapters import price_list
    from coordination.base.clock import utc_now
    from coordination.cli.tables import fields
    from coordination.domain.money.pricing import UnknownPrice
    from coordination.services.money import prices

    with connected() as co:
        project_id = _project_id(co, project)
        with co.runtime.store.read() as tx:
            book = prices.open_book(tx, co.runtime.workspace_id, price_list.quote)
    found = book.quote(model, project_id, utc_now())
    if isinstance(found, UnknownPrice):
        if as_json:
            print_json({"model": model, "known": False, "why": found.why})
            return
        print(f"There is no price of {model}: {found.why}.")
        where = "" if project is None else f" --project {shlex.quote(project)}"
        print(f"Set one with: coord prices set {shlex.quote(model)} --input USD --output USD{where}")
        return
    if as_json:
        rates = _rates(found.price)
        print_json({"model": model, "known": True, "by": found.by, "of": found.called, "usd_per_million_tokens": rates})
        return
    fields(
        [
            ("model", model),
            ("price of", found.called),
            ("set by", found.by),
            *((f"{word} tokens", _shown(getattr(found.price, kind))) for word, kind in _ALL_WORDS),
            ("each call", found.price.request),
        ]
    )
    print("Dollars per million tokens; cached input and reasoning without a price cost as input and output.")


def set_(
    model: Model,
    *,
    input_: Annotated[str, typer.Option("--input", metavar="USD", help="A million tokens of input.")],
    output: Annotated[str, typer.Option("--output", metavar="USD", help="A million tokens of output.")],
    cached_input: Annotated[
        str | None, typer.Option("--cached-input", metavar="USD", help="Of input from a cache (default: as input).")
    ] = None,
    cache_write: Annotated[
        str | None, typer.Option("--cache-write", metavar="USD", help="Of input kept in a cache (default: as input).")
    ] = None,
    reasoning: Annotated[
        str | None, typer.Option("--reasoning", metavar="USD", help="Of reasoning (default: as output).")
    ] = None,
    project: OfProject = None,
    as_json: AsJson = False,
) -> None:
    """Set what a million tokens of a model cost, instead of what the list says. It counts for calls from now on."""
    from coordination.services.money import prices

    rates = {
        "input": input_,
        "output": output,
        "cached_input": cached_input,
        "cache_write": cache_write,
        "reasoning": reasoning,
    }
    with connected() as co:
        runtime, project_id = co.runtime, _project_id(co, project)
        made = runtime.store.transact(
            lambda tx: prices.set_price(
                tx, runtime.workspace_id, model, rates, project_id=project_id, actor=runtime.actor
            )
        )
    if as_json:
        print_json({"model": made.model, "project_id": project_id, "usd_per_million_tokens": _rates(made.price)})
        return
    print(f"Calls of {made.model} have this price from now on. Earlier ones without a price: coord costs reprice")


def delete(model: Model, *, project: OfProject = None) -> None:
    """Forget a price that was set; the list counts again. What was priced by it stays as it is."""
    from coordination.services.money import prices

    with connected() as co:
        runtime, project_id = co.runtime, _project_id(co, project)
        name = runtime.store.transact(lambda tx: prices.delete(tx, runtime.workspace_id, model, project_id=project_id))
    print(f"The price of {name} is not set any more{'' if project is None else f' in {project}'}.")


_WORDS = (
    ("input", "input"),
    ("cached input", "cached_input"),
    ("cache write", "cache_write"),
    ("output", "output"),
    ("reasoning", "reasoning"),
)
_ALL_WORDS = (*_WORDS[:3], ("cache write for an hour", "cache_write_1h"), *_WORDS[3:])


def _project_id(co: Coordination, project: str | None) -> str | None:
    return None if project is None else co.project(project).id


def _rates(price: Price) -> dict[str, Any]:
    """The price as JSON: what has no price of its own is left out."""
    rates = {kind: rate for _, kind in _ALL_WORDS if (rate := getattr(price, kind)) is not None}
    said: dict[str, Any] = {
        kind: {"usd": rate.usd, "above": [{"input_tokens": above, "usd": usd} for above, usd in rate.steps]}
        if rate.steps
        else rate.usd
        for kind, rate in rates.items()
    }
    return said | ({"request": price.request} if price.request is not None else {})


def _shown(rate: Rate | None) -> str | None:
    if rate is None:
        return None
    steps = "".join(f", {usd:f} for a call with more than {above:,} tokens of input" for above, usd in rate.steps)
    return f"{rate.usd:f}{steps}"
