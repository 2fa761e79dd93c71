"""Test that the example plan completes on any folder, reports its findings, and leaves the folder unchanged."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.processes import Processes
from tests.support.sources import ROOT

PLAN = ROOT / "examples" / "repo-checkup.yaml"
IDENTITY = {
    **{f"GIT_{role}_NAME": "Ada" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_EMAIL": "ada@example.org" for role in ("AUTHOR", "COMMITTER")},
    "GIT_CONFIG_GLOBAL": os.devnull,
}
SOURCE = """import os


def twist(a: int, b: int) -> int:
    # TODO: untangle
    return a if a > b and b else "no"
"""
PAGE = """# A shop

[One](shop/cart.py), [two](lost.md#part), [three](<a b.md>) and [a site](https://example.org/x); not `[four](gone.md)`.

```
[five](gone.md)
```
"""
KEY = "AKIA" + "ABCDEFGHIJKLMNOP"


def git(folder: Path, *words: str) -> str:
    environment = {**os.environ, **IDENTITY}
    return subprocess.run(
        ["git", *words], cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "a shop"
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "__init__.py").write_text("")
    (folder / "shop" / "cart.py").write_text(SOURCE)
    (folder / "README.md").write_text(PAGE)
    (folder / "settings.json").write_text('{"a": 1,}\n')
    (folder / "merged.txt").write_text("a\n<<<<<<< ours\nb\n=======\nc\n>>>>>>> theirs\n")
    (folder / "shop" / "keys.py").write_text(f'# not in here\nKEY = "{KEY}"\n')
    (folder / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1"\ndependencies = ["flask>=3"]\n')
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "Begin")
    return folder


@pytest.fixture(scope="module")
def jobs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("repo_checkup", ROOT / "examples" / "repo_checkup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_example(processes: Processes, folder: Path, home: Path) -> dict[str, Any]:
    """Return the document that ``coord run --json`` prints."""
    environment = {name: "" for name in os.environ if name.startswith("COORD_")} | {"COORD_HOME": str(home)}
    process = processes.start_python(
        *("-m", "coordination.cli", "run", PLAN, "-C", folder, "--json"), env=environment, cwd=ROOT
    )
    code = process.wait(within=timedelta(seconds=110))
    assert code == 0, process.output
    return json.loads(process.output[process.output.index("{") :])


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if ".git" not in path.parts}


def test_a_repository_is_checked_up_and_left_as_it_was(processes: Processes, repository: Path, tmp_path: Path) -> None:
    before = files_of(repository)

    document = run_example(processes, repository, tmp_path / "home")

    outputs = {task["key"]: task["output"] for task in document["tasks"]}
    assert document["state"] == "completed"
    assert len(outputs) >= 8
    assert outputs["inventory"]["python_files"] == 3
    assert [one["file"] for one in outputs["broken"]["some"]] == ["merged.txt", "settings.json"]
    assert (outputs["links"]["links"], outputs["links"]["some"]) == (3, ["README.md -> lost.md", "README.md -> a b.md"])
    assert outputs["secrets"]["some"] == [{"file": "shop/keys.py", "line": 2, "what": "a key of AWS"}]
    assert outputs["complexity"]["most"][0]["function"] == "twist"
    assert outputs["complexity"]["most"][0]["complexity"] == 3
    assert outputs["dependencies"]["manifests"] == {"pyproject.toml": ["flask>=3"]}
    assert "1 commits by Ada" in outputs["history"]
    assert outputs["report"].startswith("# Check-up of a shop\n")
    for result in (
        *("a merge was not finished in line 2", "2 of 3 links", "a key of AWS in `shop/keys.py:2`"),
        *("flask>=3", "`twist`", "1 commits by Ada", "1 notes in 1 files"),
    ):
        assert result in outputs["report"]
    assert KEY not in json.dumps(document)
    assert files_of(repository) == before
    assert git(repository, "status", "--porcelain", "--ignored") == ""


def test_a_folder_that_is_no_repository_and_holds_no_python_is_no_failure(processes: Processes, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "notes.txt").write_text("one\ntwo")

    document = run_example(processes, folder, tmp_path / "home")

    report = {task["key"]: task["output"] for task in document["tasks"]}["report"]
    assert document["state"] == "completed"
    assert "1 files with 2 lines" in report
    assert "Not done: no Python files." in report
    assert "No commits here." in report


class TestTheJobs:
    def test_a_job_that_takes_too_long_ends_and_says_so(
        self, jobs: ModuleType, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(repository)
        monkeypatch.setattr(jobs, "SECONDS", -1)

        results = {name: getattr(jobs, name)() for name in ("inventory", "broken", "links", "secrets")}

        assert all(output["cut"] for output in results.values())
        needs = {name: {"state": "completed", "output": output} for name, output in results.items()}
        assert jobs.report(needs).count("(the first of them: there are more)") == 4

    def test_python_that_cannot_be_read_is_named(self, jobs: ModuleType, here: Path) -> None:
        (here / "good.py").write_text(SOURCE)
        (here / "bad.py").write_text("x = 1\nprint 2\n")

        result = jobs.complexity({"inventory": {"state": "completed", "output": {"python_files": 2}}})

        assert (result["functions"], result["unreadable_files"], result["unreadable"]) == (1, 1, ["bad.py:2"])

    def test_the_report_says_which_part_is_missing(self, jobs: ModuleType) -> None:
        text = jobs.report({"inventory": {"state": "failed", "output": None}})

        assert text.startswith("# Check-up of this repository\n")
        assert text.count("This part did not complete") == 9

    @pytest.mark.parametrize(
        ("name", "text", "wanted"),
        [
            ("requirements-dev.txt", "# tools\nruff==1  # pinned\n-r other.txt\n\nmypy\n", ["ruff==1", "mypy"]),
            ("package.json", '{"dependencies": {"left-pad": "^1"}}', ["left-pad ^1"]),
            ("go.mod", "module a.b/c\nrequire (\n\tx.org/y v1.2.3\n)\n", ["x.org/y v1.2.3"]),
            ("Cargo.toml", '[dependencies]\nserde = "1"\n', ["serde"]),
            ("setup.cfg", "[options]\ninstall_requires =\n  a\n  b>1\n", ["a", "b>1"]),
            ("pyproject.toml", "[project\n", ["(cannot be read)"]),
            ("package.json", "[1]", ["(cannot be read)"]),
        ],
    )
    def test_reads_the_manifests_of_several_languages(
        self, jobs: ModuleType, here: Path, name: str, text: str, wanted: list[str]
    ) -> None:
        (here / name).write_text(text)

        result = jobs.dependencies()

        assert result == {"manifests": {name: wanted}}
