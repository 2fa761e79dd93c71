"""``coord accounts …``: keys and log-ins of this machine. Secrets are never printed, nor taken as arguments."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from coordination.cli.options import AsJson, print_json
from coordination.domain.jobs.accounts import SecretPlace
from coordination.views import agents as views

if TYPE_CHECKING:
    from coordination.adapters.account_store import Account, Accounts
    from coordination.domain.plans.plan_warnings import PlanWarning
    from coordination.domain.plans.plans import Plan

Name = Annotated[str, typer.Argument(metavar="ACCOUNT", help="NAME, or the agent and a label: claude@work.")]
_IN_WORDS = {SecretPlace.FILE: "file", SecretPlace.KEYRING: "keyring", SecretPlace.SETTING: "file (no secret)"}


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    group = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="Manage accounts: named keys and log-ins of this machine."
    )
    group.command("list")(list_)
    group.command("show")(show)
    group.command("set")(set_)
    group.command("unset")(unset)
    app.add_typer(group, name="accounts")


def list_(*, as_json: AsJson = False) -> None:
    """List the accounts of this machine with the names of their variables."""
    from coordination.base.errors import CoordinationError
    from coordination.cli.tables import show as table

    accounts = _accounts()
    usable: list[Account] = []
    wrong: dict[str, str] = {}
    for name in accounts.names():
        try:
            usable.append(accounts.get(name))
        except CoordinationError as error:  # the others are listed all the same
            wrong[name] = error.sentence()
    if as_json:
        print_json(views.accounts(usable, accounts.folder, wrong))
        return
    table(
        ["account", "variables", "kept in"],
        [
            *(
                (
                    one.name,
                    ", ".join(variable.name for variable in one.variables),
                    ", ".join(sorted({_IN_WORDS[variable.kept] for variable in one.variables})),
                )
                for one in usable
            ),
            *((name, problem, "") for name, problem in wrong.items()),
        ],
        empty="No accounts. Create one: coord accounts set claude@work ANTHROPIC_API_KEY",
    )


def show(account: Name, *, as_json: AsJson = False) -> None:
    """Show the variables of an account, and where each is kept. Secrets are never shown."""
    from coordination.cli.tables import show as table

    accounts = _accounts()
    record = accounts.get(account)
    if as_json:
        print_json(views.account_in_folder(record, accounts.folder))
        return
    table(
        ["variable", "kept in", "value"],
        [(one.name, _IN_WORDS[one.kept], "(secret)" if one.value is None else one.value) for one in record.variables],
    )


def set_(
    account: Name,
    variables: Annotated[
        list[str],
        typer.Argument(
            metavar="VARIABLE…",
            help="A variable, whose value is asked for or read from stdin; NAME=VALUE for one that is no secret.",
        ),
    ],
    *,
    keep: Annotated[
        SecretPlace | None,
        typer.Option("--keep", help="Where to keep secrets (default: the keyring if one works, else a file)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set variables of an account, which is created if it is new. Jobs that name it get them from now on.

    At a terminal the values are asked for without echo. Elsewhere stdin is the value of the one variable.
    """
    from coordination.adapters.account_store import Account
    from coordination.base.errors import Refused
    from coordination.callers import check_caller
    from coordination.domain.jobs.accounts import check_account, check_secret, check_setting, check_variable
    from coordination.settings import load_settings

    check_account(account)
    settings = [text.partition("=")[::2] for text in variables if "=" in text]
    secret_names = [text for text in variables if "=" not in text]
    for name in (*secret_names, *(name for name, _ in settings)):
        check_variable(name)
    for name, value in settings:
        check_setting(name, value)
    if keep is SecretPlace.SETTING:
        raise Refused("A secret is kept in the keyring or in a file", hint="For what is no secret, write NAME=VALUE")
    if len(secret_names) > 1 and not sys.stdin.isatty():
        raise Refused("stdin holds the value of one variable", hint="Set one after the other")
    accounts = _accounts()
    check_caller(load_settings().database_url)
    secrets = [
        (name, check_secret(name, _asked(account, name))) for name in secret_names
    ]  # all, before anything is changed
    stored = [accounts.set(account, name, value, kept=SecretPlace.SETTING) for name, value in settings]
    stored += [accounts.set(account, name, value, kept=keep) for name, value in secrets]
    if as_json:
        print_json(views.account_in_folder(Account(account, tuple(stored)), accounts.folder))
        return
    for one in stored:
        where = "in the keyring" if one.kept is SecretPlace.KEYRING else f"in {accounts.folder}/{account}.json"
        print(f"{one.name} of {account} is kept {where}.")
    print(f"Jobs on this machine get it with account: {account}")


def unset(
    account: Name,
    variable: Annotated[str | None, typer.Argument(metavar="[VARIABLE]", help="Only this variable.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Delete a variable of an account, or the account. Running jobs keep what they have."""
    from coordination.callers import check_caller
    from coordination.settings import load_settings

    accounts = _accounts()
    check_caller(load_settings().database_url)
    gone = accounts.unset(account, variable)
    if as_json:
        print_json(views.about_account(account, unset=gone))
    else:
        print(f"Deleted {', '.join(gone)} of {account}.")


def unknown_accounts(plan: Plan) -> list[PlanWarning]:
    """Return a warning for each account in a checked plan that this machine does not have."""
    from coordination.base.host import host
    from coordination.domain.jobs import parse_job
    from coordination.domain.plans.plan_warnings import PlanWarning, WarningCode

    run_of = [parse_job(task.run) for task in plan.tasks]
    named = {plan.defaults.account, *(getattr(work, "account", None) for work in run_of)}
    who = [plan.questions, *((plan.supervision.assess, plan.supervision.analyze) if plan.supervision else ())]
    named |= {one.get("account") for one in who if one is not None and not isinstance(one, str)}
    accounts = _accounts()
    unknown = sorted({name for name in named if name is not None} - set(accounts.names()))
    help_ = "Where the plan's workers run, set it: coord accounts set {} VARIABLE"
    return [
        PlanWarning(WarningCode.NO_ACCOUNT, f"There is no account {name} on {host()}", help_.format(name), name=name)
        for name in unknown
    ]


def _accounts() -> Accounts:
    from coordination.adapters.account_store import Accounts
    from coordination.settings import load_settings

    return Accounts(load_settings().home)


def _asked(account: str, name: str) -> str:
    """Return the value for a variable, from the terminal without echo, or from stdin."""
    from coordination.base.errors import Refused

    if not sys.stdin.isatty():
        try:
            return sys.stdin.buffer.read().decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise Refused(f"The value for {name} is no text in UTF-8", field="value") from None
    import getpass
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(f"{name} of {account} (not shown): ").strip()
        except getpass.GetPassWarning:
            raise Refused("This terminal would show the value", hint="Give it on stdin instead") from None
        except EOFError:
            raise Refused(f"No value for {name} was given; nothing is changed") from None
