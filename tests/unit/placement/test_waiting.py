"""One count of the replicas that want a place, for the hub and for what-if."""

from __future__ import annotations

from dataclasses import replace

from edgeward.fleet.model import Placed, Problem, Site
from edgeward.placement.waiting import waiting
from tests.unit.placement.strategies import NOW, fleet, job, node, placed


def test_what_is_asked_for_and_has_no_place() -> None:
    here = node("a")
    one = job(replicas=3, placed=(placed(here),))
    assert waiting(fleet([here], [one])) == {one.key: 2}
    assert waiting(fleet([here], [replace(one, replicas=1)])) == {}
    assert waiting(fleet([here], [replace(one, problem=Problem("InvalidSpec", ""))])) == {}
    assert waiting(fleet([here], [replace(one, model_digest="")])) == {}


def test_what_is_lost_counts_as_waiting_once_it_is_due_and_may_be_replaced() -> None:
    here = node("a")

    def lost(seconds: float, **fields: object) -> dict[str, int]:
        there = replace(placed(here), lost_since=NOW - seconds)
        return dict(waiting(fleet([here], [replace(job(placed=(there,)), **fields)])))  # type: ignore[arg-type]

    assert lost(299) == {}
    assert list(lost(300).values()) == [1]
    assert lost(300, replace_lost=False) == {}


def test_per_site_it_is_what_each_open_site_lacks() -> None:
    """A surplus at one site is no place at another, and a site that is closed wants nothing."""
    nodes = [node(name, site=name) for name in "abcd"]
    sites = tuple(Site(n.site, "edge", connected=n.site != "d") for n in nodes)
    held: tuple[Placed, ...] = (replace(placed(nodes[0]), replicas=5),)
    every = job(replicas=2, per_site=True, placed=held)
    assert waiting(fleet(nodes, [every], sites=sites)) == {every.key: 4}
