"""Test which URLs of a PostgreSQL database are valid, and the options that are sent to the server for them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import make_url, text

from coordination.base.errors import DatabaseUnavailable, Refused
from coordination.base.urls import store_url
from coordination.store import schema
from coordination.store.engine import open_store
from coordination.store.postgresql import address_of
from tests.support.refusals import refuses
from tests.support.sources import ROOT

OF_A_SESSION = re.compile(
    r"pg_(try_)?advisory_lock|\bLISTEN\b|\bNOTIFY\b|SET SESSION|\bPREPARE \w"
    r"|CREATE TEMP(ORARY)? TABLE(?!.*ON COMMIT DROP)"
)


def address(options: str):
    return address_of(make_url(store_url(f"postgresql://h/d?{options}")))


def test_settings_go_with_the_start_of_a_session_and_those_of_the_url_count() -> None:
    parsed_address = address(
        "options=-csearch_path%3Dapp%20-clock_timeout%3D5s&connect_timeout=30&application_name=mine"
    )

    assert parsed_address.each == {}
    assert parsed_address.arguments["options"].endswith("-csearch_path=app -clock_timeout=5s -c TimeZone=UTC")
    assert "-c lock_timeout=20s" in parsed_address.arguments["options"]
    assert not parsed_address.arguments.keys() & {"connect_timeout", "application_name", "prepare_threshold"}
    assert (parsed_address.url.query["connect_timeout"], parsed_address.url.query["application_name"]) == ("30", "mine")


@pytest.mark.parametrize("word", ["none", "None", "NONE"])
def test_behind_a_pooler_nothing_goes_with_the_start(word: str) -> None:
    parsed_address = address(
        rf"prepare_threshold={word}&options=-csearch_path%3Da\%20b,c%20--work-mem=3MB%20-c%20jit%3Don"
    )

    assert parsed_address.arguments["prepare_threshold"] is None
    assert "options" not in parsed_address.arguments
    assert not parsed_address.url.query.keys() & {"options", "prepare_threshold"}
    assert parsed_address.each["search_path"] == "a b,c"
    assert (parsed_address.each["work_mem"], parsed_address.each["jit"], parsed_address.each["TimeZone"]) == (
        "3MB",
        "on",
        "UTC",
    )


@pytest.mark.parametrize(("said", "passed_on"), [("0", 0), ("5", 5)])
def test_a_threshold_is_passed_on(said: str, passed_on: int) -> None:
    assert address(f"prepare_threshold={said}").arguments["prepare_threshold"] == passed_on


@pytest.mark.parametrize(
    "options",
    [
        "prepare_threshold=never",
        "prepare_threshold=-1",
        "search_path=app",
        "currentSchema=app",
        "pgbouncer=true",
        "statement_cache_size=0",
        "prepare_threshold=none&options=-e",
    ],
)
def test_what_nobody_knows_is_refused(options: str) -> None:
    with refuses(Refused):
        address(options)


@pytest.fixture
def plain_url(blank_postgres_url: str) -> Iterator[str]:
    return make_url(blank_postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.mark.stores("postgres")
@pytest.mark.hot_sql
@pytest.mark.parametrize("threshold", ["", "&prepare_threshold=none"])
def test_tables_are_made_where_the_search_path_says(plain_url: str, threshold: str) -> None:
    with_path = store_url(f"{plain_url}&options=-csearch_path%3Dapp{threshold}")
    plain, store = open_store(store_url(plain_url)), open_store(with_path)
    try:
        with refuses(DatabaseUnavailable, varies=r"The database .*? cannot be used"):
            schema.prepare(store)
        with plain.write() as tx:
            tx.execute(text("CREATE SCHEMA app"))
        schema.prepare(store)
        schema.require(store)
        with plain.read() as tx:
            created = tx.execute(
                text("SELECT table_schema FROM information_schema.tables WHERE table_name = 'tasks'")
            ).scalars()

            assert list(created) == ["app"]
    finally:
        plain.close()
        store.close()


@pytest.mark.stores("postgres")
@pytest.mark.parametrize("threshold", ["", "&prepare_threshold=none"])
def test_settings_of_the_url_reach_every_transaction_as_they_are(plain_url: str, threshold: str) -> None:
    options = r"-c my.odd=50%25_it's_a\\b\ c -c search_path=a,\ public --work-mem=3MB"
    store = open_store(store_url(f"{plain_url}&options={options.replace(' ', '%20')}{threshold}"))
    try:
        for opened in (store.write, store.read, store.write):
            with opened() as tx:
                settings = [
                    tx.execute(text(f"SHOW {name}")).scalar_one()
                    for name in ("my.odd", "search_path", "work_mem", "lock_timeout", "timezone")
                ]
            assert settings == [r"50%_it's_a\b c", "a, public", "3MB", "20s", "UTC"]
    finally:
        store.close()


def test_a_password_in_the_options_is_not_shown() -> None:
    store = open_store(store_url("postgresql://ada:s3cret@h/d?password=s3cret2&sslpassword=s3cret3"))

    assert "s3cret" not in store.shown_url
    assert "ada" in store.shown_url


def test_no_statement_of_ours_is_about_a_session() -> None:
    """Avoid session state: behind a pooler in transaction mode it would belong to another client."""
    sources = [*(ROOT / "coordination").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]

    hits = [f"{path}: {hit[0]}" for path in sources if (hit := OF_A_SESSION.search(path.read_text("utf-8")))]

    assert hits == []
