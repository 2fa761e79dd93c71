"""The list of public names: ``coordination`` exports what is imported here, and docs/api.md documents it."""

from coordination.api.agents import Agents as Agents
from coordination.api.budgets import Budgets as Budgets
from coordination.api.checkouts import TaskCheckout as TaskCheckout
from coordination.api.connection import Coordination as Coordination
from coordination.api.connection import connect as connect
from coordination.api.costs import Costs as Costs
from coordination.api.issues import Issues as Issues
from coordination.api.prices import Prices as Prices
from coordination.api.projects import Projects as Projects
from coordination.api.questions import Questions as Questions
from coordination.api.runs import Run as Run
from coordination.api.tasks import TaskHandle as TaskHandle
