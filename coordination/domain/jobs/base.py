"""The base of every kind of job: what its one registration, a subclass of ``Job``, declares. Pure.

To add a kind, add a module with a subclass here and a module with its runner in ``workers/runners``: both are found by
their place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self

from coordination.base import fields
from coordination.base.fields import Field, Table
from coordination.base.value_types import TEXT, TEXTS, TEXTS_BY_NAME


class Job:
    """A job, parsed. Subclasses are frozen, slotted dataclasses with one attribute per field.

    The class methods read a stored job without parsing it; a variant's overlay, which has some of the keys, is one too.
    """

    __slots__ = ()

    kind: ClassVar[str]
    """The key by which a job of this kind is known; also the name of its first field."""

    table: ClassVar[Table]
    """Its fields: what a plan may say, and what is stored."""

    asks_a_model: ClassVar[bool] = False
    """Whether every start costs money; such a job has a ``prompt``."""

    templates: ClassVar[tuple[str, ...]] = ()
    """The fields whose texts are templates, at any depth, besides ``env``."""

    keeps_values: ClassVar[bool] = False
    """Whether a template that is one expression gives the value itself, not its text."""

    output_name: ClassVar[str | None] = "stdout"
    """What people call its output where they read the last lines; None: it is not printed."""

    lent: ClassVar[tuple[str, ...] | None] = None
    """The fields that bound what its tasks may cause; None: whoever may run any command may have such a job."""

    lent_unchanged: ClassVar[tuple[str, ...]] = ()
    """Those of them in which a job that it causes must not differ."""

    only_in_plans: ClassVar[tuple[str, ...]] = ()
    """The fields that a job may not set in those that it causes: a person does, in a plan."""

    def check(self) -> None:
        """Refuse what is wrong with the values, with one sentence."""

    @property
    def provider(self) -> str | None:
        """Return the agent or provider whose account it uses; None: it uses none."""
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the job as stored in the task's row."""
        return fields.write_fields(self, self.table)

    @classmethod
    def from_json(cls, body: Mapping[Any, Any]) -> Self:
        """Return the job that a mapping describes; Refused with one sentence for what is wrong with it."""
        job = fields.load_fields(body, cls.table, cls, what=f"A job of the kind {cls.kind}")
        job.check()
        return job

    @classmethod
    def names(cls) -> Collection[str]:
        """Return the keys that it may have."""
        return fields.names_of(cls.table)

    @classmethod
    def label(cls, body: Mapping[str, Any]) -> str:
        """Return what the job runs, without its arguments: jobs with one label take about as long as each other."""
        return str(body[cls.kind])

    @classmethod
    def cost_key(cls, body: Mapping[str, Any]) -> str:  # noqa: ARG003 - for subclasses
        """Return what is added to the label to tell apart jobs that cost differently."""
        return ""

    @classmethod
    def instruction(cls, body: Mapping[str, Any]) -> str:
        """Return what it is told to do, for people and agents."""
        return str(body.get("prompt") or body[cls.kind])

    @classmethod
    def model_in(cls, body: Mapping[str, Any]) -> str | None:  # noqa: ARG003
        """Return the model that it names, as its provider calls it."""
        return None

    @classmethod
    def model_named(cls, body: Mapping[str, Any]) -> str | None:
        """Return the model that it names, as its plan writes it."""
        return cls.model_in(body)

    @classmethod
    def with_model(cls, body: Mapping[str, Any], model: str) -> dict[str, Any]:
        """Return the stored job with another model."""
        return {**body, "model": model}

    @classmethod
    def runs_commands(cls, body: Mapping[str, Any]) -> bool:  # noqa: ARG003
        """Return whether it may run any command."""
        return cls.lent is None


ENV = Field("env", TEXTS_BY_NAME, "variables for its processes, by name")
PROMPT = Field("prompt", TEXT, "what it is told", required=True)
SECRETS = Field("secrets", TEXTS, "variables of the worker's environment that it is given, by name")
ACCOUNT = Field("account", TEXT, "an account of the worker's machine, such as `claude@work`")
