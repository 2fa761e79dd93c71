"""The default templates of agents' prompts, one for each kind of prompt."""

WORKER_TEMPLATE = """\
{{ task.prompt }}
{%- if criteria %}

## Acceptance criteria
{%- for criterion in criteria %}
- {{ criterion }}
{%- endfor %}
{%- endif %}
{%- if gates %}

These commands must succeed before the task counts as done; they run automatically at the end:
{%- for gate in gates %}
- `{{ gate }}`
{%- endfor %}
{%- endif %}
{%- if shows_needs %}

## Results of upstream tasks
{%- for key, need in needs | items %}

### {{ key }} ({{ need.state }})
{{ need.output }}
{%- endfor %}
{%- endif %}
{%- if answers %}

## Your questions and their answers
{%- for item in answers %}
- {{ item.question }}
  Answer: {{ item.answer }}
{%- endfor %}
{%- endif %}
{%- if feedback %}

## Why your last attempt was rejected
{{ feedback }}
{%- endif %}
{%- if reports or tools or project.tech_stack or project.spec_path or project.output_path %}

## Context
Project {{ project.name }}{% if project.tech_stack %} ({{ project.tech_stack }}){% endif %}, \
task `{{ task.key }}`, attempt {{ task.attempt }}\
{% if task.failures %} ({{ task.failures }} of {{ task.max_attempts }} have failed){% endif %}.
{%- if project.spec_path %}
The specification: {{ project.spec_path }}
{%- endif %}
{%- if project.output_path %}
Write output files to: {{ project.output_path }}
{%- endif %}
{%- if checkout == "git-worktree" %}
You work in a git worktree of your own. Do not commit, merge or push: what you change is committed and merged when you \
end.
{%- endif %}
{%- endif %}
{%- if tools %}

## How to report
When it is done, end with a short summary as your answer. Otherwise, with the tools of the MCP server `coord`:
- `progress`: what you are doing, for people who follow the run.
- `ask`: a question, when you need a decision, and then end: you are started again with the answer.
- `discovered`: work that you find and that is not yours to do now; with `first` when you need it done before you can \
go on, and then end.
- `fail`: when it cannot be done; `final` when no other attempt could do it either.
{%- elif reports %}

## How to report
When it is done, end with a short summary as your answer. Otherwise, in the shell:
- `coord task progress "what you are doing"` for people who follow the run.
- `coord task ask "question"` when you need a decision, and then end: you are started again with the answer.
- `coord task discovered KEY --title "…" --prompt "…"` for work that you find and that is not yours to do now; \
with `--first` when you need it done before you can go on, and then end.
- `coord task fail "why"` when it cannot be done; `--final` when no other attempt could do it either.
{%- endif %}
"""

RESUME_TEMPLATE = """\
{% if answers %}{% for item in answers %}You asked: {{ item.question }}
Answer: {{ item.answer }}
{% endfor %}
{% endif %}{% if feedback %}Your last attempt was rejected:

{{ feedback }}

{% endif %}{% if shows_needs %}{% for key, need in needs | items %}{{ key }} ({{ need.state }}):
{{ need.output }}

{% endfor %}{% endif %}Go on with your task, {{ task.title }}, from where you stopped. \
It is attempt {{ task.attempt }}. The task was:

{{ task.prompt }}
"""

ASSESS_TEMPLATE = """\
Assess a task before another agent does it. Do not do it, and change nothing; you may look at files.

## The task
{{ task.prompt }}
{%- if criteria %}

## Acceptance criteria
{%- for criterion in criteria %}
- {{ criterion }}
{%- endfor %}
{%- endif %}

## Project
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
subtasks are done before the task itself, each by an agent of its own, and the task then gets their outputs. \
Leave the list empty unless the task is too large for one agent.
{%- if feedback %}

Your last answer could not be used: {{ feedback }}
{%- endif %}
"""

ANALYZE_TEMPLATE = """\
Judge whether a task is done. Do not do it, and change nothing; you may look at files and run tests.

## The task
{{ task.prompt }}
{%- if criteria %}

## Acceptance criteria
{%- for criterion in criteria %}
- {{ criterion }}
{%- endfor %}
{%- endif %}

## The result
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
again: it is not done, and why says what is missing, for the agent that continues. punted: it cannot or should not be \
done now. follow_ups: bugs and further work that are not part of the task, for agents of their own; mostly none.
{%- if feedback %}

Your last answer could not be used: {{ feedback }}
{%- endif %}
"""

ANSWER_TEMPLATE = """\
Another agent needs a decision for its task. Answer; do not do the task, and change nothing; you may look at files.

## The question
{{ question }}

## The task
{{ task.prompt }}
{%- if shows_needs %}

## Results of upstream tasks
{%- for key, need in needs | items %}

### {{ key }} ({{ need.state }})
{{ need.output }}
{%- endfor %}
{%- endif %}

## Project
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
