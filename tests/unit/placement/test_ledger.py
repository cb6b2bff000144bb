"""What counts as used: assigned or visible, in the sample or not."""

from edgeward.fleet.model import Fleet, Live, Node, Placed, Resources, Sample, Site
from edgeward.placement import PlanSettings, plan
from edgeward.placement.ledger import Ledger, NodeState
from tests.unit.placement.strategies import GI, MI, NOW, fleet, job, node, placed

SPOT = node("a", foreign=Resources(100, GI, 3), live=Live(cpu=Sample(1.0, NOW - 20)))


def state(held: Placed, spot: Node = SPOT) -> NodeState:
    return Ledger(fleet([spot], [job(placed=(held,))]), PlanSettings()).states[0]


def test_a_settled_replica_counts_once() -> None:
    there = state(placed(SPOT, 2))
    assert there.requested == Resources(1100, 2 * GI, 5)
    assert there.in_flight == Resources()
    assert there.calm()


def test_assigned_but_not_visible_counts_and_is_in_flight() -> None:
    there = state(placed(SPOT, 2, started=(NOW - 3600,)))
    assert there.requested == Resources(1100, 2 * GI, 5)
    assert there.in_flight == Resources(500, 512 * MI, 1)


def test_started_after_the_sample_could_show_it_is_in_flight() -> None:
    """The sample is 20 s old and covers one scrape interval (15 s) before: what started within the last 35 s."""
    assert state(placed(SPOT, started=(NOW - 34,))).in_flight.cpu == 500
    assert state(placed(SPOT, started=(NOW - 36,))).in_flight.cpu == 0


def test_without_a_sample_only_the_unseen_is_in_flight() -> None:
    blind = node("a", live=Live())
    assert state(placed(blind, started=(NOW - 1,)), blind).in_flight == Resources()


def test_still_visible_after_it_was_dropped_keeps_its_room() -> None:
    there = state(placed(SPOT, 0, started=(NOW - 3600,)))
    assert there.requested.cpu == 600
    assert not there.calm()
    assert there.has_room_held(0)


def test_placing_and_withdrawing() -> None:
    ledger = Ledger(fleet([SPOT], [job()]), PlanSettings())
    there = ledger.states[0]
    ledger.place(0, there)
    ledger.place(0, there)
    assert (there.requested.cpu, there.in_flight.cpu) == (1100, 1000)
    ledger.withdraw(0, there)
    assert there.requested.cpu == 1100, "its room is taken until it is gone"
    ledger.place(0, there)
    assert there.requested.cpu == 1100, "and the next one may use it"


def test_two_clusters_may_share_a_node_name() -> None:
    one, two = node("n", site="x"), node("n", site="y", foreign=Resources(4000, 0, 1))
    ledger = Ledger(fleet([one, two], []), PlanSettings())
    assert ledger.find("x", "n") is ledger.states[0]
    assert ledger.find("y", "n") is ledger.states[1]
    moved = ledger.find("z", "n")
    assert moved is not None, "a node that changed its site is still found"
    assert ledger.find("x", "other") is None


def _hot(name: str, cores_in_use: float) -> Node:
    return node(name, site=name, live=Live(cpu=Sample(cores_in_use, NOW - 14)))


def test_a_burst_inside_one_scrape_does_not_herd_on_the_idle_node() -> None:
    """Eight jobs at once, one node idle and three half busy: the idle one takes more, not all."""
    nodes = [_hot("idle", 0.0), *(_hot(f"half-{i}", 2.0) for i in range(3))]
    jobs = [job(f"j{i}", request=Resources(600, 64 * MI, 1)) for i in range(8)]
    decided = plan(fleet(nodes, jobs))
    counts = {n.name: sum(p.replicas for j in decided.jobs for p in j.placements if p.node == n.name) for n in nodes}
    assert sum(counts.values()) == 8
    assert 2 <= counts["idle"] <= 5
    assert min(counts.values()) >= 1


def test_a_burst_over_two_plans_sees_the_first() -> None:
    """The second plan, with the same old sample, knows what the first one decided although no pod is visible yet."""
    nodes = [_hot("idle", 0.0), _hot("half", 1.2)]
    jobs = [job(f"j{i}", request=Resources(1000, 64 * MI, 1)) for i in range(2)]
    one = fleet(nodes, jobs[:1])
    first = plan(one).jobs[0].placements[0]
    assert first.node == "idle"
    started = job("j0", request=jobs[0].request, placed=(Placed("idle", "idle", 1, since=NOW - 1),))
    second = plan(Fleet(NOW, one.nodes, one.sites, (started, jobs[1]))).job("test/j1")
    assert second is not None
    assert second.placements[0].node == "half"


def test_a_node_is_found_after_it_changed_its_site_but_a_namesake_in_another_cluster_is_not_it() -> None:
    sites = (Site("a", "edge"), Site("b", "edge"), Site("far", "edge", cluster="far"))
    ledger = Ledger(fleet([node("n", site="b"), node("m", site="far")], sites=sites), PlanSettings())
    (at_b, at_far) = ledger.states
    assert ledger.find("a", "n") is at_b
    assert ledger.find("far", "m") is at_far
    assert ledger.find("a", "m") is None and ledger.find("far", "n") is None
    assert ledger.find("without an object", "n") is at_b
    assert ledger.find("without an object", "m") is at_far
