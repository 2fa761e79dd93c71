"""``coord accounts …``: keys and log-ins of this machine. Secrets are never printed nor accepted as arguments."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from coordination.base.errors import CoordinationError, Refused
from coordination.base.host import host
from coordination.cli.options import AsJson, print_json
from coordination.cli.tables import show as table
from coordination.domain.jobs import parse_job
from coordination.domain.jobs.accounts import SecretPlace, check_account, check_secret, check_setting, check_variable
from coordination.settings import load_settings
from coordination.views import agents as views

if TYPE_CHECKING:
    from coordination.adapters.account_store import Account, Accounts
    from coordination.domain.plans.plan_warnings import PlanWarning
    from coordination.domain.plans.plans import Plan

Name = Annotated[str, Argument(metavar="ACCOUNT", help="NAME, or the agent and a label: claude@work.")]
_IN_WORDS = {SecretPlace.FILE: "file", SecretPlace.KEYRING: "keyring", SecretPlace.SETTING: "file (no secret)"}


def list_(*, as_json: AsJson = False) -> None:
    """List the accounts of this machine with the names of their variables."""
    accounts = _accounts()
    usable: list[Account] = []
    problems: dict[str, str] = {}
    for name in accounts.names():
        try:
            usable.append(accounts.get(name))
        except CoordinationError as error:  # list the others nevertheless
            problems[name] = error.sentence()
    if as_json:
        print_json(views.accounts(usable, accounts.folder, problems))
        return
    table(
        ["account", "variables", "kept in"],
        [
            *(
                (
                    account.name,
                    ", ".join(variable.name for variable in account.variables),
                    ", ".join(sorted({_IN_WORDS[variable.kept] for variable in account.variables})),
                )
                for account in usable
            ),
            *((name, problem, "") for name, problem in problems.items()),
        ],
        empty="No accounts. Create one: coord accounts set claude@work ANTHROPIC_API_KEY",
    )


def show(account: Name, *, as_json: AsJson = False) -> None:
    """Show the variables of an account, and where each is stored. Secrets are never shown."""
    accounts = _accounts()
    record = accounts.get(account)
    if as_json:
        print_json(views.account_in_folder(record, accounts.folder))
        return
    table(
        ["variable", "kept in", "value"],
        [
            (variable.name, _IN_WORDS[variable.kept], "(secret)" if variable.value is None else variable.value)
            for variable in record.variables
        ],
    )


def set_(
    account: Name,
    variables: Annotated[
        list[str],
        Argument(
            metavar="VARIABLE…",
            help="A variable, whose value is prompted for or read from stdin; NAME=VALUE for one that is not secret.",
        ),
    ],
    *,
    keep: Annotated[
        SecretPlace | None, Option(help="Where to store secrets (default: the keyring if one works, else a file).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set variables of an account, which is created if it is new. New jobs that name the account get them.

    On a terminal, prompts for the values without echo. Elsewhere stdin has the value of a single variable.
    """
    from coordination.adapters.account_store import Account
    from coordination.callers import check_caller

    check_account(account)
    settings = [text.partition("=")[::2] for text in variables if "=" in text]
    secret_names = [text for text in variables if "=" not in text]
    for name in (*secret_names, *(name for name, _ in settings)):
        check_variable(name)
    for name, value in settings:
        check_setting(name, value)
    if keep is SecretPlace.SETTING:
        raise Refused(
            "A secret is stored in the keyring or in a file", hint="For values that are not secret, write NAME=VALUE"
        )
    if len(secret_names) > 1 and not sys.stdin.isatty():
        raise Refused("stdin has the value of a single variable", hint="Set one variable at a time")
    accounts = _accounts()
    check_caller(load_settings().database_url)
    # Read all values before anything is changed.
    secrets = [(name, check_secret(name, _read_value(account, name))) for name in secret_names]
    stored = [accounts.set(account, name, value, kept=SecretPlace.SETTING) for name, value in settings]
    stored += [accounts.set(account, name, value, kept=keep) for name, value in secrets]
    if as_json:
        print_json(views.account_in_folder(Account(account, tuple(stored)), accounts.folder))
        return
    for variable in stored:
        place = "the keyring" if variable.kept is SecretPlace.KEYRING else f"{accounts.folder}/{account}.json"
        print(f"{variable.name} of {account} is kept in {place}.")
    print(f"Jobs on this machine get it with account: {account}")


def unset(
    account: Name,
    variable: Annotated[str | None, Argument(metavar="[VARIABLE]", help="Only this variable.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Delete a variable of an account, or the account. Running jobs keep their variables."""
    from coordination.callers import check_caller

    accounts = _accounts()
    check_caller(load_settings().database_url)
    deleted = accounts.unset(account, variable)
    if as_json:
        print_json(views.about_account(account, unset=deleted))
    else:
        print(f"Deleted {', '.join(deleted)} of {account}.")


def unknown_accounts(plan: Plan) -> list[PlanWarning]:
    """Return a warning for each account in a checked plan that this machine does not have."""
    from coordination.domain.plans.plan_warnings import PlanWarning, WarningCode

    jobs = [parse_job(task.run) for task in plan.tasks]
    named = {plan.defaults.account, *(getattr(job, "account", None) for job in jobs)}
    answerers = [plan.questions, *((plan.supervision.assess, plan.supervision.analyze) if plan.supervision else ())]
    named |= {job.get("account") for job in answerers if job is not None and not isinstance(job, str)}
    accounts = _accounts()
    unknown = sorted({name for name in named if name is not None} - set(accounts.names()))
    hint = "Where the plan's workers run, set it: coord accounts set {} VARIABLE"
    return [
        PlanWarning(WarningCode.NO_ACCOUNT, f"There is no account {name} on {host()}", hint.format(name), name=name)
        for name in unknown
    ]


def _accounts() -> Accounts:
    from coordination.adapters.account_store import Accounts

    return Accounts(load_settings().home)


def _read_value(account: str, name: str) -> str:
    """Return the value for a variable, from the terminal without echo, or from stdin."""
    if not sys.stdin.isatty():
        try:
            return sys.stdin.buffer.read().decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise Refused(f"The value for {name} is not UTF-8 text", field="value") from None
    import getpass

    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(f"{name} of {account} (not shown): ").strip()
        except getpass.GetPassWarning:
            raise Refused("This terminal would show the value", hint="Give it on stdin") from None
        except EOFError:
            raise Refused(f"No value for {name} was given; nothing was changed") from None
