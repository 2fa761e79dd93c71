"""``coord budgets …``: set caps on spending, show what is left, raise budgets."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from coordination.base.errors import NOT_COMPLETED, OK, Ambiguous, NotFound, Refused
from coordination.base.money import show_usd
from coordination.base.money import usd as dollars
from coordination.base.wording import excerpt, plural
from coordination.cli.names import find_run, find_task
from coordination.cli.options import AsJson, open_connection, print_json
from coordination.cli.tables import show as table
from coordination.views import money as views
from coordination.views.fields import listing

if TYPE_CHECKING:
    from coordination.api.connection import Coordination
    from coordination.domain.money.budget_status import BudgetStatus
    from coordination.domain.money.budgets import Amount, BudgetPeriod

Scope = Annotated[str, Argument(metavar="SCOPE", help="workspace, project, agent, session, run or task.")]
Name = Annotated[
    str | None, Argument(metavar="[NAME]", help="The subject; the workspace has no name.", show_default=False)
]
OfRun = Annotated[str | None, Option("--run", metavar="RUN", help="With task: the run of the task.")]
_NONE = "none"
_MOST_TASKS = 20
_MOST_DIGITS = 18


def list_(
    *,
    project: Annotated[
        str | None, Option("--project", "-p", metavar="NAME", help="Only this project, its runs and tasks.")
    ] = None,
    run: Annotated[str | None, Option(metavar="RUN", help="Only this run and its tasks.")] = None,
    ended: Annotated[bool, Option("--ended", help="Include budgets of ended runs.")] = False,
    as_json: AsJson = False,
) -> None:
    """List budgets: spent, reserved, left, and the number of waiting tasks."""
    with open_connection() as co:
        budgets = co.budgets.list(project=project, run=run, ended=ended)
    if as_json:
        print_json(listing("budgets", views.budget, budgets))
    else:
        budget_table(budgets)


def show(scope: Scope, name: Name = None, *, run: OfRun = None, as_json: AsJson = False) -> None:
    """Show the budgets of one subject, and the tasks that wait for them."""
    with open_connection() as co:
        budgets = co.budgets.of(scope, _subject(co, scope, name, run))
        if not budgets:
            subject, in_shell = (f"{scope} {name}", f"{scope} {shlex.quote(name)}") if name else (scope, scope)
            hint = f"Set one with: coord budgets set {in_shell} --usd N"
            raise NotFound(f"The {subject} has no budget", hint=hint)
        waiting = _waiting(co, budgets)
    if as_json:
        print_json(views.budgets_of_subject(budgets, waiting))
        return
    budget_table(budgets)
    for status in budgets:
        by = f" by {status.budget.set_by}" if status.budget.set_by else ""
        at = f" on {status.budget.set_at:%Y-%m-%d %H:%M} UTC" if status.budget.set_at else ""
        period = "in all" if status.period == "total" else f"of the {status.period}"
        print(f"\n{period}: {_effect(status)}; set{by}{at}")
    if waiting:
        print("\nwaiting tasks")
        for task in waiting:
            print(f"  {task['key']}: {task['why']}")
        if (more := sum(status.waiting for status in budgets) - len(waiting)) > 0:
            print(f"  and {more} more")


def set_(
    scope: Scope,
    name: Name = None,
    *,
    usd: Annotated[str | None, Option(metavar="N", help="US dollars.")] = None,
    tokens: Annotated[str | None, Option(metavar="N", help="Tokens.")] = None,
    starts: Annotated[
        str | None, Option(metavar="N", help="Starts of agents and chats, whatever their result.")
    ] = None,
    unpriced_calls: Annotated[
        str | None, Option(metavar="N", help="Calls of models without a known price (with --usd, the default is 0).")
    ] = None,
    period: Annotated[str, Option(help="total, day or month.")] = "total",
    on_exceed: Annotated[str | None, Option(metavar="WHAT", help="block (new work waits), warn or downgrade.")] = None,
    warn_at: Annotated[
        str | None, Option(metavar="PERCENT", help="Warn at this percentage of a cap (default: 80).")
    ] = None,
    downgrade_to: Annotated[
        str | None, Option(metavar="MODEL", help="The cheaper model to use from --warn-at on.")
    ] = None,
    run: OfRun = None,
    as_json: AsJson = False,
) -> None:
    """Set or change the caps of a workspace, project, agent, session, run or task.

    Examples: coord budgets set project shop --usd 50 --period month; coord budgets set task fix --run nightly --usd 1

    Only the given options change; "none" removes a cap. Waiting tasks are checked again at once.
    """
    fields: dict[str, Any] = {} if usd is None else {"usd": None if usd == _NONE else usd}
    numbers = {"tokens": tokens, "starts": starts, "max_unpriced_calls": unpriced_calls, "warn_at": warn_at}
    fields |= {key: None if text == _NONE else _number(text) for key, text in numbers.items() if text is not None}
    words = {"on_exceed": on_exceed, "downgrade_to": downgrade_to}
    fields |= {key: text for key, text in words.items() if text is not None}
    if not fields:
        hint = "Such as --usd 5, --tokens 100000, --starts 20 or --on-exceed warn"
        raise Refused("Give at least one cap or option", hint=hint)
    with open_connection() as co:
        budget = co.budgets.set(scope, _subject(co, scope, name, run), period=period, **fields)
    _answer(budget, "Set", as_json=as_json)


def raise_(
    words: Annotated[
        list[str],
        Argument(
            metavar="[SCOPE] NAME USD",
            help="The subject (without SCOPE: a run, if nothing else has that name) and its new cap.",
        ),
    ],
    *,
    period: Annotated[str | None, Option(help="The budget's period, if it has one: total, day or month.")] = None,
    run: OfRun = None,
    as_json: AsJson = False,
) -> None:
    """Raise the cap of a budget in dollars, so that waiting tasks can start.

    Examples: coord budgets raise nightly 5; coord budgets raise project shop 80 --period month;
    coord budgets raise workspace 200 --period month
    """
    scope, name, usd = _split_arguments(words)
    with open_connection() as co:
        if scope is None:
            scope = _scope_of(co, name or "", usd)
        budget = co.budgets.raise_to(_subject(co, scope, name, run), usd, scope=scope, period=period)
        shortages = co.budgets.shortages(budget.budget.subject) if budget.scope == "run" else ()
    _answer(budget, "Raised", as_json=as_json)
    if shortages and not as_json:
        waiting = plural(len(shortages), "task of it waits", "tasks of it wait")
        print(f"{waiting} anyway: {shortages[0].sentence()}. {shortages[0].hint()}")


def _split_arguments(words: Sequence[str]) -> tuple[str | None, str | None, str]:
    """Return scope (None: not given), name (None: the workspace) and amount."""
    from coordination.domain.money.budgets import BudgetScope

    match words:
        case [BudgetScope.WORKSPACE, usd]:
            return BudgetScope.WORKSPACE, None, usd
        case [scope, _] if scope in set(BudgetScope):
            raise Refused(f"Give the {scope} and its new cap", hint=f"coord budgets raise {scope} NAME 5")
        case [name, usd]:
            return None, name, usd
        case [scope, name, usd]:
            return scope, name, usd
    raise Refused("Give the subject of the budget and its new cap", hint="coord budgets raise run NAME 5")


def _scope_of(co: Coordination, name: str, usd: str) -> str:
    """Return ``run`` or ``project``, the scope that has the name. Raises Ambiguous where both have it."""
    from coordination.api.budgets import raise_command

    cap = dollars(usd)
    try:
        project = co.project(name)
    except NotFound:
        return "run"
    try:
        co.run(name)
    except NotFound:
        return "project"
    except Ambiguous:
        pass  # several runs, and a project
    budgets = [status.budget for status in co.budgets.of("project", project.id) if status.budget.usd is not None]
    raise Ambiguous(
        f"There is a run and a project {excerpt(name)}",
        hint="Choose the budget:",
        commands=[
            f"coord budgets raise run {shlex.quote(name)} {cap:f}",
            *(raise_command("project", name, cap, budget.period) for budget in budgets),
        ],
    )


def remove(
    scope: Scope,
    name: Name = None,
    *,
    period: Annotated[str | None, Option(help="The period, if there are several budgets: total, day or month.")] = None,
    run: OfRun = None,
    as_json: AsJson = False,
) -> None:
    """Remove a budget. Tasks that waited for it can start."""
    with open_connection() as co:
        budget = co.budgets.remove(scope, _subject(co, scope, name, run), period=period)
    if as_json:
        print_json(views.about_budget(removed=budget))
    else:
        print(f"Removed {_budget_name(budget)}. Its costs stay in the ledger.")


def check(
    *,
    repair: Annotated[bool, Option("--repair", help="Correct budgets that differ from the ledger.")] = False,
    as_json: AsJson = False,
) -> None:
    """Verify all budgets against the ledger and the running attempts. Exit code 1 when some differ."""
    with open_connection() as co:
        checks = co.budgets.check(repair=repair)
    wrong = [check for check in checks if not check.right]
    if as_json:
        print_json(views.budget_checks(checks, repaired=repair))
    else:
        if wrong:
            headers = ["scope", "name", "period", "stored: spent", "reserved", "counted: spent", "reserved"]
            rows = []
            for check in wrong:
                amounts = (check.kept.spent, check.kept.reserved, check.counted.spent, check.counted.reserved)
                rows.append((check.budget.scope, check.name, check.budget.period, *map(_amount, amounts)))
            table(headers, rows)
        repaired = " and corrected" if repair else "; correct them with: coord budgets check --repair"
        checked, differing = plural(len(checks), "budget"), plural(len(wrong), "differs", "differ")
        print(f"{checked} checked, {differing}{repaired if wrong else ''}.")
    raise typer.Exit(NOT_COMPLETED if wrong and not repair else OK)


def budget_table(budgets: Sequence[BudgetStatus]) -> None:
    """Print budgets as a table."""
    table(
        ["scope", "name", "period", "cap", "spent", "reserved", "left", "%", "then", "waiting", "id"],
        [
            (
                status.scope,
                status.name,
                status.period,
                status.budget.describe_caps(),
                _amount(status.spent),
                _amount(status.reserved),
                _left(status),
                "" if status.percent is None else status.percent,
                status.on_exceed,
                status.waiting or "",
                status.budget.subject if status.scope in ("run", "task", "session") else "",
            )
            for status in budgets
        ],
        empty="No budgets. Set one with: coord budgets set project NAME --usd 50 --period month",
    )


def caps_of_project(options: Mapping[str, Any]) -> dict[BudgetPeriod, dict[str, Any] | None]:
    """Return a project's budgets of these options, by period; None: remove the budget of that period."""
    from coordination.api.budgets import parse_period

    caps: dict[BudgetPeriod, dict[str, Any] | None] = {}
    for key, value in options.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, dict | int | float | str)):
            raise Refused(f"{excerpt(value)} is not a budget", hint="Write it like --budget month=50")
        caps[parse_period(key)] = value if value is None or isinstance(value, dict) else {"usd": value}
    return caps


def usage_of(status: BudgetStatus) -> str:
    """Return the usage in words: $12.00 of $50.00 of the month, $1.00 reserved; 3 tasks wait for it."""
    parts = []
    if status.usd is not None:
        parts.append(f"{show_usd(status.spent.usd)} of {show_usd(status.usd)}")
    if status.tokens is not None:
        parts.append(f"{status.spent.tokens:,} of {status.tokens:,} tokens")
    if status.max_starts is not None:
        parts.append(f"{status.spent.starts:,} of {plural(status.max_starts, 'start')}")
    when = "in all" if status.period == "total" else f"of the {status.period}"
    reserved = f", {show_usd(status.reserved.usd)} reserved" if status.reserved.usd else ""
    waiting = f"; {plural(status.waiting, 'task waits', 'tasks wait')} for it" if status.waiting else ""
    return f"{' and '.join(parts) or 'calls of unknown price'} {when}{reserved}{waiting}"


def _answer(budget: BudgetStatus, verb: str, *, as_json: bool) -> None:
    if as_json:
        print_json(views.about_budget(budget=budget))
        return
    print(f"{verb} {_budget_name(budget)}: {budget.budget.describe_caps()}; {_effect(budget)}.")
    print(f"Spent {_amount(budget.spent)}, reserved {_amount(budget.reserved)}, left {_left(budget)}.")
    if budget.waiting:
        whose = "" if budget.scope == "workspace" else f" {budget.budget.subject}"
        waiting = plural(budget.waiting, "task still waits", "tasks still wait")
        print(f"{waiting} for it. See: coord budgets show {budget.scope}{whose}")


def _budget_name(status: BudgetStatus) -> str:
    """Return the name of the budget in words: the budget of run nightly."""
    when = "" if status.period == "total" else f" of the {status.period}"
    return f"the budget{when} of {status.scope} {status.name}"


def _effect(status: BudgetStatus) -> str:
    """Return in words when the budget warns and what it blocks."""
    budget = status.budget
    warns = "does not warn" if budget.warn_percent is None else f"warns at {budget.warn_percent}%"
    if budget.action == "downgrade":
        return f"{warns}, then jobs use {budget.downgrade_to}; then blocks new work"
    return f"{warns}, " + ("blocks nothing" if budget.action == "warn" else "then blocks new work")


def _amount(amount: Amount) -> str:
    unpriced = [f"{plural(amount.unpriced, 'call')} of unknown price"] if amount.unpriced else []
    return ", ".join([_in_words(amount.usd, amount.tokens or None, amount.starts or None), *unpriced])


def _left(status: BudgetStatus) -> str:
    return _in_words(status.left_usd, status.left_tokens, status.left_starts)


def _in_words(usd: Decimal | None, tokens: int | None, starts: int | None) -> str:
    """Return the amounts that are not None."""
    parts = [] if usd is None else [show_usd(usd)]
    parts += [] if tokens is None else [f"{tokens:,} tokens"]
    parts += [] if starts is None else [plural(starts, "start")]
    return ", ".join(parts)


def _waiting(co: Coordination, budgets: Sequence[BudgetStatus]) -> list[dict[str, str]]:
    """Return the first tasks that wait for these budgets, and why."""
    ids = {status.budget.id for status in budgets}
    shortages = [(id_, shortage) for id_, shortage in co.budgets.lacking().items() if shortage.budget.id in ids]
    return [{"id": id_, "key": co.task(id_).key, "why": why.sentence()} for id_, why in shortages[:_MOST_TASKS]]


def _subject(co: Coordination, scope: str, name: str | None, run: str | None) -> str | None:
    """Return the subject; for a run or a task, its id."""
    if run is not None and (scope != "task" or name is None):
        raise Refused("--run is for the budget of a task", hint="coord budgets set task KEY --run RUN --usd 1")
    if name is None or scope not in {"run", "task"}:
        return name
    return find_task(co, name, run).id if scope == "task" else find_run(co, name).id


def _number(text: str) -> Any:
    """Return the number in a text, or else the text, which the API refuses."""
    bare = text.replace(",", "").replace("_", "").removesuffix("%")
    return int(bare) if bare.isascii() and bare.isdecimal() and len(bare) <= _MOST_DIGITS else text
