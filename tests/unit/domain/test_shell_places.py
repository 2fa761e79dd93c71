"""Places of values in a shell command: judged as real shells read them."""

import shlex
import subprocess

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from coordination.domain.shell_places import MARK, refusal

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
]
UNSAFE = {
    "@": "own name",
    "a; @": "own name",
    "X=1 @": "own name",
    "if @; then x; fi": "own name",
    "./run-@ x": "own name",
    "$(@)": "own name",
    "echo '@'": "quotes",
    'echo "@"': "quotes",
    'echo "$(echo "@")"': "quotes",
    "(a)# don't\n echo '@'": "quotes",
    "a \\\n# don't\n echo '@'": "quotes",
    "echo \\@": "backslash",
    "echo $@": "dollar",
    "`echo @`": "backticks",
    "echo a # @": "comment",
    "cat <<E\n@\nE": "cannot be told",
    "echo ${x:-@}": "${",
    "echo $((@+1))": "$((",
    "((i=@))": "cannot be told",
    "echo $'a\\'' '@'": "cannot be told",
    "$(case x in a) echo @;; esac)": "cannot be told",
    "eval echo @": "by eval",
    "/bin/sh -ec @": "by sh",
    "[[ @ -eq 1 ]]": "by [[",
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
        [shell, "-c", command.replace(MARK, shlex.quote(attack))],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )

    assert not (folder / "pwned").exists()
