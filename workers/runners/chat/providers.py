"""Which providers chats can be held with, and the variables of the worker's environment that each needs by its nature.

A key goes to its provider's own address, or to the one that the worker's environment gives. To an address that the
*plan* gives goes only what the plan names: a variable, or the account that has the key.
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
"""Providers whose protocol many servers speak."""

_ANYTHING = "not-set"
"""For servers that want no key, and libraries that want one."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Of one provider: variables that may hold its key, and the one for its address; *more*: further ones, by the
    name of the parameter that takes them."""

    keys: tuple[str, ...]
    address: str | None = None
    more: Mapping[str, str] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.keys, *filter(None, [self.address]), *(self.more or {}).values())


_OPENAI = Needs(("OPENAI_API_KEY",), "OPENAI_BASE_URL")

KNOWN: Mapping[str, Needs] = {
    "openai": _OPENAI,
    "openai-chat": _OPENAI,
    "openai-responses": _OPENAI,
    "anthropic": Needs(("ANTHROPIC_API_KEY",), "ANTHROPIC_BASE_URL"),
    "google": Needs(("GOOGLE_API_KEY", "GEMINI_API_KEY"), "GOOGLE_GEMINI_BASE_URL"),
    "azure": Needs(("AZURE_OPENAI_API_KEY",), "AZURE_OPENAI_ENDPOINT", {"api_version": "OPENAI_API_VERSION"}),
    "cerebras": Needs(("CEREBRAS_API_KEY",)),
    "deepseek": Needs(("DEEPSEEK_API_KEY",)),
    "fireworks": Needs(("FIREWORKS_API_KEY",)),
    "moonshotai": Needs(("MOONSHOTAI_API_KEY",), "MOONSHOTAI_BASE_URL"),
    "ollama": Needs(("OLLAMA_API_KEY",), "OLLAMA_BASE_URL"),
    "openrouter": Needs(("OPENROUTER_API_KEY",)),
    "together": Needs(("TOGETHER_API_KEY",)),
    "vllm": Needs(("VLLM_API_KEY",), "VLLM_BASE_URL"),
}

_KEYLESS = frozenset({"ollama", "vllm"})


@dataclass(frozen=True, slots=True)
class Access:
    """How one chat reaches its model."""

    key: str
    address: str | None
    more: Mapping[str, str]


def needs_of(call: ChatCall) -> Needs:
    """What the chat's provider needs; Refused for one that nobody here knows."""
    if call.provider not in KNOWN:
        hint = did_you_mean(call.provider, KNOWN) or (
            f"There are {', '.join(KNOWN)}; and any server that speaks OpenAI's protocol, as openai:MODEL with its url"
        )
        raise Refused(f"No runner holds chats with {call.provider}", hint=hint)
    return KNOWN[call.provider]


def access(call: ChatCall, given: ProviderVariables) -> Access:
    """The key and the address for this chat; Refused when there is no key where one is needed."""
    needs = needs_of(call)
    said = call.url or (call.env.get(needs.address) if needs.address else None)
    address = said or (given.values.get(needs.address) if needs.address else None)
    usual = () if said and given.account is None else needs.keys
    key = next((given.values[name] for name in (*call.secrets[:1], *usual) if given.values.get(name)), None)
    if key is None and address is None and call.provider not in _KEYLESS:
        if given.account is not None:
            raise Refused(
                f"{call.provider} wants a key, and the account {given.account} on {host()} has no "
                f"{' or '.join(needs.keys)}",
                hint=f"Run there: {given.accounts.command(given.account, needs.keys[0])}",
            )
        raise Refused(
            f"{call.provider} wants a key, and the worker's environment has no {' or '.join(needs.keys)}",
            hint=f"Set it where the worker is started, on {host()}, or name another variable: secrets: [MY_KEY]; "
            f"or keep it there in an account: {given.accounts.suggestion(call.provider, needs.keys[0])}",
        )
    values = {**given.values, **call.env}
    more = {name: values[variable] for name, variable in (needs.more or {}).items() if values.get(variable)}
    return Access(key or _ANYTHING, address, more)
