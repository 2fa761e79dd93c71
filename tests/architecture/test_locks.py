"""Test that the locks include every declared dependency, by hash and without an address, and that installs use them."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.locks import environment_of, lock_lines, lock_text, locked_versions
from tests.support.sources import ROOT, declared_pythons, pyproject

PYTHONS = sorted(declared_pythons())
IMAGE_EXTRAS = ("chat", "flower")
_PROJECT = pyproject()["project"]
_GROUPS = pyproject()["dependency-groups"]
DECLARED: dict[str, list[str]] = {
    "build": pyproject()["build-system"]["requires"],
    "program": _PROJECT["dependencies"],
    "runtime": [
        *_PROJECT["dependencies"],
        *(line for extra in IMAGE_EXTRAS for line in _PROJECT["optional-dependencies"][extra]),
    ],
    "development": [*_PROJECT["dependencies"], *_GROUPS["dev"]],
    "bench": _GROUPS["bench"],
}
ADDRESS = re.compile(r"://|\bfile:|\bwww\.|--(?:extra-)?index|--find-links|--trusted-host| @ |^-[^-]", re.MULTILINE)


def test_there_is_a_lock_for_each_set_of_dependencies_and_no_other() -> None:
    assert {path.stem for path in (ROOT / "locks").iterdir()} == set(DECLARED)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", DECLARED)
def test_every_declared_dependency_is_locked_inside_its_range(name: str, python: str) -> None:
    environment = environment_of(python)
    declared = [Requirement(line) for line in DECLARED[name]]
    applicable = [line for line in declared if line.marker is None or line.marker.evaluate(environment)]

    versions = locked_versions(lock_lines(lock_text(name)), environment)

    assert applicable
    unsatisfied = [
        str(line)
        for line in applicable
        if (version := versions.get(canonicalize_name(line.name))) is None or version not in line.specifier
    ]
    assert not unsatisfied, f"run: make lock (locks/{name}.txt does not satisfy {unsatisfied} on Python {python})"


@pytest.mark.parametrize("name", DECLARED)
def test_every_line_is_one_exact_version_with_its_hashes(name: str) -> None:
    lines = lock_lines(lock_text(name))

    assert lines
    for line in lines:
        assert re.fullmatch(r"==[^*,]+", str(line.requirement.specifier)), line
        assert line.options, f"{line.name} has no hash"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option) for option in line.options), line


@pytest.mark.parametrize("name", DECLARED)
def test_no_line_names_an_address(name: str) -> None:
    addresses = [line for line in lock_text(name).splitlines() if ADDRESS.search(line)]

    assert not addresses


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", sorted(DECLARED.keys() - {"development"}))
def test_a_package_has_the_same_version_in_all_locks(name: str, python: str) -> None:
    environment = environment_of(python)

    development = locked_versions(lock_lines(lock_text("development")), environment)
    versions = locked_versions(lock_lines(lock_text(name)), environment)

    shared = development.keys() & versions.keys()
    assert {package: versions[package] for package in shared} == {package: development[package] for package in shared}


def test_the_tests_run_with_every_package_of_the_image() -> None:
    tested = {line.name for line in lock_lines(lock_text("development"))}
    shipped = {line.name for line in lock_lines(lock_text("runtime"))}

    assert shipped <= tested


@pytest.mark.parametrize("name", ["Dockerfile", "Makefile"])
def test_what_is_installed_is_locked_or_the_project_itself(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    # The resolver makes the locks, so it is in none.
    installations = [
        command
        for command in re.findall(r"(?:pip install|call install,)([^&;\n]+)", text)
        if "$(1)" not in command and "resolver.in" not in command
    ]

    assert any("--require-hashes" in command for command in installations)
    assert all("--require-hashes" in command or "--no-deps" in command for command in installations)
