"""The command that installs an optional part of this program into its environment."""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlsplit


def install_command(extra: str) -> str:
    """Return the command that adds *extra*, such as ``chat``, from the source of this installation."""
    source, editable = _source()
    requirement = f"{'--editable ' if editable else ''}{shlex.quote(f'{source}[{extra}]')}"
    python = shlex.quote(sys.executable)
    # Environments of uv have no pip.
    if importlib.util.find_spec("pip") is None:
        return f"uv pip install --python {python} {requirement}"
    return f"{python} -m pip install {requirement}"


def _source() -> tuple[str, bool]:
    """Return the folder, wheel or name that this program was installed from, and whether it is editable."""
    try:
        origin = json.loads(distribution("coordination").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        origin = {}
    address = urlsplit(str(origin.get("url", "")))
    if address.scheme != "file":
        return "coordination", False
    return unquote(address.path), bool(origin.get("dir_info", {}).get("editable"))
