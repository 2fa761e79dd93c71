"""``coord prices …``: the prices of models, from the included list or set by a person."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from coordination.cli.options import AsJson, open_connection, print_json
from coordination.cli.tables import fields
from coordination.cli.tables import show as table
from coordination.views import money as views

if TYPE_CHECKING:
    from coordination.domain.money.pricing import Rate

Model = Annotated[str, Argument(metavar="MODEL", help="The model, as in coord costs list.")]
OfProject = Annotated[
    str | None, Option("--project", "-p", metavar="NAME", help="Only for this project (default: all).")
]


def list_(*, as_json: AsJson = False) -> None:
    """List the prices that were set. Other models have the price of the included list."""
    from coordination.adapters import price_list

    with open_connection() as co:
        overrides = co.prices.list_with_projects()
    if as_json:
        print_json(views.prices(overrides, price_list.name()))
        return
    table(
        ["model", "project", *(word for word, _ in _WORDS), "set by", "set"],
        [
            (
                override.model,
                project or "(all)",
                *(_shown(getattr(override.price, kind)) for _, kind in _WORDS),
                override.set_by,
                override.set_at,
            )
            for override, project in overrides
        ],
        empty="No prices are set.",
    )
    print(f"\nDollars per million tokens. Other models: {price_list.name()}; see: coord prices show MODEL")


def show(model: Model, *, project: OfProject = None, as_json: AsJson = False) -> None:
    """Show the present price of a model, and its source."""
    from coordination.domain.money.pricing import UnknownPrice

    with open_connection() as co:
        quote = co.prices.look_up(model, project=project)
    if isinstance(quote, UnknownPrice):
        if as_json:
            print_json(views.unknown_price(model, quote.why))
            return
        print(f"There is no price for {model}: {quote.why}.")
        where = "" if project is None else f" --project {shlex.quote(project)}"
        print(f"Set one with: coord prices set {shlex.quote(model)} --input USD --output USD{where}")
        return
    if as_json:
        print_json(views.model_price(model, quote))
        return
    fields(
        [
            ("model", model),
            ("price of", quote.called),
            ("set by", quote.by),
            *((f"{word} tokens", _shown(getattr(quote.price, kind))) for word, kind in _ALL_WORDS),
            ("each call", quote.price.request),
        ]
    )
    print("Dollars per million tokens; cached input and reasoning without a price cost as input and output.")


def set_(
    model: Model,
    *,
    input_: Annotated[str, Option("--input", metavar="USD", help="Per million input tokens.")],
    output: Annotated[str, Option(metavar="USD", help="Per million output tokens.")],
    cached_input: Annotated[
        str | None, Option(metavar="USD", help="Per million input tokens from a cache (default: as input).")
    ] = None,
    cache_write: Annotated[
        str | None, Option(metavar="USD", help="Per million input tokens written to a cache (default: as input).")
    ] = None,
    reasoning: Annotated[
        str | None, Option(metavar="USD", help="Per million reasoning tokens (default: as output).")
    ] = None,
    project: OfProject = None,
    as_json: AsJson = False,
) -> None:
    """Set the price of a model for calls from now on, instead of that of the list."""
    with open_connection() as co:
        override = co.prices.set(
            model,
            input=input_,
            output=output,
            cached_input=cached_input,
            cache_write=cache_write,
            reasoning=reasoning,
            project=project,
        )
    if as_json:
        print_json(views.price(override, project))
        return
    print(f"Set the price of {override.model} for calls from now on. For earlier calls: coord costs reprice")


def delete(model: Model, *, project: OfProject = None) -> None:
    """Delete a price that was set, so that the list applies. Costs of earlier calls do not change."""
    with open_connection() as co:
        name = co.prices.delete(model, project=project)
    print(f"Deleted the price of {name}{'' if project is None else f' in {project}'}.")


_WORDS = (
    ("input", "input"),
    ("cached input", "cached_input"),
    ("cache write", "cache_write"),
    ("output", "output"),
    ("reasoning", "reasoning"),
)
_ALL_WORDS = (*_WORDS[:3], ("cache write for an hour", "cache_write_1h"), *_WORDS[3:])


def _shown(rate: Rate | None) -> str | None:
    if rate is None:
        return None
    steps = "".join(f", {usd:f} for a call with more than {above:,} tokens of input" for above, usd in rate.steps)
    return f"{rate.usd:f}{steps}"
