"""The network between one worker and its servers: a process that forwards TCP to Unix sockets, or simulates faults.

``python proxy.py NAME=SOCKET …`` prints ``NAME PORT`` for each, then obeys lines on stdin: ``NAME MODE``, answered
with ``ok``. Modes: pass; refuse (nothing listens, open connections are reset); hole (no data until pass, which delivers
what was kept); reset (open connections are reset, once); slow (every chunk comes 0.1 s late).
Ends when stdin does. Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys

_CHUNK = 1 << 16
_LATE = 0.1
_RESET = struct.pack("ii", 1, 0)


class Line:
    """One listening port and the socket behind it."""

    def __init__(self, name: str, target: str) -> None:
        self.name, self.target = name, target
        self.port = 0
        self.slow = False
        self._server: asyncio.Server | None = None
        self._clear = asyncio.Event()
        self._clear.set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self) -> None:
        """Open the port; the same one again after it was closed."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def obey(self, mode: str) -> None:
        """Change how bytes are forwarded."""
        self.slow = mode == "slow"
        if mode == "hole":
            self._clear.clear()
            return
        if mode in {"refuse", "reset"}:
            if mode == "refuse" and self._server is not None:
                self._server.close()
                self._server = None
            self._reset_all()
        if mode != "refuse" and self._server is None:
            await self.listen()
        self._clear.set()

    def _reset_all(self) -> None:
        for writer in list(self._writers):
            connection = writer.get_extra_info("socket")
            if connection is not None and connection.family == socket.AF_INET:
                with contextlib.suppress(OSError):  # it is closed already, and will be removed from the list
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._clear.wait()
            far_reader, far_writer = await asyncio.open_unix_connection(self.target)
        except OSError:
            self._writers.discard(writer)
            writer.transport.abort()
            return
        self._writers.add(far_writer)
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        for each in (writer, far_writer):
            self._writers.discard(each)
            each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await self._clear.wait()
                if self.slow:
                    await asyncio.sleep(_LATE)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


async def main(arguments: list[str]) -> None:
    """Listen, print the ports, and execute commands until stdin ends."""
    lines = {name: Line(name, target) for name, _, target in (argument.partition("=") for argument in arguments)}
    for line in lines.values():
        await line.listen()
        sys.stdout.write(f"{line.name} {line.port}\n")
    sys.stdout.flush()
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while output := await commands.readline():
        name, mode = output.decode().split()
        await lines[name].obey(mode)
        sys.stdout.write("ok\n")
        sys.stdout.flush()
    os._exit(0)  # what is still being forwarded needs no orderly end


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
