"""Test files in a store and back: a folder, objects in memory, and S3's protocol with a stand-in for its server."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordination.adapters.artifact_store import ArtifactStore, fetch_artifact
from coordination.base.errors import Refused, Unavailable
from coordination.domain.jobs.artifacts import Artifact
from tests.support.object_server import BUCKET, ObjectServer, running_object_server
from tests.support.refusals import refuses

PLACE = ["workspace", "run", "task", "1"]
ODD = ["report.md", "a b/grün #1?.txt", "x::y:/z", "%41", "*[1].whl", "日本/" + "語" * 80, "a" * 255, "-rf"]


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectServer]:
    """Provide one for all tests: the library keeps its connections."""
    with running_object_server() as server:
        yield server


@pytest.fixture
def s3(objects: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> str:
    credentials = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {"AWS_ENDPOINT_URL": objects.url, **credentials}.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}"


@pytest.fixture(params=["file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    base = {"file": "file://", "memory": "memory://"}.get(request.param) or request.getfixturevalue("s3")
    return ArtifactStore(f"{base}{tmp_path}/a %41 store")


def keep(store: ArtifactStore, path: str, data: bytes = b"hello", place: list[str] | None = None) -> Artifact:
    return store.keep(io.BytesIO(data), path, place=place or PLACE, on_chunk=lambda _size: None)


@pytest.mark.parametrize("path", ODD)
def test_what_was_kept_is_fetched_whatever_its_name_is(store: ArtifactStore, path: str, tmp_path: Path) -> None:
    data = path.encode() * 1_000

    kept = keep(store, path, data)

    assert (kept.path, kept.size, kept.sha256) == (path, len(data), hashlib.sha256(data).hexdigest())
    assert kept.url.startswith(store.url)
    assert fetch_artifact(kept, tmp_path / "got").read_bytes() == data
    assert [file for file in (tmp_path / "got").rglob("*") if file.is_file()] == [tmp_path / "got" / path]


def test_two_names_never_share_a_place(store: ArtifactStore) -> None:
    names = [*ODD, "a" * 254 + "b", "report%2Emd", "a%20b"]

    assert len({keep(store, name).url for name in names}) == len(names)


def test_what_is_at_a_place_goes_and_what_is_beside_it_stays(store: ArtifactStore, tmp_path: Path) -> None:
    gone, stays = keep(store, "a", place=["w", "run-1", "t", "1"]), keep(store, "a", place=["w", "run-12", "t", "1"])
    elsewhere = keep(ArtifactStore(f"{store.url}-before"), "a", place=["w", "run-1", "t", "1"])

    store.forget(["w", "run-1"])
    store.forget(["w", "run-1"])

    with refuses(Unavailable):
        fetch_artifact(gone, tmp_path / "got")
    assert fetch_artifact(elsewhere, tmp_path / "got").read_bytes() == b"hello"
    assert fetch_artifact(stays, tmp_path / "got").read_bytes() == b"hello"


@pytest.mark.parametrize("part", [[], ["run-1"], ["run-1", "t"]])
def test_a_link_in_a_folder_leads_nobody_out_of_the_store(tmp_path: Path, part: list[str]) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    victim = tmp_path / "victim"
    (victim / "run-1" / "t" / "1").mkdir(parents=True)
    (victim / "precious").write_text("all of it")
    (victim / "run-1" / "t" / "1" / "precious").write_text("all of it")
    link = tmp_path.joinpath("store", "w", *part)
    link.parent.mkdir(parents=True)
    link.symlink_to(victim.joinpath(*part))

    with refuses(Unavailable):
        keep(store, "precious", b"other", place=["w", "run-1", "t", "1"])
    if len(part) < 2:
        with refuses(Unavailable):
            store.forget(["w", "run-1"])
    else:
        store.forget(["w", "run-1"])  # the link goes, not its target

    assert (victim / "precious").read_text() == "all of it"
    assert [file.read_text() for file in victim.rglob("precious")] == ["all of it"] * 2


def test_what_was_changed_since_is_not_given_out(store: ArtifactStore, tmp_path: Path) -> None:
    kept = keep(store, "report.md")
    changed = keep(store, "report.md", b"jello")
    (tmp_path / "got").mkdir()

    with refuses(Unavailable):
        fetch_artifact(kept, tmp_path / "got")

    assert list((tmp_path / "got").iterdir()) == []
    assert changed.url == kept.url


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//b", ".", ""])
def test_a_path_out_of_the_folder_is_never_written(store: ArtifactStore, path: str, tmp_path: Path) -> None:
    kept = keep(store, "x")

    with refuses(Refused):
        fetch_artifact(Artifact(path, kept.size, kept.sha256, kept.url), tmp_path / "got")


def test_a_store_that_nobody_knows_is_refused_in_one_sentence() -> None:
    with refuses(Refused):
        keep(ArtifactStore("nosuch://ada:pw@bucket"), "x")


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with refuses(Unavailable):
        keep(ArtifactStore(f"file://{tmp_path}/file/store"), "x")


def test_a_store_of_objects_that_refuses_says_so_and_goes_on_when_it_does_not(s3: str, objects: ObjectServer) -> None:
    objects.away = True
    with refuses(Unavailable):
        keep(ArtifactStore(f"{s3}/there"), "x")
    objects.away = False

    keep(ArtifactStore(f"{s3}/there"), "x")

    assert "there/workspace/run/task/1/x" in objects.objects
