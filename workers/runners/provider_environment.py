"""The variables with which a job asks its provider: of the worker's environment, or of the account that it names.

With an account, none of those that decide whom its program asks, and who pays, come from the worker's environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

from coordination.adapters.account_store import Accounts
from coordination.base import inherited_variables
from coordination.base.errors import Refused
from coordination.base.host import host
from coordination.settings import load_settings
from workers.runners.secret_masking import Secrets


class Caller(Protocol):
    """A job that is given variables."""

    @property
    def account(self) -> str | None: ...
    @property
    def env(self) -> Mapping[str, str]: ...


class ProviderVariables(Secrets):
    """The variables of one job, and what to hide of them. Raises Refused for an account that cannot be used.

    *passes_on*: what its program needs by its nature; *named*: what the job names as its secrets. *account*: whose all
    of *passes_on* are, and what else it holds; None: the worker's environment has them. *example*: a variable that one
    who makes the account may begin with.
    """

    def __init__(
        self,
        accounts: Accounts,
        account: str | None,
        passes_on: Sequence[str],
        *,
        named: Sequence[str],
        example: str | None = None,
    ) -> None:
        self.accounts = accounts
        self.account = account
        if account is None:
            super().__init__(passes_on, named=named)
            return
        held = accounts.held(account, example=example or next(iter(passes_on), "VARIABLE"))
        around = inherited_variables.original_environment()
        environ = {name: around[name] for name in named if name in around and name not in passes_on}
        super().__init__(held.values, {**environ, **held.values}, named=(*named, *held.secret))


class ProviderEnvironment:
    """Gives jobs their variables. *accounts*: None: those of the home folder that the settings name."""

    def __init__(self, accounts: Accounts | None = None) -> None:
        if accounts is not None:
            self._accounts = accounts

    @cached_property
    def _accounts(self) -> Accounts:
        return Accounts(load_settings().home)

    def given_to(
        self,
        call: Caller,
        *,
        program: str,
        passes_on: Sequence[str],
        named: Sequence[str],
        enough: Sequence[str] = (),
    ) -> ProviderVariables:
        """What the job is given; Refused with one sentence for what is not there.

        *enough*: variables one of which its account must hold, or those that the job names.
        """
        given = ProviderVariables(
            self._accounts, call.account, passes_on, named=named, example=next(iter((*named, *enough)), None)
        )
        missing = ", ".join(name for name in named if name not in given.values)
        first = missing.partition(",")[0]
        if call.account is None:
            if missing:
                raise Refused(
                    f"The worker's environment has no {missing}",
                    hint=f"Set it where the worker is started, on {host()}, or keep it there in an account: "
                    f"{self._accounts.suggestion(program, first)}",
                )
            return given
        if missing:
            raise Refused(
                f"Neither the account {call.account} on {host()} nor the worker's environment has {missing} for it",
                hint=f"Run there: {self._accounts.command(call.account, first)}",
            )
        if enough and not any(name in given.values for name in (*enough, *named)):
            raise Refused(
                f"The account {call.account} on {host()} has none of {', '.join(enough)}, "
                f"with which {program} is logged in",
                hint=f"Run there: {self._accounts.command(call.account, next(iter(enough)))}",
            )
        if both := sorted(given.values.keys() & call.env.keys()):
            raise Refused(
                f"env sets {both[0]}, which the account {call.account} decides",
                hint="Leave it out of env, or name another account",
                field="run.env",
            )
        return given
