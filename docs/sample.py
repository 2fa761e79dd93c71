"""Draws public names and docstrings at random: ``python -m docs.sample --seed 20``.

A reader who does not know the code says what each means; a name or docstring that is not understood is rewritten.
"""

from __future__ import annotations

import argparse
import ast
import random
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("coordination", "workers")
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public_definitions() -> Iterator[tuple[str, str, str | None]]:
    """Yield the place, the name and the docstring of every public module, class, function and method."""
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        place = path.relative_to(ROOT).as_posix()
        yield place, "", ast.get_docstring(tree)
        for node in tree.body:
            if isinstance(node, Definition) and not node.name.startswith("_"):
                yield f"{place}:{node.lineno}", f"{path.stem}.{node.name}", ast.get_docstring(node)
                for member in node.body if isinstance(node, ast.ClassDef) else []:
                    if isinstance(member, Definition) and not member.name.startswith("_"):
                        yield f"{place}:{member.lineno}", "", ast.get_docstring(member)


def draw(seed: int, count: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return *count* names and *count* docstrings, each with its place; the same ones for the same seed and sources."""
    definitions = list(public_definitions())
    generator = random.Random(seed)  # noqa: S311 - a repeatable choice, not a secret
    names = [(place, name) for place, name, _ in definitions if name]
    docstrings = [(place, docstring) for place, _, docstring in definitions if docstring]
    return generator.sample(names, count), generator.sample(docstrings, count)


def main() -> None:
    """Print the sample, without places unless these are asked for."""
    parser = argparse.ArgumentParser(description="Draw public names and docstrings at random, for a reader test.")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--count", type=int, default=30, help="how many names, and how many docstrings")
    parser.add_argument("--places", action="store_true", help="show where each one is, to check the answers")
    options = parser.parse_args()
    for title, drawn in zip(("Names", "Docstrings"), draw(options.seed, options.count), strict=True):
        sys.stdout.write(f"## {title}\n\n")
        for number, (place, text) in enumerate(drawn, 1):
            shown = text.replace("\n", "\n    ").replace("\n    \n", "\n\n")
            sys.stdout.write(f"{number}. {shown}" + (f"    ({place})" if options.places else "") + "\n\n")


if __name__ == "__main__":
    main()
