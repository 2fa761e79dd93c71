"""The providers of chats, and the variables of the worker's environment that they need.

A key is sent to its provider's own address, or to the one in the worker's environment. To an address in the *plan*,
only a key that the plan names is sent: a variable, or the account that has the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordination.base.errors import Refused
from coordination.base.host import host
from coordination.base.wording import did_you_mean
from coordination.domain.jobs import ChatCall
from workers.runners.provider_environment import ProviderVariables

COMPATIBLE = ("openai", "openai-chat", "openai-responses")
"""Providers whose protocol many servers support."""

_DUMMY_KEY = "not-set"
"""For servers without keys, because the library requires one."""


@dataclass(frozen=True, slots=True)
class ProviderVariableNames:
    """The variables of one provider: those that may have its key, and the one of its address. *more*: others, by the
    name of their parameter."""

    keys: tuple[str, ...]
    address: str | None = None
    more: Mapping[str, str] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return all variables."""
        return (*self.keys, *filter(None, [self.address]), *(self.more or {}).values())


_OPENAI = ProviderVariableNames(("OPENAI_API_KEY",), "OPENAI_BASE_URL")

PROVIDERS: Mapping[str, ProviderVariableNames] = {
    "openai": _OPENAI,
    "openai-chat": _OPENAI,
    "openai-responses": _OPENAI,
    "anthropic": ProviderVariableNames(("ANTHROPIC_API_KEY",), "ANTHROPIC_BASE_URL"),
    "google": ProviderVariableNames(("GOOGLE_API_KEY", "GEMINI_API_KEY"), "GOOGLE_GEMINI_BASE_URL"),
    "azure": ProviderVariableNames(
        ("AZURE_OPENAI_API_KEY",), "AZURE_OPENAI_ENDPOINT", {"api_version": "OPENAI_API_VERSION"}
    ),
    "cerebras": ProviderVariableNames(("CEREBRAS_API_KEY",)),
    "deepseek": ProviderVariableNames(("DEEPSEEK_API_KEY",)),
    "fireworks": ProviderVariableNames(("FIREWORKS_API_KEY",)),
    "moonshotai": ProviderVariableNames(("MOONSHOTAI_API_KEY",), "MOONSHOTAI_BASE_URL"),
    "ollama": ProviderVariableNames(("OLLAMA_API_KEY",), "OLLAMA_BASE_URL"),
    "openrouter": ProviderVariableNames(("OPENROUTER_API_KEY",)),
    "together": ProviderVariableNames(("TOGETHER_API_KEY",)),
    "vllm": ProviderVariableNames(("VLLM_API_KEY",), "VLLM_BASE_URL"),
}

_KEYLESS = frozenset({"ollama", "vllm"})


@dataclass(frozen=True, slots=True)
class Access:
    """How a chat reaches its model."""

    key: str
    address: str | None
    more: Mapping[str, str]


def variable_names_of(call: ChatCall) -> ProviderVariableNames:
    """Return the variables of the chat's provider. Raises Refused for an unknown provider."""
    if call.provider not in PROVIDERS:
        hint = did_you_mean(call.provider, PROVIDERS) or (
            f"Known are {', '.join(PROVIDERS)}, and any server with OpenAI's protocol as openai:MODEL with its url"
        )
        raise Refused(f"No runner holds chats with {call.provider}", hint=hint)
    return PROVIDERS[call.provider]


def find_access(call: ChatCall, variables: ProviderVariables) -> Access:
    """Return key and address of the chat. Raises Refused when a key is missing."""
    names = variable_names_of(call)
    plan_address = call.url or (call.env.get(names.address) if names.address else None)
    address = plan_address or (variables.values.get(names.address) if names.address else None)
    default_keys = () if plan_address and variables.account is None else names.keys
    key = next(
        (variables.values[name] for name in (*call.secrets[:1], *default_keys) if variables.values.get(name)), None
    )
    if key is None and address is None and call.provider not in _KEYLESS:
        if variables.account is not None:
            raise Refused(
                f"{call.provider} needs a key, and the account {variables.account} on {host()} has no "
                f"{' or '.join(names.keys)}",
                hint=f"Run there: {variables.accounts.command(variables.account, names.keys[0])}",
            )
        raise Refused(
            f"{call.provider} needs a key, and the worker's environment has no {' or '.join(names.keys)}",
            hint=f"Set it where the worker is started, on {host()}, or name another variable: secrets: [MY_KEY]; "
            f"or keep it there in an account: {variables.accounts.suggestion(call.provider, names.keys[0])}",
        )
    values = {**variables.values, **call.env}
    more = {name: values[variable] for name, variable in (names.more or {}).items() if values.get(variable)}
    return Access(key or _DUMMY_KEY, address, more)
