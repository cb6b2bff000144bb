"""Where hard requests go: only where the job's data may be, and never silently nowhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgeward.api.assignment import Assignment
from edgeward.api.common import parse
from edgeward.api.conditions import ConditionType, find
from edgeward.api.inferencejob import InferenceJob
from edgeward.hub.publish import publish
from edgeward.hub.status import job_status
from edgeward.placement.model import Plan
from edgeward.rollout.step import step
from tests.unit.fleet.objects import fleet, job, node, release, site

from .world import plan_of

LARGE = job("large", model={"name": "m"}, expose={"port": 8000})
REGIONS = {"a": "north", "b": "north", "c": "south"}
NODES = [node(f"{name}1", edgeward_dev__site=name) for name in REGIONS]
SITES = [
    site(name, tier="edge", region=region, nodeSelector={"edgeward.dev/site": name}) for name, region in REGIONS.items()
]


def both(mine: dict[str, int], target: dict[str, int]) -> Plan:
    one, other = plan_of(mine), plan_of(target, key="shop/large")
    return replace(one, jobs=(*one.jobs, *other.jobs), _by_key={**one._by_key, **other._by_key})


def hub(small: Any, plan: Plan, others: tuple[Any, ...] = (LARGE,)) -> tuple[Any, Any]:
    """What the site a of the small job is told, and the condition."""
    jobs = [small, *others]
    seen = fleet(nodes=NODES, sites=SITES, jobs=jobs, releases=[release()])
    read = {f"shop/{one['metadata']['name']}": parse(InferenceJob, one) for one in jobs}
    said = publish(seen, plan, step(seen), jobs=read, present=[], namespace="edgeward")
    (told,) = [write.body for write in said.writes if write.job == "shop/signs" and write.body["spec"]["site"] == "a"]
    parse(Assignment, {**told, "kind": "Assignment"}, strict=True)
    status = job_status(read["shop/signs"], seen.jobs[0], plan.jobs[0], whole=plan, fleet=seen, assignments=[])
    return told["spec"].get("offload"), find(status.conditions, ConditionType.OFFLOADING)


def asking(residency: str = "Anywhere", **offload: Any) -> Any:
    return job(offload={"job": "large", **offload}, data={"residency": residency, "source": {"siteSelector": {}}})


def test_a_site_is_told_the_service_the_criterion_and_the_budget() -> None:
    budget = {"requests": "10%", "bytesPerHour": "50Mi"}
    told, condition = hub(asking(criterion="Margin", spill=True, budget=budget), both({"a1": 1}, {"c1": 1}))
    assert told == {
        "url": "http://large.shop.svc:8000/v2/models/m",
        "criterion": "Margin",
        "spill": True,
        "budget": budget,
    }
    assert condition is not None and (condition.status, condition.reason) == ("True", "Offloading")


def test_a_job_that_asks_for_none_has_neither() -> None:
    assert hub(job(), both({"a1": 1}, {"c1": 1})) == (None, None)


@pytest.mark.parametrize(
    ("residency", "target", "allowed"),
    [
        ("Anywhere", {"c1": 1}, True),
        ("Region", {"b1": 1}, True),
        ("Region", {"b1": 1, "c1": 1}, False),
        ("Site", {"a1": 1}, True),
        ("Site", {"a1": 1, "b1": 1}, False),
    ],
)
def test_data_never_leaves_its_residency(residency: str, target: dict[str, int], allowed: bool) -> None:
    told, condition = hub(asking(residency), both({"a1": 1}, target))
    assert (told is not None) == allowed
    assert condition is not None and condition.reason == ("Offloading" if allowed else "ResidencyForbids")


def test_a_region_that_nobody_declared_is_nobodys_neighbour() -> None:
    bare = [node(f"{name}1", edgeward_dev__site=name) for name in REGIONS]
    jobs = [asking("Region"), LARGE]
    seen = fleet(nodes=bare, jobs=jobs, releases=[release()])
    read = {f"shop/{one['metadata']['name']}": parse(InferenceJob, one) for one in jobs}
    said = publish(seen, both({"a1": 1}, {"b1": 1}), step(seen), jobs=read, present=[], namespace="edgeward")
    assert all("offload" not in write.body["spec"] for write in said.writes)


@pytest.mark.parametrize(
    ("others", "target", "reason", "says"),
    [
        ((), {}, "Missing", "InferenceJob large is not there"),
        ((LARGE,), {}, "PendingEvaluation", "has no replica yet"),
    ],
)
def test_a_target_that_cannot_answer_is_named(
    others: tuple[Any, ...], target: dict[str, int], reason: str, says: str
) -> None:
    told, condition = hub(asking(), both({"a1": 1}, target), others)
    assert told is None
    assert condition is not None and (condition.status, condition.reason) == ("False", reason)
    assert says in condition.message


def test_a_job_does_not_offload_to_itself() -> None:
    told, condition = hub(job(offload={"job": "signs"}), both({"a1": 1}, {"c1": 1}))
    assert told is None and condition is not None and condition.reason == "InvalidSpec"
