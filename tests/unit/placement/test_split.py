"""What explain says of a demand between edge and cloud."""

from __future__ import annotations

import pytest

from edgeward.api.common import LabelSelector
from edgeward.fleet.model import Fleet, Job, Resources, Site
from edgeward.placement import plan
from tests.unit.placement.strategies import MI, fleet, job, node

SHOP = LabelSelector(match_labels={"edgeward.dev/site": "shop"})
SITES = (Site("shop", "edge", bandwidth=20e6, rtt=0.01), Site("region", "cloud", bandwidth=1e9, rtt=0.01))
STATED = {
    "source_selector": SHOP,
    "request_bytes": 125_000,
    "slo_throughput": 20.0,
    "max_drain": 0.5,
    "replicas": 2,
    "request": Resources(1500, 256 * MI, 1),
}


def world(cloud_speed: float = 1.0, edge_speed: float = 1.0, **changes: object) -> Fleet:
    nodes = [node("e1", speed=edge_speed), node("c1", site="region", tier="cloud", speed=cloud_speed)]
    return fleet(nodes, [job(**{**STATED, **changes})], sites=SITES)


def split(one: Fleet) -> list[str]:
    decided = plan(one).job("test/job")
    assert decided is not None
    return [note for note in decided.explanation.notes if note.startswith("split")]


def test_what_does_not_drain_in_time_stays_at_the_edge() -> None:
    """S_D = 2 x 20 x 1 Mbit = 40 Mbit, S_C <= 20 Mbit/s x .5 s = 10 Mbit: 3/4 stay, and 3/4 of 3 cores with them."""
    assert split(world()) == [
        "split: of 3 cores and 40Mbit/s of requests at least 2.25 cores and 30Mbit/s stay at the edge,"
        " a share of 0.750: 20Mbit/s to region drain 10Mbit in 500 ms"
    ]


def test_a_link_that_drains_all_of_it_leaves_nothing_at_the_edge() -> None:
    (line,) = split(world(request_bytes=12_500))
    assert "at least 0 cores and 0 bit/s stay at the edge, a share of 0.000" in line


def test_more_than_the_link_carries_never_drains_however_long_it_may_take() -> None:
    (line,) = split(world(max_drain=60.0))
    assert "1.5 cores and 20Mbit/s stay" in line and "drain 20Mbit in 1 s" in line


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"residency": "Site"}, "data.residency is Site"),
        ({"slo_latency": 0.015}, "the cloud is too far for slo.latency"),
    ],
)
def test_residency_and_latency_keep_all_of_it(changes: dict[str, object], why: str) -> None:
    (line,) = split(world(**changes))
    assert "at least 3 cores and 40Mbit/s stay at the edge, a share of 1.000: " + why in line


@pytest.mark.parametrize(
    "unknown",
    [
        {"request_bytes": None},
        {"slo_throughput": None},
        {"max_drain": None},
        {"source_selector": None},
        {"tiers": frozenset({"edge"})},
        {"tiers": frozenset({"cloud", "fog"})},
        {"replicas": 0},
    ],
)
def test_what_nobody_stated_is_not_told(unknown: dict[str, object]) -> None:
    assert split(world(**unknown)) == []


def test_an_unknown_link_gives_no_figure() -> None:
    one = world()
    bare = fleet(one.nodes, one.jobs, sites=(Site("shop", "edge"), Site("region", "cloud")))
    assert split(bare) == []


def test_the_speeds_set_shares_where_they_are_measured_and_differ() -> None:
    """P = 100 and 1000 a second: 1/11 and 10/11, as in the formula's worked answer."""
    lines = split(world(cloud_speed=10.0, service_seconds=0.01, max_drain=None))
    assert lines == [
        "split by speed: 40 requests take 400 ms on e1 and 40 ms on c1; both end together with 0.091 and 0.909 of them"
    ]
    assert split(world(cloud_speed=10.0, max_drain=None)) == []
    assert split(world(service_seconds=0.01, max_drain=None)) == []


def test_a_job_is_not_weighed_by_what_is_only_told() -> None:
    assert isinstance(world().jobs[0], Job)
    with_words, without = (plan(world(max_drain=seconds)).job("test/job") for seconds in (9.0, None))
    assert with_words is not None and without is not None
    assert [p.node for p in with_words.placements] == [p.node for p in without.placements]
