"""Test templates: outputs of earlier tasks in later ones, checked early, rendered within limits, never executed."""

import contextlib
import subprocess
import sys
import time

import pytest

from coordination.base.errors import Refused
from coordination.domain.jobs import template_sandbox, templates
from tests.support.refusals import refuses

NEEDS = {
    "lint": {"state": "completed", "output": "it's; $(rm -rf x)"},
    "my-key": {"state": "failed", "output": {"n": [1, None, True]}},
    "items": {"state": "completed", "output": 5},
}
CONTEXT = {
    "input": {"x": [1, 2], "s": "a b"},
    "run": {"id": "r1"},
    "task": {"key": "me", "id": "t1", "attempt": 2},
    "project": {"name": "shop"},
}


def rendered(work):
    return templates.render(work, needs=NEEDS, context=CONTEXT)


def arg(text):
    return rendered({"python": "a:b", "args": {"v": text}})["args"]["v"]


def command(text):
    return rendered({"shell": text})["shell"]


class TestAgents:
    def test_every_text_of_an_agents_job_is_rendered_as_text(self):
        job = {
            "agent": "custom",
            "prompt": "Mend {{ needs.lint.output }} on try {{ task.attempt }}",
            "model": "{{ input.s }}",
            "command": ["tool", "--as={{ run.id }}", "{prompt}"],
            "args": ["{{ needs.items.output }}", "{{ needs['my-key'].output }}"],
            "env": {"WHO": "{{ project.name }}"},
        }

        assert rendered(job) == {
            "agent": "custom",
            "prompt": "Mend it's; $(rm -rf x) on try 2",
            "model": "a b",
            "command": ["tool", "--as=r1", "{prompt}"],
            "args": ["5", '{"n": [1, null, true]}'],
            "env": {"WHO": "shop"},
        }

    @pytest.mark.parametrize("place", ["prompt", "model", "args", "command"])
    def test_a_mistake_in_any_of_them_is_found_without_values(self, place):
        text = "{{ needs.nobody.output }}"
        job = {"agent": "claude", "prompt": "x", place: [text] if place in {"args", "command"} else text}

        with refuses(Refused):
            templates.check_work(job, needs={"lint"})


class TestChats:
    def test_what_the_model_is_told_is_rendered_and_where_it_is_reached_is_not(self):
        untouched = {
            "url": "http://{{ input.s }}/v1",
            "tools": [{"command": ["{{ input.s }}"]}],
            "schema": {"a": "{{ }}"},
        }
        job = {
            "chat": "openai:{{ needs.items.output }}",
            "prompt": "{{ input.s }}",
            "system": "{{ run.id }}",
            **untouched,
        }

        assert rendered(job) == {"chat": "openai:5", "prompt": "a b", "system": "r1", **untouched}

    @pytest.mark.parametrize("place", ["chat", "prompt", "system"])
    def test_a_mistake_in_any_of_them_is_found_without_values(self, place):
        with refuses(Refused):
            templates.check_work({"chat": "a:b", "prompt": "x", place: "{{ needs.nobody.output }}"}, needs={"lint"})


class TestArgs:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ('{{ needs["my-key"].output }}', {"n": [1, None, True]}),
            ("{{ needs.items.output }}", 5),
            ("{{ input.x }}", [1, 2]),
            ("{{ task.attempt }}", 2),
            ("{{ needs.items.output == 5 }}", True),
            ("{{ input.nope | default(none) }}", None),
            ("{{ input.x | map('string') | list }}", ["1", "2"]),
            ("{{ range(3) }}", [0, 1, 2]),
        ],
    )
    def test_one_expression_alone_gives_the_value_itself(self, text, value):
        result = arg(text)

        assert result == value
        assert type(result) is type(value)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("run {{ run.id }} of {{ project.name }}", "run r1 of shop"),
            (' {{ needs["my-key"].output }}', ' {"n": [1, null, true]}'),
            (
                "{% for n in needs %}{{ loop.index }}={{ needs[n].state }} {% endfor %}",
                "1=completed 2=failed 3=completed ",
            ),
            ("{% if input.x %}yes{% else %}no{% endif %}", "yes"),
            ("{% raw %}{{ kept }}{% endraw %}", "{{ kept }}"),
            ("a\n{{ run.id }}\n", "a\nr1\n"),
        ],
    )
    def test_in_a_longer_text_values_become_text(self, text, value):
        assert arg(text) == value

    def test_texts_are_rendered_at_any_depth_and_in_env(self):
        work = {"python": "a:b", "args": {"l": [{"d": "{{ run.id }}"}, 7]}, "env": {"A": "{{ input.x }}"}}

        assert rendered(work) == {"python": "a:b", "args": {"l": [{"d": "r1"}, 7]}, "env": {"A": "[1, 2]"}}

    def test_a_text_without_a_template_stays_as_it_is(self):
        work = {"shell": "echo ${#x} ${x%y} {# a #} {a,b}", "env": {"A": "{"}}

        assert rendered(work) == work

    def test_a_plan_without_templates_never_imports_jinja(self):
        code = (
            "import sys; from coordination.domain.plans import graph; from coordination.domain.jobs import templates;"
            "from coordination.domain.plans.plans import *;"
            "graph.check_plan(Plan([Task('a', {'shell': 'echo'})]));"
            "templates.render({'shell': 'x'}, needs={}, context={});"
            "sys.exit('jinja2' in sys.modules)"
        )

        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestCommands:
    @pytest.mark.parametrize("shell", ["sh", "bash"])
    @pytest.mark.parametrize(
        "value",
        [
            "; touch pwned",
            "$(touch pwned)",
            "`touch pwned`",
            "'; touch pwned; '",
            '"; touch pwned; "',
            "a\ntouch pwned",
            "-n #",
            "*",
            "",
        ],
    )
    def test_a_value_is_one_word_whatever_it_holds(self, value, shell, tmp_path):
        needs = {"a": {"state": "completed", "output": value}}

        work = templates.render(
            {"shell": "printf '%s|' {{ needs.a.output }} x{{ needs.a.output }}y"}, needs=needs, context=CONTEXT
        )
        done = subprocess.run(
            [shell, "-c", work["shell"]],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin"} | work["env"],
            capture_output=True,
            text=True,
            check=True,
        )

        assert done.stdout == f"{value}|x{value}y|"
        assert list(tmp_path.iterdir()) == []

    def test_a_value_never_stands_in_the_command_itself(self):
        work = {"shell": 'echo {{ needs.items.output }} x{{ needs["my-key"].output }}', "env": {"A": "b"}}

        assert rendered(work) == {
            "shell": 'echo "${COORD_VALUE_1}" x"${COORD_VALUE_2}"',
            "env": {"A": "b", "COORD_VALUE_1": "5", "COORD_VALUE_2": '{"n": [1, null, true]}'},
        }

    @pytest.mark.parametrize("start", ["sh -c", "timeout 5 bash -ec", "eval", "echo x | xargs sh -c", "python3 -c"])
    def test_a_value_that_would_be_a_script_is_refused_when_checked_and_when_rendered(self, start):
        for place in ("{{ run.id }}", "x{{ run.id }}", '"$(echo {{ run.id }})"'):
            with refuses(Refused):
                templates.check_work({"shell": f"{start} {place}"}, needs=[])
            with refuses(Refused):
                command(f"{start} {place}")

    @pytest.mark.parametrize(
        "text", ["echo '{{ run.id }}'", 'echo "{{ run.id }}"', "{{ run.id }}", "echo ${{ run.id }}"]
    )
    def test_a_place_that_quoting_does_not_protect_is_refused_when_checked_and_when_rendered(self, text):
        with refuses(Refused):
            templates.check_work({"shell": text}, needs=[])
        with refuses(Refused):
            command(text)

    def test_a_quote_that_opens_in_one_branch_is_seen_when_rendered(self):
        with refuses(Refused):
            command("{% if input.x %}echo '{% endif %}{{ run.id }}'")

    def test_a_nul_character_of_an_output_never_reaches_a_command(self):
        needs = {"a": {"state": "completed", "output": "x\0y"}}

        with refuses(Refused):
            templates.render({"shell": "echo {{ needs.a.output }}"}, needs=needs, context=CONTEXT)


class TestLimits:
    @pytest.mark.parametrize(
        "text",
        [
            "{{ 'a' * 10 ** 9 }}",
            "{{ 10 ** 10 ** 10 }}",
            "{{ range(10 * 1000 * 1000 * 1000) | list }}",
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{% for a in range(90000) %}" + "x" * 1000 + "{% endfor %}",
            "{% set a = 'xx' %}" + "{% set a = a ~ a %}" * 60 + "{{ a }}",
            "{% set a = 'xx' %}" + "{% set a = a + a %}" * 60 + "{{ a }}",
            "{% set a = 'xx' %}" + "{% set a = [a, a] | join(a) %}" * 60 + "{{ a }}",
            "{% set a = 'xx' %}" + "{% set a = a | replace('x', a) %}" * 60 + "{{ a }}",
            "{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a }}",
            "{% set a = 3 %}" + "{% set a = a * a %}" * 60 + "{{ a }}",
            "{{ '%999999999d' % 1 }}",
            "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
            "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
            "{{ 1e400 }}",
        ],
    )
    def test_what_would_never_end_or_never_fit_is_refused_soon(self, text):
        started = time.process_time()

        with refuses(Refused):
            arg(text)

        assert time.process_time() - started < 20

    @pytest.mark.parametrize(
        "text",
        [
            "{{ input.s.__class__.__mro__ }}",
            "{{ ''.join(['a']) }}",
            "{{ needs.items() }}",
            "{% macro a() %}{% endmacro %}",
            "{% include 'x' %}",
            "{% set a %}x{% endset %}",
            "{{ range }}",
            "{{ self }}",
            "{{ 'x' | center(10) }}",
            "{% for x in [1] recursive %}{% endfor %}",
        ],
    )
    def test_there_is_no_way_to_python(self, text):
        with pytest.raises(Refused):
            arg(text)

    @pytest.mark.parametrize("text", ["{{ 1 / 0 }}", "{{ 1 + 'a' }}", "{{ none < 1 }}", "{{ [1, 'a'] | sort }}"])
    def test_a_calculation_that_fails_is_a_sentence(self, text):
        with refuses(Refused):
            arg(text)

    @pytest.mark.parametrize("text", ["{{ nope }}", "{{ input.nope }}", "x {{ needs.gone.output }}"])
    def test_an_undefined_name_is_a_sentence(self, text):
        with refuses(Refused):
            arg(text)


VALUES = ("needs.items.output", 'needs["my-key"].output', "needs.lint.output", "input.x", "needs", "none")
ARGUMENTS = ("", "(1)", "(-1)", "('x')", "('state')", "(none)", "(input.x)", "(1, true)", "('x', 'y', 1)")


class TestFailures:
    @pytest.mark.parametrize(
        "name",
        [
            name
            for name in sorted(template_sandbox.TemplateSandbox(template_sandbox.EvaluationBudget(), str).filters)
            if " " not in name
        ],
    )
    def test_whatever_a_filter_raises_becomes_one_sentence(self, name):
        for value in VALUES:
            for filter_arguments in ARGUMENTS:
                text = f"{{{{ {value}|{name}{filter_arguments} }}}}"
                for render in (arg, command, lambda text: templates.fill(text, {**CONTEXT, "needs": NEEDS})):
                    with contextlib.suppress(Refused):
                        render(text)  # any other exception fails the test

    def test_a_bare_assertion_is_named(self):
        with refuses(Refused):
            arg("{{ needs.lint.output|truncate(1) }}")


class TestCheck:
    @pytest.mark.parametrize(
        "text",
        [
            "{{ needs.lnt.output }}",
            "{{ needs.other.output }}",
            "{{ needs.lint.outptu }}",
            "{{ needs.my-key.output }}",
            "{{ needs.a/b.output }}",
            "{{ needs.1.output }}",
            "{{ ned.lint }}",
            "{{ run.idd }}",
            "{{ .Names }}",
            "{{ print }}",
            "a\nb {{ x y }}",
            "{{ run.id | uper }}",
            "{{ 1 is evn }}",
            "{{ run.id",
            "{% endfor %}",
            "{{ x() }}",
        ],
    )
    def test_a_mistake_is_found_without_values(self, text):
        with refuses(Refused):
            templates.check_template(text, needs=NEEDS)

    @pytest.mark.parametrize(
        "text",
        [
            "{{ needs.lint.output }}",
            '{{ needs["my-key"]["output"].n }}',
            "{{ needs.items.output - 1 }}",
            "{% for name, need in needs | items %}{{ name }}{{ loop.index }}{% endfor %}",
            "{% set x = input.x %}{{ x }}",
            "{{ task.key }}{{ task.id }}{{ task.attempt }}{{ project.name }}",
        ],
    )
    def test_what_is_right_passes(self, text):
        templates.check_template(text, needs=NEEDS)

    def test_the_place_of_a_bad_template_is_named(self):
        with refuses(Refused):
            templates.check_work({"python": "a:b", "args": {"x": ["a", "{{ nope }}"]}}, needs=[])
