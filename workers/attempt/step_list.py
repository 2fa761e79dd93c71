"""The list of the steps around every runner, from the outermost to the innermost.

A new step is a function or class in ``steps`` and a line here. The conditions are cheap: a step itself passes attempts
on that it does not concern after all.
"""

from __future__ import annotations

from functools import partial

from coordination.adapters.artifact_store import ArtifactStore
from coordination.domain.jobs.changed_files import EXPECTS
from coordination.domain.jobs.checkouts import CHECKOUT_OPTION
from workers.attempt.folders import AttemptFolders
from workers.attempt.host_leases import PortAndDatabaseLeases
from workers.attempt.pipeline import ConditionalStep, always, asks_a_model, has_option, runs_an_agent
from workers.attempt.steps.agent_channel import AgentChannelStep, TokenIssuer, add_discovered
from workers.attempt.steps.artifacts import ArtifactLimits, ArtifactsStep
from workers.attempt.steps.changed_files import EffectsStep
from workers.attempt.steps.feedback import add_feedback
from workers.attempt.steps.gates import GatesStep
from workers.attempt.steps.job_folder import make_job_folder
from workers.attempt.steps.model_policy import ModelPolicyStep
from workers.attempt.steps.prompt import PromptStep
from workers.attempt.steps.review import add_subtasks, review_answer
from workers.attempt.steps.variants import VariantsStep
from workers.attempt.steps.worktree import SqlMergeRecords, WorktreeStep
from workers.attempt.steps.worktree_commit import commit_worktree
from workers.context import Context
from workers.runners.registry import Runners


def make_steps(context: Context, runners: Runners) -> list[ConditionalStep]:
    """Return the steps around every runner of this process, the outermost first."""
    settings, store, launcher = context.settings, context.store, runners.launcher
    folders = AttemptFolders(context.scratch, launcher.show)
    add, lender = partial(add_discovered, context), partial(PortAndDatabaseLeases, store, ports=settings.ports)
    limits = ArtifactLimits(ArtifactStore(settings.artifacts_url), settings.artifacts_most, settings.artifacts_bytes)
    worktrees = WorktreeStep(
        launcher, SqlMergeRecords(store), root=context.worktrees, keep=settings.worktrees_kept, lender=lender
    )
    return [
        ConditionalStep(asks_a_model, ModelPolicyStep(context)),
        ConditionalStep(has_option("role"), add_subtasks),
        ConditionalStep(always, folders),
        ConditionalStep(has_option("outputs", "gates", EXPECTS), make_job_folder),
        ConditionalStep(has_option(CHECKOUT_OPTION), worktrees),
        ConditionalStep(has_option("role"), VariantsStep(context)),
        ConditionalStep(has_option("outputs"), ArtifactsStep(limits)),
        ConditionalStep(has_option("gates"), GatesStep(launcher)),
        ConditionalStep(runs_an_agent, EffectsStep(launcher)),
        ConditionalStep(has_option(CHECKOUT_OPTION), commit_worktree),
        ConditionalStep(asks_a_model, add_feedback),
        ConditionalStep(has_option("role"), review_answer),
        ConditionalStep(always, AgentChannelStep(add, TokenIssuer(store).issue, folders)),
        ConditionalStep(asks_a_model, PromptStep(store)),
    ]
