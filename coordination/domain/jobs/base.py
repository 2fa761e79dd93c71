"""The base class of all job kinds; each kind is one subclass, which is its registration.

To add a kind, add a module with a subclass to ``kinds`` and a module with its runner to ``workers/runners``. Both are
discovered by their location.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self

from coordination.base import fields
from coordination.base.fields import TEXT, TEXTS, TEXTS_BY_NAME, Field, Table


class Job:
    """A parsed job. Subclasses are frozen, slotted dataclasses with one attribute per field.

    The class methods read a stored job (or a variant's overlay, which has some of its keys) without parsing it.
    """

    __slots__ = ()

    kind: ClassVar[str]
    """The name of the kind; also the name of its first field."""

    table: ClassVar[Table]
    """The fields of the job, in plan files and as stored."""

    asks_a_model: ClassVar[bool] = False
    """Whether every start costs money; such a job has a ``prompt``."""

    templates: ClassVar[tuple[str, ...]] = ()
    """The fields, besides ``env``, in which texts at any depth are templates."""

    keeps_values: ClassVar[bool] = False
    """Whether a template that consists of one expression renders to the value itself instead of its text."""

    output_name: ClassVar[str | None] = "stdout"
    """The name of its output where its last lines are shown; None: the output is not text that was printed."""

    authority_fields: ClassVar[tuple[str, ...] | None] = None
    """The fields that bound the jobs of tasks which it reports; None: any job that may run commands may report one."""

    fixed_fields: ClassVar[tuple[str, ...]] = ()
    """The authority fields that must be equal in jobs of tasks which it reports."""

    plan_only_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that only a plan may set, not a job in the tasks which it reports."""

    def check(self) -> None:
        """Raise Refused with one sentence for an invalid value."""

    @property
    def provider(self) -> str | None:
        """Return the agent or model provider whose account it uses, if any."""
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the job as stored in the task's row."""
        return fields.write_fields(self, self.table)

    @classmethod
    def from_json(cls, body: Mapping[Any, Any]) -> Self:
        """Parse a job from its JSON form. Raises Refused with one sentence for what is wrong with it."""
        job = fields.load_fields(body, cls.table, cls, what=f"A job of the kind {cls.kind}")
        job.check()
        return job

    @classmethod
    def field_names(cls) -> Collection[str]:
        """Return the keys that its JSON form may have."""
        return fields.names_of(cls.table)

    @classmethod
    def label(cls, body: Mapping[str, Any]) -> str:
        """Return what the job runs, without its arguments: jobs with the same label take about equally long."""
        return str(body[cls.kind])

    @classmethod
    def cost_key(cls, body: Mapping[str, Any]) -> str:  # noqa: ARG003 - for subclasses
        """Return a suffix for the label that distinguishes jobs with different costs."""
        return ""

    @classmethod
    def instruction(cls, body: Mapping[str, Any]) -> str:
        """Return the job's instruction, for people and agents."""
        return str(body.get("prompt") or body[cls.kind])

    @classmethod
    def model_in(cls, body: Mapping[str, Any]) -> str | None:  # noqa: ARG003
        """Return the job's model by the name that its provider uses."""
        return None

    @classmethod
    def qualified_model_in(cls, body: Mapping[str, Any]) -> str | None:
        """Return the job's model as plans write it."""
        return cls.model_in(body)

    @classmethod
    def with_model(cls, body: Mapping[str, Any], model: str) -> dict[str, Any]:
        """Return the stored job with another model."""
        return {**body, "model": model}

    @classmethod
    def runs_commands(cls, body: Mapping[str, Any]) -> bool:  # noqa: ARG003
        """Return whether it may run any command."""
        return cls.authority_fields is None


ENV = Field("env", TEXTS_BY_NAME, "variables for its processes, by name")
PROMPT = Field("prompt", TEXT, "the instruction", required=True)
SECRETS = Field("secrets", TEXTS, "names of variables that are passed on from the worker's environment")
ACCOUNT = Field("account", TEXT, "an account of the worker's machine, such as `claude@work`")
