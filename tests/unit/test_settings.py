"""Test settings: defaults, the environment, options, refusals in one sentence, URLs in two dialects."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import FrozenInstanceError
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import make_url

from coordination.base.errors import SettingsError
from coordination.settings import Settings, broker_url, client_url, load_settings, masked
from tests.support.refusals import refuses

SECRET = "s3cret"


def refusal(*, at_fault: str | None = None, **variables: str) -> str:
    """Return the message that refuses *variables*, of which the first is at fault, or else *at_fault*."""
    with refuses(SettingsError, field=at_fault or next(iter(variables))) as refused:
        load_settings({"HOME": "/home/of/ada", **variables})
    return refused.value.sentence()


class TestDefaults:
    def test_nothing_set_means_one_machine(self) -> None:
        settings = load_settings({"HOME": "/home/of/ada"})

        assert settings.home == Path("/home/of/ada/.coordination")
        assert settings.database_url == "sqlite:////home/of/ada/.coordination/coordination.db"
        assert settings.embedded
        assert settings.workspace == "default"
        assert settings.slots == 8
        assert settings.window is None
        assert settings.leases().ttl == timedelta(seconds=30)
        assert settings.supervision().stale_after == timedelta(minutes=10)

    def test_an_empty_variable_is_not_set(self) -> None:
        settings = load_settings({"COORD_REDIS_URL": "", "COORD_SLOTS": " "})

        assert settings.embedded
        assert settings.slots == 8

    def test_they_cannot_be_changed(self) -> None:
        with pytest.raises(FrozenInstanceError):
            load_settings({}).slots = 9  # type: ignore[misc]

    def test_reading_them_costs_no_heavy_import(self) -> None:
        code = "import sys, coordination.settings; print([m for m in ('pydantic', 'sqlalchemy') if m in sys.modules])"

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert done.stdout.strip() == "[]"


class TestValues:
    def test_each_is_read_from_its_variable(self) -> None:
        settings = load_settings(
            {
                "COORD_HOME": "/srv/coord",
                "COORD_LEASE_TTL": "2m",
                "COORD_LEASE_HEARTBEAT": "15",
                "COORD_SHUTDOWN_GRACE": "0",
                "COORD_SUPERVISOR_LIFETIME": "1h30m",
                "COORD_WINDOW": "100",
                "COORD_OUTPUT_LIMIT": "5000",
                "COORD_LOG_FORMAT": "JSON",
                "COORD_DEBUG": "yes",
                "COORD_READY_FD": "7",
                "XDG_RUNTIME_DIR": "/run/user/1",
            }
        )

        assert settings.home == Path("/srv/coord")
        assert settings.leases().ttl == timedelta(minutes=2)
        assert settings.leases().heartbeat == timedelta(seconds=15)
        assert settings.shutdown_grace == timedelta(0)
        assert settings.supervisor_lifetime == timedelta(minutes=90)
        assert (settings.window, settings.output_limit, settings.ready_fd) == (100, 5000, 7)
        assert (settings.log_format, settings.debug) == ("json", True)
        assert settings.runtime_dir == Path("/run/user/1")

    @pytest.mark.parametrize(("given", "below"), [("here", "here"), ("./a b/../c", "c"), ("..", "..")])
    def test_a_relative_home_begins_at_the_current_folder(self, given: str, below: str) -> None:
        settings = load_settings({"COORD_HOME": given})

        assert settings.home == Path(os.path.normpath(Path.cwd() / below))
        assert settings.child_environment()["COORD_HOME"] == str(settings.home)

    @pytest.mark.parametrize(
        ("given", "kept", "confines"),
        [("0", "0", False), ("off", "0", False), ("1", "1", True), ("ON", "1", True), ("Strict", "strict", True)],
    )
    def test_a_sandbox_is_off_on_or_strict(self, given: str, kept: str, confines: bool) -> None:  # noqa: FBT001
        settings = load_settings({"COORD_SANDBOX": given})

        assert (settings.sandbox, settings.confines) == (kept, confines)
        assert load_settings({"COORD_REQUIRE_SANDBOX": "1"}).confines
        assert load_settings(settings.child_environment()).sandbox == kept

    def test_a_sandbox_has_lists_of_places_and_hosts(self) -> None:
        settings = load_settings(
            {
                "COORD_SANDBOX": "strict",
                "COORD_SANDBOX_READ": "/srv/models:/opt/x",
                "COORD_SANDBOX_HIDE": "/home/ada/.ssh",
                "COORD_SANDBOX_NETWORK": "api.example.org:443",
            }
        )

        assert settings.readable() == ("/srv/models", "/opt/x")
        assert settings.hidden() == ("/home/ada/.ssh",)
        assert settings.network().allows("api.example.org", 443)
        assert load_settings(settings.child_environment()).network() == settings.network()

    def test_an_option_goes_before_the_environment_and_none_is_no_option(self) -> None:
        settings = load_settings({"COORD_SLOTS": "2", "COORD_SWEEP": "9s"}, slots=3, sweep=None)

        assert settings.slots == 3
        assert settings.sweep == timedelta(seconds=9)

    def test_an_option_that_does_not_exist(self) -> None:
        with refuses(SettingsError, field="slotz"):
            load_settings({}, slotz=3)

    def test_a_child_gets_all_of_it_and_not_the_pipe(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COORD_READY_FD", "9")
        monkeypatch.setenv("COORD_SLOTS", "5")
        monkeypatch.setenv("COLOUR", "blue")
        settings = load_settings(
            lease_ttl=timedelta(seconds=0.25), lease_heartbeat="100ms", database_url="sqlite:///x.db"
        )

        environment = settings.child_environment(COORD_REDIS_URL="unix:///y?db=0")

        assert environment["COLOUR"] == "blue"
        assert "COORD_READY_FD" not in environment
        again = load_settings(environment)
        assert again.redis_url == "unix:///y?db=0"
        assert {name: getattr(again, name) for name in ("lease_ttl", "slots", "database_url", "home")} == {
            name: getattr(settings, name) for name in ("lease_ttl", "slots", "database_url", "home")
        }

    def test_what_is_shown_names_its_source_and_hides_passwords(self) -> None:
        shown = load_settings(
            {"COORD_DATABASE_URL": f"postgres://ada:{SECRET}@db/x", "COORD_REDIS_URL": f"redis://:{SECRET}@r"}, slots=3
        ).shown()

        assert SECRET not in str(shown)
        assert (shown["database_url"].value, shown["database_url"].source) == (
            "postgresql+psycopg://ada:***@db/x",
            "COORD_DATABASE_URL",
        )
        assert (shown["slots"].value, shown["slots"].source) == ("3", "option")
        assert (shown["lease_ttl"].value, shown["lease_ttl"].source) == ("30s", "default")


class TestRefusals:
    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("COORD_LEASE_TTL", "soon"),
            ("COORD_LEASE_TTL", "-5"),
            ("COORD_LEASE_TTL", "nan"),
            ("COORD_SWEEP", "0"),
            ("COORD_TICK", "9999999d"),
            ("COORD_SLOTS", "0"),
            ("COORD_SLOTS", "eight"),
            ("COORD_SLOTS", "٣"),
            ("COORD_WINDOW", "-1"),
            ("COORD_WORKSPACE", "a b"),
            ("COORD_LOG_LEVEL", "loud"),
            ("COORD_LOG_FORMAT", "xml"),
            ("COORD_DEBUG", "perhaps"),
            ("COORD_HOME", "/a\udcff"),
            ("COORD_HOME", "~nobody-of-that-name/x"),
            ("COORD_DATABASE_URL", "mysql://h/d"),
            ("COORD_DATABASE_URL", "postgresql+asyncpg://h/d"),
            ("COORD_DATABASE_URL", "shop.db"),
            ("COORD_DATABASE_URL", "sqlite://"),
            ("COORD_DATABASE_URL", "sqlite:///:memory:"),
            ("COORD_DATABASE_URL", "postgresql://h:port/d"),
            ("COORD_REDIS_URL", "localhost:6379"),
            ("COORD_REDIS_URL", "amqp://h"),
            ("COORD_REDIS_URL", "redis://h:port"),
            ("COORD_REDIS_URL", "redis://h/zero"),
            ("COORD_REDIS_URL", "unix://relative/path.sock"),
            ("COORD_REDIS_URL", "unix:///p?colour=blue"),
        ],
    )
    def test_one_sentence_names_the_variable_and_what_it_must_look_like(self, variable: str, value: str) -> None:
        refusal(**{variable: value})

    @pytest.mark.parametrize(
        "url", [f"postgresql://ada:{SECRET}#@h/d", f"mysql://ada:{SECRET}@h", f"postgresql://a:{SECRET}@h:x/d"]
    )
    def test_a_password_is_never_repeated(self, url: str) -> None:
        assert SECRET not in refusal(COORD_DATABASE_URL=url)

    def test_a_password_in_a_broken_redis_url_neither(self) -> None:
        assert SECRET not in refusal(COORD_REDIS_URL=f"redis://:{SECRET}/x@h")

    def test_something_long_is_cut(self) -> None:
        assert len(refusal(COORD_SLOTS="9" * 100_000)) < 300

    def test_an_option_is_called_one(self) -> None:
        with refuses(SettingsError, field="COORD_SLOTS"):
            load_settings({}, slots="x")

    def test_a_lease_that_holds_no_two_heartbeats(self) -> None:
        refusal(COORD_LEASE_TTL="15s", at_fault="COORD_LEASE_HEARTBEAT")

    @pytest.mark.parametrize(("variables"), [{}, {"COORD_SANDBOX": "1"}, {"COORD_REQUIRE_SANDBOX": "1"}])
    def test_a_network_that_nothing_keeps_jobs_from(self, variables: dict[str, str]) -> None:
        refusal(COORD_SANDBOX_NETWORK="off", **variables)

    @pytest.mark.parametrize("network", ["host", "https://host:443", "*:443", "host:0", "127.1:443", ","])
    def test_a_network_that_is_none(self, network: str) -> None:
        refusal(COORD_SANDBOX_NETWORK=network, COORD_SANDBOX="strict")

    def test_a_supervisor_that_stops_before_it_is_stale(self) -> None:
        refusal(COORD_SUPERVISOR_STOPPED="5m", at_fault="COORD_SUPERVISOR_STALE")


class TestDatabaseUrls:
    @pytest.mark.parametrize(
        ("given", "stored"),
        [
            ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
            ("postgresql://h:5433/d?sslmode=require", "postgresql+psycopg://h:5433/d?sslmode=require"),
            ("postgresql+psycopg://h/d", "postgresql+psycopg://h/d"),
            ("sqlite:////abs/x.db", "sqlite:////abs/x.db"),
            ("sqlite:////abs/../x.db?timeout=5", "sqlite:////x.db?timeout=5"),
        ],
    )
    def test_they_are_stored_in_one_form(self, given: str, stored: str) -> None:
        settings = load_settings({"COORD_DATABASE_URL": given})

        assert settings.database_url == stored
        assert load_settings({"COORD_DATABASE_URL": stored}).database_url == stored

    def test_a_relative_file_is_the_same_file_for_every_process(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)

        settings = load_settings({"COORD_DATABASE_URL": "sqlite:///shop.db"})

        assert make_url(settings.database_url).database == str(tmp_path / "shop.db")

    @pytest.mark.parametrize("name", ["a space", "50%25 off", "why?", "c#", "ü", "a@b:c"])
    def test_a_home_with_odd_letters_is_the_path_that_the_library_opens(self, name: str) -> None:
        settings = load_settings({}, home=f"/srv/{name}")

        assert make_url(settings.database_url).database == f"/srv/{name}/coordination.db"


class TestRedisUrls:
    @pytest.mark.parametrize(
        ("given", "client", "broker"),
        [
            ("redis://h", "redis://h/0", "redis://h/0"),
            ("redis://u:p%40@h:6380/3", "redis://u:p%40@h:6380/3", "redis://u:p%40@h:6380/3"),
            ("redis://h?db=2", "redis://h/2", "redis://h/2"),
            ("rediss://h/1", "rediss://h/1", "rediss://h/1?ssl_cert_reqs=required"),
            ("rediss://h/1?ssl_cert_reqs=none", "rediss://h/1?ssl_cert_reqs=none", "rediss://h/1?ssl_cert_reqs=none"),
            ("unix:///a/b.sock", "unix:///a/b.sock?db=0", "redis+socket:///a/b.sock?virtual_host=0"),
            (
                "redis+socket://:p%2Fw@/a%20b.sock?virtual_host=4",
                "unix://:p%2Fw@/a%20b.sock?db=4",
                "redis+socket://:p%2Fw@/a%20b.sock?virtual_host=4",
            ),
        ],
    )
    def test_each_library_gets_its_own_form(self, given: str, client: str, broker: str) -> None:
        stored = load_settings({"COORD_REDIS_URL": given}).redis_url

        assert stored is not None
        assert (client_url(given), broker_url(given)) == (client, broker)
        assert (client_url(stored), broker_url(stored)) == (client, broker)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:pw@h/d", "postgresql://ada:***@h/d"),
        ("postgresql://ada:p@w:x@h/d", "postgresql://ada:***@h/d"),
        ("postgresql://h/d?user=ada&password=pw&sslmode=x", "postgresql://h/d?user=ada&password=***&sslmode=x"),
        ("redis://:pw@h/0", "redis://:***@h/0"),
        ("redis://h/0", "redis://h/0"),
        ("sqlite:////a:b/c@d.db", "sqlite:////a:b/c@d.db"),
    ],
)
def test_a_masked_url_keeps_all_but_the_password(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_every_setting_has_a_variable_and_a_description() -> None:
    shown = load_settings({}).shown()

    assert set(shown) == set(Settings.__dataclass_fields__) - {"sources"}
