"""Templates in a job: outputs of earlier tasks in later ones. Checked as a plan comes in, rendered as a task starts.

``{{ needs.lint.output }}``, ``{{ needs["my-key"].state }}``, ``{{ input.x }}``, ``{{ run.id }}``, ``{{ task.key }}``,
``{{ task.attempt }}``, ``{{ project.name }}``. A text that is one expression and nothing else gives the value itself in
``args`` of a Python job; in a longer text a value becomes text, what is not a text as JSON. In a shell command a
variable holds the value, and a quoted reference stands in an argument's place (see shell_places). An agent's prompt,
model, arguments and command are texts: its arguments go to no shell. So are a chat's prompt, system and model; its
address and its tools are not templated, so that no model's output decides where keys and data go. A text without
``{{`` and ``{%`` is never touched.
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
from coordination.domain.jobs.registry import kind_in

if TYPE_CHECKING:  # jinja2 takes a tenth of a second to import, and most plans have no template
    from jinja2 import nodes

    from coordination.domain.jobs.template_sandbox import EvaluationBudget, TemplateSandbox

AVAILABLE: Mapping[str, frozenset[str] | None] = {
    "needs": None,  # by key: state, output
    "input": None,  # whatever the task's input holds
    "run": frozenset({"id"}),
    "task": frozenset({"key", "id", "attempt"}),
    "project": frozenset({"name"}),
}
"""The names a template may use, and their members where these are fixed."""

_BEGINS = re.compile(r"\{[{%]")

OF_A_NEED = frozenset({"state", "output"})

_LITERAL = "Write {% raw %}…{% endraw %} around braces that are not a template"
_BY_ENV = (
    "Write it as a plain word that is an argument, without quotes of your own, "
    'or pass it on by env: {VALUE: "{{ … }}"} and write "$VALUE" in the command'
)


def is_template(text: str) -> bool:
    """Whether *text* is rendered at all."""
    return "{{" in text or "{%" in text


def literal(text: str) -> str:
    """A template that gives *text* as it is."""
    return _BEGINS.sub(lambda found: f"{{{{ '{found[0]}' }}}}", text)


def is_templated(work: Mapping[str, Any]) -> bool:
    """Whether any text of *work* (a job in its JSON form) is rendered."""
    return any(is_template(text) for _, text in _texts(work))


def check_work(work: Mapping[str, Any], *, needs: Collection[str]) -> None:
    """Refuse *work* when one of its templates has bad syntax, or uses what will not be there; needs no values."""
    for place, text in _texts(work):
        if is_template(text):
            try:
                check_template(text, needs=needs, shell=place == "shell")
            except Refused as refused:
                raise Refused(f"{place}: {refused.message}", hint=refused.hint) from None


def check_template(text: str, *, needs: Collection[str], shell: bool = False) -> None:
    """Refuse *text* for its syntax, for names that do not exist and for tasks that are not among *needs*."""
    found = _names_in(text)
    for root, member in found.names:
        _check_name(root, member, needs)
    if shell and (why := shell_places.refusal(found.outline)):
        raise Refused(f"a value {why} in the shell command", hint=_BY_ENV)


def render(
    work: Mapping[str, Any], *, needs: Mapping[str, Mapping[str, Any]], context: Mapping[str, Any]
) -> dict[str, Any]:
    """*work* with every text of it rendered: command or prompt, the args at any depth, the values of env.

    *needs* maps keys to ``{"state": …, "output": …}``; *context* holds input, run, task and project. Raises Refused
    with one sentence that names the task (``context["task"]["key"]``) when a template cannot be rendered.
    """
    result = dict(work)
    if not is_templated(work):
        return result
    from coordination.domain.jobs.template_sandbox import EvaluationBudget

    budget = EvaluationBudget()
    names = {**context, "needs": needs}
    values, texts = (partial(make, names=names, budget=budget) for make in (_value, _text))
    place, held = "", dict[str, str]()
    try:
        if "shell" in work:
            place = "shell"
            if is_template(work["shell"]):
                result["shell"], held = _command(work["shell"], names, budget)
        job = kind_in(work)
        for place in job.templates:
            if place in work:
                result[place] = _each_text(work[place], values if job.keeps_values else texts)
        if "env" in work:
            place = "env"
            result["env"] = {name: _text(text, names, budget) for name, text in work["env"].items()}
        result |= {"env": {**result.get("env", {}), **held}} if held else {}
    except Refused as refused:
        key = context.get("task", {}).get("key", "")
        raise Refused(f"The template in {place} of task {excerpt(key)}: {refused.message}", hint=refused.hint) from None
    return result


def fill(text: str, names: Mapping[str, Any]) -> str:
    """*text* with these *names* in it, each a JSON value; Refused with one sentence when it cannot be rendered.

    The same text again takes a fraction of the first time: nearly every agent is told its task in the same words.
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
    stack = [(place, work[place]) for place in kind_in(work).templates if place in work]
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
    """The command with references to its values, and the variables that hold these."""
    values: list[str] = []

    def hold(value: str) -> str:
        if "\0" in value:
            raise Refused("a value holds a NUL character, which no process can be given")
        budget.emit(len(value))
        values.append(value)
        return shell_places.MARK

    outline, _ = _run(text, names, budget, hold)
    if why := shell_places.refusal(outline):
        raise Refused(f"a value {why}", hint=_BY_ENV)
    held = {f"COORD_VALUE_{number}": value for number, value in enumerate(values, 1)}
    first, *rest = outline.split(shell_places.MARK)
    return first + "".join(f'"${{{name}}}"{part}' for name, part in zip(held, rest, strict=True)), held


def _text(text: str, names: Mapping[str, Any], budget: EvaluationBudget) -> str:
    if not is_template(text):
        return text
    result, _ = _run(text, names, budget, _as_it_is)
    return _without_nul(result)


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise Refused("a value holds a NUL character, which no process can be given")
    return text


def _value(text: str, names: Mapping[str, Any], budget: EvaluationBudget) -> Any:
    if not is_template(text):
        return text
    result, values = _run(text, names, budget, _as_it_is)
    return result if values is None else values[0]


def _as_it_is(value: str) -> str:
    return value


def _run(
    text: str, names: Mapping[str, Any], budget: EvaluationBudget, place: Callable[[str], str]
) -> tuple[str, list[Any] | None]:
    """The text that *text* makes, each value put in by *place*; and its value, when it is one expression alone."""
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
    """The code of a text whose values are put in as they are: what it says of constants holds in any sandbox."""
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
    """What a template does wrong becomes one sentence."""
    from jinja2 import TemplateError

    try:
        yield
    except Refused:
        raise
    except TemplateError as error:
        raise Refused(_lower(error.message or "it cannot be rendered")) from None
    except (RecursionError, MemoryError, SyntaxError):
        raise Refused("it is nested too deeply") from None
    except Exception as error:  # noqa: BLE001 - filters of Jinja raise whatever they like, bare assertions too
        raise Refused(f"it cannot be rendered: {excerpt(str(error) or type(error).__name__, 200)}") from None


# --- checking ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """What a template uses: names with their first member (None: the whole); and its text with marks for its values."""

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
        raise Refused("it holds a NUL character")
    try:
        return sandbox.parse(text)
    except TemplateSyntaxError as error:
        where = f" (line {error.lineno} of the text)" if "\n" in text else ""
        raise Refused(f"the template cannot be read{where}: {_lower(error.message or '')}", hint=_LITERAL) from None
    except (RecursionError, MemoryError):
        raise Refused("the template is nested too deeply") from None


@lru_cache(maxsize=256)
def _names_in(text: str) -> _Found:
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
    return _Found(names, outline)


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
            raise Refused(
                f"needs.{root[1]} {pair.operator} … is read as a calculation",
                hint='A key that is more than letters, digits and _ is written like this: needs["my-key"].output',
            )
    for access in accesses:
        inner = _root(access.node)
        member = _member(access)
        if inner is not None and inner[0] == "needs" and "needs" not in own and member is not None:
            members.add((f"needs.{inner[1]}", member))
    return frozenset(whole | members)


def _root(access: Any) -> tuple[str, str] | None:
    """The name and the first member of ``name.member`` or ``name["member"]``."""
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
        if member not in OF_A_NEED:
            raise Refused(f"{excerpt(root)[1:-1]} has state and output, and no {excerpt(member)}")
        return
    if root not in AVAILABLE:
        raise Refused(
            f"there is no {excerpt(root)[1:-1]}, only {', '.join(AVAILABLE)}",
            hint=did_you_mean(root, AVAILABLE) or _LITERAL,
        )
    if member is None:
        return
    if root == "needs" and member not in needs:
        raise Refused(
            f"it uses needs.{excerpt(member)[1:-1]}, but the task does not need {excerpt(member)}",
            hint=did_you_mean(member, needs) or "Add it to the task's needs",
        )
    members = AVAILABLE[root]
    if members is not None and member not in members:
        raise Refused(f"{root} has no {excerpt(member)}, only {', '.join(sorted(members))}")


def _lower(sentence: str) -> str:
    sentence = sentence.rstrip(".")
    return sentence[:1].lower() + sentence[1:] if not sentence[:2].isupper() else sentence
