"""An MCP session of a server that offers tools. Standard library only.

It supports two generations of the protocol, as the official library does, chosen by the client's first request. Up to
2025-11-25 there is the ``initialize`` handshake; since 2026-07-28 each request carries the version and the
capabilities of the client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from coordination import __version__
from coordination.mcp_server.tools import Tool, call

NAME = "coord"
HANDSHAKE_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSIONS = ("2026-07-28",)
SERVER = {"name": NAME, "version": __version__}

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
UNSUPPORTED_VERSION = -32022

_PREFIX = "io.modelcontextprotocol/"
_VERSION, _CAPABILITIES, _SERVER_INFO = (
    f"{_PREFIX}{name}" for name in ("protocolVersion", "clientCapabilities", "serverInfo")
)

_IN_A_JOB = "Report on your task. It is completed when your job ends successfully."
_OUTSIDE = "Read the state of agents' runs and tasks."


Answer = dict[str, Any] | Callable[[], dict[str, Any]] | None
"""An answer, a function that computes it, or None for no answer."""


class McpSession:
    """The state of the connection with one client."""

    def __init__(self, reporting: Sequence[Tool], reading: Sequence[Tool]) -> None:
        self._tools = (*reporting, *reading)
        self._instructions = instructions(reporting, reading)
        self._modern: bool | None = None

    def answer(self, message: object) -> Answer:
        """Return the answer to a message; for a tool call, a function that runs it."""
        if not isinstance(message, Mapping) or not is_request(message):
            return None if is_silent(message) else error_response(None, INVALID_REQUEST, "The message is not a request")
        id_, method, params = message["id"], message["method"], message.get("params") or {}
        if not isinstance(params, Mapping):
            return error_response(id_, INVALID_PARAMS, "params must be an object")
        meta = params.get("_meta")
        enveloped = isinstance(meta, Mapping) and _VERSION in meta
        if self._modern is None:
            self._modern = enveloped and method != "initialize"
        if not self._modern:
            if enveloped and method != "initialize":
                text = "This connection was opened with initialize; its requests must not have a version"
                return error_response(id_, INVALID_REQUEST, text)
            return self._answer(id_, method, params)
        return self._problem(id_, method, params) or self._answer_modern(id_, method, params)

    def _answer(self, id_: object, method: str, params: Mapping[str, Any]) -> Answer:
        match method:
            case "initialize":
                version = params.get("protocolVersion")
                return response(
                    id_,
                    {
                        "protocolVersion": version if version in HANDSHAKE_VERSIONS else HANDSHAKE_VERSIONS[-1],
                        **self._about(),
                        "serverInfo": SERVER,
                    },
                )
            case "ping":
                return response(id_, {})
            case "tools/list":
                return response(id_, self._list())
            case "tools/call":
                return self._call(id_, params, {})
        return error_response(id_, METHOD_NOT_FOUND, "Method not found", method)

    @staticmethod
    def _problem(id_: object, method: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the error of a request without a handshake, or None."""
        if method == "initialize":
            text = f"This connection uses {MODERN_VERSIONS[-1]}, which has no initialize"
            return error_response(id_, UNSUPPORTED_VERSION, text, _supported(params.get("protocolVersion")))
        meta = params.get("_meta")
        if not isinstance(meta, Mapping) or _VERSION not in meta or not isinstance(meta.get(_CAPABILITIES), Mapping):
            return error_response(id_, INVALID_PARAMS, f"params._meta must have {_VERSION} and {_CAPABILITIES}")
        if meta[_VERSION] not in MODERN_VERSIONS:
            text = "That version of the protocol is not supported"
            return error_response(id_, UNSUPPORTED_VERSION, text, _supported(meta[_VERSION]))
        return None

    def _answer_modern(self, id_: object, method: str, params: Mapping[str, Any]) -> Answer:
        common = {"resultType": "complete", "_meta": {_SERVER_INFO: SERVER}}
        uncached = {"ttlMs": 0, "cacheScope": "private", **common}
        match method:
            case "server/discover":
                return response(id_, {"supportedVersions": [*MODERN_VERSIONS], **self._about(), **uncached})
            case "tools/list":
                return response(id_, {**self._list(), **uncached})
            case "tools/call":
                return self._call(id_, params, common)
        return error_response(id_, METHOD_NOT_FOUND, "Method not found", method)

    def _about(self) -> dict[str, Any]:
        return {"capabilities": {"tools": {"listChanged": False}}, "instructions": self._instructions}

    def _list(self) -> dict[str, Any]:
        return {"tools": [tool.declaration() for tool in self._tools]}

    def _call(self, id_: object, params: Mapping[str, Any], common: Mapping[str, Any]) -> Answer:
        name, arguments = params.get("name"), params.get("arguments")
        if not isinstance(name, str) or not (arguments is None or isinstance(arguments, Mapping)):
            return error_response(id_, INVALID_PARAMS, "tools/call needs name (a string) and arguments (an object)")
        return partial(self._run_tool, id_, name, arguments, common)

    def _run_tool(
        self, id_: object, name: str, arguments: Mapping[str, Any] | None, common: Mapping[str, Any]
    ) -> dict[str, Any]:
        text, is_error = call(self._tools, name, arguments)
        return response(id_, {"content": [{"type": "text", "text": text}], "isError": is_error, **common})


def instructions(reporting: Sequence[Tool], reading: Sequence[Tool]) -> str:
    """Return the instructions of the server."""
    return " ".join([*([_IN_A_JOB] if reporting else []), *([_OUTSIDE] if reading else [])])


def is_request(message: Mapping[str, Any]) -> bool:
    """Return whether the message is a JSON-RPC 2.0 request that needs an answer."""
    id_ = message.get("id")
    return (
        message.get("jsonrpc") == "2.0"
        and isinstance(message.get("method"), str)
        and (isinstance(id_, str) or (isinstance(id_, int) and not isinstance(id_, bool)))
    )


def is_silent(message: object) -> bool:
    """Return whether the message is a notification, or an answer without a request."""
    return isinstance(message, Mapping) and ("id" not in message or "result" in message or "error" in message)


def response(id_: object, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to the request with that id."""
    return {"jsonrpc": "2.0", "id": id_, "result": dict(result)}


def error_response(id_: object, code: int, text: str, data: object = None) -> dict[str, Any]:
    """Return the error for the request with that id; None: the id is unknown."""
    error = {"code": code, "message": text} | ({} if data is None else {"data": data})
    return {"jsonrpc": "2.0", "id": id_, "error": error}


def _supported(requested: object) -> dict[str, Any]:
    return {"supported": [*MODERN_VERSIONS], "requested": str(requested)}
