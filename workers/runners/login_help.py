"""How programs and providers are logged in, and advice for a host where one is not."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from coordination.base.host import host
from workers.runners.provider_environment import ProviderVariables


@dataclass(frozen=True, slots=True)
class Login:
    """How a program is logged in: by one of *variables* or *others*, or by a *command* that writes to the folder in
    the variable *folder*."""

    variables: Sequence[str] = ()
    command: str | None = None
    folder: str | None = None
    others: Sequence[str] = ()

    @property
    def enough(self) -> Sequence[str]:
        """Return variables, one of which an account must have, or the program would use another login."""
        return (*self.variables, *([self.folder] if self.folder else ()), *self.others)

    def advice(self, program: str, variables: ProviderVariables, named: Sequence[str] = ()) -> str:
        """Return what to do on this host. *named*: variables that the job names."""
        names = [*named, *(name for name in self.variables if name not in named)]
        if variables.account is not None:
            return self._account_advice(program, variables, variables.account, names)
        ways = []
        if names:
            set_it = f"set {' or '.join(names)} in the environment of the worker on {host()}, and start it again"
            ways += [set_it, f"keep it there in an account: {variables.accounts.suggestion(program, names[0])}"]
        if self.command:
            ways.insert(1, f"log in with {self.command} as the user of the worker")
        if not ways:
            ways.append(f"name the variable that holds its key on {host()}: secrets: [MY_KEY]")
        first, *others = ways
        return f"{program} is not logged in where this worker runs: {', or '.join([first, *others])}"

    def _account_advice(self, program: str, variables: ProviderVariables, account: str, names: Sequence[str]) -> str:
        if self.command and self.folder and (folder := variables.values.get(self.folder)):
            way = f"{self.folder}={shlex.quote(folder)} {self.command}"
        else:
            present = next((name for name in names if name in variables.values), None)
            way = variables.accounts.command(account, present or next(iter(names), "VARIABLE"))
        return f"{program} is not logged in with the account {account} on {host()}: run there {way}"
