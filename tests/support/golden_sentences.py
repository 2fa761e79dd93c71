"""Keeps the messages of all refusals in one file: a plugin that compares, and rewrites with --update-refusals.

The file has one block for each test: the test's id, and below it the messages in the order in which the test got them.
A test that runs on several databases has one block, so the message must be the same on each.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import re
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from coordination.base.urls import masked

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests" / "data" / "refusals.txt"
HEAD = "# What refusals say, by test. Written by: pytest --update-refusals\n"

DATABASES = ("sqlite", "postgres")
_INDENT = "    "
_LONGEST_PARAMETERS = 100
_DATABASE = re.compile(r"(?<=[\[-])(?:sqlite|postgres)(?:-|(?=\]))")
_VOLATILE = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"(?<=\bprocess )\d+|(?<=\bkill -9 )\d+"), "<pid>"),
    (re.compile(r"(?<= at )0x[0-9a-f]+"), "<address>"),
    (re.compile(r"<temporary>/pytest-of-[^/]+/pytest-\d+(/popen-gw\d+)?/[^/]+"), "<tmp_path>"),
    (re.compile(r"(?<=127\.0\.0\.1:)\d+"), "<port>"),
)


def check_sentence(sentence: str) -> None:
    """Fail the running test when its next stored message differs."""
    __tracebackhide__ = True
    if Recorder.current is None:
        pytest.fail("Sentences are compared only inside a test, with the plugin tests.support.golden_sentences")
    Recorder.current.check(sentence)


def key_of(node_id: str) -> str:
    """Return the test's id without its database, and with long parameters shortened."""
    name, bracket, parameters = node_id.partition("[")
    if not bracket:
        return node_id
    parameters = _DATABASE.sub("", f"[{parameters}")[1:-1].removesuffix("-") or parameters.rstrip("]")
    if parameters in DATABASES:
        return name
    if len(parameters) > _LONGEST_PARAMETERS:
        digest = hashlib.sha256(parameters.encode()).hexdigest()[:8]
        parameters = f"{parameters[:60]}…{digest}…{parameters[-30:]}"
    return f"{name}[{parameters}]"


def normalized(sentence: str, folders: Mapping[str, str]) -> str:
    """Return *sentence* on one line, without what differs from run to run: folders, ids, process numbers, ports."""
    for folder, name in folders.items():
        sentence = sentence.replace(folder, name)
    for pattern, name in _VOLATILE:
        sentence = pattern.sub(name, sentence)
    return sentence.strip("\n").replace("\n", "\\n")


def read_blocks(text: str) -> dict[str, list[str]]:
    """Return the stored messages by the key of their test."""
    blocks: dict[str, list[str]] = {}
    sentences: list[str] = []
    for line in text.split("\n"):
        if line.startswith(_INDENT):
            sentences.append(line.removeprefix(_INDENT))
        elif line and not line.startswith("#"):
            sentences = blocks.setdefault(line, [])
    return blocks


def write_blocks(blocks: Mapping[str, list[str]]) -> str:
    """Return the file's text, in a stable order."""
    ordered = sorted((block for block in blocks.items() if block[1]), key=_natural)
    parts = ["\n".join([key, *(f"{_INDENT}{sentence}" for sentence in sentences)]) for key, sentences in ordered]
    return HEAD + "".join(f"\n{part}\n" for part in parts)


def _natural(block: tuple[str, list[str]]) -> list[tuple[int, str]]:
    """Return a sort key with which body2 comes before body10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", block[0])]


def keys_without_test(keys: Iterable[str]) -> list[str]:
    """Return those *keys* whose file, or whose function in it, does not exist."""
    names: dict[str, set[str]] = {}
    absent = []
    for key in keys:
        file, _, name = key.partition("[")[0].partition("::")
        if file not in names:
            path = ROOT / file
            names[file] = set(_test_names(ast.parse(path.read_text(encoding="utf-8")))) if path.is_file() else set()
        if name not in names[file]:
            absent.append(key)
    return absent


def _test_names(tree: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from _test_names(node, f"{prefix}{node.name}::")
        elif isinstance(node, ast.FunctionDef):
            yield f"{prefix}{node.name}"


class Recorder:
    """The messages of one test: compares each with the stored one, unless they are to be rewritten."""

    current: Recorder | None = None

    def __init__(self, key: str, stored: list[str], folders: Mapping[str, str], *, update: bool) -> None:
        self.key = key
        self.sentences: list[str] = []
        self._stored = stored
        self._folders = folders
        self._update = update

    def check(self, sentence: str) -> None:
        """Fail when the next stored message differs."""
        __tracebackhide__ = True
        sentence = normalized(sentence, self._folders)
        number = len(self.sentences)
        self.sentences.append(sentence)
        if self._update:
            return
        if number >= len(self._stored):
            self._fail("No sentence is stored for this refusal", [f"+ {sentence}"])
        if self._stored[number] != sentence:
            self._fail(
                "This refusal's sentence is not the stored one", difflib.ndiff([self._stored[number]], [sentence])
            )

    def finish(self) -> None:
        """Fail when more messages are stored than were checked."""
        left = self._stored[len(self.sentences) :]
        if left and not self._update:
            self._fail("More refusals are stored than the test met", [f"- {sentence}" for sentence in left])

    def _fail(self, problem: str, lines: Any) -> None:
        __tracebackhide__ = True
        shown = "\n".join(line.rstrip("\n") for line in lines)
        pytest.fail(
            f"{problem}:\n{shown}\nTest: {self.key}\n"
            f"File: {FILE.relative_to(ROOT)} (pytest --update-refusals rewrites it for the tests that run)"
        )


class GoldenSentences:
    """The plugin of one test process: a recorder around each test, and at the end the new messages."""

    def __init__(self, *, update: bool, some_parameters: bool) -> None:
        self.update = update
        self._some_parameters = some_parameters
        self._stored = _stored()
        self._collected: list[str] = []
        self._blocks: dict[str, list[str]] = {}
        self._differing: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Record the messages of one test; they are stored only if it passes."""
        key = key_of(item.nodeid)
        recorder = Recorder.current = Recorder(key, self._stored.get(key, []), _folders(item), update=self.update)
        try:
            result = yield
        finally:
            Recorder.current = None
        recorder.finish()
        self.take({key: recorder.sentences})
        return result

    def pytest_deselected(self) -> None:
        """Note that some parameters of a test may be left out."""
        self._some_parameters = True

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note the tests of this session, to detect stored parameters that are gone."""
        if not self._some_parameters:
            self._collected = [key_of(item.nodeid) for item in session.items]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add the records of a worker of pytest-xdist."""
        output = getattr(node, "workeroutput", {}).get("golden_sentences")
        if output is not None:
            self.take(output["blocks"], collected=output["collected"])
            self._differing.update(output["differing"])

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Send the messages to the process that controls the run, or write the file in that process."""
        if not self.update:
            return
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["golden_sentences"] = {
                "blocks": self._blocks,
                "collected": self._collected,
                "differing": sorted(self._differing),
            }
            return
        FILE.write_text(write_blocks(self.updated()), encoding="utf-8")
        if self._differing:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the tests whose refusal differs between databases."""
        for key in sorted(self._differing):
            terminalreporter.write_line(f"Refusals differ from one database to another: {key}", red=True)

    def take(self, blocks: Mapping[str, list[str]], collected: list[str] | None = None) -> None:
        """Add messages, and the keys of all tests that were *collected*."""
        self._collected = self._collected if collected is None else collected
        for key, sentences in blocks.items():
            if self._blocks.setdefault(key, sentences) != sentences:
                self._differing.add(key)

    def updated(self) -> dict[str, list[str]]:
        """Return the stored blocks with those of the tests that ran, without those of tests that are gone."""
        stored, collected = _stored(), set(self._collected)
        functions = {key.partition("[")[0] for key in collected}
        gone = {key for key in stored if key.partition("[")[0] in functions and key not in collected}
        gone.update(keys_without_test(stored))
        return {key: lines for key, lines in stored.items() if key not in gone} | self._blocks


def _stored() -> dict[str, list[str]]:
    return read_blocks(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def _folders(item: pytest.Item) -> dict[str, str]:
    """Return the replacements for folders of this test and of this machine, the longest first."""
    fixtures = getattr(item, "funcargs", {})
    folders = {
        str(path): f"<{name}>" for name, path in fixtures.items() if isinstance(path, Path) and path.is_absolute()
    }
    folders |= {
        form: f"<{name}>"
        for name, url in fixtures.items()
        if name.endswith("_url") and _is_url(url)
        for form in _masked(url)
    }
    folders |= {str(ROOT): "<repository>", tempfile.gettempdir(): "<temporary>", sys.executable: "<python>"}
    return dict(sorted(folders.items(), key=lambda pair: -len(pair[0])))


def _masked(url: str) -> set[str]:
    """Return *url* without its password, as our settings and a store write it."""
    forms = {masked(url)}
    with suppress(ArgumentError, ValueError):  # a test's URL may be invalid
        parsed = make_url(url)
        driver = "postgresql+psycopg" if parsed.drivername == "postgresql" else parsed.drivername
        forms.add(parsed.set(drivername=driver).render_as_string(hide_password=True))
    return forms


def _is_url(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and "://" in value


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --update-refusals."""
    parser.addoption(
        "--update-refusals",
        action="store_true",
        help=f"rewrite {FILE.relative_to(ROOT)} for the tests that run",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Install the plugin in this process."""
    some = any("[" in argument for argument in config.args)
    plugin = GoldenSentences(update=config.getoption("--update-refusals"), some_parameters=some)
    config.pluginmanager.register(plugin, "golden_sentences_of_session")
