"""Test that no command sends control characters from jobs to the terminal, except where a person asks for them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from coordination.cli import terminal
from tests.support.command import Coord

OBEYED = (
    "\x1b]0;TITLE\x07\x1b]8;;http://evil.invalid\x1b\\click\x1b]8;;\x1b\\ "
    "\x1b[2J\x1b[31m\x9b1m \b\b\r\u202etxt\u2066\x7f"
)


def obeyed(text: str) -> list[str]:
    """Return the control characters in *text*."""
    return sorted({letter for letter in text if not letter.isprintable() and letter not in "\n\u200c\u200d"})


class TestClean:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("plain\ttext\n", "plain\ttext\n"),
            ("äöü 漢字 👩\u200d💻 ❤\ufe0f", "äöü 漢字 👩\u200d💻 ❤\ufe0f"),
            ("\x1b[1;31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07after", "after"),
            ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            ("\x1bPq#0\x1b\\after", "after"),
            ("\x1b(Bafter\x1b7", "after"),
            ("\x9b31mred", "red"),
            ("10%\r20%\r\ndone", "10%\n20%\ndone"),
            ("torn \x1b[3", "torn \ufffd[3"),
            ("\x1b]0;never ended\nnext", "\ufffd]0;never ended\nnext"),
            ("a\x08b\x00c\x7f", "a\ufffdb\ufffdc\ufffd"),
            ("gpj\u202e.exe\u2066\ufeff", "gpj\ufffd.exe\ufffd\ufffd"),
        ],
    )
    def test_sequences_go_and_other_controls_are_replaced(self, text: str, shown: str) -> None:
        assert terminal.clean(text) == shown

    def test_json_loses_nothing(self) -> None:
        value = {"said": OBEYED, "name\x9b": ["ä 👩\u200d💻", "\U000e0001"]}

        text = terminal.json_text(value, indent=2)

        assert json.loads(text) == value
        assert obeyed(text) == []
        assert "ä 👩" in text

    @pytest.mark.parametrize(
        ("encoding", "shown"),
        [
            ("ascii", b"done + caf\\xe9 \\U0001f469 \\u0130..."),
            ("latin-1", b"done + caf\xe9 \\U0001f469 \\u0130..."),
            ("cp1252", b"done + caf\xe9 \\U0001f469 \\u0130\x85"),
            ("iso8859-9", b"done + caf\xe9 \\U0001f469 \xdd..."),
            ("utf-16-le", "done ✓ café 👩 İ…".encode("utf-16-le")),
        ],
    )
    @pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
    @pytest.mark.parametrize("rich", [False, True])
    def test_a_terminal_of_another_encoding_shows_what_it_can(
        self, monkeypatch: pytest.MonkeyPatch, encoding: str, shown: bytes, errors: str, *, rich: bool
    ) -> None:
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)
        monkeypatch.setattr(sys, "stdout", stream)

        with terminal.clean_streams():
            if rich:
                terminal.console(highlight=False).print("done ✓ café 👩 İ…", end="")
            else:
                sys.stdout.write("done ✓ café 👩 İ…")
            sys.stdout.flush()

        assert stream.buffer.getvalue() == shown  # type: ignore[attr-defined]
        assert stream.errors == errors

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
    def test_json_stays_json_in_every_encoding(self, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
        value = {"said": "✓ café 👩 İ… ‘x’", "é": ["\x85"]}  # noqa: RUF001
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)

        with terminal.clean_streams():
            sys.stdout.write(terminal.json_text(value))
            sys.stdout.flush()

        assert json.loads(stream.buffer.getvalue().decode(encoding)) == value  # type: ignore[attr-defined]

    def test_styles_of_a_console_stay_and_those_in_its_texts_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdout", io.StringIO())

        with terminal.clean_streams():
            console = terminal.console(force_terminal=True, color_system="standard", highlight=False)
            console.print(f"x{OBEYED}", style="bold", markup=False)

        shown = sys.stdout.getvalue()  # type: ignore[attr-defined]
        assert shown.startswith("\x1b[1m")
        assert obeyed(shown.replace("\x1b[1m", "").replace("\x1b[0m", "")) == []


@pytest.mark.timeout(180)
def test_no_command_lets_through_what_a_job_or_a_plan_says_to_a_terminal(coord: Coord, tmp_path: Path) -> None:
    (coord.cwd / "said").write_text(OBEYED)
    plan = tmp_path / "plan.json"
    body = {
        "version": 1,
        "name": "n",
        "project": {"name": "p", "path": str(coord.cwd)},
        "defaults": {"max_attempts": 1},
        "tasks": [
            {"key": "said", "run": {"shell": "cat said; cat said >&2"}},
            {"key": "failed", "run": {"shell": "cat said >&2; exit 3"}, "metadata": {"x": OBEYED}},
            {"key": "told", "run": {"shell": 'coord task progress "$(cat said)"; coord task fail "$(cat said)"'}},
            {"key": "held", "needs": ["failed"], "run": {"shell": "true"}, "on_dependency_failure": "block"},
        ],
    }
    plan.write_text(json.dumps(body))
    outputs = {"run": coord.process("run", plan, code=1)}

    for command in (
        *("runs list", "runs show n", "runs events n", "tasks list", "tasks show said", "tasks show failed"),
        *("tasks events failed", "tasks output said", "tasks logs said"),
        *("tasks logs failed", "tasks show told", "explain held", "explain told", "status", "ready", "projects list"),
        *("runs show n --json", "tasks show failed --json", "tasks logs said --json", "runs events n --json"),
    ):
        outputs[command] = coord(*command.split(), code=None)

    assert {name: obeyed(one.out + one.err) for name, one in outputs.items() if obeyed(one.out + one.err)} == {}
    assert "click" in outputs["tasks logs said"].out
    assert "TITLE" not in outputs["tasks logs said"].out
    assert coord("tasks", "logs", "said", "--raw").out.rstrip("\n") == OBEYED
