"""Builds the whole prompt of an agent's job: the task's prompt with the project's and the system's instructions."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

import structlog

from coordination.base.clock import monotonic
from coordination.base.errors import DatabaseUnavailable
from coordination.domain.agents import prompts
from coordination.domain.agents.prompts import PromptContext
from coordination.domain.jobs import AgentCall
from coordination.domain.plans import review_loop
from coordination.domain.tasks.attempts import AttemptEnd, Claim
from coordination.domain.tasks.questions import ANSWERS_KEY
from coordination.store.engine import Store
from coordination.store.queries.projects import projects
from coordination.store.reports.agents import prompt_context
from workers.attempt.running import Proceed, RunningAttempt
from workers.runners.agents.adapters import ADAPTERS
from workers.runners.agents.conversation import resumes_session

log = structlog.get_logger()

_FRESH = 5.0  # seconds that a project is cached
_MOST_PROJECTS = 1_000


class PromptStep:
    """Builds prompts. Caches projects for a few seconds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, tuple[float, PromptContext]] = OrderedDict()

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        return proceed(replace(attempt, claim=self.with_prompt(attempt.stored, attempt.claim)))

    def with_prompt(self, stored: Claim, claim: Claim) -> Claim:
        """Return *claim* with its whole prompt. *stored*: the claim before rendering.

        Raises Refused when the project's own prompt text cannot be rendered.
        """
        if claim.options.get("bare"):
            return claim
        role = review_loop.role_of(claim)
        shows_needs = not prompts.mentions_needs([str(stored.work["prompt"])])
        supervises = next((kind for kind in (prompts.ASSESS, prompts.ANALYZE, prompts.ANSWER) if kind in role), None)
        resumes = supervises is None and resumes_conversation(claim)
        if resumes:
            last = list(claim.carried_over.get(ANSWERS_KEY, ()))[-1:]
            claim = replace(claim, carried_over={**claim.carried_over, ANSWERS_KEY: last})
        kind = supervises or (prompts.RESUME if resumes else prompts.WORKER)
        project = self._prompt_context(claim)
        if prompts.mentions_run(project, kind):
            project = self._with_run(project, claim)
        own = claim.work["prompt"]
        text = prompts.build_prompt(own, claim, project, kind=kind, shows_needs=shows_needs, reports=True)
        return replace(claim, work={**claim.work, "prompt": text})

    def _with_run(self, project: PromptContext, claim: Claim) -> PromptContext:
        """Return *project* with the current agents of the workspace and tasks of the run."""
        try:
            with self._store.read() as tx:
                agents = prompt_context.specializations(tx, claim.workspace_id)
                graph = prompt_context.dependency_graph(tx, claim.workspace_id, claim.run_id)
        except DatabaseUnavailable as error:
            log.warning("agents and tasks could not be read; the prompt has none", why=error.message)
            return project
        return replace(project, agents=agents, graph=graph)

    def _prompt_context(self, claim: Claim) -> PromptContext:
        now = monotonic()
        with self._lock:
            cached = self._cache.get(claim.project_id)
        if cached is not None and now - cached[0] < _FRESH:
            return cached[1]
        try:
            with self._store.read() as tx:
                project = projects.get(tx, claim.workspace_id, claim.project_id)
        except DatabaseUnavailable as error:
            log.warning("the project could not be read; the prompt has its last known state", why=error.message)
            return cached[1] if cached else PromptContext(claim.project)
        context = PromptContext(claim.project)
        if project is not None:
            context = PromptContext(project.name, project.path, project.description, project.settings)
        with self._lock:
            self._cache[claim.project_id] = (now, context)
            if len(self._cache) > _MOST_PROJECTS:
                self._cache.popitem(last=False)
        return context


def resumes_conversation(claim: Claim) -> bool:
    """Return whether the attempt resumes a conversation, which has the whole prompt already."""
    call = claim.job
    return isinstance(call, AgentCall) and resumes_session(claim, call, ADAPTERS[call.agent])
