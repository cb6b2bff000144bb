"""The score of one replica: the same before and after it is there, and the sum of its terms."""

from edgeward.api.common import LabelSelector
from edgeward.fleet.model import Job, Live, Node, Placed, Sample, Site
from edgeward.placement import PlanSettings, plan
from edgeward.placement.ask import Ask
from edgeward.placement.ledger import Ledger
from edgeward.placement.scoring import Company, Scorer
from tests.unit.placement.strategies import GI, NOW, fleet, job, node

HALF_OLD = Live(cpu=Sample(1.5, NOW - 105), memory=Sample(2.0 * GI, NOW - 105))


def scorer(spot: Node, one: Job, **changes: object) -> tuple[Ledger, Scorer]:
    ledger = Ledger(fleet([spot], [one], **changes), PlanSettings())
    return ledger, Scorer(Ask(0, one, ledger), PlanSettings())


def test_the_score_that_chose_is_the_score_that_is_shown() -> None:
    """As a candidate with the request added, and as a holder with the request in the ledger: one figure, also with
    half-believed samples, where live and requested both count."""
    for live in (node().live, HALF_OLD, Live()):
        ledger, score = scorer(node(live=live), job())
        (state,) = ledger.states
        before = score.score(state, Company(), present=False, stays=False)
        figures = score.figures(state, present=False, best_capability=0.0)
        ledger.place(0, state)
        assert score.score(state, Company(), present=True, stays=False) == before
        assert score.figures(state, present=True, best_capability=0.0) == figures


def test_taking_the_room_of_one_that_leaves_asks_for_none() -> None:
    """Requests do not grow when a replica comes back into its own room; a new node's would."""
    leaving = Placed("n", "shop", 0, started=(NOW - 3600,))
    ledger, score = scorer(node(live=Live()), job(placed=(leaving,)))
    (state,) = ledger.states
    back = score.figures(state, present=False, best_capability=0.0)
    assert back.requested == state.requested
    assert back.requested.cpu == 500


def test_the_share_of_capability_is_of_the_best_compared() -> None:
    ledger, score = scorer(node(), job())
    (state,) = ledger.states
    alone = score.figures(state, present=False, best_capability=0.0)
    assert alone.capability_share == 1.0
    assert alone.free_cores == 4 - 0.4 - 0.5
    against = score.figures(state, present=False, best_capability=4 * 3.1 * 2)
    assert abs(against.capability_share - 0.5) < 1e-9


def test_the_nearest_source_counts_and_the_way_is_over_the_hub() -> None:
    sites = (
        Site("shop", "edge", bandwidth=8e6, rtt=0.1),
        Site("near", "edge", bandwidth=80e6, rtt=0.02, labels={"camera": "yes"}),
        Site("far", "edge", bandwidth=80e6, rtt=0.5, labels={"camera": "yes"}),
    )
    one = job(
        service_seconds=0.1,
        request_bytes=900_000,
        response_bytes=100_000,
        source_selector=LabelSelector(match_labels={"camera": "yes"}),
    )
    _, score = scorer(node(), one, sites=sites)
    seconds, believed = score.ask.way(sites[0])[:2]
    assert seconds is not None
    assert abs(seconds - (0.1 + 0.02 + 8 * 1e6 / 8e6)) < 1e-9
    assert believed == 1.0
    assert score.ask.way(sites[1])[:2] == (0.0, 1.0), "0 within a site"


def test_a_source_that_matches_no_site_is_unknown_not_near() -> None:
    one = job(service_seconds=0.1, source_selector=LabelSelector(match_labels={"camera": "yes"}))
    _, score = scorer(node(), one)
    assert score.ask.way(Site("shop", "edge"))[:2] == (None, 0.5)
    decided = plan(fleet([node()], [one])).jobs[0]
    assert decided.explanation.figures is not None
    assert decided.explanation.figures.transfer_seconds is None
