"""The words around an agent's prompt, where a project has none of its own: Jinja templates, one an occasion."""

WORKER_WORDS = """\
{{ task.prompt }}
{%- if criteria %}

## It is done when
{%- for one in criteria %}
- {{ one }}
{%- endfor %}
{%- endif %}
{%- if gates %}

These commands must succeed before it counts as done; they are run for you at the end:
{%- for one in gates %}
- `{{ one }}`
{%- endfor %}
{%- endif %}
{%- if shows_needs %}

## What the tasks before this one gave
{%- for key, need in needs | items %}

### {{ key }} ({{ need.state }})
{{ need.output }}
{%- endfor %}
{%- endif %}
{%- if answers %}

## What you asked, and were answered
{%- for one in answers %}
- {{ one.question }}
  Answer: {{ one.answer }}
{%- endfor %}
{%- endif %}
{%- if feedback %}

## Why your last attempt did not count
{{ feedback }}
{%- endif %}
{%- if reports or tools or project.tech_stack or project.spec_path or project.output_path %}

## Where you are
Project {{ project.name }}{% if project.tech_stack %} ({{ project.tech_stack }}){% endif %}, \
task `{{ task.key }}`, attempt {{ task.attempt }}\
{% if task.failures %} ({{ task.failures }} of {{ task.max_attempts }} have failed){% endif %}.
{%- if project.spec_path %}
The specification: {{ project.spec_path }}
{%- endif %}
{%- if project.output_path %}
What you make belongs into: {{ project.output_path }}
{%- endif %}
{%- if workspace == "git-worktree" %}
You work in a git worktree of your own. Do not commit, merge or push: what you change is committed and merged when you \
end.
{%- endif %}
{%- endif %}
{%- if tools %}

## How to report
When it is done, end with a short summary as your answer. Otherwise, with the tools of the MCP server `coord`:
- `progress`: what you are doing, for whoever watches.
- `ask`: a question, when you need a decision, and then end: you are started again with the answer.
- `discovered`: work that you find and that is not yours to do now; with `first` when you need it done before you can \
go on, and then end.
- `fail`: when it cannot be done; `final` when no other attempt could do it either.
{%- elif reports %}

## How to report
When it is done, end with a short summary as your answer. Otherwise, in the shell:
- `coord task progress "what you are doing"` for whoever watches.
- `coord task ask "question"` when you need a decision, and then end: you are started again with the answer.
- `coord task discovered KEY --title "…" --prompt "…"` for work that you find and that is not yours to do now; \
with `--first` when you need it done before you can go on, and then end.
- `coord task fail "why"` when it cannot be done; `--final` when no other attempt could do it either.
{%- endif %}
"""

RESUME_WORDS = """\
{% if answers %}{% for one in answers %}You asked: {{ one.question }}
Answer: {{ one.answer }}
{% endfor %}
{% endif %}{% if feedback %}Your last attempt did not count:

{{ feedback }}

{% endif %}{% if shows_needs %}{% for key, need in needs | items %}{{ key }} ({{ need.state }}):
{{ need.output }}

{% endfor %}{% endif %}Go on with your task, {{ task.title }}, from where you stopped. \
It is attempt {{ task.attempt }}. The task was:

{{ task.prompt }}
"""

ASSESS_WORDS = """\
Assess a task before somebody else does it. Do not do it, and change nothing; you may look at files.

## The task
{{ task.prompt }}
{%- if criteria %}

## It is done when
{%- for one in criteria %}
- {{ one }}
{%- endfor %}
{%- endif %}

## Where
Project {{ project.name }}{% if project.tech_stack %} ({{ project.tech_stack }}){% endif %}.
{%- if project.spec_path %}
The specification: {{ project.spec_path }}
{%- endif %}
{%- if supervisor.strategy %}

## The strategy
{{ supervisor.strategy }}
{%- endif %}

## Your answer
One JSON object and nothing else:
{"strategy": "how to do it, in a few sentences", "risks": ["what may go wrong", "…"],
 "subtasks": [{"key": "short-name", "title": "…", "prompt": "what exactly is to be done",
  "needs": ["key of one before it"]}]}
subtasks are done before the task itself, each by an agent of its own, and the task then sees what they gave. \
Leave the list empty unless the task is too large for one agent.
{%- if feedback %}

Your last answer could not be used: {{ feedback }}
{%- endif %}
"""

ANALYZE_WORDS = """\
Judge whether a task is done. Do not do it, and change nothing; you may look at files and run tests.

## The task
{{ task.prompt }}
{%- if criteria %}

## It is done when
{%- for one in criteria %}
- {{ one }}
{%- endfor %}
{%- endif %}

## What was done
{%- for key, need in needs | items %}

### {{ key }} ({{ need.state }})
{{ need.output }}
{%- endfor %}
{%- if supervisor.strategy %}

## The strategy
{{ supervisor.strategy }}
{%- endif %}

## Your answer
One JSON object and nothing else:
{"verdict": "done" or "again" or "punted", "why": "…",
 "follow_ups": [{"key": "short-name", "title": "…", "prompt": "what exactly is to be done",
  "needs": ["key of one before it"]}]}
again: it is not done, and why says what is missing, for whoever goes on. punted: it cannot or should not be done now. \
follow_ups: bugs and work that turned up and are not part of the task, for agents of their own; mostly none.
{%- if feedback %}

Your last answer could not be used: {{ feedback }}
{%- endif %}
"""

ANSWER_WORDS = """\
Somebody who works on a task needs a decision. Answer; do not do the task, and change nothing; you may look at files.

## The question
{{ question }}

## The task
{{ task.prompt }}
{%- if shows_needs %}

## What it was given
{%- for key, need in needs | items %}

### {{ key }} ({{ need.state }})
{{ need.output }}
{%- endfor %}
{%- endif %}

## Where
Project {{ project.name }}{% if project.tech_stack %} ({{ project.tech_stack }}){% endif %}.
{%- if project.spec_path %}
The specification: {{ project.spec_path }}
{%- endif %}
{%- if supervisor.strategy %}

## The strategy
{{ supervisor.strategy }}
{%- endif %}

## Your answer
One JSON object and nothing else: {"answer": "what is to be done, and why"} or, when only a person can decide that, \
{"cannot": "why"}.
{%- if feedback %}

Your last answer could not be used: {{ feedback }}
{%- endif %}
"""
