"""A stand-in for S3: stores, fetches, lists and deletes objects in one bucket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

BUCKET = "bucket"


class ObjectServer(ThreadingHTTPServer):
    """Objects by key. ``away``: every request is refused, as by an overloaded server."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.away = False

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}").removeprefix("/")

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in (self.headers.get("Content-Encoding") or ""):
            return data
        whole, rest = b"", data
        while rest:
            head, _, rest = rest.partition(b"\r\n")
            size = int(head.split(b";")[0], 16)
            if not size:
                break
            whole, rest = whole + rest[:size], rest[size + 2 :]
        return whole

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _is_away(self) -> bool:
        if self.server.away:
            self._body()
            self._answer(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
        return bool(self.server.away)

    def do_PUT(self) -> None:
        if not self._is_away():
            self.server.objects[self._key()] = self._body()
            self._answer(200, ETag='"x"')

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self._is_away():
            return
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        key = self._key()
        if not key:
            self._list(query)
        elif (data := self.server.objects.get(key)) is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif result := self.headers.get("Range"):
            first, _, last = result.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1 if last else None]
            self._answer(206, part, Content_Range=f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        else:
            self._answer(200, data, ETag='"x"', Last_Modified="Sat, 21 Nov 2026 20:00:00 GMT")

    def do_DELETE(self) -> None:
        if not self._is_away():
            self.server.objects.pop(self._key(), None)
            self._answer(204)

    def do_POST(self) -> None:
        if self._is_away():
            return
        for result in ET.fromstring(self._body()).iter():  # noqa: S314 - from our own client
            if result.tag.rpartition("}")[2] == "Key":
                self.server.objects.pop(result.text or "", None)
        self._answer(200, b"<DeleteResult></DeleteResult>")

    def _list(self, asked: dict[str, list[str]]) -> None:
        prefix, limit = asked.get("prefix", [""])[0], asked.get("delimiter", [""])[0]
        contents, folders = "", dict[str, None]()
        for key, data in sorted(self.server.objects.items()):
            if not key.startswith(prefix):
                continue
            if limit and limit in key[len(prefix) :]:
                folders[prefix + key[len(prefix) :].partition(limit)[0] + limit] = None
            else:
                contents += (
                    f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size><ETag>x</ETag>"
                    "<LastModified>2026-11-21T20:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
                )
        commons = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
        count = contents.count("<Contents>") + len(folders)
        body = (
            f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{count}</KeyCount>"
            f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{contents}{commons}</ListBucketResult>"
        )
        self._answer(200, body.encode(), Content_Type="application/xml")


@contextmanager
def running_object_server() -> Iterator[ObjectServer]:
    """Provide a running server."""
    with ObjectServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
