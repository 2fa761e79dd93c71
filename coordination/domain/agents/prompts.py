"""What an agent is told: its task, what it needs to know for it, and how it reports. Pure; the words are templates.

A project may have its own words for each of KINDS, in its settings. The names that they may use:

``task`` (key, title, prompt, attempt, failures, max_attempts, input) · ``project`` (name, path, description,
tech_stack, spec_path, output_path) · ``agent`` (name) · ``run`` (id) · ``needs`` (key -> state, output) ·
``shows_needs`` · ``criteria`` (list) · ``gates`` (list of commands) · ``workspace`` · ``answers`` (question, answer,
by) · ``feedback`` · ``reports`` (whether ``coord task`` works where the job runs) · ``tools`` (whether it has the tools
of ``coord mcp``) · ``question`` (that another task asks)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coordination.base.errors import Refused
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.agents.prompt_words import (
    ANALYZE_WORDS,
    ANSWER_WORDS,
    ASSESS_WORDS,
    RESUME_WORDS,
    WORKER_WORDS,
)
from coordination.domain.fleet.supervisor_settings import SupervisorSettings
from coordination.domain.jobs import CUSTOM, OURS, ChatCall, templates
from coordination.domain.jobs.checkouts import STORED
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.questions import ANSWERS

WORKER = "worker"
RESUME = "resume"
ASSESS = "assess"
ANALYZE = "analyze"
ANSWER = "answer"

FEEDBACK = "feedback"
"""Where a task carries why its last attempt did not count: a gate's output."""

PROJECT_SETTING = "prompts"
"""Under which of a project's settings its own words stand, by kind."""

LONGEST_TEMPLATE = 100_000
LONGEST_OUTPUT = 4_000
"""Characters of a template, and of another task's output as the prompt shows it; the rest is in COORD_INPUT."""

KINDS: Mapping[str, str] = {
    WORKER: WORKER_WORDS,
    RESUME: RESUME_WORDS,
    ASSESS: ASSESS_WORDS,
    ANALYZE: ANALYZE_WORDS,
    ANSWER: ANSWER_WORDS,
}
"""The words for each occasion, where a project has none of its own."""


@dataclass(frozen=True, slots=True)
class PromptContext:
    """What is known of a task's project. *words*: its own templates by kind.

    *agents* and *graph*: the workspace's agents and the run's tasks, where its templates mention them.
    """

    name: str
    path: str | None = None
    description: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    agents: Sequence[Mapping[str, Any]] = ()
    graph: Sequence[Mapping[str, Any]] = ()

    @property
    def words(self) -> Mapping[str, str]:
        """Its own templates, by kind."""
        found = self.settings.get(PROJECT_SETTING, {})
        return found if isinstance(found, Mapping) else {}


def check_words(kind: str, text: str) -> None:
    """Refuse words that could not be used: an unknown kind, bad syntax, a name that does not exist."""
    if kind not in KINDS:
        raise Refused(
            f"There is no prompt {excerpt(kind)}", hint=did_you_mean(kind, KINDS) or f"One of {', '.join(KINDS)}"
        )
    if len(text) > LONGEST_TEMPLATE:
        raise Refused(f"The prompt has {len(text):,} characters; at most {LONGEST_TEMPLATE:,} are possible")
    if not text.strip():
        raise Refused("The prompt is empty")
    sample = {"state": "completed", "output": "an output"}
    names = _names("do it", _SAMPLE, PromptContext("shop"), needs={"other": sample}, shows_needs=True, reports=True)
    names |= {
        "criteria": ["a criterion"],
        "gates": ["a gate"],
        "answers": [{"question": "why?", "answer": "so", "by": "ann"}],
        "feedback": "a complaint",
        "question": "which colour?",
        "agents": [{"name": "ann", "role": "reviewer", "objective": "tests", "labels": ["python"], "model": "m"}],
        "graph": [{"key": "fix", "title": "Fix it", "state": "queued", "needs": ["other"]}],
    }
    try:
        templates.fill(text, names)
    except Refused as refused:
        raise Refused(f"The prompt {kind} cannot be used: {refused.message}", hint=refused.hint) from None


def mentions_run(project: PromptContext, kind: str) -> bool:
    """Return whether the project's own words for that occasion say something of the agents or of the run's tasks."""
    words = project.words.get(kind) or ""
    return "agents" in words or "graph" in words


def prompt_of(
    prompt: str, claim: Claim, project: PromptContext, *, kind: str = WORKER, shows_needs: bool, reports: bool
) -> str:
    """The whole prompt of a task whose own *prompt* is rendered already; Refused when its words cannot be rendered."""
    words = project.words.get(kind) or KINDS[kind]
    needs = {key: {**need, "output": _bounded(need.get("output"))} for key, need in claim.needs.items()}
    shown = shows_needs and any(need["output"] for need in needs.values())
    return templates.fill(
        words, _names(prompt, claim, project, needs=needs, shows_needs=shown, reports=reports)
    ).strip()


def _names(
    prompt: str,
    claim: Claim,
    project: PromptContext,
    *,
    needs: Mapping[str, Any],
    shows_needs: bool,
    reports: bool,
) -> dict[str, Any]:
    settings = project.settings
    supervisor = SupervisorSettings.of(settings)
    checkout = claim.options.get(STORED, "folder")
    kind = checkout.get("kind", "folder") if isinstance(checkout, Mapping) else checkout
    return {
        "task": {
            "key": claim.key,
            "title": claim.title,
            "prompt": prompt,
            "attempt": claim.attempt,
            "failures": claim.failures,
            "max_attempts": claim.max_attempts,
            "input": dict(claim.input),
        },
        "project": {
            "name": project.name,
            "path": project.path,
            "description": project.description,
            **{name: settings.get(name) for name in ("tech_stack", "spec_path", "output_path")},
        },
        "agent": {"name": claim.agent},
        "run": {"id": claim.run_id},
        "needs": dict(needs),
        "shows_needs": shows_needs,
        "criteria": list(claim.options.get("criteria", ())),
        "gates": [_gate(gate) for gate in claim.options.get("gates", ())],
        "checkout": kind,
        "workspace": kind,  # its old name, for templates that were written with it
        "answers": list(claim.carried.get(ANSWERS, ())),
        "feedback": claim.carried.get(FEEDBACK),
        "question": claim.options.get("role", {}).get("question"),
        "supervisor": {"strategy": supervisor.strategy, "model": supervisor.model},
        "agents": [dict(agent) for agent in project.agents],
        "graph": [dict(task) for task in project.graph],
        # A chat has no shell to say it in.
        "reports": reports and claim.job_kind is not ChatCall,
        "tools": reports and OURS in claim.work.get("tools", ()),
    }


def _gate(gate: object) -> str:
    return str(gate.get("run", gate)) if isinstance(gate, Mapping) else str(gate)


def _bounded(output: Any) -> str:
    if output is None:
        return ""
    import json

    text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
    return text if len(text) <= LONGEST_OUTPUT else f"{text[:LONGEST_OUTPUT]}… ({len(text):,} characters in all)"


def rendered(claim: Claim) -> Claim:
    """The claim with outputs of earlier tasks filled into its job. Raises Refused when that cannot be done."""
    if not templates.is_templated(claim.work):
        return claim
    work = templates.render(
        claim.work,
        needs=claim.needs,
        context={
            "input": claim.input,
            "run": {"id": claim.run_id},
            "task": {"key": claim.key, "attempt": claim.attempt},
            "project": {"name": claim.project},
        },
    )
    return replace(claim, work=work)


def mentions_needs(prompts: Sequence[str]) -> bool:
    """Whether a prompt, as its author wrote it, already says where outputs of other tasks belong."""
    return any(templates.is_template(text) and "needs" in text for text in prompts)


_SAMPLE = Claim(
    task_id="",
    attempt=1,
    workspace_id="",
    project_id="",
    project="shop",
    run_id="",
    session_id=None,
    key="fix",
    title="Fix it",
    work={"agent": CUSTOM, "prompt": "do it"},
    input={},
    needs={},
    agent=None,
    timeout=None,
    stall_timeout=None,
    workdir=None,
    python_path=(),
    max_attempts=1,
    failures=0,
    deferrals=0,
    backoff={},
    repeatable=True,
)
