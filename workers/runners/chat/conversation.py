"""One chat on the loop: calls the model and its tools until there is an answer that matches the schema."""

from __future__ import annotations

import asyncio
import re
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from decimal import Decimal
from functools import partial
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
from pydantic_ai.usage import RequestUsage

from coordination.domain.jobs import ChatCall
from coordination.domain.jobs.provider_error_table import ProviderErrorClass
from coordination.domain.money.pricing import PROVIDER
from coordination.domain.tasks.attempts import Usage
from workers.runners.agents.base import Transcript, usage_record
from workers.runners.agents.failures import AgentFailure, classify_failure
from workers.runners.chat import http, output_schema
from workers.runners.chat.errors import ChatGaveUp, failure_from_error, root_cause, was_sent
from workers.runners.chat.model_factory import make_model
from workers.runners.chat.providers import Access
from workers.runners.chat.servers import ToolServer
from workers.runners.output import clean_text

if TYPE_CHECKING:
    from workers.runners.chat.tools import Toolbox

log = structlog.get_logger()

OpenStream = Callable[[], AbstractAsyncContextManager[StreamedResponse]]

LONGEST_ANSWER = 8 * 1024 * 1024
"""Characters of one answer of a model; a longer one ends the attempt."""

MISMATCH_RETRIES = 2
"""How many times a model is asked again after an answer that does not match the schema."""

_STEP_RETRIES = 3  # after the first step, where giving up would lose paid work
_LONGEST_WAIT = 30.0
_FIRST_POLL, _LONGEST_POLL = 0.02, 1.0  # seconds
_TEXT_EVERY = 5.0  # seconds: a long text is logged in parts
_MAKERS = ("openai", "openai-chat", "openai-responses", "anthropic", "google", "azure")
"""Providers that serve their own models under the usual names. (Azure serves those of OpenAI.)"""


class ChatConversation:
    """The conversation of one attempt. The transcript has its result; ``value`` is an answer with a schema."""

    def __init__(
        self,
        call: ChatCall,
        transcript: Transcript,
        schema: output_schema.OutputSchema | None,
        *,
        limit: int,
        is_settled: Callable[[], bool] = lambda: True,
    ) -> None:
        self._call = call
        self._transcript = transcript
        self._schema = schema
        self._limit = limit
        self._is_settled = is_settled
        self._usage = ChatUsage(transcript, provider=call.provider, model=call.model)
        self._note_progress: Callable[[], None] = lambda: None
        self._mismatches = 0
        self.value: Any = None

    async def run(self, access: Access, servers: list[ToolServer], note_progress: Callable[[], None]) -> None:
        """Run the conversation to its end, which the transcript has afterwards."""
        self._note_progress = note_progress
        try:
            async with AsyncExitStack() as stack:
                client = await stack.enter_async_context(http.make_client(of_model=True))
                tools = await self._toolbox(stack, servers) if servers else None
                await self._run_steps(make_model(self._call, access, client), tools)
        except Exception as error:  # noqa: BLE001 - logged without values of variables
            # A provider or a tool server may send anything.
            cause = root_cause(error)
            self._transcript.failure = failure_from_error(cause, chat=self._call.chat)
            if not isinstance(cause, ChatGaveUp | ModelAPIError | http.AnsweredWithError):
                frames = "".join(traceback.format_tb(cause.__traceback__, -5))
                log.warning("a chat failed", chat=self._call.chat, error=type(cause).__name__, where=frames)

    async def _toolbox(self, stack: AsyncExitStack, servers: list[ToolServer]) -> Toolbox:
        from workers.runners.chat.tools import Toolbox  # imported late: a quarter of the memory of chats

        return await stack.enter_async_context(Toolbox(servers, note_progress=self._note_progress, limit=self._limit))

    async def _run_steps(self, model: Model, tools: Toolbox | None) -> None:
        call = self._call
        parameters = self._parameters(tools.definitions if tools is not None else [])
        settings: ModelSettings = {"max_retries": 0}  # the scheduler waits, and the slot is free meanwhile
        if (temperature := call.settings.get("temperature")) is not None:
            settings["temperature"] = temperature
        if (most := call.settings.get("max_tokens")) is not None:
            settings["max_tokens"] = most
        first: list[ModelRequestPart] = [SystemPromptPart(call.system)] if call.system else []
        messages: list[ModelMessage] = [ModelRequest([*first, UserPromptPart(call.prompt)])]
        open_stream = partial(
            model_request_stream, model, messages, model_settings=settings, model_request_parameters=parameters
        )
        for step in range(call.max_steps):
            await self._wait_until_settled()
            response = await self._step(open_stream, first=step == 0)
            replies = await self._replies(response, tools)
            if replies is None:
                self._transcript.ended = True
                return
            messages += [response, ModelRequest(replies)]  # in place: *open_stream* sends this list
        raise ChatGaveUp(AgentFailure(f"{call.chat} had no answer after {call.max_steps} steps (settings.max_steps)"))

    async def _wait_until_settled(self) -> None:
        """Wait until the last call is charged, so that no call exceeds a budget."""
        pause = _FIRST_POLL
        while not self._is_settled():
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_POLL)

    def _parameters(self, tools: list[ToolDefinition]) -> ModelRequestParameters:
        if self._schema is None:
            return ModelRequestParameters(function_tools=tools)
        fields: dict[str, Any] = {
            "name": output_schema.NAME,
            "description": "The final answer, which ends this conversation",
        }
        return ModelRequestParameters(
            function_tools=tools,
            output_mode="auto",  # the best mode for the model
            output_tools=[ToolDefinition(parameters_json_schema=self._schema.for_model, kind="output", **fields)],
            output_object=OutputObjectDefinition(self._schema.for_model, **fields),
        )

    async def _step(self, open_stream: OpenStream, *, first: bool) -> ModelResponse:
        """Call the model once; after the first step, retry a few times while its provider is unavailable."""
        retries = 0
        while True:
            try:
                return await self._request(open_stream)
            except Exception as error:
                failure = failure_from_error(error, chat=self._call.chat)
                if first or failure.error_class is not ProviderErrorClass.TRANSIENT or retries == _STEP_RETRIES:
                    raise
                retries += 1
                requested = error.retry_after if isinstance(error, ModelAPIError) else None
                wait = min(requested or 2.0**retries, _LONGEST_WAIT)
                self._transcript.add_text(f"… {failure.sentence}; trying again in {wait:g} s")
                await asyncio.sleep(wait)

    async def _request(self, open_stream: OpenStream) -> ModelResponse:
        is_open = False
        try:
            async with open_stream() as stream:
                is_open = True
                try:
                    await self._read_stream(stream)
                finally:
                    response = stream.get()
                    self._usage.add(response)
                    self._transcript.result = response.text  # the partial answer, if it is stopped
        except BaseException as error:
            if not is_open and was_sent(error):
                self._usage.add(ModelResponse([]))
            raise
        self._check_complete(response)
        self._transcript.result = None
        return response

    async def _read_stream(self, stream: StreamedResponse) -> None:
        text_stream = _TextStream(self._transcript)
        async for event in stream:
            self._note_progress()
            match event:
                case PartStartEvent(part=TextPart(content=text)):
                    text_stream.feed(text)
                case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                    text_stream.feed(text)
                case PartDeltaEvent(delta=ToolCallPartDelta(args_delta=str(text))):
                    text_stream.count(text)
                case PartEndEvent(part=TextPart()):
                    text_stream.end()
                case _:
                    pass
        text_stream.end()

    def _check_complete(self, response: ModelResponse) -> None:
        """Raise ChatGaveUp for an incomplete answer."""
        chat = self._call.chat
        match response.finish_reason:
            case "length":
                most = self._call.settings.get("max_tokens")
                why = f"after {most:,} tokens (settings.max_tokens)" if most else "because it became too long"
                raise ChatGaveUp(AgentFailure(f"{chat}: the answer was cut off {why}", _REFUSED_STATUS))
            case "content_filter":
                raise ChatGaveUp(AgentFailure(f"{chat}: the provider's content filter stopped the answer"))
        raw = (response.provider_details or {}).get("finish_reason")
        if response.finish_reason == "error" or (
            response.finish_reason is None and _INTERRUPTED.search(str(raw or ""))
        ):
            sentence = f"{chat}: the provider broke the answer off ({raw or 'error'})"
            raise ChatGaveUp(classify_failure(sentence, words=str(raw), otherwise=ProviderErrorClass.TRANSIENT))
        is_unmeasured = bool(response.usage.unmeasured_requests)
        if response.state != "complete" or (is_unmeasured and raw is None):
            raise ChatGaveUp(AgentFailure(f"{chat}: the answer broke off", lost_connection=True))

    async def _replies(self, response: ModelResponse, tools: Toolbox | None) -> list[ModelRequestPart] | None:
        """Return the next messages to the model; None when it has answered."""
        calls = response.tool_calls
        if self._schema is not None:
            for call in calls:
                if call.tool_name == output_schema.NAME:
                    return await self._check_answer(self._schema, response, call)
        if calls:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(self._call_tool(call, tools)) for call in calls]
            return [task.result() for task in running]
        text = response.text or ""
        if self._schema is not None:
            return await self._check_answer(self._schema, response, None)
        if not text.strip():
            raise ChatGaveUp(AgentFailure(f"{self._call.chat} answered nothing"))
        self._transcript.result = text
        return None

    async def _check_answer(
        self, schema: output_schema.OutputSchema, response: ModelResponse, call: ToolCallPart | None
    ) -> list[ModelRequestPart] | None:
        try:
            if call is None:
                self.value = await asyncio.to_thread(schema.of_text, response.text or "")
            else:
                self.value = await asyncio.to_thread(schema.check, _arguments(call))
        except output_schema.SchemaMismatchError as mismatch:
            self._mismatches += 1
            if self._mismatches > MISMATCH_RETRIES:
                error = f"{self._mismatches} answers in a row did not match the schema: {mismatch}"
                raise ChatGaveUp(AgentFailure(f"{self._call.chat}: {error}")) from None
            sentence = f"This answer does not match its JSON Schema: {mismatch}. Answer again with a valid value."
            self._transcript.add_text(f"… {sentence}")
            if call is None:
                return [UserPromptPart(sentence)]
            results = {call.tool_call_id: sentence}
            return [
                ToolReturnPart(
                    each.tool_name, results.get(each.tool_call_id, "Not run."), each.tool_call_id, outcome="retried"
                )
                for each in response.tool_calls
            ]
        return None

    async def _call_tool(self, call: ToolCallPart, tools: Toolbox | None) -> ToolReturnPart:
        id_ = call.tool_call_id
        try:
            arguments = _arguments(call)
        except output_schema.SchemaMismatchError as mismatch:
            self._transcript.add_tool_call(call.tool_name, call.args, id_=id_)
            text, failed = f"The arguments cannot be read: {mismatch}", True
        else:
            self._transcript.add_tool_call(call.tool_name, arguments, id_=id_)
            text, failed = ("There are no tools", True)
            if tools is not None:
                text, failed = await tools.call(call.tool_name, arguments)
        self._transcript.add_tool_result(text, id_=id_, failed=failed)
        return ToolReturnPart(call.tool_name, text, id_, outcome="failed" if failed else "success")


class ChatUsage:
    """Adds up usage in the transcript after each step, one record for each model, so that a stop loses nothing."""

    def __init__(self, transcript: Transcript, *, provider: str, model: str) -> None:
        self._transcript = transcript
        self._provider = provider
        self._model = model
        self._used: dict[str, RequestUsage] = {}
        self._cost: dict[str, Decimal | None] = {}

    def add(self, response: ModelResponse) -> None:
        """Add one call of the model, also with a partial answer."""
        model = clean_text(response.model_name or self._model)[:200]
        usage = response.usage
        if not usage.input_tokens and not usage.output_tokens and not usage.unmeasured_requests:
            # A call without usage (stopped, or not reported) is unmeasured, not free.
            usage = usage + RequestUsage(unmeasured_requests=1)
        cost = _cost(response)
        before = self._cost.get(model, Decimal(0))
        self._used[model] = self._used.get(model, RequestUsage()) + usage
        self._cost[model] = None if cost is None or before is None else before + cost
        self._transcript.set_usage(model, self._record(model))

    def _record(self, model: str) -> Usage:
        used = self._used[model]
        extra: dict[str, Any] = {
            "provider": self._provider,
            "reasoning_output_tokens": used.output_reasoning_tokens,
            "cache_write_input_tokens": used.cache_write_tokens,
            "unmeasured_requests": used.unmeasured_requests,
        }
        record = usage_record(
            model,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cached_tokens=used.cache_read_tokens,
            cost=self._cost[model],
        ) or Usage(model, total_tokens=0)
        record.extra.update({name: value for name, value in extra.items() if value})
        if self._provider not in _MAKERS:
            record.extra[PROVIDER] = self._provider
        return record


def _cost(response: ModelResponse) -> Decimal | None:
    """Return the dollars that the provider reports, or None. Price lists are applied elsewhere."""
    if response.usage.cost is not None:
        return response.usage.cost
    cost = (response.provider_details or {}).get("cost")
    return Decimal(repr(cost)) if isinstance(cost, int | float) and not isinstance(cost, bool) and cost >= 0 else None


class _TextStream:
    """Logs a text while it arrives: when it ends, or if it is long, in parts that end with a paragraph."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._parts: list[str] = []
        self._since = time.monotonic()
        self._size = 0

    def feed(self, text: str) -> None:
        """Take the next text."""
        self._parts.append(text)
        self.count(text)
        if "\n" in text and time.monotonic() - self._since >= _TEXT_EVERY:
            paragraphs, separator, rest = "".join(self._parts).rpartition("\n\n")
            if separator:
                self._transcript.add_text(paragraphs)
                self._parts, self._since = [rest], time.monotonic()

    def count(self, text: str) -> None:
        """Count text that is not logged, but uses memory."""
        self._size += len(text)
        if self._size > LONGEST_ANSWER:
            raise ChatGaveUp(AgentFailure(f"The answer has more than {LONGEST_ANSWER:,} characters"))

    def end(self) -> None:
        """End the text."""
        self._transcript.add_text("".join(self._parts))
        self._parts, self._since = [], time.monotonic()


_INTERRUPTED = re.compile(
    r"error|fail|abort|cancel|insufficient|overload|time.?out|interrupt|unavailable", re.IGNORECASE
)
_REFUSED_STATUS = 400  # not retried


def _arguments(call: ToolCallPart) -> dict[str, Any]:
    try:
        return call.args_as_dict(raise_if_invalid=True)
    except (ValueError, AssertionError, RecursionError):
        raise output_schema.SchemaMismatchError("they are not a JSON object") from None
