"""Gives an agent's job its whole prompt: the task's own, and around it what the agent has to know."""

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
from workers.runners.agents.conversation import taken_up

log = structlog.get_logger()

_FRESH = 5.0
_REMEMBERED = 1_000


class PromptStep:
    """Builds prompts; knows the projects of the jobs that run here, as they were a few seconds ago at most."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[float, PromptContext]] = OrderedDict()

    def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        return proceed(replace(attempt, claim=self.prompted(attempt.stored, attempt.claim)))

    def prompted(self, stored: Claim, claim: Claim) -> Claim:
        """Return *claim* with its whole prompt. *stored*: as its author wrote it, not rendered.

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
        project = self._surroundings(claim)
        if prompts.mentions_run(project, kind):
            project = self._with_run(project, claim)
        text = prompts.build_prompt(
            claim.work["prompt"],
            claim,
            project,
            kind=kind,
            shows_needs=shows_needs,
            reports=True,
        )
        return replace(claim, work={**claim.work, "prompt": text})

    def _with_run(self, project: PromptContext, claim: Claim) -> PromptContext:
        """Return the project with the workspace's agents and the run's tasks as they are now."""
        try:
            with self._store.read() as tx:
                agents = prompt_context.specializations(tx, claim.workspace_id)
                graph = prompt_context.dependency_graph(tx, claim.workspace_id, claim.run_id)
        except DatabaseUnavailable as error:
            log.warning("agents and tasks could not be read; the prompt names none", why=error.message)
            return project
        return replace(project, agents=agents, graph=graph)

    def _surroundings(self, claim: Claim) -> PromptContext:
        now = monotonic()
        with self._lock:
            found = self._known.get(claim.project_id)
        if found is not None and now - found[0] < _FRESH:
            return found[1]
        try:
            with self._store.read() as tx:
                project = projects.get(tx, claim.workspace_id, claim.project_id)
        except DatabaseUnavailable as error:
            log.warning("the project could not be read; its agents are told what is known", why=error.message)
            return found[1] if found else PromptContext(claim.project)
        known = PromptContext(claim.project)
        if project is not None:
            known = PromptContext(project.name, project.path, project.description, project.settings)
        with self._lock:
            self._known[claim.project_id] = (now, known)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return known


def resumes_conversation(claim: Claim) -> bool:
    """Return whether the attempt resumes an earlier conversation, which has the whole prompt already."""
    work = claim.job
    return isinstance(work, AgentCall) and taken_up(claim, work, ADAPTERS[work.agent])
