"""Test that a plan with names of every script runs in every locale, with a terminal of every encoding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import Coord

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PLAN = """
version: 1
name: "prüfung 👩"
tasks:
  - key: env
    title: größe
    outputs: ["*.txt"]
    workdir: wörk
    run: {shell: 'echo "$NAME ü" > dätei.txt; cat dätei.txt', env: {NAME: "Jürgen İ"}}
  - {key: odd, run: {shell: "printf 'caf\\\\351\\\\r\\\\n\\\\377\\\\376h\\\\000'"}}
  - {key: python, run: {python: "mod:lowered", args: {text: "ÜBER"}}}
"""


@pytest.mark.full
@pytest.mark.stores("sqlite")
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "locale", [ASCII, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, {"LC_ALL": "tr_TR.UTF-8", "TERM": "dumb"}]
)
def test_a_run_completes_and_keeps_every_name(tmp_path: Path, locale: dict[str, str]) -> None:
    folder = tmp_path / "ört"
    (folder / "wörk").mkdir(parents=True)
    (folder / "mod.py").write_text("def lowered(text):\n    print(text)\n    return text.lower()\n", encoding="utf-8")
    (folder / "plan.yaml").write_bytes(b"\xef\xbb\xbf" + PLAN.replace("\n", "\r\n").encode())
    coord = Coord(tmp_path / "home", folder, locale)

    coord.process("run", "plan.yaml")

    created = json.loads(coord.process("tasks", "artifacts", "env", "--json").out)["artifacts"]
    assert [one["path"] for one in created] == ["dätei.txt"]
    assert (folder / "wörk" / "dätei.txt").read_text(encoding="utf-8") == "Jürgen İ ü\n"
    shown = json.loads(coord.process("tasks", "output", "python", "--json").out)
    assert "über" in json.dumps(shown, ensure_ascii=False)
