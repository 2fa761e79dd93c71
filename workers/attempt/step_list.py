"""The list of the steps around every runner, from the outermost to the innermost.

A new step is a function or class in ``steps`` and a line here.
"""

from __future__ import annotations

from functools import partial

from coordination.adapters.artifact_store import ArtifactStore
from coordination.domain.jobs import AgentCall
from coordination.domain.jobs.changed_files import EXPECTS
from coordination.domain.jobs.checkouts import CHECKOUT_OPTION, CheckoutKind, parse_checkout
from coordination.domain.plans.plan_expansion import VARIANT
from coordination.domain.tasks.attempts import Claim
from workers.attempt.folders import AttemptFolders
from workers.attempt.host_leases import HostResources
from workers.attempt.pipeline import ConditionalStep
from workers.attempt.steps.agent_channel import AgentChannelStep, add_discovered
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
from workers.attempt.token_issuer import TokenIssuer
from workers.context import Context
from workers.runners.registry import Runners


def make_steps(context: Context, runners: Runners) -> list[ConditionalStep]:
    """Return the steps around every runner of this process, the outermost first."""
    settings, store, launcher = context.settings, context.store, runners.launcher
    folders = AttemptFolders(context.scratch, launcher.show)
    add, lender = partial(add_discovered, context), partial(HostResources, store, ports=settings.ports)
    limits = ArtifactLimits(ArtifactStore(settings.artifacts_url), settings.artifacts_most, settings.artifacts_bytes)
    worktrees = WorktreeStep(
        launcher, SqlMergeRecords(store), root=context.worktrees, keep=settings.worktrees_kept, lender=lender
    )
    return [
        ConditionalStep(lambda claim: claim.job_kind.asks_a_model, ModelPolicyStep(context)),
        ConditionalStep(lambda claim: "role" in claim.options, add_subtasks),
        ConditionalStep(lambda _: True, folders),
        ConditionalStep(needs_folder, make_job_folder),
        ConditionalStep(is_in_worktree, worktrees),
        ConditionalStep(lambda claim: VARIANT in claim.options.get("role", ()), VariantsStep(context)),
        ConditionalStep(lambda claim: "outputs" in claim.options, ArtifactsStep(limits)),
        ConditionalStep(lambda claim: "gates" in claim.options, GatesStep(launcher)),
        ConditionalStep(lambda claim: claim.job_kind is AgentCall, EffectsStep(launcher)),
        ConditionalStep(is_in_worktree, commit_worktree),
        ConditionalStep(lambda claim: claim.job_kind.asks_a_model, add_feedback),
        ConditionalStep(lambda claim: "role" in claim.options, review_answer),
        ConditionalStep(lambda _: True, AgentChannelStep(add, TokenIssuer(store).issue, folders)),
        ConditionalStep(lambda claim: claim.job_kind.asks_a_model, PromptStep(store)),
    ]


def is_in_worktree(claim: Claim) -> bool:
    """Return whether the job works in its own git worktree. Raises Refused."""
    return (
        CHECKOUT_OPTION in claim.options
        and parse_checkout(claim.options[CHECKOUT_OPTION]).kind is CheckoutKind.GIT_WORKTREE
    )


def needs_folder(claim: Claim) -> bool:
    """Return whether the job has no folder and a step needs one after the job."""
    if claim.workdir is not None:
        return False
    is_needed = any(name in claim.options for name in ("outputs", "gates", EXPECTS))
    return is_needed and not is_in_worktree(claim)
