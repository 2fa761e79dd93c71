"""The Celery app: early acknowledgement, no results, JSON only, threads pool, no ETA. Leases in SQL do the rest.

``python -m celery -A workers.app worker`` and ``… beat`` work as usual; ``coord worker`` adds our defaults. Importing
this module makes no app: ``app`` is made from the settings on first use.
"""

from __future__ import annotations

import sys
import threading
from functools import partial
from typing import Any

from celery import Celery
from kombu.entity import Exchange, Queue

import beat_schedule
from coordination.base import inherited_variables
from coordination.base.errors import SettingsError
from coordination.callers import check_process
from coordination.services.fleet.broker_keys import signatures_at
from coordination.settings import Settings, broker_url, load_settings
from coordination.stack.home import Home
from workers.broker import queues, remote_control
from workers.broker.redis_transport import install
from workers.broker.signed_channel import SIGNATURES, name_of
from workers.shutdown import Shutdown

app: Celery
"""The app of this process, made from its settings on first use. Raises SettingsError when it cannot be made."""

# Imported by workers and beat at their start, not by processes that only send messages.
_MODULES = ["workers.process.lifecycle", "workers.tasks.run_tasks", "workers.tasks.supervise"]
_lock = threading.RLock()


def __getattr__(name: str) -> Celery:
    """Make ``app`` on first use and store it in the module."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _lock:
        if name not in globals():
            remote_control.guard(sys.argv)
            globals()[name] = make_app(load_settings())
        return globals()[name]


def make_app(settings: Settings) -> Celery:
    """Make a configured app, which does not connect yet. Raises SettingsError without a Redis.

    As always in Celery, the app that was made last is the current app of its thread.
    """
    configuration = _configuration(settings, redis_url_of(settings))
    inherited_variables.remove_from()  # again: Celery's command line has set variables for its options
    install()
    new_app = Celery("coordination", include=_MODULES)
    new_app.steps["worker"].add(Shutdown)
    new_app.steps["consumer"].add(remote_control.Statistics)
    new_app.conf.update(configuration)
    return new_app


def secure_home(settings: Settings) -> None:
    """Make the home folder, or remove other users' access to it. Raises SettingsError."""
    Home(settings.home).close_to_others()


def redis_url_of(settings: Settings) -> str:
    """Return the URL of Redis in *settings*, or of the embedded stack in their home folder. Raises SettingsError."""
    if settings.redis_url is not None:
        return settings.redis_url
    home = Home(settings.home)
    record = home.read() if home.is_owned() else None
    if record is None:
        raise SettingsError(
            "There is no Redis to listen to",
            hint=f"Set COORD_REDIS_URL, or start the embedded stack on {settings.home} with: coord up",
        )
    return record.redis_url


def _configuration(settings: Settings, redis_url: str) -> dict[str, Any]:
    return {
        "broker_url": broker_url(redis_url),
        # SQL has the state of tasks; a message only says that they may be ready. So it is acknowledged before the job
        # starts, never redelivered, and has no result.
        "task_acks_late": False,
        "task_ignore_result": True,
        "result_backend": None,
        "task_store_errors_even_if_ignored": False,
        "task_reject_on_worker_lost": False,
        "task_retry_on_worker_lost": False,
        "worker_deduplicate_successful_tasks": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_prefetch_count_reduction": False,
        # Jobs wait for processes and models. On the threads pool, "disable prefetch" stalls for up to a second whenever
        # all slots are taken, so it stays off. Prefetch recovery claims prefetched tasks of busy workers.
        "worker_pool": "threads",
        "worker_concurrency": settings.slots,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": False,
        # Write access to the broker must not allow running code: no pickle, and messages without a valid signature are
        # dropped unread (see ``redis_transport``).
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_queues": [Queue(name, Exchange(name), routing_key=name) for name in queues.ALL],
        "task_default_queue": queues.JOBS,
        "task_create_missing_queues": False,
        "task_routes": {task: {"queue": queue} for task, queue in queues.OF_TASK.items()},
        "enable_utc": True,
        "timezone": "UTC",
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_pool_limit": settings.slots + 2,
        "task_publish_retry": True,
        "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5},
        "broker_transport_options": {
            "priority_steps": [0],
            "queue_order_strategy": "round_robin",
            "health_check_interval": 15,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "global_keyprefix": queues.PREFIX,
            # Processes that may not change the store cannot send messages either, such as celery control.
            SIGNATURES: name_of(signatures_at(settings.database_url, check=partial(check_process, helper=True))),
        },
        "worker_send_task_events": False,
        "task_send_sent_event": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "beat_schedule": beat_schedule.BEAT_SCHEDULE,
        "beat_scheduler": "workers.process.beat_scheduler:Scheduler",
        "beat_max_loop_interval": 5,
    }
