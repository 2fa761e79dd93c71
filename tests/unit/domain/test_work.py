"""Jobs as people write them: read, stored, and refused with what is wrong."""

from __future__ import annotations

import json

import pytest

from coordination.domain.work import PythonCall, Shell, parse_work, target_of
from coordination.errors import Refused


@pytest.mark.parametrize(
    "work",
    [
        Shell("echo hi"),
        Shell("echo $X", env={"X": "1"}),
        PythonCall("pkg.jobs:count"),
        PythonCall("pkg:Class.method", args={"path": "src"}, env={"X": "1"}),
    ],
)
def test_a_job_comes_back_from_its_stored_form(work) -> None:
    assert parse_work(json.loads(json.dumps(work.to_json()))) == work
    assert parse_work(work) == work


def test_an_importable_function_is_a_job() -> None:
    assert parse_work(json.dumps) == PythonCall("json:dumps")
    assert target_of(json.JSONEncoder.encode) == "json.encoder:JSONEncoder.encode"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({}, "this one has nothing"),
        ({"shell": "a", "python": "b:c"}, "has one of the keys shell or python"),
        ({"shel": "a"}, "this one has shel"),
        ({"shell": "a", "args": {}}, "A shell job has no key 'args'"),
        ({"shell": ""}, "needs a command"),
        ({"shell": "  \n"}, "needs a command"),
        ({"shell": ["ls"]}, "needs a command"),
        ({"shell": "a", "env": {"X": 1}}, "env must map names to texts"),
        ({"python": "module"}, "does not name a function"),
        ({"python": "a:b; import os"}, "does not name a function"),
        ({"python": 5}, "does not name a function"),
        ({"python": "a:b", "args": {1: 2}}, "args must map"),
        ({"python": "a:b", "args": [1]}, "args must map"),
        ("ls", "not str"),
        (None, "not NoneType"),
        (lambda: 1, "could not import it"),
    ],
)
def test_what_is_no_job_is_refused_with_what_is_wrong(value, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        parse_work(value)
