"""The Celery app: early acknowledgement, no results, JSON only, threads pool, no ETA. Leases in SQL do the rest.

``python -m celery -A workers.app worker`` and ``… beat`` work as any Celery user expects; ``coord worker`` is the
same with our defaults.
"""

from __future__ import annotations

from celery import Celery
from kombu.entity import Exchange, Queue

import beat_schedule
from coordination.errors import SettingsError
from coordination.local.home import Home
from coordination.settings import broker_url, load_settings
from workers import queues
from workers.channel import mend

settings = load_settings()


def _broker() -> str:
    url = settings.redis_url or _embedded_redis()
    if url is None:
        raise SettingsError(
            "There is no Redis to listen to",
            hint=f"Set COORD_REDIS_URL, or start the embedded stack on {settings.home} with: coord up",
        )
    return broker_url(url)


def _embedded_redis() -> str | None:
    """The Redis of the stack that runs on our home folder, when one does."""
    home = Home(settings.home)
    record = home.read() if home.is_owned() else None
    return record.redis_url if record else None


mend()

app = Celery(
    "coordination",
    include=[
        "workers.lifecycle",
        "workers.tasks.run_tasks",
        "workers.tasks.tick",
        "workers.tasks.sweep",
        "workers.tasks.retain",
    ],
)
app.conf.update(
    broker_url=_broker(),
    # SQL decides what runs and remembers how it ended; a message is only a permit to look. So it is acknowledged
    # before the job starts, never redelivered, and there is nothing to keep a result for.
    task_acks_late=False,
    task_ignore_result=True,
    result_backend=None,
    task_store_errors_even_if_ignored=False,
    task_reject_on_worker_lost=False,
    task_retry_on_worker_lost=False,
    worker_deduplicate_successful_tasks=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_enable_prefetch_count_reduction=False,
    # Jobs wait on processes and models. On the threads pool "disable prefetch" stalls for up to a second whenever all
    # slots were taken, so it stays off; a parked message is rung again by the supervisor and costs seconds.
    worker_pool="threads",
    worker_concurrency=settings.slots,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=False,
    # Whoever can write to the broker must not be able to run code: no pickle anywhere.
    task_serializer="json",
    accept_content=["json"],
    result_accept_content=["json"],
    task_queues=[Queue(name, Exchange(name), routing_key=name) for name in queues.ALL],
    task_default_queue=queues.JOBS,
    task_create_missing_queues=False,
    task_routes={
        "coordination.run": {"queue": queues.JOBS},
        "coordination.tick": {"queue": queues.SUPERVISE},
        "coordination.sweep": {"queue": queues.SUPERVISE},
        "coordination.retain": {"queue": queues.SUPERVISE},
    },
    enable_utc=True,
    timezone="UTC",
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_pool_limit=settings.slots + 2,
    task_publish_retry=True,
    task_publish_retry_policy={"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5},
    broker_transport_options={
        "priority_steps": [0],
        "queue_order_strategy": "round_robin",
        "health_check_interval": 15,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "global_keyprefix": queues.PREFIX,
    },
    worker_send_task_events=False,
    task_send_sent_event=False,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
    beat_schedule=beat_schedule.BEAT_SCHEDULE,
    beat_scheduler="workers.beat:Scheduler",
    beat_max_loop_interval=5,
)
