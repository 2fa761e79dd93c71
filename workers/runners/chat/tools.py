"""A chat's tools: clients of MCP servers over pipes or HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import anyio
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp_types import CONNECTION_CLOSED, CallToolResult, Implementation, jsonrpc_message_adapter
from pydantic_ai.tools import ToolDefinition

from workers.runners.agents.failures import AgentFailure
from workers.runners.chat import http
from workers.runners.chat.errors import ChatGaveUp, root_cause
from workers.runners.chat.servers import ToolServer, describe_exit
from workers.runners.output import clean_text, one_line, shorten

LONGEST_LINE = 8 * 1024 * 1024
"""Bytes of one message of a server; a longer one ends the connection."""

_CONNECT_SECONDS = 60
_MOST_PAGES = 100
_LONGEST_NAME = 64
_INVALID = re.compile(r"[^A-Za-z0-9_-]")
_CLIENT_INFO = Implementation(name="coordination", version="1")


@dataclass(frozen=True, slots=True)
class _Tool:
    client: Client
    server: ToolServer
    name: str


class Toolbox:
    """The tools of all servers, with names that every provider accepts. Enter it in the chat's task on the loop."""

    def __init__(self, servers: Sequence[ToolServer], *, note_progress: Callable[[], None], limit: int) -> None:
        self._servers = servers
        self._note_progress = note_progress
        self._limit = limit
        self._stack = contextlib.AsyncExitStack()
        self._tools: dict[str, _Tool] = {}
        self.definitions: list[ToolDefinition] = []

    async def __aenter__(self) -> Self:
        async with self._stack:
            transports = [await self._stack.enter_async_context(self._streams(server)) for server in self._servers]
            for server, streams in zip(self._servers, transports, strict=True):
                await self._connect(server, streams)
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def call(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, bool]:
        """Return the tool's result and whether it failed. Raises ChatGaveUp when its server has ended."""
        tool = self._tools.get(name)
        if tool is None:
            return f"There is no tool {name}. There are: {', '.join(self._tools) or 'none'}", True
        try:
            result = await tool.client.call_tool(tool.name, dict(arguments), progress_callback=self._progress)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                raise ChatGaveUp(self._server_failure(tool.server)) from error
            return f"The tool failed: {error.message}", True
        except (ValueError, RuntimeError) as error:  # the result is invalid in its version of the protocol
            return f"The tool returned an invalid result: {one_line(str(error), 300)}", True
        return shorten(_texts(result), self._limit), bool(result.is_error)

    async def _progress(self, progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG002
        self._note_progress()

    @contextlib.asynccontextmanager
    async def _streams(self, server: ToolServer) -> AsyncIterator[Any]:
        """Open the transport of one server."""
        if server.url is None:
            async with _pipe_streams(server, self._note_progress) as streams:
                yield streams
        else:
            async with (
                http.make_client(server.headers) as client,
                streamable_http_client(server.url, http_client=client) as streams,
            ):
                yield streams

    async def _connect(self, server: ToolServer, streams: Any) -> None:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                client = Client(contextlib.nullcontext(streams), cache=None, client_info=_CLIENT_INFO)
                await self._list(server, await self._stack.enter_async_context(client))
        except TimeoutError:
            sentence = f"The tool server {server.name} did not answer within {_CONNECT_SECONDS} s"
            raise ChatGaveUp(AgentFailure(sentence)) from None
        except Exception as error:
            cause = root_cause(error)
            if isinstance(cause, MCPError) and cause.code == CONNECTION_CLOSED:
                raise ChatGaveUp(self._server_failure(server)) from error
            if isinstance(cause, MCPError | ValueError):
                raise ChatGaveUp(
                    AgentFailure(one_line(f"The tool server {server.name} refused: {cause}", 300))
                ) from error
            raise

    async def _list(self, server: ToolServer, client: Client) -> None:
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                name = self._unique_name(tool.name)
                self._tools[name] = _Tool(client, server, tool.name)
                schema, description = dict(tool.input_schema), clean_text(tool.description or "")
                self.definitions.append(
                    ToolDefinition(name=name, parameters_json_schema=schema, description=description)
                )
            cursor = page.next_cursor
            if not cursor:
                break

    def _unique_name(self, name: str) -> str:
        base = _INVALID.sub("_", name)[:_LONGEST_NAME] or "tool"
        unique, number = base, 1
        while unique in self._tools:
            number += 1
            unique = f"{base[: _LONGEST_NAME - 5]}_{number}"
        return unique

    def _server_failure(self, server: ToolServer) -> AgentFailure:
        last_line = one_line(server.printed.text().strip().rpartition("\n")[2], 200)
        reasons = ", ".join(filter(None, [describe_exit(server), last_line]))
        return AgentFailure(f"The tool server {server.name} ended" + (f" ({reasons})" if reasons else ""))


class _PipeProtocol(asyncio.Protocol):
    """Flow control of a pipe. *feed*: gets the data of a pipe that is read."""

    def __init__(self, feed: Callable[[bytes], None] | None = None) -> None:
        self._feed = feed
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.is_closed = False

    def data_received(self, data: bytes) -> None:
        if self._feed is not None:
            self._feed(data)

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as in the base class
        self.is_closed = True
        self.may_write.set()


@contextlib.asynccontextmanager
async def _pipe_streams(server: ToolServer, note_progress: Callable[[], None]) -> AsyncIterator[Any]:
    """Open streams of messages, one a line, over a program's pipes. The caller ends the program."""
    pipes = server.pipes
    if pipes is None or not pipes.adopt():
        raise ChatGaveUp(AgentFailure(f"The tool server {server.name} is not running"))
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=LONGEST_LINE)

    def feed_stderr(data: bytes) -> None:
        server.stderr(data)
        note_progress()

    with contextlib.ExitStack() as files:
        read, errors, write = (
            files.enter_context(open(fd, mode, buffering=0))  # noqa: ASYNC230, PTH123 - open descriptors
            for fd, mode in ((pipes.from_it, "rb"), (pipes.errors, "rb"), (pipes.to_it, "wb"))
        )
        reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), read)
        files.callback(reading.close)
        reading_errors, _ = await loop.connect_read_pipe(lambda: _PipeProtocol(feed_stderr), errors)
        files.callback(reading_errors.close)
        writing, protocol = await loop.connect_write_pipe(_PipeProtocol, write)
        files.callback(lambda: None if protocol.is_closed else writing.abort())
        received_in, received = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        to_send, to_send_out = anyio.create_memory_object_stream[SessionMessage](0)

        async def receive() -> None:
            async with received_in:
                with contextlib.suppress(ValueError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    while line := await lines.readline():
                        note_progress()
                        await received_in.send(_parse(line))

        async def send() -> None:
            async with to_send_out:
                async for message in to_send_out:
                    text: str = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                    writing.write(text.encode() + b"\n")
                    await protocol.may_write.wait()

        async with anyio.create_task_group() as group, received, to_send:
            group.start_soon(receive)
            group.start_soon(send)
            try:
                yield received, to_send
            finally:
                group.cancel_scope.cancel()


def _parse(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error


def _texts(result: CallToolResult) -> str:
    """Return the text of a result; other content is only named, because not every model supports it."""
    parts = []
    for part in result.content:
        inner = getattr(part, "resource", part)
        text = getattr(inner, "text", None)
        if isinstance(text, str):
            parts.append(text)
        else:
            kind = getattr(inner, "mime_type", None) or part.type
            parts.append(f"[{kind} {getattr(inner, 'uri', '')}: not shown]".replace(" :", ":"))
    if not parts and result.structured_content is not None:
        import json

        parts.append(json.dumps(result.structured_content, ensure_ascii=False))
    return clean_text("\n".join(parts))
