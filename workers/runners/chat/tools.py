"""A chat's tools: MCP servers, spoken to over the pipes of their programs or over HTTP."""

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
from workers.runners.chat.errors import ChatGaveUp, cause_of
from workers.runners.chat.servers import ToolServer, how_it_ended
from workers.runners.output import clean_text, one_line, shorten

LONGEST_LINE = 8 * 1024 * 1024
"""Bytes of one message of a server; a longer one ends it."""

_CONNECT_SECONDS = 60
_MOST_PAGES = 100
_LONGEST_NAME = 64
_UNNAMEABLE = re.compile(r"[^A-Za-z0-9_-]")
_US = Implementation(name="coordination", version="1")


@dataclass(frozen=True, slots=True)
class _Tool:
    client: Client
    server: ToolServer
    name: str


class Toolbox:
    """The tools of all servers, under names that every provider takes. Enter it on the loop, in the chat's own task."""

    def __init__(self, servers: Sequence[ToolServer], *, moved: Callable[[], None], limit: int) -> None:
        self._servers = servers
        self._moved = moved
        self._limit = limit
        self._stack = contextlib.AsyncExitStack()
        self._tools: dict[str, _Tool] = {}
        self.definitions: list[ToolDefinition] = []

    async def __aenter__(self) -> Self:
        async with self._stack:
            speaking = [await self._stack.enter_async_context(self._streams(server)) for server in self._servers]
            for server, streams in zip(self._servers, speaking, strict=True):
                await self._connect(server, streams)
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def call(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, bool]:
        """What the tool gave back, and whether it failed. Raises GaveUp when its server is gone."""
        tool = self._tools.get(name)
        if tool is None:
            return f"There is no tool {name}. There are: {', '.join(self._tools) or 'none'}", True
        try:
            result = await tool.client.call_tool(tool.name, dict(arguments), progress_callback=self._progress)
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                raise ChatGaveUp(self._gone(tool.server)) from error
            return f"The tool failed: {error.message}", True
        except (ValueError, RuntimeError) as error:  # what it gave back is no result of its version of the protocol
            return f"The tool gave back nothing usable: {one_line(str(error), 300)}", True
        return shorten(_texts(result), self._limit), bool(result.is_error)

    async def _progress(self, progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG002
        self._moved()

    @contextlib.asynccontextmanager
    async def _streams(self, server: ToolServer) -> AsyncIterator[Any]:
        """The transport of one server."""
        if server.url is None:
            async with _piped(server, self._moved) as streams:
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
                client = await self._stack.enter_async_context(Client(_given(streams), cache=None, client_info=_US))
                await self._list(server, client)
        except TimeoutError:
            sentence = f"The tool server {server.name} did not answer within {_CONNECT_SECONDS} s"
            raise ChatGaveUp(AgentFailure(sentence)) from None
        except Exception as error:
            cause = cause_of(error)
            if isinstance(cause, MCPError) and cause.code == CONNECTION_CLOSED:
                raise ChatGaveUp(self._gone(server)) from error
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
                name = self._free(tool.name)
                self._tools[name] = _Tool(client, server, tool.name)
                schema = dict(tool.input_schema)
                self.definitions.append(
                    ToolDefinition(
                        name=name, parameters_json_schema=schema, description=clean_text(tool.description or "")
                    )
                )
            cursor = page.next_cursor
            if not cursor:
                break

    def _free(self, name: str) -> str:
        base = _UNNAMEABLE.sub("_", name)[:_LONGEST_NAME] or "tool"
        free, number = base, 1
        while free in self._tools:
            number += 1
            free = f"{base[: _LONGEST_NAME - 5]}_{number}"
        return free

    def _gone(self, server: ToolServer) -> AgentFailure:
        said = one_line(server.printed.text().strip().rpartition("\n")[2], 200)
        ended = how_it_ended(server)
        why = f" ({', '.join(filter(None, [ended, said]))})" if ended or said else ""
        return AgentFailure(f"The tool server {server.name} went away{why}")


@contextlib.asynccontextmanager
async def _given(streams: Any) -> AsyncIterator[Any]:
    yield streams


class _Writing(asyncio.Protocol):
    """Says when more may be written; for the reading of stderr, keeps what arrives."""

    def __init__(self, feed: Callable[[bytes], None] | None = None) -> None:
        self._feed = feed
        self.clear = asyncio.Event()
        self.clear.set()
        self.lost = False

    def data_received(self, data: bytes) -> None:
        if self._feed is not None:
            self._feed(data)

    def pause_writing(self) -> None:
        self.clear.clear()

    def resume_writing(self) -> None:
        self.clear.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as its base has it
        self.lost = True
        self.clear.set()


@contextlib.asynccontextmanager
async def _piped(server: ToolServer, moved: Callable[[], None]) -> AsyncIterator[Any]:
    """Streams of messages over a program's pipes, one a line; the program is somebody else's to end."""
    pipes = server.pipes
    if pipes is None or not pipes.adopt():
        raise ChatGaveUp(AgentFailure(f"The tool server {server.name} is not running"))
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=LONGEST_LINE)

    def complain(data: bytes) -> None:
        server.complaints(data)
        moved()

    with contextlib.ExitStack() as files:
        read, errors, write = (
            files.enter_context(open(fd, mode, buffering=0))  # noqa: ASYNC230, PTH123 - descriptors, which are open
            for fd, mode in ((pipes.from_it, "rb"), (pipes.errors, "rb"), (pipes.to_it, "wb"))
        )
        reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), read)
        files.callback(reading.close)
        complaining, _ = await loop.connect_read_pipe(lambda: _Writing(complain), errors)
        files.callback(complaining.close)
        writing, protocol = await loop.connect_write_pipe(_Writing, write)
        files.callback(lambda: None if protocol.lost else writing.abort())
        heard_in, heard = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        said, said_out = anyio.create_memory_object_stream[SessionMessage](0)

        async def hear() -> None:
            async with heard_in:
                with contextlib.suppress(ValueError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    while line := await lines.readline():
                        moved()
                        await heard_in.send(_parsed(line))

        async def say() -> None:
            async with said_out:
                async for message in said_out:
                    text: str = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                    writing.write(text.encode() + b"\n")
                    await protocol.clear.wait()

        async with anyio.create_task_group() as group, heard, said:
            group.start_soon(hear)
            group.start_soon(say)
            try:
                yield heard, said
            finally:
                group.cancel_scope.cancel()


def _parsed(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError as error:
        return error


def _texts(result: CallToolResult) -> str:
    """The text of a result; what is none is named, because not every model can look at it."""
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
