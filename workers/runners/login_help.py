"""How programs and providers are logged in, and what to do on a machine where one is not."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from coordination.base.host import host
from workers.runners.provider_environment import ProviderVariables


@dataclass(frozen=True, slots=True)
class LogIn:
    """How a program is logged in: by one of *variables*, or by a *command* that writes into the folder that the
    variable *folder* names. *others*: further variables, one of which is enough."""

    variables: Sequence[str] = ()
    command: str | None = None
    folder: str | None = None
    others: Sequence[str] = ()

    @property
    def enough(self) -> Sequence[str]:
        """Variables one of which an account must hold, or it would be another log-in that is used."""
        return (*self.variables, *([self.folder] if self.folder else ()), *self.others)

    def advice(self, program: str, given: ProviderVariables, named: Sequence[str] = ()) -> str:
        """The next step on this machine. *named*: variables that the job names itself."""
        names = [*named, *(name for name in self.variables if name not in named)]
        if given.account is not None:
            return self._of_account(program, given, given.account, names)
        ways = []
        if names:
            set_it = f"set {' or '.join(names)} in the environment of the worker on {host()}, and start it again"
            ways += [set_it, f"keep it there in an account: {given.accounts.suggestion(program, names[0])}"]
        if self.command:
            ways.insert(1, f"log in with {self.command} as the user of the worker")
        if not ways:
            ways.append(f"name the variable that holds its key on {host()}: secrets: [MY_KEY]")
        first, *others = ways
        return f"{program} is not logged in where this worker runs: {', or '.join([first, *others])}"

    def _of_account(self, program: str, given: ProviderVariables, account: str, names: Sequence[str]) -> str:
        if self.command and self.folder and (folder := given.values.get(self.folder)):
            way = f"{self.folder}={shlex.quote(folder)} {self.command}"
        else:
            held = next((name for name in names if name in given.values), None)
            way = given.accounts.command(account, held or next(iter(names), "VARIABLE"))
        return f"{program} is not logged in with the account {account} on {host()}: run there {way}"
