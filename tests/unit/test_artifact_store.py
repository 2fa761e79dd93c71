"""Files in a store and back: a folder, and a store of objects in memory."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from coordination.artifact_store import ArtifactStore, fetch
from coordination.domain.artifacts import Artifact
from coordination.errors import Refused, Unavailable

PLACE = ["workspace", "run", "task", "1"]
ODD = ["report.md", "a b/grün #1?.txt", "x::y:/z", "%41", "*[1].whl", "日本/" + "語" * 80, "a" * 255, "-rf"]


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/a %41 store" if request.param == "file" else f"memory://{tmp_path}/store")


def keep(store: ArtifactStore, path: str, data: bytes = b"hello", place: list[str] | None = None) -> Artifact:
    return store.keep(io.BytesIO(data), path, place=place or PLACE, more=lambda _size: None)


@pytest.mark.parametrize("path", ODD)
def test_what_was_kept_is_fetched_whatever_its_name_is(store: ArtifactStore, path: str, tmp_path: Path) -> None:
    data = path.encode() * 1_000

    kept = keep(store, path, data)

    assert (kept.path, kept.size, kept.sha256) == (path, len(data), hashlib.sha256(data).hexdigest())
    assert kept.url.startswith(store.url)
    assert fetch(kept, tmp_path / "got").read_bytes() == data
    assert [file for file in (tmp_path / "got").rglob("*") if file.is_file()] == [tmp_path / "got" / path]


def test_two_names_never_share_a_place(store: ArtifactStore) -> None:
    names = [*ODD, "a" * 254 + "b", "report%2Emd", "a%20b"]

    assert len({keep(store, name).url for name in names}) == len(names)


def test_what_is_at_a_place_goes_and_what_is_beside_it_stays(store: ArtifactStore, tmp_path: Path) -> None:
    gone, stays = keep(store, "a", place=["w", "run-1", "t", "1"]), keep(store, "a", place=["w", "run-12", "t", "1"])
    elsewhere = keep(ArtifactStore(f"{store.url}-before"), "a")

    store.forget(["w", "run-1"], [gone.url, elsewhere.url])
    store.forget(["w", "run-1"], [gone.url, elsewhere.url])

    for each in (gone, elsewhere):
        with pytest.raises(Unavailable, match="it is not there"):
            fetch(each, tmp_path / "got")
    assert fetch(stays, tmp_path / "got").read_bytes() == b"hello"


def test_what_was_changed_since_is_not_given_out(store: ArtifactStore, tmp_path: Path) -> None:
    kept = keep(store, "report.md")
    changed = keep(store, "report.md", b"jello")
    (tmp_path / "got").mkdir()

    with pytest.raises(Unavailable, match=r"is not what was kept as report\.md"):
        fetch(kept, tmp_path / "got")

    assert list((tmp_path / "got").iterdir()) == []
    assert changed.url == kept.url


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//b", ".", ""])
def test_a_path_out_of_the_folder_is_never_written(store: ArtifactStore, path: str, tmp_path: Path) -> None:
    kept = keep(store, "x")

    with pytest.raises(Refused, match="no path inside a folder"):
        fetch(Artifact(path, kept.size, kept.sha256, kept.url), tmp_path / "got")


def test_a_store_that_nobody_knows_is_refused_in_one_sentence() -> None:
    with pytest.raises(Refused, match="Artifacts cannot be kept at nosuch://"):
        keep(ArtifactStore("nosuch://bucket"), "x")


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(Unavailable, match=r"The artifact x cannot be kept at file://.*/file/store: "):
        keep(ArtifactStore(f"file://{tmp_path}/file/store"), "x")
