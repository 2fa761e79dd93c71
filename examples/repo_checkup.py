"""The Python jobs of repo-checkup.yaml: each looks at the folder it runs in, returns JSON, and writes nothing there."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import time
import tomllib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

MOST_FILES = 100_000
MOST_BYTES = 2_000_000  # of one file; what is longer was hardly written by hand
SECONDS = 8  # of the processor, for each job: what is not looked at by then is left out, and the report says so
SHOWN = 8
GIT_SECONDS = 60
_SKIPPED = {"node_modules", "__pycache__", "venv", "site-packages"}

Json = dict[str, Any]
Needs = dict[str, Json]


def inventory() -> Json:
    """Files, lines and bytes by kind of file, from git's list where there is one."""
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    size = 0
    watch = _Watch()
    for path in watch.over(_files()):
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
        "cut": watch.cut,
    }


def _texts(watch: _Watch) -> Iterator[tuple[Path, bytes]]:
    """The files that are no binary ones, with what is in them."""
    for path in watch.over(_files()):
        data = _read(path)
        if data is not None and b"\0" not in data[:8000]:
            yield path, data


def broken() -> Json:
    """JSON and TOML files that cannot be parsed, and files with the marks of a merge that nobody finished."""
    found: list[Json] = []
    looked = 0
    watch = _Watch()
    for path, data in _texts(watch):
        looked += 1
        why = _unparsed(path.suffix, data) if len(data) < MOST_BYTES else None
        if why is None and (begin := _OURS.search(data)) and _THEIRS.search(data, begin.end()):
            why = f"a merge was not finished in line {_line(data, begin):,}"
        if why is not None:
            found.append({"file": _shown(path), "why": _shown(why)})
    return {"looked": looked, "broken": len(found), "some": found[:SHOWN], "cut": watch.cut}


_OURS, _THEIRS = re.compile(rb"^<{7} ", re.MULTILINE), re.compile(rb"^>{7} ", re.MULTILINE)


def _line(data: bytes, found: re.Match[bytes]) -> int:
    return data.count(b"\n", 0, found.start()) + 1


def _unparsed(kind: str, data: bytes) -> str | None:
    """Why a file of that kind cannot be parsed; None where it can, and for kinds that are not looked at."""
    try:
        if kind == ".json":
            json.loads(data.decode("utf-8-sig"))
        elif kind == ".toml":
            tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


def links() -> Json:
    """Links of Markdown pages to files of the repository that are not there."""
    found: list[str] = []
    pages = count = 0
    watch = _Watch()
    for path in watch.over(path for path in _files() if path.suffix.lower() == ".md"):
        pages += 1
        text = re.sub(r"^(```|~~~).*?^\1|`[^`\n]+`", "", (_read(path) or b"").decode(errors="replace"), flags=_PAGE)
        for bracketed, bare in re.findall(r"\]\((?:<([^<>\n]+)>|([^()<>\s]+))[^()\n]*\)", text):
            target = re.sub(r"[#?].*", "", bracketed or bare)
            if not target or re.match(r"[a-z][a-z0-9+.-]*:|/", target, re.IGNORECASE):
                continue  # of this page, another site, or the root of one
            count += 1
            if not Path(path.parent, unquote(target)).exists():
                found.append(f"{_shown(path)} -> {_shown(target)}")
    return {"pages": pages, "links": count, "broken": len(found), "some": found[:SHOWN], "cut": watch.cut}


_PAGE = re.MULTILINE | re.DOTALL


def secrets() -> Json:
    """Where something looks like a key that should not be in a repository; never the key itself."""
    found: list[Json] = []
    looked = 0
    watch = _Watch()
    for path, data in _texts(watch):
        looked += 1
        for name, looks in _KEYS.items():
            found += [{"file": _shown(path), "line": _line(data, key), "what": name} for key in looks.finditer(data)]
    return {"looked": looked, "keys": len(found), "some": found[:SHOWN], "cut": watch.cut}


_KEYS = {
    "a private key": re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[\w+/=]{20}"),
    "a key of AWS": re.compile(rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a token of GitHub": re.compile(rb"\b(?:gh[opsu]_[A-Za-z0-9]{36}|github_pat_\w{82})\b"),
    "a token of Slack": re.compile(rb"\bxox[abeprs]-[0-9A-Za-z-]{20,}"),
    "a key of a model's provider": re.compile(rb"\bsk-(?:ant|proj|or-v1)-[\w-]{32,}"),
}


def complexity(needs: Needs) -> Json:
    """Functions by cyclomatic complexity: one plus the number of places where the way forks."""
    if not _python_files(needs):
        return _said("no Python files")
    found: list[tuple[int, str, str, int]] = []
    unread: list[str] = []
    watch = _Watch()
    for path in watch.over(path for path in _files() if path.suffix == ".py"):
        if (data := _read(path)) is None:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(data)
            found += [(forks, _shown(path), name, line) for forks, name, line in _functions(tree)]
        except SyntaxError as error:
            unread.append(f"{_shown(path)}:{error.lineno or 1}")
        except (ValueError, RecursionError, MemoryError):
            unread.append(_shown(path))
    found.sort(reverse=True)
    most = [
        {"complexity": forks, "file": file, "line": line, "function": name} for forks, file, name, line in found[:SHOWN]
    ]
    over = sum(1 for forks, *_ in found if forks > _TANGLED)
    return {
        "functions": len(found),
        "over_ten": over,
        "unreadable_files": len(unread),
        "unreadable": unread[:SHOWN],
        "most": most,
        "cut": watch.cut,
    }


_TANGLED = 10
_FORKS = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _functions(tree: ast.AST) -> Iterator[tuple[int, str, int]]:
    """The forks, the name and the line of each function; what is defined inside another one counts by itself."""
    functions: list[ast.AST] = [tree]
    for function in functions:
        forks = 1
        waiting = [function]
        while waiting:
            for node in ast.iter_child_nodes(waiting.pop()):
                if isinstance(node, _DEFINITIONS):
                    functions.append(node)
                    continue
                if isinstance(node, _FORKS):
                    forks += 1
                elif isinstance(node, ast.BoolOp):
                    forks += len(node.values) - 1
                waiting.append(node)
        if isinstance(function, _DEFINITIONS):
            yield forks, function.name, function.lineno


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
    head = f"{found['files']:,} files with {found['lines']:,} lines, {found['bytes'] / 1_000_000:,.1f} MB{_cut(found)}"
    rows = [f"| {_cell(kind['kind'])} | {kind['files']:,} | {kind['lines']:,} |" for kind in found["kinds"]]
    return [head, "", "| kind | files | lines |", "|---|---:|---:|", *rows] if rows else [head]


def _write_broken(found: Json) -> list[str]:
    some = [f"- {_code(one['file'])}: {one['why']}" for one in found["some"]]
    return [f"{found['broken']:,} broken files among {found['looked']:,}{_cut(found)}", *_list(some)]


def _write_links(found: Json) -> list[str]:
    head = (
        f"{found['broken']:,} of {found['links']:,} links to files lead nowhere, in {found['pages']:,} Markdown pages"
    )
    return [head + _cut(found), *_list([f"- {_code(one)}" for one in found["some"]])]


def _write_secrets(found: Json) -> list[str]:
    some = [f"- {one['what']} in {_place(one)}" for one in found["some"]]
    return [f"{found['keys']:,} look like a key, in {found['looked']:,} files{_cut(found)}", *_list(some)]


def _write_complexity(found: Json) -> list[str]:
    head = f"{found['functions']:,} functions, {found['over_ten']:,} of them over {_TANGLED}"
    if found["unreadable_files"]:
        some = ", ".join(map(_code, found["unreadable"]))
        head += f"; {found['unreadable_files']:,} files that this Python cannot read: {some}"
    most = [f"- {one['complexity']}: {_code(one['function'])} in {_place(one)}" for one in found["most"]]
    return [head + _cut(found), *_list(most)]


def _cut(found: Json) -> str:
    return " (the first of them: there are more)" if found["cut"] else ""


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
    "broken": ("Broken files", _write_broken),
    "links": ("Links", _write_links),
    "secrets": ("Keys", _write_secrets),
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


class _Watch:
    """Ends a walk over files when there are too many or it takes too long; ``cut`` says whether it did."""

    def __init__(self) -> None:
        self.cut = False
        self._ends = time.process_time() + SECONDS

    def over(self, files: Iterable[Path]) -> Iterator[Path]:
        for number, path in enumerate(files):
            if number >= MOST_FILES or time.process_time() > self._ends:
                self.cut = True
                return
            yield path


def _files() -> Iterator[Path]:
    """Files of the folder as git lists them (ignored ones left out), else by walking it. No links."""
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True,
            check=True,
            timeout=GIT_SECONDS,
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
