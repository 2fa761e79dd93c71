"""Stands in for an agent's program where it calls its model: sends its prompt to the model, and reports the usage.

``python asks_model.py URL < PROMPT``: one turn of Anthropic's Messages API, as it is served at that address.
"""

from __future__ import annotations

import json
import os
import sys
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

MODEL = "claude-sonnet-4-5"


def main() -> None:
    """Send the prompt, append the usage to the job's file of costs, and print the answer."""
    request = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": sys.stdin.read()}]}
    connection = HTTPConnection(urlsplit(sys.argv[1]).netloc, timeout=30)
    connection.request("POST", "/v1/messages", json.dumps(request))
    answered = json.load(connection.getresponse())
    used = {"model": answered["model"], **answered["usage"]}
    with Path(os.environ["COORD_COSTS"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(used) + "\n")
    sys.stdout.write(answered["content"][0]["text"] + "\n")


if __name__ == "__main__":
    main()
