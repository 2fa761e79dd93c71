"""Makes pydantic-ai's model for a chat. Keys are passed explicitly, so that it does not read the environment."""

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

# The parameter for the address, if it is not base_url.
_ADDRESS = {"azure": "azure_endpoint"}


def make_model(call: ChatCall, access: Access, client: httpx2.AsyncClient) -> Model:
    """Return the model of *call*. Raises Refused."""
    name, make = call.provider, _make_provider
    if access.address is not None and name in COMPATIBLE:
        make = _make_compatible
        # At addresses other than OpenAI's, only the older protocol is widely supported.
        name = "openai-chat" if name == "openai" else name
    try:
        provider = make(call, access, client)
        return infer_model(f"{name}:{call.model}", provider_factory=lambda _: provider)
    except ImportError:
        raise Refused(
            f"This worker has no package to hold chats with {call.provider}",
            hint=f'Run: pip install "pydantic-ai-slim[{call.provider}]"',
        ) from None
    except (UserError, ValueError, TypeError) as error:
        raise Refused(f"{call.chat} cannot be used: {error}") from None


def import_provider(call: ChatCall) -> None:
    """Import what ``make_model`` needs. It takes a second or more, so do not call it on the loop."""
    with contextlib.suppress(ImportError, ValueError):  # make_model raises Refused
        infer_provider_class(call.provider)


def _make_provider(call: ChatCall, access: Access, client: httpx2.AsyncClient) -> Provider[Any]:
    provider = infer_provider_class(call.provider)
    parameters = inspect.signature(provider.__init__).parameters
    arguments: dict[str, Any] = {"api_key": access.key, "http_client": client, **access.more}
    if access.address is not None:
        name = _ADDRESS.get(call.provider, "base_url")
        if name not in parameters:
            raise Refused(
                f"{call.provider} is reached at its own address only", hint=f"Write openai:{call.model} beside a url"
            )
        arguments[name] = access.address
    return provider(**arguments)


def _make_compatible(call: ChatCall, access: Access, client: httpx2.AsyncClient) -> Provider[Any]:
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    assert access.address is not None  # noqa: S101 - checked by the caller
    return OpenAICompatibleProvider(call.provider, base_url=access.address, api_key=access.key, http_client=client)
