"""Test what a worker checks before a task that a job reported begins."""

from __future__ import annotations

from coordination.base.errors import Refused
from coordination.domain.access.authority import Rights
from tests.support.jobs import claim_of
from tests.support.refusals import refuses
from workers.engine.executor import check_authority


def test_a_reported_task_with_more_attempts_than_its_reporter_is_refused_at_the_claim() -> None:
    lent = Rights({"shell": ""}, ("/srv",), max_attempts=2, priority=0, agent="dave/vc").to_json()

    check_authority(claim_of({"shell": "true"}, workdir="/srv", max_attempts=2, authority=lent, timeout=None))
    with refuses(Refused, field="max_attempts"):
        check_authority(claim_of({"shell": "true"}, workdir="/srv", max_attempts=3, authority=lent, timeout=None))
