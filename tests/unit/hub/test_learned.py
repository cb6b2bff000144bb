"""status.learned and back; the Event of a proposal; a plan that learned is one write and then none."""

from __future__ import annotations

import pytest

from edgeward.api.inferencejob import InferenceJobStatus
from edgeward.api.jobstatus import Learned, RightSizing
from edgeward.fleet.lessons import lesson
from edgeward.fleet.model import Lesson, RightSize, SiteLesson
from edgeward.hub.learned import learned
from edgeward.hub.narrate import job_events
from edgeward.placement.learning import Learned as Known
from edgeward.placement.settings import PlanSettings
from tests.unit.hub.world import plan_of
from tests.unit.placement.strategies import NOW, fleet, job, node
from tests.unit.placement.test_learning import at, measured, used

WHOLE = Lesson(
    service_seconds=0.012345,
    satisfaction=0.97,
    window=2400.0,
    sites=(SiteLesson("a", 1.234, None, 500, NOW), SiteLesson("b", None, 0.25, 0, NOW - 60)),
    right_size=RightSize(cpu=120, memory=136 * 2**20, basis="from what"),
)


@pytest.mark.parametrize(
    "one",
    [
        Lesson(),
        WHOLE,
        Lesson(satisfaction=0.0, window=60.0),
        Lesson(right_size=RightSize(cpu=2000)),
        Lesson(service_seconds=1e-6),
    ],
)
def test_what_is_told_is_read_back_the_same(one: Lesson) -> None:
    assert lesson(InferenceJobStatus(learned=learned(one))) == one


def test_what_a_plan_tells_is_read_back_the_same() -> None:
    one = at(measured("shop", 0.1234567), used(site="b"), service_seconds=None, satisfaction_shortfall=0.07)
    told = Known(fleet([node()], [one]), PlanSettings()).lesson(one)
    assert told.service_seconds and told.sites and told.right_size is None and told.satisfaction == 0.93
    assert lesson(InferenceJobStatus(learned=learned(told))) == told


def test_a_status_that_somebody_spoilt_was_never_learned() -> None:
    status = InferenceJobStatus(learned=Learned(service_seconds="fast", satisfaction=900))
    assert lesson(status) == Lesson()
    assert lesson(InferenceJobStatus()) == Lesson()


def test_a_proposal_is_an_event_once() -> None:
    plan = plan_of({"a1": 1}).jobs[0]
    before = InferenceJobStatus()
    after = InferenceJobStatus(learned=Learned(right_sizing=RightSizing(cpu="120m", basis="the use")))
    other = InferenceJobStatus(learned=Learned(right_sizing=RightSizing(memory="64Mi", basis="the use")))
    ((reason, message, warning),) = job_events(before, after, plan)
    assert (reason, warning) == ("ResizeProposed", False)
    assert message == "the use suggests requests of cpu 120m (the use); nothing was changed"
    assert job_events(after, other, plan) == []
    assert job_events(after, before, plan) == []


def test_a_job_that_is_not_measured_tells_nothing() -> None:
    one = job()
    assert learned(Known(fleet([node()], [one]), PlanSettings()).lesson(one)) is None
