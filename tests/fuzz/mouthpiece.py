"""A job that sends given bytes to its worker's socket. Standard library only.

``python mouthpiece.py SOCKET NAME``: it connects to SOCKET, sends its name and COORD_TOKEN, and then reads one line of
JSON after the other: ``{"parts": […], "half": …}`` to send these parts (in base64) and answer with the response,
``{"end": status}`` to end.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import time

PATIENCE = 20.0


def send(address: str, parts: list[bytes], *, half: bool) -> bytes:
    """Return the whole response until the worker closed the connection."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        while True:
            try:
                connection.connect(address)
                break
            except BlockingIOError:  # its queue is full at this moment
                time.sleep(0.02)
        try:
            for part in parts:
                connection.sendall(part)
            if half:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has closed its side
        answer = bytearray()
        try:
            while more := connection.recv(1 << 16):
                answer += more
        except ConnectionResetError:
            pass  # bytes that it had not read
        return bytes(answer)


def main() -> int:
    """Serve until a request to end."""
    url = os.environ["COORD_URL"]
    kind, _, address = url.partition(":")
    assert kind == "unix", url
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(sys.argv[1])
        lines = caller.makefile("rwb")
        hello = {"name": sys.argv[2], "token": os.environ["COORD_TOKEN"]}
        lines.write(json.dumps(hello).encode() + b"\n")
        lines.flush()
        while line := lines.readline():
            document = json.loads(line)
            if "end" in document:
                return int(document["end"])
            answer = send(address, [base64.b64decode(part) for part in document["parts"]], half=document["half"])
            lines.write(base64.b64encode(answer) + b"\n")
            lines.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
