"""One chat on the loop: calls the model, calls its tools, until there is an answer of the form that was asked for."""

from __future__ import annotations

import asyncio
import re
import time
import traceback
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import structlog
from pydantic_ai.direct import model_request_stream
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    SystemPromptPart,
    TextPart,
    TextPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from coordination.domain.jobs import ChatCall
from coordination.domain.jobs.provider_error_table import ProviderErrorClass
from workers.runners.agents.base import Transcript
from workers.runners.agents.failures import AgentFailure, failure_of_words
from workers.runners.chat import http, output_schema
from workers.runners.chat.errors import ChatGaveUp, cause_of, failure_of, retry_after, was_sent
from workers.runners.chat.model_factory import make_model
from workers.runners.chat.providers import Access
from workers.runners.chat.servers import ToolServer
from workers.runners.chat.spending import ChatUsage

if TYPE_CHECKING:
    from workers.runners.chat.tools import Toolbox

log = structlog.get_logger()

LONGEST_ANSWER = 8 * 1024 * 1024
"""Characters of one answer of a model; a longer one ends the attempt."""

ASKED_AGAIN = 2
"""How often a model whose answer does not have the form is asked again."""

_TRIES_AGAIN = 3  # of a step in the middle, where giving up would lose what was paid for
_LONGEST_WAIT = 30.0
_FIRST_LOOK, _LAST_LOOK = 0.02, 1.0
_TELL_EVERY = 5.0  # seconds: a long text is told in pieces


class ChatConversation:
    """One attempt. What came of it stands in the transcript; ``value`` is the answer where it has a form."""

    def __init__(
        self,
        call: ChatCall,
        told: Transcript,
        form: output_schema.OutputSchema | None,
        *,
        limit: int,
        paid: Callable[[], bool] = lambda: True,
    ) -> None:
        self._call = call
        self._told = told
        self._form = form
        self._limit = limit
        self._paid = paid
        self._spending = ChatUsage(told, provider=call.provider, model=call.model)
        self._misfits = 0
        self.value: Any = None

    async def hold(self, access: Access, servers: list[ToolServer], moved: Callable[[], None]) -> None:
        """From the prompt to the answer. How it ended stands in the transcript."""
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(http.make_client(of_model=True))
                tools = await self._toolbox(stack, servers, moved)
                await self._go_on(make_model(self._call, access, client), tools, moved)
        except Exception as error:  # noqa: BLE001 - it is logged without what the variables held
            # A bulkhead: what a provider or a tool server sends may be anything.
            cause = cause_of(error)
            self._told.failure = failure_of(cause, chat=self._call.chat)
            if not isinstance(cause, ChatGaveUp | ModelAPIError | http.AnsweredWithError):
                where = traceback.format_tb(cause.__traceback__, -5)
                log.warning("a chat failed", chat=self._call.chat, error=type(cause).__name__, where="".join(where))

    async def _toolbox(
        self, stack: AsyncExitStack, servers: list[ToolServer], moved: Callable[[], None]
    ) -> Toolbox | None:
        if not servers:
            return None
        from workers.runners.chat.tools import Toolbox  # a quarter of all memory that chats take

        return await stack.enter_async_context(Toolbox(servers, moved=moved, limit=self._limit))

    async def _go_on(self, model: Model, tools: Toolbox | None, moved: Callable[[], None]) -> None:
        call = self._call
        parameters = self._parameters(tools.definitions if tools is not None else [])
        settings: ModelSettings = {"max_retries": 0}  # waiting is the scheduler's: the slot is free meanwhile
        if (heat := call.settings.get("temperature")) is not None:
            settings["temperature"] = heat
        if (most := call.settings.get("max_tokens")) is not None:
            settings["max_tokens"] = most
        first: list[ModelRequestPart] = [SystemPromptPart(call.system)] if call.system else []
        messages: list[ModelMessage] = [ModelRequest([*first, UserPromptPart(call.prompt)])]
        for step in range(call.max_steps):
            await self._may_go_on()
            response = await self._step(model, messages, settings, parameters, moved, first=step == 0)
            replies = await self._replies(response, tools)
            if replies is None:
                self._told.ended = True
                return
            messages += [response, ModelRequest(replies)]
        raise ChatGaveUp(AgentFailure(f"{call.chat} had no answer after {call.max_steps} steps (settings.max_steps)"))

    async def _may_go_on(self) -> None:
        """Wait until what the last call cost is settled: one that there is no money for is not made."""
        pause = _FIRST_LOOK
        while not self._paid():
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LAST_LOOK)

    def _parameters(self, tools: list[ToolDefinition]) -> ModelRequestParameters:
        if self._form is None:
            return ModelRequestParameters(function_tools=tools)
        said: dict[str, Any] = {
            "name": output_schema.NAME,
            "description": "The final answer, which ends this conversation",
        }
        return ModelRequestParameters(
            function_tools=tools,
            output_mode="auto",  # as this model does it best
            output_tools=[ToolDefinition(parameters_json_schema=self._form.told, kind="output", **said)],
            output_object=OutputObjectDefinition(self._form.told, **said),
        )

    async def _step(
        self,
        model: Model,
        messages: list[ModelMessage],
        settings: ModelSettings,
        parameters: ModelRequestParameters,
        moved: Callable[[], None],
        *,
        first: bool,
    ) -> ModelResponse:
        """One call of the model. In the middle of a conversation, a busy provider is waited for a little here."""
        tries = 0
        while True:
            try:
                return await self._request(model, messages, settings, parameters, moved)
            except Exception as error:
                failure = failure_of(error, chat=self._call.chat)
                if first or failure.error_class is not ProviderErrorClass.TRANSIENT or tries == _TRIES_AGAIN:
                    raise
                tries += 1
                wait = min(retry_after(error) or 2.0**tries, _LONGEST_WAIT)
                self._told.say(f"… {failure.sentence}; trying again in {wait:g} s")
                await asyncio.sleep(wait)

    async def _request(
        self,
        model: Model,
        messages: list[ModelMessage],
        settings: ModelSettings,
        parameters: ModelRequestParameters,
        moved: Callable[[], None],
    ) -> ModelResponse:
        opened = False
        try:
            async with model_request_stream(
                model, messages, model_settings=settings, model_request_parameters=parameters
            ) as stream:
                opened = True
                try:
                    await self._listen(stream, moved)
                finally:
                    response = stream.get()
                    self._spending.add(response)
                    self._told.result = response.text  # what it had said, if it is stopped
        except BaseException as error:
            if not opened and was_sent(error):
                self._spending.add(ModelResponse([]))
            raise
        self._check_whole(response)
        self._told.result = None
        return response

    async def _listen(self, stream: StreamedResponse, moved: Callable[[], None]) -> None:
        speech = _Speech(self._told)
        async for event in stream:
            moved()
            match event:
                case PartStartEvent(part=TextPart(content=text)):
                    speech.hear(text)
                case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                    speech.hear(text)
                case PartDeltaEvent(delta=ToolCallPartDelta(args_delta=str(text))):
                    speech.count(text)
                case PartEndEvent(part=TextPart()):
                    speech.end()
                case _:
                    pass
        speech.end()

    def _check_whole(self, response: ModelResponse) -> None:
        """Raise GaveUp for an answer that broke off."""
        chat = self._call.chat
        match response.finish_reason:
            case "length":
                most = self._call.settings.get("max_tokens")
                why = f"after {most:,} tokens (settings.max_tokens)" if most else "because it became too long"
                raise ChatGaveUp(AgentFailure(f"{chat}: the answer was cut off {why}", _FOR_GOOD))
            case "content_filter":
                raise ChatGaveUp(AgentFailure(f"{chat}: the provider's content filter stopped the answer"))
        raw = (response.provider_details or {}).get("finish_reason")
        if response.finish_reason == "error" or (response.finish_reason is None and _BROKE.search(str(raw or ""))):
            sentence = f"{chat}: the provider broke the answer off ({raw or 'error'})"
            raise ChatGaveUp(failure_of_words(sentence, words=str(raw), otherwise=ProviderErrorClass.TRANSIENT))
        told_why = raw is not None
        unmeasured = bool(response.usage.unmeasured_requests)
        if response.state != "complete" or (unmeasured and not told_why):
            raise ChatGaveUp(AgentFailure(f"{chat}: the answer broke off", lost_connection=True))

    async def _replies(self, response: ModelResponse, tools: Toolbox | None) -> list[ModelRequestPart] | None:
        """What the model is told next; None when it has answered."""
        calls = response.tool_calls
        if self._form is not None:
            for call in calls:
                if call.tool_name == output_schema.NAME:
                    return await self._filled_in(self._form, response, call)
        if calls:
            async with asyncio.TaskGroup() as group:
                returning = [group.create_task(self._use(call, tools)) for call in calls]
            return [task.result() for task in returning]
        text = response.text or ""
        if self._form is not None:
            return await self._filled_in(self._form, response, None)
        if not text.strip():
            raise ChatGaveUp(AgentFailure(f"{self._call.chat} answered nothing"))
        self._told.result = text
        return None

    async def _filled_in(
        self, form: output_schema.OutputSchema, response: ModelResponse, call: ToolCallPart | None
    ) -> list[ModelRequestPart] | None:
        try:
            if call is None:
                self.value = await asyncio.to_thread(form.of_text, response.text or "")
            else:
                self.value = await asyncio.to_thread(form.of_call, _arguments(call))
        except output_schema.SchemaMismatchError as misfit:
            self._misfits += 1
            if self._misfits > ASKED_AGAIN:
                times = f"{self._misfits} answers in a row"
                raise ChatGaveUp(AgentFailure(f"{self._call.chat}: {times} did not fit the schema: {misfit}")) from None
            sentence = f"This answer does not fit its JSON Schema: {misfit}. Answer again, with what fits."
            self._told.say(f"… {sentence}")
            if call is None:
                return [UserPromptPart(sentence)]
            told = {call.tool_call_id: sentence}
            return [
                ToolReturnPart(
                    one.tool_name, told.get(one.tool_call_id, "Not run."), one.tool_call_id, outcome="retried"
                )
                for one in response.tool_calls
            ]
        return None

    async def _use(self, call: ToolCallPart, tools: Toolbox | None) -> ToolReturnPart:
        id_ = call.tool_call_id
        try:
            arguments = _arguments(call)
        except output_schema.SchemaMismatchError as misfit:
            self._told.call(call.tool_name, call.args, id_=id_)
            text, failed = f"The arguments cannot be read: {misfit}", True
        else:
            self._told.call(call.tool_name, arguments, id_=id_)
            text, failed = ("There are no tools", True)
            if tools is not None:
                text, failed = await tools.call(call.tool_name, arguments)
        self._told.returned(text, id_=id_, failed=failed)
        return ToolReturnPart(call.tool_name, text, id_, outcome="failed" if failed else "success")


class _Speech:
    """A text as it comes: told when it ends, and a long one in pieces, at the ends of its paragraphs."""

    def __init__(self, told: Transcript) -> None:
        self._told = told
        self._pieces: list[str] = []
        self._since = time.monotonic()
        self._size = 0

    def hear(self, text: str) -> None:
        """The next piece."""
        self._pieces.append(text)
        self.count(text)
        if "\n" in text and time.monotonic() - self._since >= _TELL_EVERY:
            whole, gap, rest = "".join(self._pieces).rpartition("\n\n")
            if gap:
                self._told.say(whole)
                self._pieces, self._since = [rest], time.monotonic()

    def count(self, text: str) -> None:
        """Something that is not told, but takes memory."""
        self._size += len(text)
        if self._size > LONGEST_ANSWER:
            raise ChatGaveUp(AgentFailure(f"The answer has more than {LONGEST_ANSWER:,} characters"))

    def end(self) -> None:
        """The text is over."""
        self._told.say("".join(self._pieces))
        self._pieces, self._since = [], time.monotonic()


_BROKE = re.compile(r"error|fail|abort|cancel|insufficient|overload|time.?out|interrupt|unavailable", re.IGNORECASE)
_FOR_GOOD = 400  # the status of what would be refused again


def _arguments(call: ToolCallPart) -> dict[str, Any]:
    try:
        return call.args_as_dict(raise_if_invalid=True)
    except (ValueError, AssertionError, RecursionError):
        raise output_schema.SchemaMismatchError("they are no JSON object") from None
