"""Makes pydantic-ai's model for a chat. Keys are handed over, so that nothing looks them up in the environment."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import httpx2
from pydantic_ai.exceptions import UserError
from pydantic_ai.models import Model, infer_model
from pydantic_ai.providers import Provider, infer_provider_class

from coordination.base.errors import Refused
from coordination.domain.jobs import ChatCall
from workers.runners.chat.providers import COMPATIBLE, Access

# What the parameter for the address is called, where it is not base_url.
_ADDRESS = {"azure": "azure_endpoint"}


def make_model(call: ChatCall, access: Access, client: httpx2.AsyncClient) -> Model:
    """The model of *call*; Refused with one sentence when there is none such."""
    name, provider = call.provider, _provider
    if access.address is not None and name in COMPATIBLE:
        provider = _compatible
        # At other addresses than OpenAI's own, only the older protocol is understood nearly everywhere.
        name = "openai-chat" if name == "openai" else name
    try:
        made = provider(call, access, client)
        return infer_model(f"{name}:{call.model}", provider_factory=lambda _: made)
    except ImportError:
        raise Refused(
            f"This worker has no package to hold chats with {call.provider}",
            hint=f'Run: pip install "pydantic-ai-slim[{call.provider}]"',
        ) from None
    except (UserError, ValueError, TypeError) as error:
        raise Refused(f"{call.chat} cannot be used: {error}") from None


def import_provider(call: ChatCall) -> None:
    """Import what `make_model` needs for the provider of *call*. It takes a second or more, so no loop should do it."""
    with contextlib.suppress(ImportError, ValueError):  # make_model says what is missing
        infer_provider_class(call.provider)


def _provider(call: ChatCall, access: Access, client: httpx2.AsyncClient) -> Provider[Any]:
    kind = infer_provider_class(call.provider)
    takes = inspect.signature(kind.__init__).parameters
    given: dict[str, Any] = {"api_key": access.key, "http_client": client, **access.more}
    if access.address is not None:
        where = _ADDRESS.get(call.provider, "base_url")
        if where not in takes:
            raise Refused(
                f"{call.provider} is reached at its own address only", hint=f"Write openai:{call.model} beside a url"
            )
        given[where] = access.address
    return kind(**given)


def _compatible(call: ChatCall, access: Access, client: httpx2.AsyncClient) -> Provider[Any]:
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    assert access.address is not None  # noqa: S101 - the caller looked
    return OpenAICompatibleProvider(call.provider, base_url=access.address, api_key=access.key, http_client=client)
