"""``coord budgets …``: cap what may be spent, see what is left, and let go on what waits for money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordination.base.wording import excerpt, plural
from coordination.cli.options import AsJson, connected, print_json

if TYPE_CHECKING:
    from coordination.client import Coordination
    from coordination.domain.money.budget_status import BudgetStatus
    from coordination.domain.money.budgets import BudgetPeriod

Whose = Annotated[str, typer.Argument(metavar="SCOPE", help="workspace, project, agent, session, run or task.")]
Name = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Which one; the workspace has no name.", show_default=False)
]
OfRun = Annotated[str | None, typer.Option("--run", metavar="RUN", help="With task: of this run.")]
_NONE = "none"
_MOST_TASKS = 20
_MOST_DIGITS = 18


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Budgets: what may be spent.")
    group.command("list")(list_)
    group.command("show")(show)
    group.command("set")(set_)
    group.command("raise")(raise_)
    group.command("remove")(remove)
    group.command("check")(check)
    app.add_typer(group, name="budgets")


def list_(
    *,
    project: Annotated[
        str | None, typer.Option("--project", "-p", metavar="NAME", help="Only of this project, its runs and tasks.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Only of this run and its tasks.")] = None,
    ended: Annotated[bool, typer.Option("--ended", help="Also of runs that have ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """All budgets: what is spent, reserved and left in their present period, and how many tasks wait for each."""
    with connected() as co:
        found = co.budgets.list(project=project, run=run, ended=ended)
    if as_json:
        print_json({"budgets": [one.to_json() for one in found]})
    else:
        budget_table(found)


def show(scope: Whose, name: Name = None, *, run: OfRun = None, as_json: AsJson = False) -> None:
    """The budgets of one subject, and which tasks wait for them."""
    from coordination.base.errors import NotFound

    with connected() as co:
        found = co.budgets.of(scope, _subject(co, scope, name, run))
        if not found:
            raise NotFound(
                f"The {scope}{f' {name}' if name else ''} has no budget",
                hint=f"Set one with: coord budgets set {scope}{f' {name}' if name else ''} --usd N",
            )
        waiting = _waiting(co, found)
    if as_json:
        print_json({"budgets": [one.to_json() for one in found], "waiting": waiting})
        return
    budget_table(found)
    for one in found:
        by = f" by {one.budget.set_by}" if one.budget.set_by else ""
        print(f"\nof the {one.period}: " if one.period != "total" else "\nin all: ", end="")
        print(f"{_does(one)}; set{by}" + (f" on {one.budget.set_at:%Y-%m-%d %H:%M} UTC" if one.budget.set_at else ""))
    if waiting:
        print("\nwhat waits for it")
        for each in waiting:
            print(f"  {each['key']}: {each['why']}")
        if (more := sum(one.waiting for one in found) - len(waiting)) > 0:
            print(f"  and {more} more")


def set_(
    scope: Whose,
    name: Name = None,
    *,
    usd: Annotated[str | None, typer.Option("--usd", metavar="N", help="US dollars.")] = None,
    tokens: Annotated[str | None, typer.Option("--tokens", metavar="N", help="Tokens.")] = None,
    starts: Annotated[
        str | None, typer.Option("--starts", metavar="N", help="Starts of agents and chats, whatever they end as.")
    ] = None,
    unpriced_calls: Annotated[
        str | None,
        typer.Option(
            "--unpriced-calls", metavar="N", help="Calls of models without a known price (with --usd: 0, if not said)."
        ),
    ] = None,
    period: Annotated[str, typer.Option("--period", help="total, or anew each day or month.")] = "total",
    on_exceed: Annotated[
        str | None,
        typer.Option("--on-exceed", metavar="WHAT", help="block (what does not fit waits), warn or downgrade."),
    ] = None,
    warn_at: Annotated[
        str | None, typer.Option("--warn-at", metavar="PERCENT", help="When it is told, in percent of a cap; 80.")
    ] = None,
    downgrade_to: Annotated[
        str | None, typer.Option("--downgrade-to", metavar="MODEL", help="The cheaper model, from --warn-at on.")
    ] = None,
    run: OfRun = None,
    as_json: AsJson = False,
) -> None:
    """Cap what a workspace, project, agent, session, run or task may spend; or change such a cap.

    Such as: coord budgets set project shop --usd 50 --period month; coord budgets set task fix --run nightly --usd 1

    What is not said stays as it was; "none" takes a cap away. Tasks that wait for money are looked at again at once.
    """
    from coordination.base.errors import Refused

    said: dict[str, Any] = {}
    if usd is not None:
        said["usd"] = None if usd == _NONE else usd
    numbers = {"tokens": tokens, "starts": starts, "max_unpriced_calls": unpriced_calls, "warn_at": warn_at}
    for key, text in numbers.items():
        if text is not None:
            said[key] = None if text == _NONE else _number(text)
    said |= {key: text for key, text in (("on_exceed", on_exceed), ("downgrade_to", downgrade_to)) if text is not None}
    if not said:
        raise Refused(
            "Say what the budget is to be", hint="Such as --usd 5, --tokens 100000, --starts 20 or --on-exceed warn"
        )
    with connected() as co:
        made = co.budgets.set(scope, _subject(co, scope, name, run), period=period, **said)
    _say(made, "is set", as_json=as_json)


def raise_(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[SCOPE] NAME USD",
            help="Whose budget (a run's, where it is not said and nothing else has that name), and its new cap.",
        ),
    ],
    *,
    period: Annotated[
        str | None, typer.Option("--period", help="Which budget, where one is for a period: total, day or month.")
    ] = None,
    run: OfRun = None,
    as_json: AsJson = False,
) -> None:
    """Give a budget in dollars a larger cap, so that what waits for it goes on.

    Such as: coord budgets raise nightly 5; coord budgets raise project shop 80 --period month;
    coord budgets raise workspace 200 --period month
    """
    from coordination.cli.raised_budget import parts, scope_of

    scope, name, usd = parts(words)
    with connected() as co:
        if scope is None:
            scope = scope_of(co, name or "", usd)
        made = co.budgets.raise_to(_subject(co, scope, name, run), usd, scope=scope, period=period)
        still = co.budgets.held(made.budget.subject) if made.scope == "run" else ()
    _say(made, "is raised", as_json=as_json)
    if still and not as_json:
        waiting = plural(len(still), "task of it waits", "tasks of it wait")
        print(f"{waiting} all the same: {still[0].sentence()}. {still[0].hint()}")


def remove(
    scope: Whose,
    name: Name = None,
    *,
    period: Annotated[
        str | None, typer.Option("--period", help="Which, if there are several: total, day or month.")
    ] = None,
    run: OfRun = None,
    as_json: AsJson = False,
) -> None:
    """Take a budget away; what waited for it goes on."""
    with connected() as co:
        found = co.budgets.remove(scope, _subject(co, scope, name, run), period=period)
    if as_json:
        print_json({"removed": found.to_json()})
    else:
        print(f"{_named(found)} is gone. What was spent stays in the ledger.")


def check(
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Write what the ledger says where it differs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare what is kept of every budget with the ledger and with what runs. Exit code 1: some differ."""
    from coordination.base.errors import NOT_COMPLETED, OK
    from coordination.cli.tables import show as table

    with connected() as co:
        found = co.budgets.check(repair=repair)
    wrong = [one for one in found if not one.right]
    if as_json:
        print_json({"checked": len(found), "repaired": repair, "wrong": [one.to_json() for one in wrong]})
    else:
        if wrong:
            table(
                ["scope", "name", "period", "kept: spent", "reserved", "counted: spent", "reserved"],
                [
                    (
                        one.budget.scope,
                        one.name,
                        one.budget.period,
                        *(_amount(amount) for use in (one.kept, one.counted) for amount in (use.spent, use.reserved)),
                    )
                    for one in wrong
                ],
            )
        mended = " and are mended" if repair else "; mend them with: coord budgets check --repair"
        checked, differing = plural(len(found), "budget"), plural(len(wrong), "differs", "differ")
        print(f"{checked} checked, {differing}{mended if wrong else ''}.")
    raise typer.Exit(NOT_COMPLETED if wrong and not repair else OK)


def budget_table(found: Sequence[BudgetStatus]) -> None:
    """Budgets for people."""
    from coordination.cli.tables import show as table

    table(
        ["scope", "name", "period", "cap", "spent", "reserved", "left", "%", "then", "waiting", "id"],
        [
            (
                one.scope,
                one.name,
                one.period,
                one.budget.caps(),
                _amount(one.spent),
                _amount(one.reserved),
                _left(one),
                "" if one.percent is None else one.percent,
                one.on_exceed,
                one.waiting or "",
                one.budget.subject if one.scope in ("run", "task", "session") else "",
            )
            for one in found
        ],
        empty="No budgets. Set one with: coord budgets set project NAME --usd 50 --period month",
    )


def caps_of_project(said: Mapping[str, Any]) -> dict[BudgetPeriod, dict[str, Any] | None]:
    """A project's budgets by their periods, as its options say them; None: it is to have none for that."""
    from coordination.base.errors import Refused
    from coordination.budgeting import period_named

    found: dict[BudgetPeriod, dict[str, Any] | None] = {}
    for key, value in said.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, dict | int | float | str)):
            raise Refused(f"{excerpt(value)} is no budget", hint="Write it like --budget month=50")
        found[period_named(key)] = value if value is None or isinstance(value, dict) else {"usd": value}
    return found


def spent_of(one: Mapping[str, Any]) -> str:
    """$12.00 of $50.00 of the month, $1.00 reserved; 3 tasks wait for it."""
    from coordination.base.money import show_usd

    parts = []
    if one["usd"] is not None:
        parts.append(f"{show_usd(one['spent']['usd'])} of {show_usd(one['usd'])}")
    if one["tokens"] is not None:
        parts.append(f"{one['spent']['tokens']:,} of {one['tokens']:,} tokens")
    if one["max_starts"] is not None:
        parts.append(f"{one['spent']['starts']:,} of {plural(one['max_starts'], 'start')}")
    when = "in all" if one["period"] == "total" else f"of the {one['period']}"
    reserved = f", {show_usd(one['reserved']['usd'])} reserved" if one["reserved"]["usd"] else ""
    waiting = f"; {plural(one['waiting'], 'task waits', 'tasks wait')} for it" if one["waiting"] else ""
    return f"{' and '.join(parts) or 'calls of unknown price'} {when}{reserved}{waiting}"


def _say(made: BudgetStatus, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"budget": made.to_json()})
        return
    print(f"{_named(made)} {what}: {made.budget.caps()}; {_does(made)}.")
    print(f"Spent {_amount(made.spent)}, reserved {_amount(made.reserved)}, left {_left(made)}.")
    if made.waiting:
        whose = "" if made.scope == "workspace" else f" {made.budget.subject}"
        waiting = plural(made.waiting, "task still waits", "tasks still wait")
        print(f"{waiting} for it. See: coord budgets show {made.scope}{whose}")


def _named(one: BudgetStatus) -> str:
    """The workspace's budget of the month; the budget of run nightly."""
    when = "" if one.period == "total" else f" of the {one.period}"
    return f"The budget{when} of {one.scope} {one.name}"


def _does(one: BudgetStatus) -> str:
    """What it does as it fills."""
    budget = one.budget
    told = f"told at {budget.warn_percent}%" if budget.warn_percent is not None else "not told before"
    if budget.action == "downgrade":
        return f"{told}, from where on jobs use {budget.downgrade_to}; then what does not fit waits"
    return f"{told}, " + ("holds nothing back" if budget.action == "warn" else "then what does not fit waits")


def _amount(of: Any) -> str:
    from coordination.base.money import show_usd

    parts = [show_usd(of.usd)]
    if of.tokens:
        parts.append(f"{of.tokens:,} tokens")
    if of.starts:
        parts.append(plural(of.starts, "start"))
    if of.unpriced:
        parts.append(f"{plural(of.unpriced, 'call')} of unknown price")
    return ", ".join(parts)


def _left(one: BudgetStatus) -> str:
    from coordination.base.money import show_usd

    parts = []
    if one.left_usd is not None:
        parts.append(show_usd(one.left_usd))
    if one.left_tokens is not None:
        parts.append(f"{one.left_tokens:,} tokens")
    if one.left_starts is not None:
        parts.append(plural(one.left_starts, "start"))
    return ", ".join(parts)


def _waiting(co: Coordination, found: Sequence[BudgetStatus]) -> list[dict[str, str]]:
    """The first tasks that wait for these, and why."""
    ids = {one.budget.id for one in found}
    lacks = [(task_id, lack) for task_id, lack in co.budgets.lacking().items() if lack.budget.id in ids]
    return [{"id": each, "key": co.task(each).key, "why": lack.sentence()} for each, lack in lacks[:_MOST_TASKS]]


def _subject(co: Coordination, scope: str, name: str | None, run: str | None) -> str | None:
    """What is named; of a run or a task its id, found as other commands find it."""
    from coordination.base.errors import Refused
    from coordination.cli.names import found_run, found_task

    if run is not None and (scope != "task" or name is None):
        raise Refused("--run says which run a task is of", hint="coord budgets set task KEY --run RUN --usd 1")
    if name is None or scope not in {"run", "task"}:
        return name
    return found_task(co, name, run).id if scope == "task" else found_run(co, name).id


def _number(text: str) -> Any:
    """A number if it is one; what it is then is not for this door to judge."""
    bare = text.replace(",", "").replace("_", "").removesuffix("%")
    return int(bare) if bare.isascii() and bare.isdecimal() and len(bare) <= _MOST_DIGITS else text
