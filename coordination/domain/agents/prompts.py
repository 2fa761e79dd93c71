"""Prompts of agents: the task, its context, and how to report. Rendered from templates.

A project may have its own templates for each of KINDS, in its settings. The names that they may use:

``task`` (key, title, prompt, attempt, failures, max_attempts, input) · ``project`` (name, path, description,
tech_stack, spec_path, output_path) · ``agent`` (name) · ``run`` (id) · ``needs`` (key -> state, output) ·
``shows_needs`` · ``criteria`` (list) · ``gates`` (list of commands) · ``checkout`` · ``answers`` (question, answer,
by) · ``feedback`` · ``reports`` (whether ``coord task`` works where the job runs) · ``tools`` (whether it has the tools
of ``coord mcp``) · ``question`` (of another task)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coordination.base.errors import Refused
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.agents.prompt_words import (
    ANALYZE_TEMPLATE,
    ANSWER_TEMPLATE,
    ASSESS_TEMPLATE,
    RESUME_TEMPLATE,
    WORKER_TEMPLATE,
)
from coordination.domain.fleet.supervisor_settings import SupervisorSettings
from coordination.domain.jobs import CUSTOM, OURS, ChatCall, templates
from coordination.domain.jobs.checkouts import CHECKOUT_OPTION
from coordination.domain.tasks.attempts import Claim
from coordination.domain.tasks.questions import ANSWERS_KEY

WORKER = "worker"
RESUME = "resume"
ASSESS = "assess"
ANALYZE = "analyze"
ANSWER = "answer"

FEEDBACK = "feedback"
"""Key in the data that a task carries between attempts: why the last attempt was rejected, such as a gate's output."""

PROJECT_SETTING = "prompts"
"""The project setting with its own templates, by kind."""

PROJECT_TEXTS = ("tech_stack", "spec_path", "output_path")
"""The project settings that templates read as variables of ``project``."""

LONGEST_TEMPLATE = 100_000
LONGEST_OUTPUT = 4_000
"""Characters of a template, and of another task's output in a prompt; COORD_INPUT contains all of it."""

KINDS: Mapping[str, str] = {
    WORKER: WORKER_TEMPLATE,
    RESUME: RESUME_TEMPLATE,
    ASSESS: ASSESS_TEMPLATE,
    ANALYZE: ANALYZE_TEMPLATE,
    ANSWER: ANSWER_TEMPLATE,
}
"""The default templates by kind."""


@dataclass(frozen=True, slots=True)
class PromptContext:
    """A task's project for its prompt. *agents* and *graph*: agents of the workspace and tasks of the run, if used."""

    name: str
    path: str | None = None
    description: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    agents: Sequence[Mapping[str, Any]] = ()
    graph: Sequence[Mapping[str, Any]] = ()

    @property
    def templates(self) -> Mapping[str, str]:
        """Return the project's own templates by kind."""
        own = self.settings.get(PROJECT_SETTING, {})
        return own if isinstance(own, Mapping) else {}


def check_prompt_template(kind: str, text: str) -> None:
    """Raise Refused for an unknown kind, invalid syntax, or an unknown name in a template."""
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
        "feedback": "a reason",
        "question": "which colour?",
        "agents": [{"name": "ann", "role": "reviewer", "objective": "tests", "labels": ["python"], "model": "m"}],
        "graph": [{"key": "fix", "title": "Fix it", "state": "queued", "needs": ["other"]}],
    }
    try:
        templates.fill(text, names)
    except Refused as refused:
        raise Refused(f"The prompt {kind} cannot be used: {refused.message}", hint=refused.hint) from None


def mentions_run(project: PromptContext, kind: str) -> bool:
    """Return whether the project's own template of that kind uses the agents or the tasks of the run."""
    template = project.templates.get(kind) or ""
    return "agents" in template or "graph" in template


def build_prompt(
    prompt: str, claim: Claim, project: PromptContext, *, kind: str = WORKER, shows_needs: bool, reports: bool
) -> str:
    """Return the full prompt of a task with a rendered *prompt*. Raises Refused when that cannot be rendered."""
    template = project.templates.get(kind) or KINDS[kind]
    needs = {key: {**need, "output": _bounded(need.get("output"))} for key, need in claim.needs.items()}
    shown = shows_needs and any(need["output"] for need in needs.values())
    return templates.fill(
        template, _names(prompt, claim, project, needs=needs, shows_needs=shown, reports=reports)
    ).strip()


def _names(
    prompt: str, claim: Claim, project: PromptContext, *, needs: Mapping[str, Any], shows_needs: bool, reports: bool
) -> dict[str, Any]:
    settings = project.settings
    supervisor = SupervisorSettings.of(settings)
    checkout = claim.options.get(CHECKOUT_OPTION, "folder")
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
            **{name: settings.get(name) for name in PROJECT_TEXTS},
        },
        "agent": {"name": claim.agent},
        "run": {"id": claim.run_id},
        "needs": dict(needs),
        "shows_needs": shows_needs,
        "criteria": list(claim.options.get("criteria", ())),
        "gates": [_gate(gate) for gate in claim.options.get("gates", ())],
        "checkout": kind,
        "answers": list(claim.carried_over.get(ANSWERS_KEY, ())),
        "feedback": claim.carried_over.get(FEEDBACK),
        "question": claim.options.get("role", {}).get("question"),
        "supervisor": {"strategy": supervisor.strategy, "model": supervisor.model},
        "agents": [dict(agent) for agent in project.agents],
        "graph": [dict(task) for task in project.graph],
        # A chat has no shell for ``coord task``.
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


def render_job(claim: Claim) -> Claim:
    """Return the claim with the templates of its job rendered. Raises Refused when that fails."""
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
    """Return whether a prompt of a plan's author already contains outputs of upstream tasks."""
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
