"""Templates in jobs, which use outputs of upstream tasks: checked on submission, rendered when a task starts.

``{{ needs.lint.output }}``, ``{{ needs["my-key"].state }}``, ``{{ input.x }}``, ``{{ run.id }}``, ``{{ task.key }}``,
``{{ task.attempt }}``, ``{{ project.name }}``. In ``args`` of a Python job, a text that is a single expression renders
to the value itself; elsewhere a value becomes text, or JSON if it is not a text. In a shell command the value is passed
in a variable, and a quoted reference replaces it (see shell_places). An agent's prompt, model, arguments and command
are texts, because its arguments are not passed to a shell. So are a chat's prompt, system and model; its address and
tools cannot be templates, so that no model's output decides where keys and data are sent. Texts without ``{{`` and
``{%`` are not changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from types import CodeType
from typing import TYPE_CHECKING, Any

from coordination.base.errors import Refused
from coordination.base.wording import did_you_mean, excerpt
from coordination.domain.jobs import shell_places
from coordination.domain.jobs.registry import job_class

if TYPE_CHECKING:  # jinja2 takes a tenth of a second to import, and most plans have no template
    from jinja2 import nodes

    from coordination.domain.jobs.template_sandbox import EvaluationBudget, TemplateSandbox

AVAILABLE: Mapping[str, frozenset[str] | None] = {
    "needs": None,  # by key: state, output
    "input": None,  # the task's input
    "run": frozenset({"id"}),
    "task": frozenset({"key", "id", "attempt"}),
    "project": frozenset({"name"}),
}
"""The names that templates may use, with their members where these are fixed."""

_BEGINS = re.compile(r"\{[{%]")

NEED_MEMBERS = frozenset({"state", "output"})

_LITERAL = "Write {% raw %}…{% endraw %} around braces that are not a template"
_BY_ENV = (
    "Write it as a plain argument without quotes, "
    'or pass it with env: {VALUE: "{{ … }}"} and write "$VALUE" in the command'
)


def is_template(text: str) -> bool:
    """Return whether *text* contains a template."""
    return "{{" in text or "{%" in text


def escape_template(text: str) -> str:
    """Return a template that renders to *text*."""
    return _BEGINS.sub(lambda match: f"{{{{ '{match[0]}' }}}}", text)


def is_templated(work: Mapping[str, Any]) -> bool:
    """Return whether a text of *work* (a job in its JSON form) contains a template."""
    return any(is_template(text) for _, text in _texts(work))


def check_work(work: Mapping[str, Any], *, needs: Collection[str]) -> None:
    """Raise Refused when a template of *work* has invalid syntax, or uses names that will not exist."""
    for place, text in _texts(work):
        if is_template(text):
            try:
                check_template(text, needs=needs, shell=place == "shell")
            except Refused as refused:
                raise Refused(f"{place}: {refused.message}", hint=refused.hint) from None


def check_template(text: str, *, needs: Collection[str], shell: bool = False) -> None:
    """Raise Refused for invalid syntax, for unknown names and for tasks that are not among *needs*."""
    usage = _usage(text)
    for root, member in usage.names:
        _check_name(root, member, needs)
    if shell and (why := shell_places.refusal(usage.outline)):
        raise Refused(f"a value {why} in the shell command", hint=_BY_ENV)


def render(
    work: Mapping[str, Any], *, needs: Mapping[str, Mapping[str, Any]], context: Mapping[str, Any]
) -> dict[str, Any]:
    """Return *work* with all its templates rendered.

    *needs* maps keys to ``{"state": …, "output": …}``; *context*: input, run, task and project. Raises Refused with one
    sentence that names the task (``context["task"]["key"]``) when a template cannot be rendered.
    """
    result = dict(work)
    if not is_templated(work):
        return result
    from coordination.domain.jobs.template_sandbox import EvaluationBudget

    budget = EvaluationBudget()
    names = {**context, "needs": needs}
    values, texts = (partial(render_, names=names, budget=budget) for render_ in (_value, _text))
    place, variables = "", dict[str, str]()
    try:
        if "shell" in work:
            place = "shell"
            if is_template(work["shell"]):
                result["shell"], variables = _command(work["shell"], names, budget)
        job = job_class(work)
        for place in job.templates:
            if place in work:
                result[place] = _each_text(work[place], values if job.keeps_values else texts)
        if "env" in work:
            place = "env"
            result["env"] = {name: _text(text, names, budget) for name, text in work["env"].items()}
        result |= {"env": {**result.get("env", {}), **variables}} if variables else {}
    except Refused as refused:
        key = context.get("task", {}).get("key", "")
        raise Refused(f"The template in {place} of task {excerpt(key)}: {refused.message}", hint=refused.hint) from None
    return result


def fill(text: str, names: Mapping[str, Any]) -> str:
    """Render *text* with these *names*, each a JSON value. Raises Refused when it cannot be rendered.

    Compiled texts are cached, because most prompts of agents have the same template.
    """
    if not is_template(text):
        return text
    from coordination.domain.jobs import template_sandbox

    with _refusing():
        sandbox = template_sandbox.TemplateSandbox(template_sandbox.EvaluationBudget(), template_sandbox.as_text)
        return _without_nul(_generated(_compiled(text), sandbox, names))


def _texts(work: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if isinstance(command := work.get("shell"), str):
        yield "shell", command
    for name, value in work.get("env", {}).items():
        yield f"env.{name}", value
    stack = [(place, work[place]) for place in job_class(work).templates if place in work]
    while stack:
        place, value = stack.pop()
        if isinstance(value, str):
            yield place, value
        elif isinstance(value, Mapping):
            stack.extend((f"{place}.{name}", item) for name, item in value.items())
        elif isinstance(value, list | tuple):
            stack.extend((f"{place}[{index}]", item) for index, item in enumerate(value))


def _each_text(value: Any, change: Callable[[str], Any]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _each_text(item, change) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(item, change) for item in value]
    return value


# --- rendering --------------------------------------------------------------------------------------------------


def _command(text: str, names: Mapping[str, Any], budget: EvaluationBudget) -> tuple[str, dict[str, str]]:
    """Return the command with references to its values, and the variables with the values."""
    values: list[str] = []

    def collect(value: str) -> str:
        budget.emit(len(_without_nul(value)))
        values.append(value)
        return shell_places.MARK

    outline, _ = _run(text, names, budget, collect)
    if why := shell_places.refusal(outline):
        raise Refused(f"a value {why}", hint=_BY_ENV)
    variables = {f"COORD_VALUE_{number}": value for number, value in enumerate(values, 1)}
    first, *rest = outline.split(shell_places.MARK)
    return first + "".join(f'"${{{name}}}"{part}' for name, part in zip(variables, rest, strict=True)), variables


def _text(text: str, names: Mapping[str, Any], budget: EvaluationBudget) -> str:
    if not is_template(text):
        return text
    result, _ = _run(text, names, budget, str)
    return _without_nul(result)


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise Refused("a value contains a NUL character, which cannot be passed to a process")
    return text


def _value(text: str, names: Mapping[str, Any], budget: EvaluationBudget) -> Any:
    if not is_template(text):
        return text
    result, values = _run(text, names, budget, str)
    return result if values is None else values[0]


def _run(
    text: str, names: Mapping[str, Any], budget: EvaluationBudget, place: Callable[[str], str]
) -> tuple[str, list[Any] | None]:
    """Render *text*; *place* returns the text for each value. Also return the value when *text* is one expression."""
    from coordination.domain.jobs import template_sandbox

    values: list[Any] = []

    def finalize(value: Any) -> str:
        values[:] = [template_sandbox.plain(value)]
        return place(template_sandbox.as_text(values[0]))

    sandbox = template_sandbox.TemplateSandbox(budget, finalize)
    tree = _parse(text, sandbox)
    single = _is_single(tree)
    with _refusing():
        template_sandbox.TemplateGuard().visit(tree)
        result = _generated(sandbox.compile(tree), sandbox, names)
    return result, values if single else None


@lru_cache(maxsize=64)
def _compiled(text: str) -> CodeType:
    """Return the compiled code of a text, which is valid for any sandbox with the same *finalize*."""
    from coordination.domain.jobs import template_sandbox

    sandbox = template_sandbox.TemplateSandbox(template_sandbox.EvaluationBudget(), template_sandbox.as_text)
    tree = _parse(text, sandbox)
    template_sandbox.TemplateGuard().visit(tree)
    return sandbox.compile(tree)


def _generated(code: CodeType, sandbox: TemplateSandbox, names: Mapping[str, Any]) -> str:
    from jinja2 import Template

    parts = []
    for part in Template.from_code(sandbox, code, sandbox.globals).generate(dict(names)):
        sandbox.budget.emit(len(part))
        parts.append(part)
    return "".join(parts)


@contextmanager
def _refusing() -> Iterator[None]:
    """Convert errors of a template to Refused with one sentence."""
    from jinja2 import TemplateError

    try:
        yield
    except Refused:
        raise
    except TemplateError as error:
        raise Refused(_lower(error.message or "it cannot be rendered")) from None
    except (RecursionError, MemoryError, SyntaxError):
        raise Refused("it is nested too deeply") from None
    except Exception as error:  # noqa: BLE001 - Jinja's filters raise arbitrary exceptions
        raise Refused(f"it cannot be rendered: {excerpt(str(error) or type(error).__name__, 200)}") from None


# --- checking ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Usage:
    """The names in a template with their first member (None: the whole); and its text with a MARK for each value."""

    names: frozenset[tuple[str, str | None]]
    outline: str


def _is_single(tree: nodes.Template) -> bool:
    from jinja2 import nodes

    body = tree.body
    if len(body) != 1 or not isinstance(body[0], nodes.Output) or len(body[0].nodes) != 1:
        return False
    return not isinstance(body[0].nodes[0], nodes.TemplateData)


def _parse(text: str, sandbox: TemplateSandbox) -> nodes.Template:
    from jinja2 import TemplateSyntaxError

    if shell_places.MARK in text:
        raise Refused("it contains a NUL character")
    try:
        return sandbox.parse(text)
    except TemplateSyntaxError as error:
        where = f" (line {error.lineno} of the text)" if "\n" in text else ""
        raise Refused(f"the template cannot be read{where}: {_lower(error.message or '')}", hint=_LITERAL) from None
    except (RecursionError, MemoryError):
        raise Refused("the template is nested too deeply") from None


@lru_cache(maxsize=256)
def _usage(text: str) -> _Usage:
    from jinja2 import nodes

    from coordination.domain.jobs import template_sandbox

    sandbox = template_sandbox.TemplateSandbox(template_sandbox.EvaluationBudget(), str)
    tree = _parse(text, sandbox)
    try:
        names = _names(tree)
        outline = "".join(
            part.data if isinstance(part, nodes.TemplateData) else shell_places.MARK
            for output in tree.find_all(nodes.Output)
            for part in output.nodes
        )
        for filtered in tree.find_all(nodes.Filter):
            if filtered.name not in sandbox.filters:
                raise Refused(
                    f"there is no filter {excerpt(filtered.name)}", hint=did_you_mean(filtered.name, sandbox.filters)
                )
        for test in tree.find_all(nodes.Test):
            if test.name not in sandbox.tests:
                raise Refused(f"there is no test {excerpt(test.name)}", hint=did_you_mean(test.name, sandbox.tests))
        template_sandbox.TemplateGuard().visit(tree)
    except RecursionError:
        raise Refused("the template is nested too deeply") from None
    return _Usage(names, outline)


def _names(tree: nodes.Template) -> frozenset[tuple[str, str | None]]:
    from jinja2 import nodes

    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"} | {"range", "loop"}
    whole = {(name.name, None) for name in tree.find_all(nodes.Name) if name.name not in own}
    members: set[tuple[str, str | None]] = set()
    accesses: list[Any] = [*tree.find_all(nodes.Getattr), *tree.find_all(nodes.Getitem)]
    for access in accesses:
        root = _root(access)
        if root is None or root[0] in own:
            continue
        members.add(root)
    for pair in tree.find_all(nodes.BinExpr):
        # {{ needs.my-key.output }} is read as a subtraction: needs.my minus key.output.
        root = _root(pair.left)
        if root is not None and root[0] == "needs" and "needs" not in own:
            hint = 'Write keys with other characters than letters, digits and _ like this: needs["my-key"].output'
            raise Refused(f"needs.{root[1]} {pair.operator} … is read as a calculation", hint=hint)
    for access in accesses:
        inner = _root(access.node)
        member = _member(access)
        if inner is not None and inner[0] == "needs" and "needs" not in own and member is not None:
            members.add((f"needs.{inner[1]}", member))
    return frozenset(whole | members)


def _root(access: Any) -> tuple[str, str] | None:
    """Return the name and the first member of ``name.member`` or ``name["member"]``."""
    from jinja2 import nodes

    if isinstance(access, nodes.Getattr | nodes.Getitem) and isinstance(access.node, nodes.Name):
        member = _member(access)
        return None if member is None else (access.node.name, member)
    return None


def _member(access: nodes.Getattr | nodes.Getitem) -> str | None:
    from jinja2 import nodes

    if isinstance(access, nodes.Getattr):
        return access.attr
    return str(access.arg.value) if isinstance(access.arg, nodes.Const) else None


def _check_name(root: str, member: str | None, needs: Collection[str]) -> None:
    if root.startswith("needs."):
        if member not in NEED_MEMBERS:
            raise Refused(f"{excerpt(root)[1:-1]} has state and output, and no {excerpt(member)}")
        return
    if root not in AVAILABLE:
        message = f"there is no {excerpt(root)[1:-1]}, only {', '.join(AVAILABLE)}"
        raise Refused(message, hint=did_you_mean(root, AVAILABLE) or _LITERAL)
    if member is None:
        return
    if root == "needs" and member not in needs:
        message = f"it uses needs.{excerpt(member)[1:-1]}, but the task does not need {excerpt(member)}"
        raise Refused(message, hint=did_you_mean(member, needs) or "Add it to the task's needs")
    members = AVAILABLE[root]
    if members is not None and member not in members:
        raise Refused(f"{root} has no {excerpt(member)}, only {', '.join(sorted(members))}")


def _lower(sentence: str) -> str:
    sentence = sentence.rstrip(".")
    return sentence[:1].lower() + sentence[1:] if not sentence[:2].isupper() else sentence
