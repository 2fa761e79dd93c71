"""The Python jobs of repo-checkup.yaml: each looks at the folder it runs in, returns JSON, and writes nothing there."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

MOST_FILES = 100_000
MOST_BYTES = 2_000_000  # of one file; what is longer was hardly written by hand
SECONDS = 90  # for each tool, and for each walk over files
SHOWN = 8
_SKIPPED = {"node_modules", "__pycache__", "venv", "site-packages"}

Json = dict[str, Any]
Needs = dict[str, Json]


def inventory() -> Json:
    """Files, lines and bytes by kind of file, from git's list where there is one."""
    began = time.monotonic()
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    size = 0
    cut = False
    for number, path in enumerate(_files()):
        if number >= MOST_FILES or time.monotonic() - began > SECONDS:
            cut = True
            break
        kind = path.suffix.lower() or path.name
        data = _read(path)
        if data is None:
            continue
        files[kind] += 1
        size += len(data)
        if b"\0" not in data[:8000]:
            lines[kind] += data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
    kinds = [{"kind": _shown(kind), "files": count, "lines": lines[kind]} for kind, count in files.most_common(SHOWN)]
    return {
        "name": _shown(Path.cwd().name),
        "files": files.total(),
        "lines": lines.total(),
        "bytes": size,
        "python_files": files[".py"] + files[".pyi"],
        "kinds": kinds,
        "cut": cut,
    }


def lint(needs: Needs) -> Json:
    """What ruff finds, by rule. It neither mends anything nor keeps a cache."""
    if not _python_files(needs):
        return _said("no Python files")
    options = ["check", ".", "--no-cache", "--no-fix", "--no-fix-only", "--exit-zero"]
    ran = _tool("ruff", [*options, "--statistics", "--output-format=json"])
    if ran is None:
        return _said("ruff is not installed here")
    code, out, err = ran
    try:
        found = json.loads(out or "[]") if code == 0 else None  # it says nothing where there is nothing
    except ValueError:
        found = None
    if not isinstance(found, list):
        return _said(f"ruff could not finish: {_first_line(err or out)}")
    rules = [{"rule": str(item.get("code")), "what": str(item.get("name")), "count": item["count"]} for item in found]
    return {"tool": "ruff", "findings": sum(rule["count"] for rule in rules), "rules": rules[:SHOWN]}


def types(needs: Needs) -> Json:
    """What mypy says, with the repository's own configuration if it has one."""
    if not _python_files(needs):
        return _said("no Python files")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--cache-dir", os.devnull, "--no-error-summary", "--no-color-output", "--hide-error-context"]
        ran = _tool("mypy", options, scratch=folder)
        if ran is not None and "Missing target" in ran[2] + ran[1]:
            ran = _tool("mypy", [*options, *_packages()], scratch=folder)
    if ran is None:
        return _said("mypy is not installed here")
    code, out, err = ran
    errors = [line for line in out.splitlines() if ": error:" in line]
    if code not in (0, 1) and (not errors or code < 0):
        return _said(f"mypy could not finish: {_first_line(err or out)}")
    codes = Counter(match.group(1) if (match := re.search(r"\[([\w-]+)\]$", line)) else "other" for line in errors)
    files = {line.split(":", 1)[0] for line in errors}
    kinds = [{"rule": rule, "count": count} for rule, count in codes.most_common(SHOWN)]
    return {"tool": "mypy", "errors": len(errors), "files": len(files), "kinds": kinds}


def tests(needs: Needs) -> Json:
    """How many tests pytest collects. That imports the repository's own tests, so it runs some of its code."""
    if not _python_files(needs):
        return _said("no Python files")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--collect-only", "-q", "--color=no", "-p", "no:cacheprovider"]
        ran = _tool("pytest", options, scratch=folder)
        if ran is not None and ran[0] == _USAGE_ERROR:
            # Options in the repository's configuration that only its own plugins know.
            ran = _tool("pytest", [*options, "-o", "addopts="], scratch=folder)
    if ran is None:
        return _said("pytest is not installed here")
    code, out, err = ran
    if code not in (0, _INTERRUPTED, _NO_TESTS):
        return _said(f"pytest could not collect: {_first_line(err or out)}")
    collected = re.search(r"^(?:\d+/)?(\d+) tests? collected", out, re.MULTILINE)
    broken = sorted(set(re.findall(r"^ERROR (\S+)", out, re.MULTILINE)))
    counted = int(collected.group(1)) if collected else 0
    return {"tool": "pytest", "collected": counted, "errors": len(broken), "broken": broken[:SHOWN]}


_INTERRUPTED, _USAGE_ERROR, _NO_TESTS = 2, 4, 5  # pytest's exit codes


def complexity(needs: Needs) -> Json:
    """Functions by cyclomatic complexity: one plus the number of places where the way forks."""
    if not _python_files(needs):
        return _said("no Python files")
    began = time.monotonic()
    found: list[tuple[int, str, str, int]] = []
    unread = 0
    cut = False
    for path in _files():
        if path.suffix != ".py" or (data := _read(path)) is None:
            continue
        if time.monotonic() - began > SECONDS:
            cut = True
            break
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(data)
            found += [(_forks(node), _shown(path), node.name, node.lineno) for node in _functions(tree)]
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            unread += 1
    found.sort(reverse=True)
    most = [
        {"complexity": forks, "file": file, "line": line, "function": name} for forks, file, name, line in found[:SHOWN]
    ]
    over = sum(1 for forks, *_ in found if forks > _TANGLED)
    return {"functions": len(found), "over_ten": over, "unreadable_files": unread, "most": most, "cut": cut}


_TANGLED = 10
_FORKS = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, _DEFINITIONS))


def _forks(function: ast.AST) -> int:
    forks = 1
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, _DEFINITIONS):
            continue  # counted by itself
        if isinstance(node, _FORKS):
            forks += 1
        elif isinstance(node, ast.BoolOp):
            forks += len(node.values) - 1
        waiting += ast.iter_child_nodes(node)
    return forks


def dependencies() -> Json:
    """What the manifests at the top of the repository ask for; versions as they are written there."""
    found: dict[str, list[str]] = {}
    for name, read in _MANIFESTS.items():
        for path in sorted(Path().glob(name)):
            data = _read(path)
            if data is None:
                continue
            try:
                wanted = read(data.decode(errors="replace"))
            except (ValueError, TypeError, AttributeError, KeyError, ConfigError, RecursionError):
                wanted = ["(cannot be read)"]
            found[_shown(path)] = [_shown(item) for item in wanted]
    return {"manifests": found}


def _pyproject(text: str) -> list[str]:
    document = tomllib.loads(text)
    project = document.get("project", {})
    wanted = list(project.get("dependencies", []))
    for extra in project.get("optional-dependencies", {}).values():
        wanted += extra
    for group in document.get("dependency-groups", {}).values():
        wanted += [item for item in group if isinstance(item, str)]
    wanted += document.get("tool", {}).get("poetry", {}).get("dependencies", {})
    return wanted


def _requirements(text: str) -> list[str]:
    lines = (line.split(" #")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def _setup_cfg(text: str) -> list[str]:
    parser = ConfigParser(interpolation=None)
    parser.read_string(text)
    return _requirements(parser.get("options", "install_requires", fallback=""))


def _package_json(text: str) -> list[str]:
    document = json.loads(text)
    parts = (document.get(part) or {} for part in ("dependencies", "devDependencies", "peerDependencies"))
    return [f"{name} {version}" for part in parts for name, version in part.items()]


def _go_mod(text: str) -> list[str]:
    return re.findall(r"^\s*(?:require\s+)?([\w.~-]+\.[\w.~-]+/\S+ v\S+)", text, re.MULTILINE)


def _cargo(text: str) -> list[str]:
    document = tomllib.loads(text)
    return [name for part in ("dependencies", "dev-dependencies") for name in document.get(part, {})]


_MANIFESTS: dict[str, Callable[[str], list[str]]] = {
    "pyproject.toml": _pyproject,
    "requirements*.txt": _requirements,
    "setup.cfg": _setup_cfg,
    "package.json": _package_json,
    "go.mod": _go_mod,
    "Cargo.toml": _cargo,
}


def report(needs: Needs) -> str:
    """All of it as one page of Markdown."""
    base = _output(needs, "inventory")
    name = base.get("name", "this repository") if isinstance(base, dict) else "this repository"
    sections = [_section(title, needs.get(key, {}), write) for key, (title, write) in _SECTIONS.items()]
    return "\n\n".join([f"# Check-up of {name}", *sections]) + "\n"


def _section(title: str, need: Json, write: Callable[[Any], list[str]]) -> str:
    output = need.get("output")
    if need.get("state") != "completed" or output is None:
        lines = ["This part did not complete; its task says why."]
    elif isinstance(output, dict) and "said" in output:
        lines = [f"Not done: {output['said']}."]
    else:
        lines = write(output)
    return "\n".join([f"## {title}", "", *lines])


def _write_inventory(found: Json) -> list[str]:
    cut = " (the first of them: there are more)" if found["cut"] else ""
    head = f"{found['files']:,} files with {found['lines']:,} lines, {found['bytes'] / 1_000_000:,.1f} MB{cut}"
    rows = [f"| {_cell(kind['kind'])} | {kind['files']:,} | {kind['lines']:,} |" for kind in found["kinds"]]
    return [head, "", "| kind | files | lines |", "|---|---:|---:|", *rows] if rows else [head]


def _write_lint(found: Json) -> list[str]:
    rules = [f"- {rule['count']:,} x {rule['rule']} {rule['what']}" for rule in found["rules"]]
    return [f"{found['findings']:,} findings of ruff", *_list(rules)]


def _write_types(found: Json) -> list[str]:
    kinds = [f"- {kind['count']:,} x {kind['rule']}" for kind in found["kinds"]]
    return [f"{found['errors']:,} errors of mypy in {found['files']:,} files", *_list(kinds)]


def _write_tests(found: Json) -> list[str]:
    broken = [f"- cannot be collected here: {_code(file)}" for file in found["broken"]]
    return [f"{found['collected']:,} tests collected by pytest, {found['errors']:,} files with errors", *_list(broken)]


def _write_complexity(found: Json) -> list[str]:
    head = f"{found['functions']:,} functions, {found['over_ten']:,} of them over {_TANGLED}"
    if found["unreadable_files"]:
        head += f"; {found['unreadable_files']:,} files that this Python cannot read"
    most = [f"- {one['complexity']}: {_code(one['function'])} in {_place(one)}" for one in found["most"]]
    return [head, *_list(most)]


def _place(one: Json) -> str:
    return _code(f"{one['file']}:{one['line']}")


def _write_dependencies(found: Json) -> list[str]:
    if not found["manifests"]:
        return ["No manifest that this check-up can read."]
    lines = []
    for file, wanted in found["manifests"].items():
        more = f" and {len(wanted) - 3 * SHOWN} more" if len(wanted) > 3 * SHOWN else ""
        listed = ", ".join(_code(item) for item in wanted[: 3 * SHOWN])
        lines.append(f"- {_code(file)}: {listed or 'nothing'}{more}")
    return lines


def _write_text(found: Any) -> list[str]:
    text = found if isinstance(found, str) else json.dumps(found)
    return text.strip().splitlines() or ["Nothing."]


_SECTIONS: dict[str, tuple[str, Callable[[Any], list[str]]]] = {
    "inventory": ("Inventory", _write_inventory),
    "lint": ("Lint", _write_lint),
    "types": ("Types", _write_types),
    "tests": ("Tests", _write_tests),
    "complexity": ("Complexity", _write_complexity),
    "dependencies": ("Dependencies", _write_dependencies),
    "history": ("History", _write_text),
    "hotspots": ("Hotspots", _write_text),
    "markers": ("Notes to come back to", _write_text),
}


def _list(lines: list[str]) -> list[str]:
    return ["", *lines] if lines else []


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"


def _said(why: str) -> Json:
    return {"said": why}


def _output(needs: Needs, key: str) -> Any:
    return needs.get(key, {}).get("output")


def _python_files(needs: Needs) -> int:
    found = _output(needs, "inventory")
    return int(found["python_files"]) if isinstance(found, dict) else 0


def _packages() -> Sequence[str]:
    """What to check when nobody says: the packages at the top or under src, else everything."""
    found = [path.parent for path in [*Path().glob("*/__init__.py"), *Path().glob("src/*/__init__.py")]]
    names = [str(path) for path in sorted(found) if path.name not in _SKIPPED and not path.name.startswith(".")]
    return names[:50] or ["."]


def _files() -> Iterator[Path]:
    """Files of the folder as git lists them (ignored ones left out), else by walking it. No links."""
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True,
            check=True,
            timeout=SECONDS,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        ).stdout
        names = dict.fromkeys(name for name in listed.split(b"\0") if name)
        yield from (path for path in (Path(os.fsdecode(name)) for name in names) if _plain(path))
        return
    for folder, below, names in os.walk(".", onerror=None):
        below[:] = sorted(name for name in below if name not in _SKIPPED and not name.startswith("."))
        yield from (path for path in (Path(folder, name) for name in sorted(names)) if _plain(path))


def _plain(path: Path) -> bool:
    with suppress(OSError):
        return path.is_file() and not path.is_symlink()
    return False


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES)
    except OSError:
        return None


def _shown(text: object) -> str:
    """File names are bytes: what is not UTF-8 is shown with marks, and nothing breaks the line."""
    return " ".join(os.fsencode(str(text)).decode(errors="replace").split())


def _tool(name: str, options: Sequence[str], *, scratch: str | None = None) -> tuple[int, str, str] | None:
    """Exit code and both outputs of a tool of this interpreter, else of the one on PATH; None when there is none."""
    # Found without -P, a file of the repository that is called like the tool would run in its place.
    mine = [sys.executable, "-P", "-m", name]
    if _in_this_interpreter(name):
        return _ran([*mine, *options], scratch)
    found = shutil.which(name)
    return None if found is None else _ran([found, *options], scratch)


def _in_this_interpreter(name: str) -> bool:
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"
    return subprocess.run([sys.executable, "-P", "-c", look], check=False).returncode == 0


def _ran(argv: Sequence[str], scratch: str | None) -> tuple[int, str, str]:
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
    if scratch is not None:
        # Where plugins of a tool would else leave something in the repository.
        variables |= {"HYPOTHESIS_STORAGE_DIRECTORY": scratch, "COVERAGE_FILE": str(Path(scratch, "coverage"))}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(argv, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return -1, "", f"stopped after {SECONDS} s"
        return code, _text(out), _text(err)


def _text(file: Any) -> str:
    file.seek(0)
    data: bytes = file.read(20 * MOST_BYTES)
    return data.decode(errors="replace")


def _first_line(text: str) -> str:
    return next(islice((line.strip(" .\t")[:200] for line in text.splitlines() if line.strip()), 1), "it said nothing")
