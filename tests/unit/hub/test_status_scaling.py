"""What the scale subresource and status.scaling say, and that figures alone are no news."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from edgeward.api.assignment import Assignment
from edgeward.api.common import parse, to_dict
from edgeward.api.inferencejob import InferenceJob
from edgeward.cluster import trim
from edgeward.fleet.model import Problem
from edgeward.fleet.traffic import Measured
from edgeward.hub.narrate import job_events
from edgeward.hub.status import job_status, pod_selector
from edgeward.placement.model import JobPlan
from edgeward.placement.plan import plan as make_plan
from tests.unit.fleet.objects import DIGEST, NOW, Raw, ago, assignment, build, job, node, release, site

BOUNDS = {"minReplicas": 1, "maxReplicas": 6}


def requirements(selector: str) -> list[tuple[str, str | None, bool]]:
    """(key, value or None, negated) of the two forms that are used here: `key=value` and `!key`."""
    found: list[tuple[str, str | None, bool]] = []
    for part in selector.split(","):
        negated = part.startswith("!")
        key, _, value = part.lstrip("!").partition("=")
        assert re.fullmatch(r"[a-z0-9.]+/[a-z0-9-]+", key), part
        found.append((key, None if negated else value, negated))
    return found


def selects(selector: str, labels: dict[str, str]) -> bool:
    return all(
        key not in labels if negated else labels.get(key) == value for key, value, negated in requirements(selector)
    )


POD = {"edgeward.dev/job": "signs", "app": "x"}


def test_in_the_own_cluster_the_selector_is_that_of_the_pods() -> None:
    for clusters in ((), ("in-cluster",)):
        selector = pod_selector("signs", clusters)
        assert selects(selector, POD)
        assert not selects(selector, {"edgeward.dev/job": "others"})


@pytest.mark.parametrize("clusters", [("in-cluster", "harbour"), ("harbour",), ("harbour", "mine")])
def test_elsewhere_it_matches_no_pod_at_all(clusters: tuple[str, ...]) -> None:
    selector = pod_selector("signs", clusters)
    for labels in ({}, POD, {"edgeward.dev/job": "others"}, {"app": "x"}):
        assert not selects(selector, labels)


# Whole statuses ------------------------------------------------------------------------------------------------------


def here(replicas: int = 1, ready: int | None = None, name: str = "n1", at: str = "edge") -> Raw:
    ready = replicas if ready is None else ready
    status = {"replicas": replicas, "nodes": [{"name": name, "replicas": replicas, "ready": ready}]}
    return assignment({"name": name, "replicas": replicas, "since": ago(400)}, site=at, status=status)


def measured(arrivals: float, *, at: float = NOW - 5, replicas: int = 9) -> Measured:
    return Measured(
        job="shop/signs",
        site="edge",
        digest=DIGEST,
        at=at,
        window=60,
        arrivals=arrivals,
        replicas=replicas,
        service_seconds=0.035,
    )


def told(
    raw: Raw, *assignments: Raw, sites: Any = (), figures: Any = (), now: float = NOW, problem: Problem | None = None
) -> Raw:
    fleet = build(
        now=now,
        nodes=[node("n1")],
        pods=[],
        jobs=[raw],
        releases=[release()],
        sites=list(sites),
        assignments=assignments,
        measured=figures,
    )
    if problem is not None:
        fleet = replace(fleet, jobs=tuple(replace(one, problem=problem) for one in fleet.jobs))
    whole = make_plan(fleet)
    (facts,) = fleet.jobs
    plan = whole.job(facts.key)
    assert plan is not None
    read = [parse(Assignment, item) for item in assignments]
    return to_dict(job_status(parse(InferenceJob, raw), facts, plan, whole=whole, fleet=fleet, assignments=read))


def afterwards(raw: Raw, status: Raw) -> Raw:
    return {**raw, "status": status}


def test_a_job_with_a_replica_in_another_cluster() -> None:
    """The facts as they will be once other clusters dial in: a Site in mode Pull and an Assignment for it."""
    away = site("harbour", tier="edge", connection={"mode": "Pull"})
    both = (here(), here(name="crane", at="harbour"))
    status = told(job(replicas=2), *both, sites=[away])
    assert [(item["site"], item["clusterName"]) for item in status["decisions"]] == [
        ("edge", "in-cluster"),
        ("harbour", "harbour"),
    ]
    assert status["replicas"] == 2
    assert not selects(status["selector"], POD)
    gone = (here(), {**both[1], "spec": {**both[1]["spec"], "nodes": []}, "status": {}})
    assert selects(told(job(replicas=1), *gone, sites=[away])["selector"], POD)


def test_pods_that_have_not_left_the_other_cluster_count() -> None:
    away = site("harbour", tier="edge", connection={"mode": "Pull"})
    leaving = here(name="crane", at="harbour")
    leaving["spec"]["nodes"] = []
    assert not selects(told(job(replicas=1), here(), leaving, sites=[away])["selector"], POD)


def test_lost_replicas_are_not_among_those_placed() -> None:
    """Their replacement is; an autoscaler that saw both would count one replica twice."""
    gone = assignment(
        {"name": "n9", "replicas": 1, "since": ago(4000)},
        status={"nodes": [{"name": "n9", "replicas": 1, "ready": 0, "reason": "NodeGone", "since": ago(400)}]},
    )
    status = told(job(replicas=1), gone)
    assert sum(item["replicas"] for item in status["decisions"]) == 2
    assert status["replicas"] == 1


def test_the_number_is_told_first_and_acted_on_from_the_next_plan_on() -> None:
    raw = job(replicas=1, scaling=BOUNDS)
    first = told(raw, here(), figures=[measured(75)])
    assert first["replicas"] == 1
    assert first["scaling"] == {
        "replicas": 4,
        "arrivals": "75",
        "throughput": "20",
        "measuredAt": ago(5),
        "lowPeak": 0,
        "message": "measured arrivals over measured throughput",
    }
    second = told(afterwards(raw, first), here(), figures=[measured(75)])
    assert second["replicas"] == 4
    assert second["scaling"] == first["scaling"]


def test_figures_that_drift_are_no_news_and_those_of_another_decision_are() -> None:
    raw = job(replicas=1, scaling=BOUNDS)
    first = told(raw, here(4), figures=[measured(75)])
    raw = afterwards(raw, first)
    drifted = told(raw, here(4), figures=[measured(71.5, at=NOW)], now=NOW + 5)
    assert drifted["scaling"] == first["scaling"]
    more = told(raw, here(4), figures=[measured(95, at=NOW)], now=NOW + 5)
    assert (more["scaling"]["replicas"], more["scaling"]["arrivals"]) == (5, "95")


def events(before: Raw, after: Raw) -> list[tuple[str, str, bool]]:
    read = [parse(InferenceJob, job(status=status)).status for status in (before, after)]
    plan = JobPlan(key="shop/signs", priority_tier=3, p=Fraction(1), wanted=1)
    return [(str(reason), text, warning) for reason, text, warning in job_events(read[0], read[1], plan)]


def test_another_number_is_an_event_and_a_first_one_is_none() -> None:
    raw = job(replicas=1, scaling=BOUNDS)
    one, four = told(raw, here(), figures=[measured(10)]), told(raw, here(), figures=[measured(75)])
    assert (
        "Scaled",
        "from 1 to 4 replicas: 75 requests a second arrived and one replica sustains 20",
        False,
    ) in events(one, four)
    for before, after in ((one, one), (told(job()), one), (told(job(replicas=0, scaling=BOUNDS)), four)):
        assert "Scaled" not in {reason for reason, _, _ in events(before, after)}


def test_nothing_measured_keeps_the_number_and_its_figures_go() -> None:
    raw = job(replicas=1, scaling=BOUNDS)
    raw = afterwards(raw, told(raw, here(4), figures=[measured(75)]))
    held = told(raw, here(4), now=NOW + 100)
    assert held["scaling"] == {"replicas": 4, "lowPeak": 0, "message": "held: no arrivals are measured yet"}
    assert held["replicas"] == 4


def test_the_window_is_told_for_the_next_leader() -> None:
    raw = job(replicas=4, scaling=BOUNDS)
    opened = told(raw, here(4), figures=[measured(30)])["scaling"]
    assert (opened["replicas"], opened["lowSince"], opened["lowPeak"]) == (4, ago(0), 2)
    raw = afterwards(raw, {"scaling": {**opened, "lowSince": ago(300)}})
    assert told(raw, here(4), figures=[measured(15)])["scaling"]["replicas"] == 2


def test_without_spec_scaling_there_is_none() -> None:
    raw = afterwards(job(replicas=2), {"scaling": {"replicas": 4, "message": "of before"}})
    assert "scaling" not in told(raw, here(2), figures=[measured(75)])


def test_a_job_with_a_problem_keeps_what_it_remembers() -> None:
    known = {"replicas": 4, "lowPeak": 0, "message": "of before"}
    raw = afterwards(job(replicas=1, scaling=BOUNDS), {"scaling": known})
    status = told(raw, here(4), figures=[measured(500)], problem=Problem("InvalidSpec", "odd"))
    assert status["scaling"] == known
    assert status["replicas"] == 4


def test_stopped_says_so() -> None:
    status = told(job(replicas=0, scaling=BOUNDS), figures=[measured(75)])
    assert status["scaling"]["replicas"] == 0
    assert status["scaling"]["message"] == "stopped: spec.replicas is 0"


def through_scale(raw: Raw, *managers: str) -> Raw:
    """As the API server records writers, and as the cache keeps them."""
    fields = [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {}}}]
    fields += [
        {"manager": name, "operation": "Update", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        for name in managers
    ]
    return trim.inference_job({**raw, "metadata": {**raw["metadata"], "managedFields": fields}})


def test_who_scales_beside_spec_scaling_is_told_that_it_has_no_effect() -> None:
    plain = job(replicas=1, scaling=BOUNDS)
    assert told(through_scale(plain), here(1))["scaling"]["message"] == "held: no arrivals are measured yet"
    both = told(through_scale(plain, "kube-controller-manager", "kubectl"), here(1))["scaling"]["message"]
    assert both == (
        "held: no arrivals are measured yet; spec.replicas, which kube-controller-manager, kubectl set, is only the start"
        " value beside spec.scaling"
    )
    stopped = told(through_scale(job(replicas=0, scaling=BOUNDS), "kubectl"))["scaling"]["message"]
    assert stopped == "stopped: spec.replicas is 0"


def test_of_the_managed_fields_nothing_else_is_kept() -> None:
    assert "managedFields" not in through_scale(job())["metadata"]
    assert through_scale(job(), "hpa")["metadata"]["managedFields"] == [{"manager": "hpa", "subresource": "scale"}]
