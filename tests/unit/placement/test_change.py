"""A Fleet with something changed in it."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest
from hypothesis import given

from edgeward.fleet.model import Fleet, Job, Nomination, Priority, Resources, Site, Taint
from edgeward.fleet.names import pool_name
from edgeward.placement.change import (
    FROM_SPEC,
    ChangeError,
    Shape,
    common_shape,
    with_job,
    with_nodes,
    without_node,
    without_site,
)
from tests.unit.placement.strategies import GI, MI, NOW, fleet, fleets, inconsistencies, job, node, placed

KNOWN_OF_A_JOB = {
    *("uid", "created_at", "service_seconds", "satisfaction_shortfall", "memory_peak", "scaled", "traffic"),
    *("learned", "waiting_since", "nomination", "preempted", "placed", "explained", "exclusions", "proposed", "moves"),
    "pods",  # a plan asks nothing of them
}
"""what no spec says"""


def test_every_field_of_a_job_is_either_the_specs_or_known_of_it() -> None:
    """A new field has to be given its place: with_job takes it from the new spec, or keeps it."""
    names = {item.name for item in fields(Job)}
    assert names == FROM_SPEC | KNOWN_OF_A_JOB
    assert not FROM_SPEC & KNOWN_OF_A_JOB


def test_a_removed_node_takes_what_ran_on_it_and_nothing_else() -> None:
    a, b = node("a"), node("b")
    claim = Nomination("shop", "a", ("test/other",), NOW + 60)
    one = job("one", replicas=2, placed=(placed(a), placed(b)), explained=True)
    two = job("two", placed=(placed(b),), explained=True, nomination=claim)
    three = job("three", placed=(placed(b),), explained=True)
    left = without_node(fleet([a, b], [one, two, three]), "a")
    assert [item.name for item in left.nodes] == ["b"]
    assert left.jobs[0] == replace(one, placed=(placed(b),), explained=False)
    assert left.jobs[1] == replace(two, nomination=None, explained=False)
    assert left.jobs[2] is three
    assert not inconsistencies(left)


def test_a_removed_node_of_a_pool_takes_the_pods_that_were_bound_to_it() -> None:
    a, b = node("a"), node("b")
    pool = replace(placed(a, 3), node=pool_name("shop"), started=(1.0, 2.0, 3.0), on=("a", "b", "a"))
    one = fleet([a, b], [job(replicas=3, placed=(pool,))], sites=(Site("shop", "edge", elastic=True),))
    (left,) = without_node(one, "a").jobs[0].placed
    assert (left.node, left.replicas, left.ready, left.started, left.on) == (pool_name("shop"), 3, 1, (2.0,), ("b",))


def test_a_removed_site_takes_its_nodes_and_what_it_ran() -> None:
    a, b = node("a", site="one"), node("b", site="two")
    left = without_site(fleet([a, b], [job(replicas=2, placed=(placed(a), placed(b)))]), "one")
    assert ([item.name for item in left.nodes], [item.name for item in left.sites]) == (["b"], ["two"])
    assert left.jobs[0].placed == (placed(b),)


@given(fleets())
def test_whatever_is_removed_the_rest_is_consistent(one: Fleet) -> None:
    for gone in one.nodes:
        assert not inconsistencies(without_node(one, gone.name))
    for site in one.sites:
        assert not inconsistencies(without_site(one, site.name))


def test_added_nodes_are_idle_measured_now_and_at_the_site_of_their_tier() -> None:
    shape = Shape("cloud", Resources(4000, 8 * GI, 110), labels={"disk": "ssd"})
    found = with_nodes(fleet([node("a"), node("new-cloud-1", tier="cloud", site="cloud")]), shape, 2)
    added = [item for item in found.nodes if item.name in ("new-cloud-2", "new-cloud-3")]
    assert len(added) == 2 and len(found.nodes) == 4
    assert all((item.site, item.tier, item.ready) == ("cloud", "cloud", True) for item in added)
    assert all(item.live.cpu is not None and (item.live.cpu.value, item.live.cpu.at) == (0.0, NOW) for item in added)
    assert added[0].labels["disk"] == "ssd" and added[0].labels["edgeward.dev/tier"] == "cloud"
    assert [site.name for site in found.sites] == ["cloud", "shop"]
    new = with_nodes(found, Shape("fog", Resources(1000, GI, 10), site="attic"), 1, name="mine")
    assert next(item for item in new.nodes if item.name == "mine").site == "attic"
    assert next(site for site in new.sites if site.name == "attic").tier == "fog"


@pytest.mark.parametrize(
    ("change", "said", "remedy"),
    [
        (lambda one: without_node(one, "x"), "--without-node: no node x in the fleet", "there are a, b"),
        (lambda one: without_site(one, "x"), "--without-site: no site x in the fleet", "there are shop"),
        (
            lambda one: with_nodes(one, Shape("fog", Resources(1, 1, 1), site="shop"), 1),
            "--add-node site: site shop is of tier edge, not fog",
            "say tier=edge, or name a site of tier fog",
        ),
        (
            lambda one: with_nodes(one, Shape("edge", Resources(1, 1, 1)), 1, name="a"),
            "--add-node name: there is a node a already",
            "choose another name",
        ),
    ],
)
def test_what_cannot_be_changed_so(change: object, said: str, remedy: str) -> None:
    with pytest.raises(ChangeError, match=re.escape(said)) as caught:
        change(fleet([node("a"), node("b")]))  # type: ignore[operator]
    assert caught.value.remedy == remedy


def test_long_lists_of_what_there_is_are_cut() -> None:
    with pytest.raises(ChangeError) as caught:
        without_node(fleet([node(f"n{number:02}") for number in range(13)]), "x")
    assert caught.value.remedy.endswith("n09 and 3 more")


def test_another_spec_keeps_what_runs() -> None:
    a = node("a")
    before = job("one", placed=(placed(a),), explained=True, waiting_since=5.0, uid="mine", created_at=7.0)
    new = job("one", replicas=4, priority=Priority(5, 5, 5), request=Resources(100, MI, 1), model_digest="")
    (after,) = with_job(fleet([a], [before]), new).jobs
    assert (after.replicas, after.priority, after.request) == (4, Priority(5, 5, 5), Resources(100, MI, 1))
    assert (after.placed, after.uid, after.created_at, after.waiting_since) == (before.placed, "mine", 7.0, 5.0)
    assert not after.explained
    assert after.model_digest == before.model_digest, "its version is the one that it has"
    (other,) = with_job(fleet([a], [before]), replace(new, model_name="another")).jobs
    assert other.model_digest == "", "another model has none to run yet"


def test_a_new_job_is_the_youngest() -> None:
    found = with_job(fleet([node()], [job("old", created_at=1.0)]), job("new", uid=""))
    assert [(item.name, item.created_at) for item in found.jobs] == [("old", 1.0), ("new", NOW)]
    assert found.jobs[1].uid


def test_the_most_common_kind_of_node() -> None:
    small, big = Resources(1000, GI, 10), Resources(8000, 8 * GI, 110)
    nodes = [
        node("a", allocatable=big, taints=(Taint("x", "", "NoSchedule"),)),
        node("b", allocatable=small, site="two", labels={"disk": "ssd", "kubernetes.io/hostname": "b", "me": "b"}),
        node(
            "c", allocatable=small, labels={"disk": "ssd", "kubernetes.io/hostname": "c", "edgeward.dev/site": "shop"}
        ),
        node("d", allocatable=big, tier="cloud", site="cloud"),
    ]
    found = common_shape(nodes, "edge")
    assert found == Shape("edge", small, "two", "amd64", {"disk": "ssd"})
    assert common_shape(nodes, "edge", "shop") == replace(found, site="shop")
    assert common_shape(nodes, "fog") is None
