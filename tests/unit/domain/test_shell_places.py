"""Test places of values in a shell command: judged as real shells read them."""

import subprocess
import time

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from coordination.domain.jobs.shell_places import MARK, refusal

SAFE = [
    "echo @",
    "echo a@b @",
    "cat <f >@ && echo @",
    "FOO=@ cmd",
    "x=$(cat @)",
    'echo "$(cat @)"',
    "(cd @; ls)",
    "if [ @ = a ]; then echo @; fi",
    "for f in @; do echo @; done",
    "echo 'a' \"b\" @ # don't",
    "case @ in a) echo @;; esac",
    "a \\\n# don't\n echo @",
    "(a)# don't\necho @",
    "echo ${x:-y} @",
    "echo $((1+2)) @",
    "> @ cat",
    "bash -c 'echo \"$1\"' _ @",
    "grep -c @ file",
    "sh -e script.sh @",
    "bash -o pipefail -c 'echo \"$1\"' _ @",
    "sh -c 'echo x'; echo @",
    "echo @ | grep -v sh",
    "echo @ | python3 -c 'import sys'",
    "echo @ | sed -n 5p | sort",
    "echo @; echo y | sh",
    "python -m tool -c @",
    "python3 tool.py --name @",
    "awk -v name=@ '{print name}' file",
    "perl -ne 'print' @",
    "env FOO=@ tool @",
    "timeout @ tool",
    "timeout 5 tool @",
    "sudo -u @ tool",
    "nice -n 5 tool @",
    "xargs -n 1 tool @",
    "find . -name @ -exec grep x {} +",
    "docker build -t @ .",
    "git commit -m @",
    "echo sh -c; echo @",
    "test -n @",
    "export X=@",
    "make @",
    "psql @",
    "ls /usr/bin/sh @",
    "cat > @ <<E\ndon't\nE",
    "cat <<'E' >f\n$(x\nE\necho @",
    "cat <<-E\n\tE\necho @",
    'tool "${X:-$Y}" @',
    'tool "${X:-"$(date) }"}" @',
    "echo `date` @",
    "echo $((3 * (2 + 1))) @",
    "tool @ >log 2>&1",
    'echo "$" @',
]
UNSAFE = {
    "@": "command's name",
    "a; @": "command's name",
    "X=1 @": "command's name",
    "if @; then x; fi": "command's name",
    "./run-@ x": "command's name",
    "$(@)": "command's name",
    "echo '@'": "quotes",
    'echo "@"': "quotes",
    'echo "$(echo "@")"': "quotes",
    "(a)# don't\n echo '@'": "quotes",
    "a \\\n# don't\n echo '@'": "quotes",
    "echo \\@": "cannot be checked",
    "echo $@": "cannot be checked",
    "`echo @`": "cannot be checked",
    "echo a # @": "comment",
    "cat <<E\n@\nE": "here-document",
    "cat <<'E'\n@\nE": "here-document",
    "cat <<-E\n\tx\n\t@\n\tE\necho @": "here-document",
    "cat <<E @\nx\\\nE\n@\nE": "cannot be checked",
    "cat <<E @": "cannot be checked",
    "cat <<E$x @\nE": "cannot be checked",
    "cat <<E $(echo\n) @\nE": "cannot be checked",
    "{ echo @; cat <<E\ndon't\nE\n} | sh": "by sh",
    "echo ${x:-@}": "cannot be checked",
    "echo $((@+1))": "cannot be checked",
    "echo @ $'\\'' | sh #'": "cannot be checked",
    "echo x >&1@": "follows >&",
    "((i=@))": "cannot be checked",
    "echo $'a\\'' '@'": "cannot be checked",
    "$(case x in a) echo @;; esac)": "cannot be checked",
    "eval echo @": "by eval",
    "/bin/sh -ec @": "by sh",
    "[[ @ -eq 1 ]]": "by [[",
    "sh -c @": "by sh",
    "bash -ce @": "by bash",
    "sh -c -- @": "by sh",
    "sh -c -e @": "by sh",
    "sh -o errexit -c @": "by sh",
    "bash +x -c @": "by bash",
    "'sh' -c @": "by sh",
    '"/bin/sh" -c @': "by sh",
    "s\\h -c @": "by sh",
    "''s''h -c @": "by sh",
    "s\\\nh -c @": "by sh",
    "sh -c x@": "by sh",
    "sh -c 'echo '@": "by sh",
    "sh @": "by sh",
    "sh -s @": "by sh",
    '"$SHELL" -c @': "by",
    "env sh -c @": "by sh",
    "env -i A=b sh -c @": "by sh",
    "env -S @": "command's name",
    "env @": "command's name",
    "timeout 5 @": "command's name",
    "xargs @": "command's name",
    "timeout 5 sh -c @": "by sh",
    "sudo -u ada bash -lc @": "by bash",
    "exec sh -c @": "by sh",
    "A=b sh -c @": "by sh",
    "xargs sh -c @": "by sh",
    "find . -exec sh -c @ +": "by",
    "find . -exec @ +": "by find",
    "docker exec box sh -c @": "by sh",
    "chroot /x busybox sh -c @": "by sh",
    "ssh host @": "by ssh",
    "timeout 5 ssh host @": "by ssh",
    "su - ada -c @": "by su",
    "watch @": "by watch",
    "python3 -c @": "by python3",
    "python3.12 -Ic @": "by python3.12",
    "perl -we @": "by perl",
    "perl -e 'x' -e @": "by perl",
    "ruby -e @": "by ruby",
    "node --eval @": "by node",
    "node --eval=@": "by node",
    "php -r @": "by php",
    "awk @ file": "by awk",
    "sed s/x/@/ file": "by sed",
    "sqlite3 -cmd @ x.db": "by sqlite3",
    "psql -c @": "by psql",
    "tar --to-command=@ -xf x": "by tar",
    "source @": "by source",
    ". @": "by .",
    "echo @ | sh": "by sh",
    "echo @ |\n sh": "by sh",
    "echo @ | tr a b | sudo bash -s": "by bash",
    "(echo @; echo y) | sh": "by sh",
    "{ echo @; } | sh": "by sh",
    "for i in @; do echo $i; done | sh": "by sh",
    "echo @ | xargs sh -c": "by sh",
    "echo @ | python3 -": "by python3",
    "echo @ | ssh host": "by ssh",
    "sh <<< @": "by sh",
    "sh < @": "by sh",
    "echo @ | { true; sh; }": "by sh",
    "echo @ | (true; sh)": "by sh",
    'sh -c "$(echo @)"': "by sh",
    'eval "$(echo @)"': "by eval",
    "source <(echo @)": "by source",
    "bash <(echo @)": "by bash",
    "echo @ | tee >(sh)": "by sh",
    "$(echo @) x": "command's name",
    "[ -v @ ]": "by [",
    "read @": "by read",
}
PIECES = st.sampled_from(
    [
        *"@@@@'\"`$(){};#\\ \n|&<>",
        "echo ",
        " x",
        "# ",
        "$(",
        "${x",
        "$((1+",
        "))",
        "\\\n",
        "<<E\n",
        "case x in a) ",
        ";; esac",
        "A=",
        "\nE\n",
        " <<'E'",
        " | sh",
        "{ ",
        "; }",
        "${x:-",
        "2>&1",
        "<(",
    ]
)
ATTACKS = (
    "$(touch pwned)",
    "; touch pwned #",
    "'\n touch pwned\n'",
    '" ; touch pwned ; "',
    ")\ntouch pwned\n(",
    "`touch pwned`",
)


@pytest.mark.parametrize("command", SAFE)
def test_a_plain_word_or_a_part_of_one_is_safe(command):
    assert refusal(command.replace("@", MARK)) is None


@pytest.mark.parametrize(("command", "why"), UNSAFE.items())
def test_any_other_place_is_refused_with_its_reason(command, why):
    assert why in (refusal(command.replace("@", MARK)) or "")


def test_a_command_without_values_is_nobodys_business():
    assert refusal("cat <<E\n'\nE") is None


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(PIECES, min_size=2, max_size=12).map("".join), st.sampled_from(ATTACKS), st.sampled_from(["sh", "bash"])
)
def test_no_value_in_an_accepted_place_ever_runs(tmp_path_factory, pieces, attack, shell):
    command = "echo " + pieces.replace("@", MARK)
    assume(MARK in command and refusal(command) is None)
    folder = tmp_path_factory.mktemp("shell")

    subprocess.run(
        [shell, "-c", command.replace(MARK, '"${VALUE}"')],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "VALUE": attack},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )

    assert not (folder / "pwned").exists()


def test_a_long_command_is_read_in_a_time_that_grows_with_its_length():
    started = time.process_time()

    assert refusal(f"echo {'a ' * 200_000}{MARK}") is None
    for opening in ("$(", '"${x:-', "`", "<<E ", "$((", "'"):
        assert refusal(f"echo {opening * 199_999}{MARK}") is not None
    assert time.process_time() - started < 10


@pytest.mark.parametrize("command", ["echo a#b @", "echo ''#b @", "echo # a comment\necho @"])
def test_a_comment_begins_with_a_word_and_ends_with_its_line(command):
    assert refusal(command.replace("@", MARK)) is None
