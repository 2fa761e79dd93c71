"""Test accounts in a home folder: who can read them; links, others' files, garbage and dead writers."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coordination.adapters import keyrings
from coordination.adapters.account_store import Accounts
from coordination.base.errors import NotFound, Refused
from coordination.domain.jobs.accounts import MOST_VARIABLES, SecretPlace
from tests.support.refusals import refuses

KEY = "sk-ant-0123456789"
PLACE = r"/\S*/"
HERE = r"(?<= on | of )\S+(?=\.| does| that)|COORD_HOME=\S+"


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    return Accounts(tmp_path / "home")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_what_is_set_is_held_and_shown_without_its_secret(accounts: Accounts) -> None:
    accounts.set("claude@work", "ANTHROPIC_API_KEY", KEY, kept=SecretPlace.FILE)
    accounts.set("claude@work", "CLAUDE_CONFIG_DIR", "/x", kept=SecretPlace.SETTING)

    stored, shown = accounts.held("claude@work"), accounts.get("claude@work")

    assert stored.values == {"ANTHROPIC_API_KEY": KEY, "CLAUDE_CONFIG_DIR": "/x"}
    assert stored.secret == {"ANTHROPIC_API_KEY"}
    assert [(one.name, one.kept, one.value) for one in shown.variables] == [
        ("ANTHROPIC_API_KEY", SecretPlace.FILE, None),
        ("CLAUDE_CONFIG_DIR", SecretPlace.SETTING, "/x"),
    ]
    assert KEY not in f"{stored!r}{shown!r}"
    assert accounts.names() == ["claude@work"]


def test_nobody_else_can_read_them_whatever_the_umask(accounts: Accounts) -> None:
    before = os.umask(0)
    try:
        accounts.set("work", "MY_KEY", KEY, kept=SecretPlace.FILE)
    finally:
        os.umask(before)

    assert mode(accounts.folder) == 0o700
    assert {mode(path) for path in accounts.folder.iterdir()} == {0o600}


def test_the_command_that_sets_one_can_be_pasted_whatever_the_folder_is_called(tmp_path: Path) -> None:
    home = tmp_path / "my 'own' home; x"

    words = shlex.split(Accounts(home).command("claude@work", "KEY"))

    assert words == [f"COORD_HOME={home}", "coord", "accounts", "set", "claude@work", "KEY"]


def test_an_account_ends_with_its_last_variable(accounts: Accounts) -> None:
    accounts.set("work", "MY_KEY", KEY, kept=SecretPlace.FILE)
    accounts.set("work", "OTHER_KEY", KEY, kept=SecretPlace.FILE)

    assert accounts.unset("work", "MY_KEY") == ["MY_KEY"]
    with refuses(NotFound):
        accounts.unset("work", "MY_KEY")
    assert accounts.unset("work") == ["OTHER_KEY"]

    assert accounts.names() == []
    for ask in (accounts.get, accounts.held, accounts.unset):
        with refuses(NotFound, varies=HERE):
            ask("work")


def test_values_are_kept_as_they_are(accounts: Accounts) -> None:
    value = '{"private_key": "-----BEGIN\\nä\\ud800 \'\\"\\n"}\nsecond line'
    accounts.set("gcp", "KEY_JSON", value, kept=SecretPlace.FILE)

    assert accounts.held("gcp").values == {"KEY_JSON": value}


def test_files_that_others_may_read_or_own_or_that_are_links_are_not_used(accounts: Accounts, tmp_path: Path) -> None:
    for name in ("open", "link", "pipe", "garbage", "foreign", "good"):
        accounts.set(name, "MY_KEY", KEY, kept=SecretPlace.FILE)
    place = {name: accounts.folder / f"{name}.json" for name in accounts.names()}
    place["open"].chmod(0o640)
    place["link"].rename(tmp_path / "elsewhere")
    place["link"].symlink_to(tmp_path / "elsewhere")
    place["pipe"].unlink()
    os.mkfifo(place["pipe"], 0o600)
    place["garbage"].write_text(f'{{"format": 1, "variables": {{"MY_KEY": "{KEY}"')
    place["foreign"].write_text(json.dumps({"format": 2, "variables": {}}))
    unusable = ["open", "link", "pipe", "garbage", "foreign"]

    for name in unusable:
        for ask in (accounts.held, accounts.get, accounts.unset):
            with refuses(Refused, varies=PLACE) as refused:
                ask(name)
            assert KEY not in f"{refused.value.sentence()}"
        with refuses(Refused, varies=PLACE):
            accounts.set(name, "MY_KEY", KEY, kept=SecretPlace.FILE)

    assert len(accounts.problems()) == len(unusable)
    assert accounts.held("good").values == {"MY_KEY": KEY}
    assert (tmp_path / "elsewhere").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_and_folders_of_other_users_are_not_used(accounts: Accounts) -> None:
    accounts.set("work", "MY_KEY", KEY, kept=SecretPlace.FILE)
    os.chown(accounts.folder / "work.json", 65534, 65534)

    with refuses(Refused, varies=PLACE):
        accounts.held("work")

    os.chown(accounts.folder / "work.json", 0, 0)
    os.chown(accounts.folder, 65534, 65534)
    with refuses(Refused, varies=PLACE):
        accounts.held("work")


def test_a_folder_that_is_a_link_or_open_to_others_is_not_used(accounts: Accounts, tmp_path: Path) -> None:
    accounts.set("work", "MY_KEY", KEY, kept=SecretPlace.FILE)
    accounts.folder.chmod(0o755)
    with refuses(Refused, varies=PLACE):
        accounts.held("work")
    accounts.folder.chmod(0o700)
    accounts.folder.rename(tmp_path / "elsewhere")
    accounts.folder.symlink_to(tmp_path / "elsewhere")

    with refuses(Refused, varies=PLACE):
        accounts.held("work")
    with refuses(Refused, varies=PLACE):
        accounts.set("other", "MY_KEY", KEY, kept=SecretPlace.FILE)
    assert len(accounts.problems()) == 1


def test_writers_at_once_lose_nothing(accounts: Accounts) -> None:
    names = [f"KEY_{number}" for number in range(MOST_VARIABLES)]

    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda name: Accounts(accounts.home).set("work", name, f"{KEY}{name}", kept=SecretPlace.FILE), names
            )
        )

    assert accounts.held("work").values == {name: f"{KEY}{name}" for name in names}
    with refuses(Refused):
        accounts.set("work", "ONE_MORE", KEY, kept=SecretPlace.FILE)


def test_what_a_killed_writer_left_is_taken_away_and_never_read(accounts: Accounts) -> None:
    accounts.set("work", "MY_KEY", KEY, kept=SecretPlace.FILE)
    (accounts.folder / ".draft-0123").write_text(KEY)

    accounts.set("other", "MY_KEY", KEY, kept=SecretPlace.FILE)

    assert sorted(path.name for path in accounts.folder.iterdir()) == [".lock", "other.json", "work.json"]


def test_a_refusal_changes_nothing(accounts: Accounts) -> None:
    refused = Accounts(accounts.home, refusal=Refused("A job changes nothing"))
    with refuses(Refused):
        refused.set("work", "MY_KEY", KEY)

    assert not accounts.folder.exists()


BACKEND = '''
import json, os, pathlib
from keyring.backend import KeyringBackend

PLACE = pathlib.Path(os.environ["RING"])

class Ring(KeyringBackend):
    """Keeps in a file what the system's would keep; what is asked for and how is the library's own."""
    priority = 5
    name = "the test's ring"

    def _all(self):
        return json.loads(PLACE.read_text()) if PLACE.exists() else {}

    def set_password(self, service, user, value):
        if PLACE.name == "broken":
            raise RuntimeError(value)
        PLACE.write_text(json.dumps(self._all() | {service + "|" + user: value}))

    def get_password(self, service, user):
        return self._all().get(service + "|" + user)

    def delete_password(self, service, user):
        left = self._all()
        del left[service + "|" + user]
        PLACE.write_text(json.dumps(left))
'''


@pytest.fixture
def keyring_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide the file in which a keyring stores its secrets."""
    pytest.importorskip("keyring")
    (tmp_path / "ring_of_test.py").write_text(BACKEND)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "ring_of_test.Ring")
    monkeypatch.setenv("RING", str(tmp_path / "ring.json"))
    return tmp_path / "ring.json"


def test_a_keyring_that_works_keeps_secrets_and_the_file_only_says_so(accounts: Accounts, keyring_file: Path) -> None:
    assert accounts.set("work", "MY_KEY", KEY).kept is SecretPlace.KEYRING

    assert keyrings.name() == "the test's ring"
    assert accounts.held("work").values == {"MY_KEY": KEY}
    assert accounts.held("work").secret == {"MY_KEY"}
    assert KEY in keyring_file.read_text()
    assert KEY not in (accounts.folder / "work.json").read_text()

    accounts.unset("work")
    assert KEY not in keyring_file.read_text()


def test_a_secret_moves_from_the_keyring_into_the_file_and_leaves_nothing_behind(
    accounts: Accounts, keyring_file: Path
) -> None:
    accounts.set("work", "MY_KEY", KEY)

    assert accounts.set("work", "MY_KEY", f"{KEY}2", kept=SecretPlace.FILE).kept is SecretPlace.FILE

    assert KEY not in keyring_file.read_text()
    assert accounts.held("work").values == {"MY_KEY": f"{KEY}2"}


def test_a_keyring_that_does_not_work_is_not_used(
    accounts: Accounts, keyring_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.set("locked", "MY_KEY", KEY)
    monkeypatch.setenv("RING", str(keyring_file.with_name("broken")))

    assert accounts.set("work", "MY_KEY", KEY).kept is SecretPlace.FILE
    for ask in (lambda: accounts.set("work", "MY_KEY", KEY, kept=SecretPlace.KEYRING), lambda: accounts.held("locked")):
        with refuses(Refused, varies=HERE) as refused:
            ask()
        assert KEY not in refused.value.sentence()
    assert accounts.held("work").values == {"MY_KEY": KEY}
