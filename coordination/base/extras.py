"""How to install an optional part of this program into the environment that it runs from."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlsplit


def install_command(extra: str) -> str:
    """Return the command that adds *extra*, such as ``chat``, from where this program was installed."""
    source, editable = _source()
    what = f"{'--editable ' if editable else ''}{shlex.quote(f'{source}[{extra}]')}"
    python = shlex.quote(sys.executable)
    # An environment that uv made has no pip of its own.
    if importlib.util.find_spec("pip") is None:
        return f"uv pip install --python {python} {what}"
    return f"{python} -m pip install {what}"


def _source() -> tuple[str, bool]:
    """Where it was installed from: a folder or a wheel on this machine, else its name; and whether it is editable."""
    try:
        found = json.loads(distribution("coordination").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        found = {}
    address = urlsplit(str(found.get("url", "")))
    if address.scheme != "file":
        return "coordination", False
    return unquote(address.path), bool(found.get("dir_info", {}).get("editable"))
