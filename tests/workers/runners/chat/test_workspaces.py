"""Test that chats of several workspaces share a worker's loop, and nothing through which one could reach another."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import model_server
from tests.support.chats import SERVER
from tests.support.model_server import ToolUse

KEYS = {"alice": "ALICE_KEY", "bob": "BOB_KEY"}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Collect what the provider received with each call: key, connection and cookie; the provider sets a cookie."""
    received: list[dict[str, Any]] = []

    def noting(handler: model_server._Handler) -> None:
        key = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        received.append({"key": key, "from": handler.client_address[1], "cookie": handler.headers.get("Cookie")})
        handler.send_header("Set-Cookie", f"session=of-{key}; Path=/")
        ending(handler)

    ending = model_server._Handler.end_headers
    monkeypatch.setattr(model_server._Handler, "end_headers", noting)
    for workspace, name in KEYS.items():
        monkeypatch.setenv(name, f"key-of-{workspace}")
    return received


@pytest.mark.parametrize("together", [True, False], ids=["at the same time", "one after the other"])
def test_connections_cookies_keys_and_tools_are_a_conversations_own(
    provide: Any,
    calls: list[dict[str, Any]],
    together: bool,  # noqa: FBT001
) -> None:
    tool = ToolUse("sh", {"command": "echo $PPID; env | grep -E '^(ALICE|BOB)_KEY='; true"})

    def by_turn(body: dict[str, Any]) -> str | ToolUse:
        return "done" if any(message["role"] == "tool" for message in body["messages"]) else tool

    with provide(*[by_turn] * 4) as provider:

        def begin(workspace: str) -> Any:
            claim = {"workspace_id": workspace}
            # With a key to each tool server, too: a chat's values reach no other servers than its own.
            server = {**SERVER, "secrets": [KEYS[workspace]]}
            return provider.start(claim=claim, secrets=[KEYS[workspace]], tools=[server])

        if together:
            for job in [begin(workspace) for workspace in KEYS]:
                assert job.end().output == "done"
        else:
            for workspace in KEYS:
                assert begin(workspace).end().output == "done"

        messages = [
            message["content"]
            for request in provider.server.requests
            for message in request["messages"]
            if message["role"] == "tool"
        ]

    by_key = {key: [call for call in calls if call["key"] == key] for key in ("key-of-alice", "key-of-bob")}
    assert sum(map(len, by_key.values())) == len(calls) == 4
    ports = {key: {call["from"] for call in result} for key, result in by_key.items()}
    assert ports["key-of-alice"].isdisjoint(ports["key-of-bob"])
    for key, result in by_key.items():
        assert {call["cookie"] for call in result} <= {None, f"session=of-{key}"}
    printed = [str(one).split() for one in messages]
    assert len(printed) == 2
    assert printed[0][0] != printed[1][0], "each has a server process of its own"
    assert all(len([word for word in one if "_KEY=" in word]) == 1 for one in printed)
