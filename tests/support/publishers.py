"""A publisher that sends nothing: it records what a worker enqueues, or refuses as if the broker were unreachable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coordination.services.tasks import dispatch_window
from coordination.store.engine import Store
from coordination.store.queries.tasks import ready
from coordination.store.queries.tasks.ready import ReadyTask


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its tasks by their keys, and as the (id, attempt) pairs that a worker receives."""

    workspace_id: str
    project: str
    keys: tuple[str, ...]
    tasks: tuple[tuple[str, int], ...]


class RecordingPublisher:
    """Keeps its messages in ``messages``; while ``refuses`` is set it refuses them, recorded in ``refused``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.refuses = False
        self.messages: list[Message] = []
        self.refused: list[str] = []

    def publish(
        self, workspace_id: str, project: str, tasks: Sequence[ReadyTask], *, bundle: Callable[[str], int]
    ) -> bool:
        """Record one message for each group of *tasks* that may share one, or refuse all of them."""
        if self.refuses:
            self.refused += [task.key for task in tasks]
            with self._store.write() as tx:
                ready.unmark_enqueued(tx, workspace_id, [task.id for task in tasks])
            return False
        for group in dispatch_window.group_by_message(tasks, bundle) if tasks else ():
            keys = tuple(task.key for task in group)
            pairs = tuple((task.id, task.attempt) for task in group)
            self.messages.append(Message(workspace_id, project, keys, pairs))
        return True

    @property
    def keys(self) -> list[str]:
        """Return the keys of all tasks that were enqueued, in their order."""
        return [key for message in self.messages for key in message.keys]
