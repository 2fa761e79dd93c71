"""Test that the pages match the code: generated ones are up to date, examples run, links and commands exist."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from coordination.cli.main import app
from coordination.domain.plans import graph
from coordination.domain.tasks.tasks import MOVES, TaskState
from coordination.formats.plan import read_plan
from docs import generate, sample
from tests.support.processes import Processes
from tests.support.sources import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")])
SENTENCES = [page for page in PAGES if page.name not in {"cli.md", "api.md"}]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands_in(text: str) -> Iterator[tuple[str, str]]:
    """Return the first two words after every ``coord`` that is set as code."""
    code = [*re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL), *re.findall(r"`([^`\n]+)`", text)]
    for piece in code:
        for matches in re.finditer(r"(?:^|[\s/])coord +([a-z]+)(?: +([a-z]+))?", piece):
            yield matches.group(1), matches.group(2) or ""


@pytest.mark.parametrize("name", ["cli.md", "api.md", "settings.md", "errors.md", "plan.schema.json", "concepts.md"])
def test_generated_pages_are_what_the_code_says_now(name: str) -> None:
    stored = (ROOT / "docs" / name).read_text(encoding="utf-8")

    written = generate.pages()[name]

    assert stored == written, "run: python -m docs.generate"


def test_the_diagram_shows_every_move_of_the_task_machine_and_no_other() -> None:
    (diagram,) = blocks(ROOT / "docs" / "concepts.md", "mermaid")

    arrows = {
        (start, target, move)
        for start, target, moves in re.findall(r"^    (\w+) --> (\w+): (.+)$", diagram, re.MULTILINE)
        for move in moves.split(", ")
    }

    assert arrows == {
        (state.value, target.value, move.value) for move, (sources, target) in MOVES.items() for state in sources
    }
    assert {word for arrow in arrows for word in arrow[:2]} == {state.value for state in TaskState}


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "plan.md"], ids=lambda page: page.name)
def test_the_plans_in_the_pages_are_plans(page: Path) -> None:
    schema = json.loads((ROOT / "docs" / "plan.schema.json").read_text(encoding="utf-8"))

    plans = blocks(page, "yaml")

    assert plans
    for text in plans:
        graph.check_plan(read_plan(text.encode(), source=page.name))
        jsonschema.validate(yaml.safe_load(text), schema)


def test_every_command_in_the_pages_exists() -> None:
    root: Any = typer.main.get_command(app)
    wrong = []
    for page in SENTENCES:
        for first, second in commands_in(page.read_text(encoding="utf-8")):
            below = getattr(root.commands.get(first), "commands", None)
            if first not in root.commands or (below is not None and second and second not in below):
                wrong.append(f"{page.name}: coord {first} {second}")

    assert not wrong


def test_every_link_to_a_file_leads_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]

    assert not broken


def test_the_index_lists_every_page_and_the_readme_leads_to_it() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}

    listed = set(re.findall(r"\]\((\w+\.md)\)", index))

    assert listed == pages
    assert "](docs/index.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_link_to_a_heading_names_one_that_is_there() -> None:
    broken = []
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
            file = (page.parent / target).resolve() if target else page
            if file.suffix == ".md" and anchor not in anchors_of(file):
                broken.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")

    assert not broken


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_setting_in_the_pages_exists() -> None:
    names = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")))
    of_jobs = {
        f"COORD_{name}" for name in ("TASK_ID", "TASK_KEY", "ATTEMPT", "PROJECT", "RUN_ID", "AGENT", "URL", "TOKEN")
    } | {"COORD_ISSUE_ID", "COORD_ISSUE_TITLE"}
    of_tests = {"COORD_TEST_DATABASE_URL", "COORD_CI_PYTHONS"}

    named = {name for page in SENTENCES for name in re.findall(r"\bCOORD_[A-Z_]+\b", page.read_text(encoding="utf-8"))}

    assert named <= names | of_jobs | of_tests


@pytest.mark.parametrize("name", ["flow.svg", "architecture.svg"])
def test_a_picture_is_drawn_inside_its_frame(name: str) -> None:
    picture = ET.parse(ROOT / "docs" / name).getroot()  # noqa: S314 - our own file
    _, _, width, height = (float(word) for word in picture.attrib["viewBox"].split())
    svg = "{http://www.w3.org/2000/svg}"

    texts = [(float(text.attrib["x"]), float(text.attrib["y"]), text.text or "") for text in picture.iter(f"{svg}text")]

    assert texts
    for x, y, words in texts:
        half = len(words) * 7.5 / 2
        assert half <= x <= width - half, words
        assert 14 <= y <= height - 4, words


def test_the_glossary_is_short_and_alphabetical() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")

    terms = re.findall(r"^\| \*\*(.+?)\*\*", page, re.MULTILINE)

    assert terms == sorted(terms)
    assert len(terms) <= 25


def test_a_sample_of_names_and_docstrings_depends_on_its_seed_alone() -> None:
    first, second, other = (sample.draw(seed, 30) for seed in (20, 20, 21))

    assert first == second != other
    assert [len(drawn) for drawn in first] == [30, 30]


def test_the_python_example_of_the_readme_runs(processes: Processes, tmp_path: Path) -> None:
    (example,) = blocks(ROOT / "README.md", "python")
    script = tmp_path / "example.py"
    script.write_text(example, encoding="utf-8")
    environment = {name: "" for name in os.environ if name.startswith("COORD_")} | {
        "COORD_HOME": str(tmp_path / "home")
    }
    environment["PYTHONPATH"] = str(ROOT)
    stack = processes.start_python("-m", "coordination.cli", "up", env=environment, cwd=tmp_path)
    stack.wait_for("The stack is up")

    ran = processes.start_python(script, env=environment, cwd=tmp_path)

    assert ran.wait() == 0, ran.output
    assert ran.output.splitlines()[0] == "completed"
    assert "1\n2\n3 " in ran.output
    stack.stop()


@pytest.mark.full
def test_the_benchmarks_run_from_end_to_end_in_small(processes: Processes) -> None:
    ran = processes.start_python(
        *("-m", "benchmarks", "hops", "submission", "--scale", "0.01", "--rounds", "1"), cwd=ROOT
    )

    assert ran.wait(within=timedelta(seconds=110)) == 0, ran.output
    assert "hop in a chain of 2 " in ran.output
    assert "peak memory of coord submit" in ran.output


def test_every_promise_of_security_has_a_test_that_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / "security.md").read_text(encoding="utf-8"))

    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(
            rf"^\s*(async )?def {name}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE
        )
    ]

    assert len(named) > 20
    assert missing == []


def test_every_test_that_the_sandbox_page_names_exists() -> None:
    page = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* \| `([\w./]+\.py)`: (.+) \|$", page, re.MULTILINE)

    missing = [
        f"{file}: {name}"
        for file, names in rows
        for name in re.findall(r"`(\w+)`", names)
        if f"def {name}(" not in (ROOT / "tests" / "workers" / file).resolve().read_text(encoding="utf-8")
    ]

    assert rows
    assert missing == []
