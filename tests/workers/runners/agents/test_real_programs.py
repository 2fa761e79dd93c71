"""Test the real Codex, Gemini CLI and OpenCode from the npm registry, with a stand-in for their providers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from tests.support.jobs import Bench
from tests.support.model_server import INPUT_TOKENS, Answer, running_model_server
from tests.support.npm import CODEX, GEMINI, OPENCODE, npm_program

pytestmark = [pytest.mark.network, pytest.mark.timeout(400)]


@dataclass(frozen=True)
class Program:
    """An agent's program: its package, and the files and variables with which it uses the server at an address."""

    package: str
    settings: Callable[[str, Path], Mapping[str, str]]


def codex(url: str, home: Path) -> dict[str, str]:
    (home / "codex").mkdir()
    (home / "codex" / "config.toml").write_text(
        'model = "gpt-5"\nmodel_provider = "ours"\n[model_providers.ours]\nname = "ours"\n'
        f'base_url = "{url}/v1"\nenv_key = "CODEX_API_KEY"\nwire_api = "responses"\n'
        "request_max_retries = 0\nstream_max_retries = 0\n[analytics]\nenabled = false\n"
    )
    return {"CODEX_HOME": str(home / "codex"), "CODEX_API_KEY": "of-nobody"}


def gemini(url: str, home: Path) -> dict[str, str]:
    settings = {
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "privacy": {"usageStatisticsEnabled": False},
        "general": {"enableAutoUpdate": False},
    }
    (home / ".gemini").mkdir()
    (home / ".gemini" / "settings.json").write_text(json.dumps(settings))
    return {"GEMINI_API_KEY": "of-nobody", "GOOGLE_GEMINI_BASE_URL": url}


def opencode(url: str, home: Path) -> dict[str, str]:
    model = {"cost": {"input": 3, "output": 15}, "limit": {"context": 200_000, "output": 8_000}}
    options = {"baseURL": f"{url}/v1", "apiKey": "of-nobody"}
    provider = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": {"m": model}}
    config = {"model": "ours/m", "small_model": "ours/m", "autoupdate": False, "share": "disabled"}
    (home / "opencode.json").write_text(json.dumps({**config, "provider": {"ours": provider}}))
    return {"OPENCODE_CONFIG": str(home / "opencode.json")}


PROGRAMS = {"codex": Program(CODEX, codex), "gemini": Program(GEMINI, gemini), "opencode": Program(OPENCODE, opencode)}


@pytest.fixture
def drive(
    bench: Bench, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., AttemptEnd]:
    """Let a program do its work while its provider gives these answers."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "gw" in shared.name else shared

    def driven(agent: str, *answers: Answer, **more: Any) -> AttemptEnd:
        program = PROGRAMS[agent]
        path = npm_program(program.package, agent, shared / "programs")
        home = tmp_path / "user"
        home.mkdir()
        with running_model_server(answers) as server:
            server.every_turn = True
            for name, value in program.settings(server.url, home).items():
                monkeypatch.setenv(name, value)
            env = {"HOME": str(home), "NO_PROXY": "127.0.0.1"}
            model = {"model": "gemini-2.5-pro"} if agent == "gemini" else {}  # otherwise it asks the server for one
            job = {"agent": agent, "prompt": "Say it", "command": [path], "env": env, **model, **more}
            return bench.run(job)

    return driven


@pytest.mark.parametrize("agent", PROGRAMS)
def test_its_answer_and_what_it_used(drive: Callable[..., AttemptEnd], agent: str) -> None:
    result = drive(agent, *["Done"] * 4)

    assert (result.outcome, result.error, result.output) == (Outcome.COMPLETED, None, "Done")
    assert [used.input_tokens % INPUT_TOKENS for used in result.usage] == [0]


@pytest.mark.parametrize("agent", PROGRAMS)
def test_a_log_in_that_is_refused(drive: Callable[..., AttemptEnd], agent: str) -> None:
    result = drive(agent, *[401] * 20)

    assert (result.outcome, result.retryable) == (Outcome.FAILED, False)
    assert f"{agent} is not logged in where this worker runs" in (result.error or "")


def test_a_provider_that_is_busy(drive: Callable[..., AttemptEnd]) -> None:
    """Test claude alone: the others repeat such a request, OpenCode for 45 s and Gemini CLI for minutes."""
    assert drive("codex", *[503] * 40).outcome is Outcome.DEFERRED
