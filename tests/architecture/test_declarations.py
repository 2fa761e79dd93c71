"""Test the project's declarations: Python versions that are tested, dependencies with a reason, existing commands."""

from __future__ import annotations

import re

import pytest

from tests.support.sources import ROOT, declared_pythons, pyproject


class TestPythonVersions:
    def test_continuous_integration_runs_on_every_declared_one(self) -> None:
        match = re.search(
            r"^PYTHONS=\"\$\{COORD_CI_PYTHONS:-([\d. ]+)\}\"$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE
        )

        assert match is not None
        assert set(match.group(1).split()) == declared_pythons()

    def test_what_can_be_installed_is_what_is_declared(self) -> None:
        assert pyproject()["project"]["requires-python"] == ">=3.11,<3.14"
        assert declared_pythons() == {"3.11", "3.12", "3.13"}

    def test_the_tools_judge_by_the_oldest(self) -> None:
        oldest = min(declared_pythons(), key=lambda version: int(version.partition(".")[2]))

        assert pyproject()["tool"]["mypy"]["python_version"] == oldest
        assert pyproject()["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")

    def test_the_image_uses_one_of_them(self) -> None:
        images = re.findall(r"^FROM python:([\d.]+)-slim", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

        assert images
        assert set(images) <= declared_pythons()


class TestDependencies:
    def test_each_runtime_dependency_stands_under_its_reason(self) -> None:
        lines = (ROOT / "pyproject.toml").read_text().splitlines()
        block = lines[lines.index("dependencies = [") + 1 :]
        block = [line.strip() for line in block[: block.index("]")]]

        assert block[0].startswith("#")
        # One comment may apply to the lines right below it, up to a blank line.
        assert all(line for line in block)
        assert sum(line.startswith("#") for line in block) * 2 >= sum(line.startswith('"') for line in block)

    @pytest.mark.parametrize("requirement", pyproject()["project"]["dependencies"])
    def test_each_has_a_floor_that_was_tried_and_a_ceiling(self, requirement: str) -> None:
        assert re.search(r">=\d", requirement)
        assert re.search(r"<\d", requirement)

    def test_the_extras_are_tested_too(self) -> None:
        extras = {line for extra in pyproject()["project"]["optional-dependencies"].values() for line in extra}

        assert extras <= set(pyproject()["dependency-groups"]["dev"])


class TestMakefile:
    def test_every_target_it_promises_is_phony_and_described(self) -> None:
        text = (ROOT / "Makefile").read_text()
        phony = set((re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE) or [""])[1].split())
        described = set(re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE))

        assert phony == described
        assert {"demo", "test", "test-all", "lint", "bench", "clean", "help"} <= phony

    def test_it_calls_no_script_by_a_path_that_may_hold_a_space(self) -> None:
        assert set(re.findall(r"\.venv/bin/([\w-]+)", (ROOT / "Makefile").read_text())) == {"python"}


def test_the_licence_in_the_metadata_is_the_one_in_the_file() -> None:
    assert pyproject()["project"]["license"] == "Apache-2.0"
    licence = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
