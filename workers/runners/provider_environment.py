"""The variables with which a job uses its provider, from the worker's environment or the account that the job names.

With an account, none of the variables that decide which provider is used, and who pays, are from the environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from coordination.adapters.account_store import Accounts
from coordination.base import inherited_variables
from coordination.base.errors import Refused
from coordination.base.host import host
from coordination.domain.jobs import AgentCall, ChatCall
from coordination.domain.jobs.kinds.http_call import HttpCall
from coordination.settings import load_settings
from workers.runners.secret_masking import Secrets


class ProviderVariables(Secrets):
    """The variables of one job, with those to mask. Raises Refused for an account that cannot be used.

    *passes_on*: variables that the program needs. *named*: the secrets that the job names. *account*: the account with
    all of *passes_on* and others; None: the worker's environment has them. *example*: a variable for advice on how to
    create the account.
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
        stored = accounts.held(account, example=example or next(iter(passes_on), "VARIABLE"))
        inherited = inherited_variables.original_environment()
        environ = {name: inherited[name] for name in named if name in inherited and name not in passes_on}
        super().__init__(stored.values, {**environ, **stored.values}, named=(*named, *stored.secret))


class ProviderEnvironment:
    """Provides the variables of jobs, from the worker's environment and the accounts in its home folder."""

    @cached_property
    def _accounts(self) -> Accounts:
        return Accounts(load_settings().home)

    def variables_for(
        self,
        call: AgentCall | ChatCall | HttpCall,
        *,
        program: str,
        passes_on: Sequence[str],
        named: Sequence[str],
        enough: Sequence[str] = (),
    ) -> ProviderVariables:
        """Return the job's variables; raises Refused for missing ones.

        *enough*: the account must have one of these, or of those that the job names.
        """
        variables = ProviderVariables(
            self._accounts, call.account, passes_on, named=named, example=next(iter((*named, *enough)), None)
        )
        missing = ", ".join(name for name in named if name not in variables.values)
        first = missing.partition(",")[0]
        if call.account is None:
            if missing:
                hint = f"Set it where the worker is started, on {host()}"
                if "account" in call.field_names():
                    hint += f", or keep it there in an account: {self._accounts.suggestion(program, first)}"
                raise Refused(f"The worker's environment has no {missing}", hint=hint)
            return variables
        if missing:
            raise Refused(
                f"Neither the account {call.account} on {host()} nor the worker's environment has {missing} for it",
                hint=f"Run there: {self._accounts.command(call.account, first)}",
            )
        if enough and not any(name in variables.values for name in (*enough, *named)):
            raise Refused(
                f"The account {call.account} on {host()} has none of {', '.join(enough)}, "
                f"with which {program} is logged in",
                hint=f"Run there: {self._accounts.command(call.account, next(iter(enough)))}",
            )
        if both := sorted(variables.values.keys() & call.env.keys()):
            raise Refused(
                f"env sets {both[0]}, which the account {call.account} decides",
                hint="Leave it out of env, or name another account",
                field="run.env",
            )
        return variables
