"""Columns over sites say what is said of each site."""

import random

from edgeward.api.common import LabelSelector
from edgeward.fleet.model import Site
from edgeward.placement.distance import data_sources, nearest_way
from edgeward.placement.sites import Sites
from tests.unit.placement.strategies import job

SELECTORS = (
    None,
    LabelSelector(),
    LabelSelector(match_labels={"camera": "yes"}),
    LabelSelector(match_labels={"camera": "yes", "edgeward.dev/tier": "fog"}),
    LabelSelector(match_labels={"edgeward.dev/site": "s3"}),
    LabelSelector(match_labels={"camera": "never"}),
    LabelSelector.model_validate(
        {"matchExpressions": [{"key": "topology.kubernetes.io/region", "operator": "In", "values": ["north"]}]}
    ),
)


def a_site(draw: random.Random, number: int) -> Site:
    return Site(
        f"s{number}",
        draw.choice(("edge", "fog", "cloud")),
        region=draw.choice(("", "north", "south")),
        labels={"camera": "yes"} if draw.random() < 0.4 else {},
        bandwidth=draw.choice((None, 0.0, 1e6, 5e6, draw.uniform(1e6, 1e9))),
        rtt=draw.choice((None, 0.01, 0.02, draw.uniform(0, 0.3))),
    )


def test_the_ways_to_all_sites_are_those_to_each() -> None:
    draw = random.Random(4)
    for _ in range(20):
        every = [a_site(draw, number) for number in draw.sample(range(30), 12)]
        listed = {site.name: site for site in every[:10]}
        sites = Sites(every, listed)
        for selector in SELECTORS:
            one = job(
                source_selector=selector,
                request_bytes=draw.choice((None, 0, 1000, 2_000_000)),
                response_bytes=draw.choice((None, 500)),
            )
            sources = data_sources(one, listed)
            assert tuple(every[at] for at in sites.sources(selector).tolist()) == sources
            ways = sites.ways(one)
            for number, site in enumerate(every):
                assert sites.way(ways, number) == nearest_way(one, sources, site)
