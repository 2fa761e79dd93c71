"""Test the identity that a remote gives a project, and the table of statuses."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from coordination.base.errors import Refused
from coordination.domain.projects.projects import (
    LOCAL,
    MOVES,
    ProjectStatus,
    identity_of,
    local_identity,
    short_name,
)
from tests.support.refusals import refuses

ONE_PROJECT = [
    "git@git.example.org:acme/shop.git",
    "git@git.example.org:acme/shop",
    "git@git.example.org:/acme/shop.git",
    "git.example.org:acme/shop.git",
    "GIT.Example.ORG:acme/shop",
    "[git@git.example.org:22]:acme/shop.git",
    "ssh://git@git.example.org/acme/shop.git",
    "ssh://git@git.example.org:22/acme/shop",
    "ssh://git.example.org:/acme/shop/",
    "git+ssh://git@git.example.org/acme/shop",
    "ssh+git://git@git.example.org/acme/shop",
    "SSH://git@Git.Example.Org./acme//shop.git/",
    "https://git.example.org/acme/shop",
    "https://git.example.org:443/acme/shop.git/",
    "https://dave@git.example.org/acme/shop.git",
    "https://dave:s3cret@git.example.org/acme/shop.git",
    "https://oauth2:p@ss:w/rd@git.example.org/acme/shop",
    "https://git.example.org/acme/shop?private_token=s3cret#readme",
    "https://git.example.org/acme/%73hop%2Egit",
    "https://git.example.org/acme/./attic/../shop",
    "http://git.example.org:80/acme/shop",
    "git+https://git.example.org/acme/shop",
    "git://git.example.org/acme/shop.git",
    "git://git.example.org:9418/acme/shop",
    "  git@git.example.org:acme/shop.git\n",
    "helper::https://dave:s3cret@git.example.org/acme/shop",
    "git.example.org/acme/shop",
    "git.example.org:22/acme/shop",
]

ONE_ON_AZURE = [
    "git@ssh.dev.azure.com:v3/acme/My%20Project/shop",
    "ssh://git@ssh.dev.azure.com/v3/acme/My%20Project/shop",
    "ssh://git@ssh.dev.azure.com:22/v3/acme/My%20Project/shop.git",
    "https://dev.azure.com/acme/My%20Project/_git/shop",
    "https://dev.azure.com/acme/My Project/_git/Shop/",
    "https://acme@dev.azure.com/acme/My%20Project/_git/shop",
    "https://acme:t0ken@dev.azure.com:443/acme/My%20Project/_git/shop",
    "https://dev.azure.com/acme/My%20Project/_git/_optimized/shop",
    "https://dev.azure.com/acme/My%20Project/_git/_full/shop",
    "https://acme.visualstudio.com/My%20Project/_git/shop",
    "https://acme.visualstudio.com/DefaultCollection/My%20Project/_git/shop",
    "acme@vs-ssh.visualstudio.com:v3/acme/My%20Project/shop",
    "ssh://acme@vs-ssh.visualstudio.com/v3/acme/My%20Project/shop",
    "ssh://acme@vs-ssh.visualstudio.com:22/DefaultCollection/My%20Project/_ssh/shop",
    "ssh://acme@acme.visualstudio.com:22/My%20Project/_git/shop",
    "ssh://acme@acme.visualstudio.com:22/My%20Project/_ssh/shop",
]

host_names = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,4})?(\.[a-z][a-z0-9]{1,6}){1,2}", fullmatch=True)
segments = st.from_regex(r"[a-zA-Z_~][a-zA-Z0-9_~+-]{0,8}(\.[a-z]{1,3})?", fullmatch=True).filter(
    lambda text: not text.lower().endswith(".git")
)
paths = st.lists(segments, min_size=1, max_size=6).map("/".join)
secrets = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/[]"), min_size=12, max_size=20
)


class TestIdentity:
    @pytest.mark.parametrize("remote", ONE_PROJECT)
    def test_every_spelling_of_a_remote_names_the_one_project(self, remote):
        assert identity_of(remote) == "git.example.org/acme/shop"

    @pytest.mark.parametrize(
        ("remote", "identity"),
        [
            ("ssh://git@example.org:2222/acme/shop.git", "example.org:2222/acme/shop"),
            ("[git@example.org:2222]:acme/shop.git", "example.org:2222/acme/shop"),
            ("https://example.org:8443/acme/shop", "example.org:8443/acme/shop"),
            ("http://example.org:443/acme/shop", "example.org:443/acme/shop"),
            ("https://example.org/a/b/c/d/e/f.git", "example.org/a/b/c/d/e/f"),
            ("git@example.org:a/b/c/d/e/f.git", "example.org/a/b/c/d/e/f"),
            ("ssh://example.org/~dave/shop", "example.org/~dave/shop"),
            ("dave@example.org:~dave/shop.git", "example.org/~dave/shop"),
            ("git@example.org:22/shop", "example.org/22/shop"),
            ("git@example.org:shop@v1/x", "example.org/shop@v1/x"),
            ("dave@corp.example@example.org:acme/shop", "example.org/acme/shop"),
            ("https://[2001:DB8:0::1]/acme/shop", "[2001:db8::1]/acme/shop"),
            ("ssh://git@[2001:db8::1]:2222/acme/shop", "[2001:db8::1]:2222/acme/shop"),
            ("git@[2001:db8::1]:acme/shop.git", "[2001:db8::1]/acme/shop"),
            ("https://bücher.example/a/b", "xn--bcher-kva.example/a/b"),
            ("https://example.org/a%20b/c", "example.org/a%20b/c"),
            ("git@example.org:a b/c", "example.org/a%20b/c"),
            ("git@example.org:a%20b/c", "example.org/a%2520b/c"),
            ("https://example.org/ä/c", "example.org/%C3%A4/c"),
            ("https://example.org/shop.git.git/.git", "example.org/shop"),
        ],
    )
    def test_what_tells_projects_apart_stays(self, remote, identity):
        assert identity_of(remote) == identity
        assert identity_of(identity) == identity

    def test_case_of_the_path_counts_except_where_the_forge_ignores_it(self):
        assert identity_of("git@example.org:Acme/Shop") != identity_of("git@example.org:acme/shop")
        assert identity_of("git@GitHub.com:Acme/Shop.git") == identity_of("https://github.com/acme/shop")

    @pytest.mark.parametrize(
        ("other", "plain"),
        [
            ("ssh://git@ssh.github.com:443/acme/shop.git", "git@github.com:acme/shop.git"),
            ("https://www.github.com/acme/shop", "git@github.com:acme/shop.git"),
            ("git@ssh.github.com:acme/shop.git", "git@github.com:acme/shop.git"),
            ("https://github.com/Acme/Shop.GIT", "git@github.com:acme/shop.git"),
            ("ssh://git@altssh.gitlab.com:443/a/b/c.git", "https://gitlab.com/a/b/c"),
            ("git@altssh.gitlab.com:a/b/c.git", "https://gitlab.com/a/b/c"),
            ("ssh://git@altssh.bitbucket.org:443/t/r.git", "https://me@bitbucket.org/t/r"),
            ("https://gist.github.com/dave/0123abcd", "git@gist.github.com:0123ABCD.git"),
        ],
    )
    def test_a_forge_that_answers_under_a_second_name_is_one_forge(self, other, plain):
        assert identity_of(other) == identity_of(plain)

    @pytest.mark.parametrize("remote", ONE_ON_AZURE)
    def test_every_address_of_an_azure_repository_names_the_one_project(self, remote):
        identity = identity_of(remote)

        assert identity == "dev.azure.com/acme/my%20project/_git/shop"
        assert identity_of(identity) == identity

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("https://dev.azure.com/acme/a/_git/shop", "https://dev.azure.com/other/a/_git/shop"),
            ("https://dev.azure.com/acme/a/_git/shop", "https://dev.azure.com/acme/b/_git/shop"),
            ("https://dev.azure.com/acme/_git/a", "https://dev.azure.com/acme/_git/b"),
            ("https://acme.visualstudio.com/_git/shop", "https://other.visualstudio.com/_git/shop"),
            ("git@ssh.dev.azure.com:v3/acme/a/shop", "git@ssh.dev.azure.com:v3/other/a/shop"),
            ("ssh://acme@vs-ssh.visualstudio.com/a/_ssh/shop", "ssh://other@vs-ssh.visualstudio.com/a/_ssh/shop"),
            ("https://azure.corp.example/tfs/a/_git/shop", "https://dev.azure.com/tfs/a/_git/shop"),
            ("ssh://git@github.com:2222/a/b", "ssh://git@github.com/a/b"),
            ("https://ssh.github.com:8443/a/b", "https://github.com/a/b"),
            ("https://gist.github.com/dave/0123abcd", "https://gist.github.com/dave/0123abce"),
            ("https://gist.github.com/dave/0123abcd", "https://github.com/dave/0123abcd"),
        ],
    )
    def test_two_repositories_of_forges_stay_two_projects(self, one, other):
        assert identity_of(one) != identity_of(other)
        assert identity_of(identity_of(one)) == identity_of(one)

    @pytest.mark.parametrize(
        ("remote", "identity"),
        [
            ("/srv/git/shop.git", "local:/srv/git/shop"),
            ("/srv/git/shop/.git", "local:/srv/git/shop"),
            ("file:///srv/git/shop.git/", "local:/srv/git/shop"),
            ("file://localhost/srv/git/shop", "local:/srv/git/shop"),
            ("file://nas/git/shop", "local:/nas/git/shop"),
            ("/srv/my shop", "local:/srv/my%20shop"),
            ("file:///srv/my%20shop", "local:/srv/my%20shop"),
            ("c:\\Users\\dave\\shop.git", "local:/C:/Users/dave/shop"),
            ("C:/Users/dave/shop", "local:/C:/Users/dave/shop"),
            (r"\\nas\git\shop", "local:/nas/git/shop"),
            ("/", "local:/"),
        ],
    )
    def test_a_path_is_a_local_identity(self, remote, identity):
        assert identity_of(remote) == identity
        assert identity_of(identity) == identity
        assert identity.startswith(LOCAL)

    @pytest.mark.parametrize(
        "garbage",
        [
            "",
            "   ",
            "shop",
            "./shop",
            "../shop",
            "~/shop",
            "https://",
            "https://example.org",
            "https://example.org/",
            "https://example.org/.git",
            "https:///acme/shop",
            "https://exa mple.org/acme/shop",
            "https://example.org:99999/acme/shop",
            "https://example.org:0/acme/shop",
            "https://example.org/../shop",
            "https://example.org/a%00b",
            "https://example.org/a\x00b",
            "https://[::1/acme/shop",
            "https://[fe80::1%25eth0]/acme/shop",
            "gopher://example.org/acme/shop",
            "git@example.org:",
            "git@:acme/shop",
            "-oProxyCommand=evil:acme/shop",
            "local:",
            "local:shop",
            "https://example.org/" + "a" * 3000,
            "https://example.org/\ud800",
        ],
    )
    def test_garbage_is_refused_with_what_to_write(self, garbage):
        with pytest.raises(Refused) as refusal:
            identity_of(garbage)

        assert refusal.value.hint

    def test_a_refusal_does_not_repeat_the_password(self):
        with pytest.raises(Refused) as refusal:
            identity_of("https://dave:s3cret@exa mple.org/acme?token=t0ken")

        assert "s3cret" not in refusal.value.sentence()
        assert "t0ken" not in refusal.value.sentence()

    @given(host=host_names, path=paths)
    def test_all_spellings_of_one_repository_are_equal(self, host, path):
        spellings = {
            f"git@{host}:{path}.git",
            f"git@{host.upper()}:{path}",
            f"{host}:/{path}",
            f"ssh://git@{host}:22/{path}.git/",
            f"ssh://{host}/{path}",
            f"https://{host}/{path}.git",
            f"https://user:token@{host}:443//{path}/",
            f"http://{host}:80/{path}",
            f"git://{host}/{path}.git",
            f"{host}/{path}",
        }

        assert len({identity_of(spelling) for spelling in spellings}) == 1

    @given(host=host_names, one=paths, two=paths)
    def test_different_paths_are_different_projects(self, host, one, two):
        assume(one != two)

        assert identity_of(f"git@{host}:{one}") != identity_of(f"git@{host}:{two}")

    @given(
        st.one_of(
            st.text(max_size=60),
            st.text(st.sampled_from("ab1.@:/[]%#?\\~ -_+2G"), max_size=30),
            st.builds(
                "{}{}{}{}".format,
                st.sampled_from(
                    ["ssh://", "https://", "http://", "git://", "file://", "git+ssh://", "", "a@", "local:"]
                ),
                st.text(st.sampled_from("ab1.@:[]%2"), max_size=12) | host_names,
                st.sampled_from(["/", ":", ":22/", ":8080/", ":0"]),
                st.text(max_size=30) | st.text(st.sampled_from("ab/.@:%2g#?"), max_size=20),
            ),
        )
    )
    @example("http://example.org:22/a")
    @example("https://example.org/a%2520b")
    @example("https://example.org/x.git.git")
    @example("local:/a/../..")
    @example("example.org:2222/a@b/c")
    @example("https://example.org/" + "\N{SNOWMAN}" * 500)
    def test_an_identity_is_its_own_identity(self, remote):
        try:
            identity = identity_of(remote, machine="m")
        except Refused:
            return  # garbage has no identity

        assert identity_of(identity) == identity
        assert identity_of(identity, machine="another") == identity

    @given(
        user=st.sampled_from(["git", "dave", "oauth2", "x-token-auth", "me%40corp.example"]),
        secret=secrets,
        host=host_names,
        path=paths,
        form=st.sampled_from(
            [
                "https://{user}:{secret}@{host}/{path}",
                "https://{secret}@{host}:8443/{path}",
                "ssh://{user}:{secret}@{host}:2222/{path}",
                "https://{host}/{path}?private_token={secret}",
                "https://{host}/{path}#{secret}",
                "helper::https://{user}:{secret}@{host}/{path}",
                "{user}:{secret}@{host}:{path}",
            ]
        ),
    )
    @example(
        user="git",
        secret="p@ss:w#rd?x=yz",
        host="example.org",
        path="a/b",
        form="https://{user}:{secret}@{host}/{path}",
    )
    @example(user="u", secret="p@ss:w123456789", host="example.org", path="a", form="{user}:{secret}@{host}:{path}")
    @example(user="git", secret=":00000000000", host="a.a0", path="A", form="{user}:{secret}@{host}:{path}")
    def test_credentials_never_survive(self, user, secret, host, path, form):
        remote = form.format(user=user, secret=secret, host=host, path=path)
        assume(secret not in host and secret not in path)

        try:
            shown = identity_of(remote)
        except Refused as refusal:
            shown = refusal.sentence()

        assert secret not in shown


class TestLocalIdentity:
    def test_the_same_path_on_two_machines_is_two_projects(self):
        assert local_identity("/home/dave/shop", "one") != local_identity("/home/dave/shop", "two")
        assert local_identity("/home/dave/shop", "one") == identity_of("/home/dave/shop/", machine="one")

    def test_the_machine_id_itself_is_not_shown(self):
        assert "4f1c8d0b" not in local_identity("/home/dave/shop", "4f1c8d0b")

    def test_names_that_are_not_utf8_are_kept_apart(self):
        one = local_identity(b"/srv/\xff".decode("utf-8", "surrogateescape"))

        assert one == "local:/srv/%FF"
        assert identity_of(one) == one

    def test_a_relative_path_is_refused(self):
        with refuses(Refused):
            local_identity("shop")


class TestShortName:
    @pytest.mark.parametrize(
        ("identity", "name"),
        [
            ("example.org/acme/shop", "shop"),
            ("example.org:2222/shop", "shop"),
            ("example.org/my%20shop", "my shop"),
            ("local:/srv/git/shop", "shop"),
            ("local:1f3a9c2d/srv/git/shop", "shop"),
            ("local:/", "root"),
        ],
    )
    def test_is_the_last_part(self, identity, name):
        assert short_name(identity) == name


class TestStatuses:
    def test_every_status_can_be_left_and_reached(self):
        for status in ProjectStatus:
            assert MOVES[status], f"nothing leads to {status}"
            assert any(status in sources for target, sources in MOVES.items() if target is not status)

    def test_no_status_leads_to_itself(self):
        assert not [status for status, sources in MOVES.items() if status in sources]

    def test_what_is_archived_only_comes_back_by_being_activated(self):
        assert [target for target, sources in MOVES.items() if ProjectStatus.ARCHIVED in sources] == [
            ProjectStatus.ACTIVE
        ]
