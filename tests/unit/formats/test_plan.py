"""Test the plan file: valid ones are read, errors have file and line, and a plan reads back equal."""

import json
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from coordination.base.durations import MAX_DURATION
from coordination.base.errors import PlanError
from coordination.base.sizes import LARGEST
from coordination.domain.jobs import AgentCall, ChatCall, PythonCall, Shell
from coordination.domain.jobs.artifacts import outputs_problem
from coordination.domain.jobs.checkouts import FOLDER, Checkout, CheckoutKind, Gate, HalfMerged
from coordination.domain.jobs.resource_limits import Limits
from coordination.domain.money.estimates import parse_estimate
from coordination.domain.plans import graph
from coordination.domain.plans.plans import (
    BudgetCap,
    Concurrency,
    Defaults,
    Dependency,
    Plan,
    ProjectRef,
    Supervision,
    Task,
)
from coordination.domain.tasks.retry import Backoff
from coordination.domain.tasks.tasks import DependencyKind, OnDependencyFailure
from coordination.formats.plan import plan_schema, read_plan, resolve_paths, write_plan
from tests.support.refusals import refuses

FULL = """\
version: 1
project: {name: shop, git_remote: "git@example.org:acme/shop.git", path: .}
name: Check-up
session: main
defaults: {timeout: 30m, max_attempts: 2, on_dependency_failure: block, backoff: {initial: 1s, factor: 3, max: 1m}}
budget: {usd: 5.10, on_exceed: block}
concurrency: {project: 4, agents: {dave: 1}, keys: {deploy: 1}}
python_path: [lib, ../shared]
supervision: {assess: claude, analyze: {agent: codex, model: m}}
questions: {agent: dave/lead}
gates: "make -q"
tasks:
  - key: lint
    run: {shell: "ruff check .", env: {CI: "1"}}
  - key: count
    title: Count the lines
    run: {python: "mypackage.jobs:count_lines", args: {path: src, depth: 3}}
    needs: lint
    timeout: 90
    not_before: 2026-12-01T08:00:00+01:00
    due: "2026-12-02T00:00:00Z"
  - key: report
    run:
      shell: |
        echo {{ needs.count.output }}
        echo done
    needs:
      - count
      - {key: lint, kind: related}
    parent: count
    priority: -3
    repeatable: false
    concurrency_key: deploy
    stall_timeout: 1h30m
    agent: dave
    workdir: sub
    input: {x: [1, 2.5, null, true, "on"]}
    criteria: [It is short]
    context: false
    supervised: false
    variants: [{env: {A: "1"}}, {}]
    checkout: git-worktree
    gates: [{run: make check, timeout: 30m, name: check}]
    outputs: [report.md, "build/*.whl"]
    limits: {memory: 2GiB, cpu: 10m, files: 1024, output: 1.5MB}
    estimate: {usd: 0.25, tokens: 20000, duration: 10m}
    metadata: {owner: me}
"""


def read(text, **changes):
    for old, new in changes.items():
        text = text.replace(old, new)
    return read_plan(text if isinstance(text, bytes) else text.encode(), source="plan.yaml")


def with_task(*lines):
    """Return a plan with one valid task and one that also has *lines*; those begin in line 6."""
    start = ["version: 1", "tasks:", "  - {key: ok, run: {shell: ls}}", "  - key: bad", "    run: {shell: ls}"]
    return "\n".join([*start, *(f"    {line}" for line in lines)]) + "\n"


class TestReading:
    @pytest.mark.parametrize("more", ["", ", variants: 2"])
    def test_changes_that_an_agent_is_to_make_are_read_and_written(self, more):
        plan = read(f"version: 1\ntasks: [{{key: a, run: {{agent: claude, prompt: x}}, expects: changes{more}}}]")

        graph.check_plan(plan)
        assert read(write_plan(plan)).tasks[0].expects == "changes"

    def test_every_key_of_a_plan_is_read(self):
        plan = read(FULL)

        graph.check_plan(plan)
        assert plan == Plan(
            tasks=(
                Task("lint", Shell("ruff check .", env={"CI": "1"})),
                Task(
                    "count",
                    PythonCall("mypackage.jobs:count_lines", args={"path": "src", "depth": 3}),
                    title="Count the lines",
                    needs=("lint",),
                    timeout=timedelta(seconds=90),
                    not_before=datetime(2026, 12, 1, 7, tzinfo=UTC),
                    due=datetime(2026, 12, 2, tzinfo=UTC),
                ),
                Task(
                    "report",
                    Shell("echo {{ needs.count.output }}\necho done\n"),
                    needs=("count", Dependency("lint", DependencyKind.RELATED)),
                    parent="count",
                    priority=-3,
                    repeatable=False,
                    concurrency_key="deploy",
                    stall_timeout=timedelta(minutes=90),
                    agent="dave",
                    workdir="sub",
                    input={"x": [1, 2.5, None, True, "on"]},
                    criteria=("It is short",),
                    context=False,
                    supervised=False,
                    variants=({"env": {"A": "1"}}, {}),
                    checkout=Checkout(CheckoutKind.GIT_WORKTREE),
                    gates=(Gate("make check", timedelta(minutes=30), name="check"),),
                    outputs=("report.md", "build/*.whl"),
                    limits=Limits(2 << 30, timedelta(minutes=10), 1_024, 1_500_000),
                    estimate={"usd": "0.25", "tokens": 20_000, "duration": 600.0},
                    metadata={"owner": "me"},
                ),
            ),
            name="Check-up",
            project=ProjectRef("shop", "git@example.org:acme/shop.git", "."),
            defaults=Defaults(
                timeout=timedelta(minutes=30),
                max_attempts=2,
                on_dependency_failure=OnDependencyFailure.BLOCK,
                backoff=Backoff(timedelta(seconds=1), 3, timedelta(minutes=1)),
            ),
            concurrency=Concurrency(4, {"dave": 1}, {"deploy": 1}),
            budget=BudgetCap(Decimal("5.1")),
            supervision=Supervision({"agent": "claude"}, {"agent": "codex", "model": "m"}),
            questions={"agent": "dave/lead"},
            gates=(Gate("make -q"),),
            python_path=("lib", "../shared"),
            session="main",
            source="plan.yaml",
            lines={"lint": 13, "count": 15, "report": 22},
        )

    @pytest.mark.parametrize("indent", [None, 2, "\t"])
    @pytest.mark.parametrize("ascii_only", [True, False])
    def test_json_is_read_too_with_emoji_and_tabs(self, indent, ascii_only):
        written = {"version": 1, "tasks": [{"key": "a", "title": "Ship 🚀 \\ud83d", "run": {"shell": "echo 1e3/2"}}]}

        plan = read(json.dumps(written, indent=indent, ensure_ascii=ascii_only))

        assert plan.tasks == (Task("a", Shell("echo 1e3/2"), title="Ship 🚀 \\ud83d"),)

    def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(self):
        text = "\ufeff" + with_task("title: x").replace("\n", "\r\n")

        assert read(text).tasks[1].title == "x"

    def test_anchors_aliases_and_merges_stand_for_what_they_name(self):
        plan = read(
            "version: 1\ntasks:\n"
            "  - &first {key: a, run: &run {shell: ls}, timeout: 5m}\n"
            "  - {<<: *first, key: b}\n"
            "  - {key: c, run: *run}\n"
        )

        assert [task.run for task in plan.tasks] == [Shell("ls")] * 3
        assert [task.timeout for task in plan.tasks] == [timedelta(minutes=5), timedelta(minutes=5), None]
        assert plan.lines == {"a": 3, "b": 4, "c": 5}

    def test_null_is_as_if_it_were_not_written(self):
        plan = read(with_task("title:", "needs: ~", "timeout: null", "input:"))

        assert plan.tasks[1] == Task("bad", Shell("ls"))

    def test_folders_are_seen_from_the_plan_file(self):
        plan = resolve_paths(read(FULL), "/home/me/plans")

        assert plan.python_path == ("/home/me/plans/lib", "/home/me/shared")
        assert plan.project.path == "/home/me/plans"

    def test_ten_thousand_tasks_are_read_in_a_moment(self):
        head = "version: 1\ntasks:\n"
        tasks = (
            f"  - {{key: t{i}, title: T {i}, run: {{shell: ls}}, needs: [{f't{i - 1}' if i else ''}], timeout: 5m}}\n"
            for i in range(10_000)
        )
        text = head + "".join(tasks)

        started = time.process_time()
        plan = read(text)
        spent = time.process_time() - started

        assert len(plan.tasks) == 10_000
        assert plan.lines["t9999"] == 10_002
        assert spent < 4  # a fifth of it on a quiet machine


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "line", "field"),
        [
            (FULL.replace("session:", "sesion:"), 4, "sesion"),
            (FULL.replace("{timeout: 30m", "{timeuot: 30m"), 5, "defaults.timeuot"),
            (FULL.replace("usd: 5.10", "eur: 5.10"), 6, "budget.eur"),
            (FULL.replace("usd: 5.10", "usd: lots"), 6, "budget.usd"),
            (FULL.replace("{project: 4", "{project: many"), 7, "concurrency.project"),
            (FULL.replace("python_path: [lib", "python_path: [5"), 8, "python_path[0]"),
            (FULL.replace("version: 1", "version: one"), 1, "version"),
            (with_task("estimate: 5"), 6, "tasks.bad.estimate"),
            (with_task("estimate: {tokens: 9, dollars: 5}"), 6, "tasks.bad.estimate.dollars"),
            (with_task("estimate: {usd: -1}"), 6, "tasks.bad.estimate.usd"),
            ("version: 1\ntasks: {a: b}", 2, "tasks"),
            ("version: 1\ntasks:\n  - hello\n", 3, "tasks[0]"),
            ("version: 1\ntasks:\n  - {run: {shell: ls}}\n", 3, "tasks[0].key"),
            ("version: 1\ntasks:\n  - {key: a}\n", 3, "tasks.a.run"),
            (
                "version: 1\ntasks:\n  - {key: 5, run: {shell: ls}}\n",
                3,
                "tasks[0].key",
            ),
            ("version: 1\ntasks:\n  - {key: yes, run: {shell: ls}}\n", 3, "tasks[0].key"),
            ("version: 1\ntasks:\n  - {key: a, run: ls}\n", 3, "tasks.a.run"),
            ("version: 1\ntasks:\n  - {key: a, run: {shel: ls}}\n", 3, "tasks.a.run.shel"),
            ("version: 1\ntasks:\n  - {key: a, run: {shell: ls, python: 'a:b'}}\n", 3, "tasks.a.run"),
            ("version: 1\ntasks:\n  - {key: a, run: {shell: 5}}\n", 3, "tasks.a.run.shell"),
            ("version: 1\ntasks:\n  - {key: a, run: {shell: ls, args: {}}}\n", 3, "tasks.a.run.args"),
            ("version: 1\ntasks:\n  - {key: a, run: {shell: ls, env: {PORT: 80}}}\n", 3, "tasks.a.run.env.PORT"),
            ("version: 1\ntasks:\n  - {key: a, run: {python: nothing}}\n", 3, "tasks.a.run.python"),
            ("version: 1\ntasks:\n  - {key: a, run: {agent: a b, prompt: x}}\n", 3, "tasks.a.run.agent"),
            ("version: 1\ntasks:\n  - {key: a, run: {agent: claude}}\n", 3, "tasks.a.run.prompt"),
            ("version: 1\ntasks:\n  - {key: a, run: {agent: claude, prompt: x, args: -x}}\n", 3, "tasks.a.run.args"),
            ("version: 1\ntasks:\n  - {key: a, run: {agent: claude, promt: x}}\n", 3, "tasks.a.run.promt"),
            ("version: 1\ntasks:\n  - {key: a, run: {python: 'a:b', args: [1]}}\n", 3, "tasks.a.run.args"),
            (with_task("titel: x"), 6, "tasks.bad.titel"),
            (
                with_task("title: on"),
                6,
                "tasks.bad.title",
            ),
            (with_task("title: 12:30"), 6, "tasks.bad.title"),
            (with_task("title: 2026-01-02"), 6, "tasks.bad.title"),
            (with_task("title: true"), 6, "tasks.bad.title"),
            (with_task("title: [a]"), 6, "tasks.bad.title"),
            (with_task("title: " + "x" * 100_000), 4, "tasks.bad.title"),
            (with_task("priority: true"), 6, "tasks.bad.priority"),
            (with_task("priority: 010"), 6, "tasks.bad.priority"),
            (with_task("priority: " + "9" * 5000), 6, "tasks.bad.priority"),
            (with_task("max_attempts: 1.5"), 6, "tasks.bad.max_attempts"),
            (with_task("max_attempts: 0"), 4, "tasks.bad.max_attempts"),
            (with_task("repeatable: no"), 6, "tasks.bad.repeatable"),
            (with_task("timeout: soon"), 6, "tasks.bad.timeout"),
            (with_task("timeout: 1:30"), 6, "tasks.bad.timeout"),
            (with_task("timeout: -5"), 6, "tasks.bad.timeout"),
            (with_task("timeout: .nan"), 6, "tasks.bad.timeout"),
            (with_task("timeout: true"), 6, "tasks.bad.timeout"),
            (with_task("timeout: 0s"), 4, "tasks.bad.timeout"),
            (with_task("backoff: {initial: 1s, faktor: 2}"), 6, "tasks.bad.backoff.faktor"),
            (with_task("on_dependency_failure: cancle"), 6, "tasks.bad.on_dependency_failure"),
            (with_task("not_before: 2026-12-01"), 6, "tasks.bad.not_before"),
            (with_task("not_before: 2026-12-01T08:00:00"), 6, "tasks.bad.not_before"),
            (with_task("not_before: 5m"), 6, "tasks.bad.not_before"),
            (with_task("not_before: 2026-13-01T08:00:00Z"), 6, "tasks.bad.not_before"),
            (with_task("not_before: 0001-01-01T00:00:00+14:00"), 6, "tasks.bad.not_before"),
            (with_task("needs: 5"), 6, "tasks.bad.needs"),
            (with_task("needs:", "  - ok", "  - 5"), 8, "tasks.bad.needs[1]"),
            (with_task("needs: [{key: ok, kind: blcks}]"), 6, "tasks.bad.needs[0].kind"),
            (with_task("needs: [{kind: blocks}]"), 6, "tasks.bad.needs[0].key"),
            (with_task("needs: [okk]"), 4, "tasks.bad.needs"),
            (with_task("needs: [bad]"), 4, "tasks.bad.needs"),
            (with_task("needs: [ok, ok]"), 4, "tasks.bad.needs"),
            (with_task("parent: nobody"), 4, "tasks.bad.parent"),
            (with_task("input: [1]"), 6, "tasks.bad.input"),
            (with_task("input:", "  a:", "    b: off"), 8, "tasks.bad.input"),
            (with_task("input:", "  when: [2026-01-02]"), 7, "tasks.bad.input"),
            (with_task("input: {a: .inf}"), 6, "tasks.bad.input"),
            (with_task("input: {a: 1e999}"), 6, "tasks.bad.input"),
            (with_task("input: {1: a}"), 6, None),
            (with_task("- key: ok", "  run: {shell: ls}"), 6, None),
            (with_task() + "  - {key: ok, run: {shell: ls}}\n", 6, "tasks[2].key"),
            (with_task("needs: [c]") + "  - {key: c, needs: bad, run: {shell: ls}}\n", 4, "tasks.bad.needs"),
            (with_task("max_starts: 0"), 4, "tasks.bad.max_starts"),
            (with_task("max_starts: 1.5"), 6, "tasks.bad.max_starts"),
        ],
    )
    def test_the_sentence_names_line_and_remedy(self, text, line, field):
        with refuses(PlanError, field=field, line=line) as refused:
            graph.check_plan(read(text))

        assert len(refused.value.sentence()) < 600


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)
TRAPS = st.sampled_from(
    [
        "on",
        "yes",
        "No",
        "~",
        "null",
        "true",
        "12:30",
        "1e3",
        "010",
        "0x1F",
        "1_000",
        ".inf",
        "2026-01-02",
        "<<",
        "=",
        "-",
        "{a}",
        "[b]",
        "#c",
        "a:b",
        "*d",
        "&e",
        "!f",
        "%g",
        "@h",
    ]
)
KEYS = st.from_regex(r"[a-zA-Z0-9_.][a-zA-Z0-9_./:-]{0,20}", fullmatch=True) | st.sampled_from(
    ["on", "12:30", "1e3", "null"]
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60) | TRAPS
COMMANDS = TEXTS.filter(lambda text: text.strip() and not re.search("[{][{%]", text))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=3)
SPANS = st.timedeltas(timedelta(microseconds=1), MAX_DURATION)
MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
BACKOFFS = st.builds(Backoff, SPANS, st.floats(1, 1000), SPANS)
ENVIRONMENTS = st.dictionaries(st.sampled_from(["A", "on", "PATH"]), COMMANDS, max_size=2)
SIZES = st.none() | st.integers(1, LARGEST)
LIMITS = st.builds(
    Limits,
    SIZES,
    st.none() | st.timedeltas(timedelta(seconds=1), MAX_DURATION),
    st.none() | st.integers(16, 10**6),
    SIZES,
)
WORDS = st.lists(COMMANDS, max_size=2).map(tuple)
AGENT_CALLS = st.builds(
    AgentCall,
    st.sampled_from(["claude", "codex", "gemini", "opencode"]),
    COMMANDS,
    model=st.none() | COMMANDS,
    args=WORDS,
    env=ENVIRONMENTS,
    secrets=st.lists(st.sampled_from(["MY_KEY", "OTHER"]), max_size=2).map(tuple),
    command=WORDS,
)
CUSTOM_CALLS = st.builds(
    AgentCall,
    st.just("custom"),
    COMMANDS,
    command=st.just(("tool", "{prompt}")),
    reads=st.sampled_from([{}, {"format": "text"}, {"format": "jsonl", "result": "a.b", "cost_usd": "c"}]),
)
SERVERS = st.sampled_from(
    [{"command": ["npx", "x"], "env": {"A": "b"}, "secrets": ["MY_KEY"]}, {"url": "https://x.example/mcp"}]
)
CHAT_CALLS = st.builds(
    ChatCall,
    st.sampled_from(["openai:gpt-5-mini", "ollama:llama3:8b"]),
    COMMANDS,
    system=st.none() | COMMANDS,
    url=st.none() | st.just("http://localhost:11434/v1"),
    schema=st.sampled_from([{}, {"type": "object", "required": ["on", "1"]}]),
    tools=st.lists(SERVERS, max_size=2).map(tuple),
    settings=st.sampled_from([{}, {"temperature": 0}, {"temperature": 0.5, "max_tokens": 9, "max_steps": 3}]),
    env=ENVIRONMENTS,
    secrets=st.lists(st.sampled_from(["MY_KEY", "OTHER"]), max_size=2).map(tuple),
)
JOBS = (
    st.builds(Shell, COMMANDS, env=ENVIRONMENTS)
    | st.builds(PythonCall, st.sampled_from(["a:b", "a.b:C.d"]), args=st.just({}), env=ENVIRONMENTS)
    | AGENT_CALLS
    | CUSTOM_CALLS
    | CHAT_CALLS
)

SPACES = st.just(FOLDER) | st.builds(
    Checkout,
    st.just(CheckoutKind.GIT_WORKTREE),
    base=st.none() | st.just("main"),
    keep_failed=st.none() | SPANS,
    merge=st.none() | st.builds(HalfMerged, st.just("0123456789" * 4), KEYS),
)
AMOUNTS = st.decimals(0, 10**9, places=12, allow_nan=False)
STATED = st.fixed_dictionaries({}, optional={"usd": AMOUNTS, "tokens": st.integers(0, 10**9), "duration": SPANS}).map(
    parse_estimate
)
GATES = st.lists(st.builds(Gate, COMMANDS, SPANS, st.none() | NAMES), max_size=2).map(tuple)


@st.composite
def plans(draw):
    keys = draw(st.lists(KEYS, min_size=1, max_size=4, unique=True))
    tasks = []
    for number, key in enumerate(keys):
        earlier = draw(st.lists(st.sampled_from(keys[:number]), unique=True)) if number else []
        edges = st.sampled_from([None, *DependencyKind])
        needs = tuple(need if (kind := draw(edges)) is None else Dependency(need, kind) for need in earlier)
        task = st.builds(
            Task,
            key=st.just(key),
            run=JOBS,
            title=st.none() | NAMES | TRAPS,
            needs=st.just(needs),
            input=OBJECTS,
            agent=st.none() | NAMES | TRAPS,
            parent=st.none() | st.sampled_from(keys[:number] or [None]),
            priority=st.integers(-100, 100),
            max_attempts=st.none() | st.integers(1, 5),
            max_starts=st.none() | st.integers(1, 5),
            backoff=st.none() | BACKOFFS,
            timeout=st.none() | SPANS,
            stall_timeout=st.none() | SPANS,
            repeatable=st.booleans(),
            on_dependency_failure=st.none() | st.sampled_from(OnDependencyFailure),
            concurrency_key=st.none() | NAMES,
            not_before=st.none() | MOMENTS,
            due=st.none() | MOMENTS,
            workdir=st.none() | NAMES,
            limits=LIMITS,
            outputs=st.lists(NAMES | TRAPS, max_size=2).filter(lambda paths: not outputs_problem(paths)).map(tuple),
            checkout=st.none() | SPACES,
            gates=GATES,
            estimate=STATED,
            metadata=OBJECTS,
        )
        tasks.append(draw(task))
    return Plan(
        tuple(tasks),
        name=draw(st.none() | NAMES | TRAPS),
        project=draw(st.builds(ProjectRef, st.none() | NAMES, st.none() | NAMES, st.none() | NAMES)),
        defaults=draw(
            st.builds(Defaults, SPANS, st.none() | SPANS, st.integers(1, 9), BACKOFFS, limits=LIMITS, checkout=SPACES)
        ),
        gates=draw(GATES),
        concurrency=draw(
            st.builds(Concurrency, st.none() | st.integers(1, 9), st.dictionaries(NAMES, st.integers(1, 9)))
        ),
        budget=draw(
            st.none()
            | st.builds(
                BudgetCap, st.decimals(0, 10**9, places=12, allow_nan=False), starts=st.none() | st.integers(0, 9)
            )
        ),
        python_path=tuple(draw(st.lists(NAMES, max_size=2))),
        session=draw(st.none() | NAMES),
    )


class TestWriting:
    @settings(max_examples=60, deadline=None)
    @given(plans())
    def test_every_plan_reads_back_equal(self, plan):
        graph.check_plan(plan)

        again = read(write_plan(plan))

        assert replace(again, source=None, lines={}) == plan
        graph.check_plan(again)

    @settings(max_examples=20, deadline=None)
    @given(plans())
    def test_what_is_written_holds_under_the_schema(self, plan):
        VALIDATOR.validate(yaml.safe_load(write_plan(plan)))

    def test_a_script_is_written_as_people_write_it(self):
        plan = Plan((Task("a", Shell("set -e\nls\n")),))

        assert "shell: |\n      set -e\n      ls\n" in write_plan(plan)

    def test_a_function_is_written_by_its_name(self):
        plan = Plan((Task("a", json.dumps),))

        assert read(write_plan(plan)).tasks[0].run == PythonCall("json:dumps")


VALIDATOR = jsonschema.Draft202012Validator(plan_schema())
GOOD = [
    FULL,
    with_task("title:", "needs: ~", "timeout: 5", "repeatable: null", "backoff: {}", "input: {}"),
    with_task("needs: {key: ok, kind: related}", "timeout: 1h 30m", "due: '2026-12-01 08:00+01:00'"),
    "version: 1\nbudget: {usd: '0.1'}\ntasks: [{key: a, run: {python: 'a:b', args: {x: 1}, env: {A: ''}}}]\n",
    with_task("checkout: git-worktree", "gates: pytest -q"),
    with_task("estimate: {usd: '0.25', duration: 5m}"),
    with_task("budget: {starts: 3, on_exceed: warn}"),
    with_task("checkout: {kind: git-worktree, base: main, keep_failed: 3d}", "gates: [make, {run: ls, timeout: 5m}]"),
    "version: 1\ndefaults: {checkout: folder}\ngates: [{run: make, name: b}]\ntasks: [{key: a, run: {shell: ls}}]\n",
]
BAD = [
    "[]",
    "version: 1",
    "tasks: [{key: a, run: {shell: ls}}]",
    "version: 2\ntasks: [{key: a, run: {shell: ls}}]",
    "version: 1\ntasks: []",
    "version: 1\nnme: x\ntasks: [{key: a, run: {shell: ls}}]",
    "version: 1\nname: 5\ntasks: [{key: a, run: {shell: ls}}]",
    "version: 1\nbudget: {on_exceed: warn}\ntasks: [{key: a, run: {shell: ls}}]",
    "version: 1\nbudget: {usd: -1}\ntasks: [{key: a, run: {shell: ls}}]",
    "version: 1\nbudget: {usd: 1, on_exceed: explode}\ntasks: [{key: a, run: {shell: ls}}]",
    "version: 1\nconcurrency: {project: 0}\ntasks: [{key: a, run: {shell: ls}}]",
    "version: 1\nconcurrency: {keys: {a: x}}\ntasks: [{key: a, run: {shell: ls}}]",
    "version: 1\npython_path: lib\ntasks: [{key: a, run: {shell: ls}}]",
    "version: 1\ntasks: [{key: a, run: {agent: claude}}]",
    "version: 1\ntasks: [{key: a, run: {agent: claude, prompt: x, args: -x}}]",
    "version: 1\ntasks: [{key: a}]",
    "version: 1\ntasks: [{run: {shell: ls}}]",
    "version: 1\ntasks: [{key: a, run: {}}]",
    "version: 1\ntasks: [{key: a, run: {shell: ls, python: 'a:b'}}]",
    "version: 1\ntasks: [{key: a, run: {agent: claude}}]",
    "version: 1\ntasks: [{key: a b, run: {shell: ls}}]",
    "version: 1\ntasks: [{key: '-a', run: {shell: ls}}]",
    with_task("title: " + "x" * 501),
    with_task("title: 5"),
    *map(with_task, ("priority: 1.5", "priority: true", "max_attempts: 0", "max_starts: 0", "repeatable: 1")),
    with_task("timeout: soon"),
    with_task("timeout: -1"),
    with_task("timeout: true"),
    with_task("due: '2026-12-01'"),
    with_task("needs: 5"),
    with_task("needs: [{kind: blocks}]"),
    with_task("needs: [{key: ok, kind: x}]"),
    with_task("on_dependency_failure: explode"),
    with_task("backoff: {factor: 0.5}"),
    with_task("input: [1]"),
    with_task("gates: [5]"),
    with_task("gates: [{timeout: 5m}]"),
    with_task("checkout: worktree"),
    with_task("checkout: {kind: folder, bass: main}"),
    with_task("variants: 1"),
    with_task("variants: 0"),
    with_task("variants: []"),
    with_task("budget: {starts: -1}"),
    with_task("budget: {starts: many}"),
    with_task("estimate: 5"),
    with_task("estimate: {usd: -1}"),
    with_task("estimate: {tokens: 1.5}"),
]


class _WithoutDates(yaml.SafeLoader):
    """Reads as an editor does: a date is a text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own attribute
        first: [pair for pair in pairs if not pair[0].endswith("timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class TestSchema:
    def test_it_is_a_schema(self):
        jsonschema.Draft202012Validator.check_schema(plan_schema())
        json.dumps(plan_schema())

    @pytest.mark.parametrize("text", GOOD)
    def test_what_the_reader_takes_the_schema_takes(self, text):
        graph.check_plan(read(text))
        VALIDATOR.validate(yaml.load(text, _WithoutDates))  # noqa: S506 - a SafeLoader

    @pytest.mark.parametrize("text", BAD)
    def test_what_the_reader_refuses_the_schema_refuses(self, text):
        with pytest.raises(PlanError):
            graph.check_plan(read(text))

        assert not VALIDATOR.is_valid(yaml.load(text, _WithoutDates))  # noqa: S506 - a SafeLoader
