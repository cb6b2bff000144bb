"""One job's replicas, one after the other."""

from edgeward.fleet.model import Site
from edgeward.placement import plan
from tests.unit.placement.strategies import fleet, job, node


def test_a_limit_of_the_site_holds_for_all_of_its_nodes() -> None:
    """The second node of a site waits beside the first; the limit is reached while it waits."""
    nodes = [node(f"n{at}", site="shop" if at < 4 else "depot") for at in range(8)]
    decided = plan(fleet(nodes, [job(replicas=6, max_per_site=2)])).jobs[0]
    by_site = {site: sum(p.replicas for p in decided.placements if p.site == site) for site in ("shop", "depot")}
    assert by_site == {"shop": 2, "depot": 2}
    assert decided.missing == 2


def test_a_quota_of_the_site_holds_for_all_of_its_nodes() -> None:
    nodes = [node(f"n{at}") for at in range(4)]
    decided = plan(fleet(nodes, [job(replicas=4)], sites=(Site("shop", "edge", quota_replicas=3),))).jobs[0]
    assert (sum(p.replicas for p in decided.placements), decided.missing) == (3, 1)
