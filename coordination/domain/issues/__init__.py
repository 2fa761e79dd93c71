"""Imported issues (Beads): their records, readiness, blockers, and a plan that completes them."""

from coordination.domain.issues.completion import close_issue
from coordination.domain.issues.explain import DependencyPath, IssueBlocker, IssueExplanation, explain
from coordination.domain.issues.order import ExcludedIssue, ExclusionReason
from coordination.domain.issues.plan import key_of, plan_from_issues, shell_job
from coordination.domain.issues.readiness import IssueReadiness, blocked_ids, ready
from coordination.domain.issues.record import Issue, IssueDependency
from coordination.domain.issues.rules import RULE_SETS, RuleSet, rule_set

__all__ = [
    "RULE_SETS",
    "DependencyPath",
    "ExcludedIssue",
    "ExclusionReason",
    "Issue",
    "IssueBlocker",
    "IssueDependency",
    "IssueExplanation",
    "IssueReadiness",
    "RuleSet",
    "blocked_ids",
    "close_issue",
    "explain",
    "key_of",
    "plan_from_issues",
    "ready",
    "rule_set",
    "shell_job",
]
