"""Test that secrets are masked in one place: no output of a job is stored with them, whatever its form or its path."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordination.domain.jobs.artifacts import Artifact
from coordination.domain.jobs.output import Stream
from coordination.domain.tasks.attempts import AttemptEnd, Claim, DiscoveredTask, Outcome, Usage
from coordination.domain.tasks.events import EventType
from tests.support.jobs import claim_of
from workers.attempt.folders import AttemptFolders
from workers.attempt.pipeline import ConditionalStep, Pipeline
from workers.attempt.running import RunningAttempt
from workers.attempt.steps.agent_channel import AgentChannelStep, JobReports
from workers.runners.base import Control
from workers.runners.secret_masking import SHORTEST, Secrets

FORMS = {
    "itself": str,
    "with other line ends": lambda text: "\r\n".join(text.splitlines()),
    "indented": lambda text: "\n".join(f"   {line}" for line in text.splitlines()),
    "one line of it": lambda text: text.splitlines()[0],
    "trimmed": str.strip,
    "JSON": json.dumps,
    "JSON of texts": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "JSON with slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "an address": lambda text: quote(text, safe=""),
    "an address in lower case": lambda text: re.sub("%..", lambda found: found[0].lower(), quote(text, safe="")),
    "a form": quote_plus,
    "a page": html.escape,
    "a dump": lambda text: text.encode().hex(),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 behind 1": lambda text: base64.b64encode(b":" + text.encode() + b"?").decode(),
    "base64 behind 2": lambda text: base64.b64encode(b"u:" + text.encode() + b"\n").decode(),
    "base64 of addresses": lambda text: base64.urlsafe_b64encode(b"ada:" + text.encode()).decode(),
}
ONE_LINE = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=8, max_size=30)
SECRET = st.lists(ONE_LINE, min_size=1, max_size=3).map("\n".join)


class Store:
    """Collects everything that would be stored of one attempt."""

    def __init__(self, folder: Path) -> None:
        self.all: list[Any] = []
        self.printed = bytearray()
        self.channel = AgentChannelStep(self._add, lambda _: "token", AttemptFolders(folder))
        self.control = Control(
            scratch=folder,
            on_event=lambda type_, payload: self.all.append((type_, payload)),
            on_remember=self.all.append,
            on_output=lambda _, data: self.printed.extend(data),
            on_usage=self.all.append,
        )

    def _add(self, _claim: Claim, found: tuple[DiscoveredTask, ...]) -> dict[str, str]:
        self.all.append(found)
        return {}

    def report(self, report: JobReports, do: str, **said: Any) -> None:
        answer = self.channel._act(report, {"do": do, **said})
        assert answer["ok"], answer

    def text(self) -> str:
        self.control.close()
        return f"{self.all!r} {json.dumps(self.all, default=str, ensure_ascii=False)} {self.printed.decode()}"


def _result(said: str) -> AttemptEnd:
    return AttemptEnd(
        Outcome.DEFERRED,
        output={said: [said]},
        error=said,
        log=said,
        question=said,
        budget_shortage=said,
        carry_over={"note": said},
        usage=(Usage(said, id=said, session_id=said),),
        discovered=(DiscoveredTask({"key": "a", "title": said}, role={"why": said}),),
        artifacts=(Artifact(said, 1, "0", "file:///x"),),
    )


WAYS = {
    "event": lambda store, _, said: store.control.event(EventType.PROGRESS, {"text": said, "deep": [{said: said}]}),
    "remember": lambda store, _, said: store.control.remember({"session": said}),
    "output": lambda store, _, said: [store.control.show_output(Stream.OUT, part) for part in cut(said)],
    "stderr": lambda store, _, said: [store.control.show_output(Stream.ERR, part) for part in cut(said)],
    "costs": lambda store, _, said: store.control.record_usage([Usage(said, id=said, session_id=said)]),
    "coord task progress": lambda store, report, said: store.report(report, "progress", text=said),
    "coord task ask": lambda store, report, said: store.report(report, "ask", question=said),
    "coord task fail": lambda store, report, said: store.report(report, "fail", why=said),
    "coord task done": lambda store, report, said: store.report(report, "done", output={"all": [said]}),
    "coord task discovered": lambda store, report, said: store.report(
        report, "discovered", first=True, tasks=[{"key": "a", "title": said, "run": {"shell": said}}]
    ),
    "the end": lambda store, _, said: store.all.append(store.control.secrets.hide_in(_result(said))),
}


def cut(said: str) -> Iterator[bytes]:
    data = said.encode()
    yield from (data[at : at + 5] for at in range(0, len(data), 5))


@pytest.mark.parametrize("form", FORMS)
@settings(deadline=None, max_examples=12)
@given(secret=SECRET)
def test_no_way_in_stores_a_secret_in_any_form(tmp_path_factory: Any, form: str, secret: str) -> None:
    output = FORMS[form](secret)
    secrets = Secrets(named=["DEPLOY"], environ={"DEPLOY": secret})
    for way in WAYS:
        stored, without = (_stored(tmp_path_factory.getbasetemp(), way, what, secrets) for what in (output, ""))

        assert "see <<" in stored, way
        for line in [output, *output.splitlines(), *secret.splitlines()]:
            assert line.strip() not in stored or line.strip() in without, way


def _stored(folder: Path, way: str, said: str, secrets: Secrets) -> str:
    store = Store(folder)
    store.control.secrets = secrets
    report = JobReports(claim_of({"agent": "claude", "prompt": "x"}), store.control)
    WAYS[way](store, report, f"see <<{said}>>")
    store.all.append(report.settle(AttemptEnd(Outcome.COMPLETED)))
    return store.text()


def test_the_pipeline_hides_what_a_job_reports_and_returns(tmp_path: Path) -> None:
    store = Store(tmp_path)

    class Runner:
        def run(self, _claim: Claim, control: Control) -> AttemptEnd:
            control.secrets = Secrets(named=["DEPLOY"], environ={"DEPLOY": "s3cret-value"})
            (reports,) = store.channel._open.values()
            store.report(reports, "ask", question="Is s3cret-value right?")
            return AttemptEnd(Outcome.COMPLETED, output="s3cret-value it is", log="prints s3cret-value")

    claim = claim_of({"agent": "claude", "prompt": "x"})
    pipeline = Pipeline([ConditionalStep(lambda _: True, store.channel)], lambda _: Runner())

    result = pipeline.run(RunningAttempt(claim, claim, claim, store.control, lambda: True))

    assert (result.question, result.output, result.log) == ("Is *** right?", "*** it is", "prints ***")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("postgresql://ada:p%40ssw0rd-1@db/shop", "the password is p@ssw0rd-1"),
        ("Authorization: Bearer 0123456789abcdefgh", "sent 0123456789abcdefgh"),
        (json.dumps({"type": "account", "private_key": "--BEGIN--\nMIIEvQIBADAN\n"}), "key:\n  MIIEvQIBADAN\n"),
        ("--BEGIN--\\nMIIEvQIBADAN\\n", "key:\n  MIIEvQIBADAN\n"),
        ("90210777", 90210777),
        ("90210777", {"pin": [90210777.0]}),
    ],
)
def test_what_is_used_of_a_secret_is_hidden_too(value: str, said: Any) -> None:
    secrets = Secrets(named=["DEPLOY"], environ={"DEPLOY": value})

    assert "***" in str(secrets.hide(said))


def test_the_names_of_secrets_do_not_matter_and_those_of_other_variables_do() -> None:
    environ = {"REGION": "eu-central-7", "PLACE": "eu-central-8", "API_KEY": "eu-central-9"}
    secrets = Secrets(["REGION", "API_KEY"], environ, named=["PLACE"])

    assert secrets.hide("eu-central-7 eu-central-8 eu-central-9") == "eu-central-7 *** ***"


def test_short_values_and_what_is_no_secret_stay() -> None:
    secrets = Secrets(named=["A", "B"], environ={"A": "x" * (SHORTEST - 1), "B": "-----\nab\ncdefgh-ijkl\n-----"})
    value = {"a": ["xxxxx", True, None, 7, 1.5], "b": "ab"}

    assert secrets.hide(value) == value


def test_a_file_is_kept_by_a_name_without_secrets(tmp_path: Path) -> None:
    from coordination.adapters.artifact_store import ArtifactStore
    from workers.attempt.steps import artifacts

    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "report-s3cret-value.txt").write_text("x")
    claim = claim_of({"agent": "claude", "prompt": "x"}, options={"outputs": ["*.txt"]})
    with Control(scratch=tmp_path / "scratch") as control:
        control.secrets = Secrets(named=["DEPLOY"], environ={"DEPLOY": "s3cret-value"})
        terms = artifacts.ArtifactLimits(ArtifactStore((tmp_path / "kept").as_uri()), 10, 1000)

        result = artifacts.keep_outputs(
            claim, str(tmp_path / "job"), AttemptEnd(Outcome.COMPLETED), control=control, limits=terms
        )

    (kept,) = result.artifacts
    assert kept.path == "report-***.txt"
    assert "s3cret" not in kept.url
    assert not [path for path in (tmp_path / "kept").rglob("*") if "s3cret" in path.name]
