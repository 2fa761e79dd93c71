"""Test how the current checkout is found, in real git repositories."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from coordination.adapters import git_checkout
from coordination.base.errors import Refused
from coordination.domain.projects.projects import LOCAL
from tests.support.refusals import refuses

REMOTE = "git@git.example.org:acme/shop.git"


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def _own_git_configuration(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


@pytest.fixture
def make_repository(tmp_path):
    def make(name: str = "shop", remotes: dict[str, str] | None = None, *, commit: bool = True) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        git(folder, "init", "-q", "-b", "main")
        if commit:
            git(folder, "commit", "-q", "--allow-empty", "-m", "first")
        for remote, url in (remotes or {}).items():
            git(folder, "remote", "add", remote, url)
        return folder

    return make


class TestRemote:
    def test_names_the_project_from_any_folder_or_file_inside(self, make_repository):
        folder = make_repository(remotes={"origin": REMOTE})
        (folder / "src" / "deep").mkdir(parents=True)
        (folder / "src" / "a.py").touch()

        checkout = git_checkout.checkout_of(folder / "src" / "deep")

        assert checkout == git_checkout.checkout_of(folder) == git_checkout.checkout_of(folder / "src" / "a.py")
        assert checkout.root == folder
        assert checkout.identity == "git.example.org/acme/shop"
        assert checkout.name == "shop"
        assert checkout.branch == "main"
        assert checkout.head == git(folder, "rev-parse", "HEAD")

    def test_clones_and_worktrees_are_the_same_project(self, make_repository, tmp_path):
        first = make_repository("one", {"origin": REMOTE})
        second = make_repository("two", {"origin": "https://dave:t0ken@GIT.example.org/acme/shop"})
        git(first, "worktree", "add", "-q", "-b", "feature", str(tmp_path / "tree"))

        identities = {git_checkout.checkout_of(folder).identity for folder in (first, second, tmp_path / "tree")}

        assert identities == {"git.example.org/acme/shop"}
        assert git_checkout.checkout_of(tmp_path / "tree").branch == "feature"
        assert git_checkout.checkout_of(tmp_path / "tree").root == tmp_path / "tree"

    def test_credentials_are_not_kept(self, make_repository):
        folder = make_repository(remotes={"origin": "https://dave:t0ken@git.example.org/acme/shop.git"})

        assert "t0ken" not in repr(git_checkout.checkout_of(folder))

    @pytest.mark.parametrize(
        ("remotes", "identity"),
        [
            ({"aaa": "https://example.org/a/a", "origin": "https://example.org/o/o"}, "example.org/o/o"),
            ({"upstream": "https://example.org/u/u"}, "example.org/u/u"),
            ({"zzz": "https://example.org/z/z", "mmm": "https://example.org/m/m"}, "example.org/m/m"),
        ],
    )
    def test_origin_goes_first_then_the_only_one_then_the_first_by_name(self, make_repository, remotes, identity):
        assert git_checkout.checkout_of(make_repository(remotes=remotes)).identity == identity

    def test_a_renamed_remote_names_the_same_project(self, make_repository):
        folder = make_repository(remotes={"origin": REMOTE})
        before = git_checkout.checkout_of(folder).identity

        git(folder, "remote", "rename", "origin", "company")

        assert git_checkout.checkout_of(folder).identity == before

    def test_gits_own_rewriting_of_addresses_is_followed(self, make_repository):
        folder = make_repository(remotes={"origin": "work:shop"})

        git(folder, "config", "url.https://git.example.org/acme/.insteadOf", "work:")

        assert git_checkout.checkout_of(folder).identity == "git.example.org/acme/shop"

    def test_an_address_that_names_nothing_leaves_the_local_identity(self, make_repository):
        folder = make_repository(remotes={"origin": "odd://x"})

        checkout = git_checkout.checkout_of(folder)

        assert checkout.identity.startswith(LOCAL)


class TestLocal:
    def test_a_repository_without_a_remote_has_one_identity_from_everywhere_in_it(self, make_repository, tmp_path):
        folder = make_repository()
        (folder / "src").mkdir()
        git(folder, "worktree", "add", "-q", str(tmp_path / "tree"))

        checkout = git_checkout.checkout_of(folder)

        assert checkout.identity.startswith(LOCAL)
        assert checkout.name == "shop"
        assert {git_checkout.checkout_of(at).identity for at in (folder / "src", tmp_path / "tree")} == {
            checkout.identity
        }

    def test_two_repositories_are_two_projects(self, make_repository):
        assert (
            git_checkout.checkout_of(make_repository("a/shop")).identity
            != git_checkout.checkout_of(make_repository("b/shop")).identity
        )

    def test_a_clone_by_path_is_the_project_of_what_it_was_cloned_from(self, make_repository, tmp_path):
        folder = make_repository()
        git(tmp_path, "clone", "-q", str(folder), "clone")
        git(tmp_path, "clone", "-q", "--bare", str(folder), "bare.git")
        git(tmp_path, "clone", "-q", "--no-local", f"file://{tmp_path / 'clone'}", "clone of clone")
        git(tmp_path / "bare.git", "remote", "remove", "origin")
        git(tmp_path, "clone", "-q", "bare", "of-bare")

        assert git_checkout.checkout_of(tmp_path / "clone").identity == git_checkout.checkout_of(folder).identity
        assert (
            git_checkout.checkout_of(tmp_path / "clone of clone").identity == git_checkout.checkout_of(folder).identity
        )
        assert (
            git_checkout.checkout_of(tmp_path / "of-bare").identity
            == git_checkout.checkout_of(tmp_path / "bare.git").identity
        )

    def test_a_clone_by_path_of_a_shared_project_is_that_project(self, make_repository, tmp_path):
        make_repository(remotes={"origin": REMOTE})
        git(tmp_path, "clone", "-q", "shop", "clone")

        assert git_checkout.checkout_of(tmp_path / "clone").identity == "git.example.org/acme/shop"

    def test_folders_that_are_each_others_remote_end(self, make_repository, tmp_path):
        one = make_repository("one", {"origin": str(tmp_path / "two")})
        two = make_repository("two", {"origin": "../one"})

        assert git_checkout.checkout_of(one).identity.startswith(LOCAL)
        assert git_checkout.checkout_of(two).identity.startswith(LOCAL)

    def test_a_remote_folder_that_is_gone_still_names_it(self, make_repository, tmp_path):
        one = make_repository("one", {"origin": str(tmp_path / "gone.git")})
        two = make_repository("two", {"origin": "../gone.git"})

        assert git_checkout.checkout_of(one).identity == git_checkout.checkout_of(two).identity
        assert git_checkout.checkout_of(one).name == "gone"

    def test_a_plain_folder_is_a_project_and_nothing_is_written_into_it(self, tmp_path):
        folder = tmp_path / "plain"
        folder.mkdir()
        folder.chmod(0o555)

        checkout = git_checkout.checkout_of(folder)

        assert checkout.identity.startswith(LOCAL)
        assert (checkout.root, checkout.name, checkout.branch, checkout.head) == (folder, "plain", None, None)
        assert list(folder.iterdir()) == []
        assert git_checkout.checkout_of(folder) == checkout

    def test_a_link_to_a_folder_is_that_folder(self, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")

        assert git_checkout.checkout_of(tmp_path / "link") == git_checkout.checkout_of(tmp_path / "real")

    def test_two_machines_have_two_identities(self, tmp_path, monkeypatch):
        (tmp_path / "one").write_text("1f3a\n")
        (tmp_path / "two").write_text("9c2d\n")
        identities = []
        for name in ("one", "two"):
            monkeypatch.setattr(git_checkout, "_MACHINE_FILES", (str(tmp_path / "missing"), str(tmp_path / name)))
            identities.append(git_checkout.checkout_of(tmp_path).identity)

        assert identities[0] != identities[1]

    def test_a_machine_without_an_id_goes_by_its_name(self, tmp_path, monkeypatch):
        (tmp_path / "empty").touch()
        monkeypatch.setattr(git_checkout, "_MACHINE_FILES", (str(tmp_path / "empty"),))

        assert git_checkout.machine() == os.uname().nodename


class TestStates:
    def test_before_the_first_commit_there_is_a_branch_and_no_head(self, make_repository):
        checkout = git_checkout.checkout_of(make_repository(commit=False))

        assert (checkout.branch, checkout.head) == ("main", None)

    def test_a_detached_head_has_no_branch(self, make_repository):
        folder = make_repository()
        git(folder, "checkout", "-q", "--detach")

        checkout = git_checkout.checkout_of(folder)

        assert checkout.branch is None
        assert checkout.head

    def test_variables_of_a_hook_do_not_lead_elsewhere(self, make_repository, monkeypatch):
        folder, other = make_repository("one", {"origin": REMOTE}), make_repository("two")
        monkeypatch.setenv("GIT_DIR", str(other / ".git"))
        monkeypatch.setenv("GIT_WORK_TREE", str(other))

        assert git_checkout.checkout_of(folder).identity == "git.example.org/acme/shop"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
    def test_a_repository_of_somebody_else_is_read_too(self, make_repository):
        folder = make_repository(remotes={"origin": REMOTE})
        for path in (folder, folder / ".git"):
            os.chown(path, 12345, 12345)

        assert git_checkout.checkout_of(folder).identity == "git.example.org/acme/shop"

    def test_without_git_the_folder_is_the_project(self, make_repository, tmp_path, monkeypatch):
        folder = make_repository(remotes={"origin": REMOTE})
        monkeypatch.setenv("PATH", str(tmp_path / "home"))

        checkout = git_checkout.checkout_of(folder)

        assert checkout.identity.startswith(LOCAL)
        assert checkout.root == folder

    def test_a_git_that_hangs_is_not_waited_for_long(self, tmp_path, monkeypatch):
        slow = tmp_path / "home" / "git"
        slow.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
        slow.chmod(0o755)
        monkeypatch.setenv("PATH", str(slow.parent))
        monkeypatch.setattr(git_checkout, "GIT_LIMIT", git_checkout.GIT_LIMIT / 50)

        assert git_checkout.checkout_of(tmp_path).identity.startswith(LOCAL)

    def test_a_folder_that_is_not_there_is_refused(self, tmp_path):
        with refuses(Refused):
            git_checkout.checkout_of(tmp_path / "missing")

    def test_names_with_line_breaks_and_dashes_are_only_names(self, make_repository):
        folder = make_repository("-odd\nname", {"origin": REMOTE})

        assert git_checkout.checkout_of(folder).root == folder


class TestTop:
    """Test the top folder alone: git is called only when the folder may lie elsewhere than before."""

    @pytest.fixture
    def git_calls(self, monkeypatch) -> list[Path]:
        """Collect the folders for which git was called."""
        folders: list[Path] = []
        real = git_checkout._git
        monkeypatch.setattr(git_checkout, "_git", lambda folder, *rest: folders.append(folder) or real(folder, *rest))
        return folders

    def test_is_asked_once_of_a_repository_that_stays_as_it_is(self, make_repository, git_calls):
        folder = make_repository()
        (folder / "src").mkdir()

        folders = [git_checkout.top_folder(folder / "src") for _ in range(3)]

        assert folders == [folder] * 3
        assert git_calls == [folder / "src"]

    def test_follows_a_repository_that_is_made_inside_or_goes_away(self, make_repository):
        folder = make_repository()
        inner = folder / "src"
        inner.mkdir()
        folders = [git_checkout.top_folder(inner)]

        git(inner, "init", "-q")
        folders.append(git_checkout.top_folder(inner))
        (inner / ".git").rename(inner / "old")
        folders.append(git_checkout.top_folder(inner))

        assert folders == [folder, inner, folder]

    def test_of_a_plain_folder_is_asked_again_because_it_may_become_one(self, tmp_path, git_calls):
        assert [git_checkout.top_folder(tmp_path), git_checkout.top_folder(tmp_path)] == [tmp_path, tmp_path]

        assert len(git_calls) > 1
