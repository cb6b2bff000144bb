"""Each score term against its worked answer, and the sense of the tiers: which job belongs at the edge, in the fog and
in the cloud."""

from dataclasses import replace

import pytest

from edgeward.api.common import LabelSelector
from edgeward.fleet.model import Exclusion, Job, Live, Node, Resources, Sample, Site
from edgeward.placement import JobPlan, PlanSettings, plan
from edgeward.placement.ask import Ask
from edgeward.placement.ledger import Ledger
from edgeward.placement.scoring import TERMS, Company, Scorer
from tests.unit.placement.strategies import GI, MI, NOW, fleet, job, node, placed

SHOP = LabelSelector(match_labels={"edgeward.dev/site": "shop"})


def terms(
    spot: Node, one: Job, *sites: Site, others: tuple[Job, ...] = (), more: tuple[Node, ...] = ()
) -> dict[str, tuple[float, float]]:
    """Value and confidence of each term that applies, for one replica on an idle `spot`."""
    ledger = Ledger(fleet([spot, *more], [one, *others], sites=sites), PlanSettings())
    shown = Scorer(Ask(0, one, ledger), PlanSettings()).terms(ledger.states[0], Company(), present=False, stays=False)
    assert abs(sum(term.weight for term in shown) - 1) < 1e-9
    return {term.name: (term.value, term.confidence) for term in shown}


HERE = Site("shop", "edge", region="south", rtt=0.01, bandwidth=1e8)
NEAR = Site("mall", "fog", region="south", rtt=0.005, bandwidth=1e9)
FAR = Site("cloud", "cloud", region="west", rtt=0.03, bandwidth=1e9)
ASKS = job(source_selector=SHOP, request_bytes=100_000, response_bytes=25_000, service_seconds=0.04)
"""125 kB are 1 Mbit: 10 ms over the shop's 100 Mbit/s, and as much over the link that transfers are measured by. So
s = 40 + 10 = 50 ms."""


def test_transfer_latency_and_gravity() -> None:
    """To the mall 15 ms of rtt and 10 ms of data; to the cloud 40 and 10."""
    here = terms(node(), ASKS, HERE, NEAR, FAR)
    assert (here["transfer"], here["latency"], here["gravity"]) == ((1.0, 1.0), (1.0, 1.0), (1.0, 1.0))
    near = terms(node(site="mall"), ASKS, HERE, NEAR, FAR)
    assert near["transfer"] == (pytest.approx(50 / (50 + 25)), 1.0)
    assert near["latency"] == (pytest.approx(50 / (50 + 15)), 1.0)
    assert near["gravity"] == (0.5, 1.0)
    far = terms(node(site="cloud"), ASKS, HERE, NEAR, FAR)
    assert far["transfer"] == (0.5, 1.0)
    assert far["latency"] == (pytest.approx(50 / 90), 1.0)
    assert far["gravity"] == (0.0, 1.0)


def test_a_way_that_nobody_knows_is_worth_a_half_and_believed_by_nobody() -> None:
    dark = replace(FAR, rtt=None, bandwidth=None)
    found = terms(node(site="cloud"), ASKS, replace(HERE, rtt=None, bandwidth=None), dark)
    assert (found["transfer"], found["latency"]) == ((0.5, 0.0), (0.5, 0.0))


def test_a_job_that_does_not_say_where_its_data_is_has_no_such_terms() -> None:
    assert terms(node(), job(), HERE, FAR).keys() == {"headroom", "load", "completion", "model", "spread", "stay"}
    unsized = terms(node(), replace(ASKS, request_bytes=None), HERE, FAR)
    assert unsized.keys() == {"headroom", "load", "completion", "latency", "gravity", "model", "spread", "stay"}


def test_cost_is_the_cores_and_the_data_that_leaves() -> None:
    """2 cores at .04 an hour are .08 in the cloud, at .10 they are .20 at the shop. 10 requests a second of 1 MiB are
    35.15625 GiB an hour: out of the shop at .01 a GiB they make .3515625, and the answers of a tenth leave the cloud at
    .09: .31640625. So the cloud costs .74796875, and the shop, from where nothing leaves, .20: 1 - .20/.74796875."""
    shop = replace(HERE, cost_cpu_hour=0.10, cost_egress_gib=0.01)
    cloud = replace(FAR, cost_cpu_hour=0.04, cost_egress_gib=0.09)
    asks = replace(ASKS, request=Resources(2000, GI, 1), slo_throughput=10.0, request_bytes=MI, response_bytes=MI // 10)
    answers = 0.09 * 10 * 3600 * (MI // 10) / GI
    assert terms(node(), asks, shop, cloud)["cost"] == (pytest.approx(1 - 0.20 / (0.08 + 0.3515625 + answers)), 1.0)
    assert terms(node(site="cloud"), asks, shop, cloud)["cost"] == (0.0, 1.0)
    silent = replace(asks, slo_throughput=None)
    assert terms(node(site="cloud"), silent, shop, cloud)["cost"] == (pytest.approx(1 - 0.08 / 0.20), 1.0)


def test_a_price_that_nobody_says_counts_as_the_middle_and_never_as_free() -> None:
    sites = (Site("a", "edge", cost_cpu_hour=0.02), Site("b", "edge", cost_cpu_hour=0.04), Site("c", "edge", cost_cpu_hour=0.10),
             Site("unknown", "edge"))  # fmt: skip
    values = {site.name: terms(node(site=site.name), job(), *sites)["cost"] for site in sites}
    assert values["unknown"] == (pytest.approx(0.6), 0.0)
    assert values["b"] == (pytest.approx(0.6), 1.0)
    assert values["a"] == (pytest.approx(0.8), 1.0)
    assert values["c"] == (0.0, 1.0)
    assert "cost" not in terms(node(site="a"), job(), Site("a", "edge"))


def test_energy() -> None:
    sites = (Site("arm", "edge", watts_per_cpu=2.0), Site("old", "edge", watts_per_cpu=20.0), Site("unknown", "edge"))
    values = {site.name: terms(node(site=site.name), job(), *sites)["energy"] for site in sites}
    assert values == {"arm": (pytest.approx(0.9), 1.0), "old": (0.0, 1.0), "unknown": (pytest.approx(0.45), 0.0)}


def test_failures_of_any_job_weigh_and_fade() -> None:
    """Refused once and just ended: a half of the job's own, a quarter of another's. After half an hour half of that."""

    def refused(ended: float, count: int = 1) -> tuple[Exclusion, ...]:
        return (Exclusion("n", "Unschedulable", "", count, NOW - ended),)

    own = terms(node(), job(exclusions=refused(0.0)), HERE)["failure"][0]
    others = terms(node(), job(), HERE, others=(job("other", exclusions=refused(0.0)),))["failure"][0]
    faded = terms(node(), job(exclusions=refused(1800.0)), HERE)["failure"][0]
    often = terms(node(), job(exclusions=refused(0.0, count=3)), HERE)["failure"][0]
    elsewhere = terms(node("m"), job(), HERE, others=(job("other", exclusions=refused(0.0)),), more=(node(),))[
        "failure"
    ][0]
    assert (own, others, faded, often, elsewhere) == (0.5, 0.75, 0.75, 0.125, 1.0)
    assert "failure" not in terms(node(), job(), HERE)


def test_a_node_that_just_refused_another_job_is_not_the_first_choice() -> None:
    other = job("other", replicas=0, exclusions=(Exclusion("a", "ImagePullBackOff", "", 2, NOW - 1),))
    decided = plan(fleet([node("a"), node("b")], [job(), other])).job("test/job")
    assert decided is not None and [p.node for p in decided.placements] == ["b"]


@pytest.mark.parametrize("term", [name for name in TERMS if name != "stay"])
def test_each_term_alone_decides_when_its_weight_is_all(term: str) -> None:
    """Two nodes of which one is better in this respect; with all other weights at 0 it is chosen, whatever its name."""
    quiet, busy = Live(cpu=Sample(0.2, NOW - 10)), Live(cpu=Sample(3.5, NOW - 10))
    good, bad = node("z-good", site="shop"), node("a-bad", site="cloud")
    shop, cloud, one, jobs = HERE, FAR, ASKS, ()
    if term in ("headroom",):
        bad = replace(bad, foreign=Resources(3000, 0, 1))
    elif term in ("load", "completion"):
        good, bad = replace(good, live=quiet), replace(bad, live=busy)
    elif term == "cost":
        shop, cloud = replace(shop, cost_cpu_hour=0.01), replace(cloud, cost_cpu_hour=0.05)
    elif term == "energy":
        shop, cloud = replace(shop, watts_per_cpu=1.0), replace(cloud, watts_per_cpu=5.0)
    elif term == "failure":
        jobs = (job("other", replicas=0, exclusions=(Exclusion("a-bad", "Unschedulable", "", 1, NOW - 1),)),)
    elif term == "model":
        good = replace(good, models=frozenset({one.model_digest}))
    elif term == "spread":
        one = replace(one, replicas=2, placed=(placed(bad),))
    settings = PlanSettings(weights=replace(PlanSettings().weights, **{name: float(name == term) for name in TERMS}))
    decided = plan(fleet([bad, good], [one, *jobs], sites=(shop, cloud)), settings).job(one.key)
    assert decided is not None and "z-good" in [p.node for p in decided.placements]


def test_staying_is_worth_its_weight_and_nothing_else() -> None:
    ledger = Ledger(fleet([node()], [job()]), PlanSettings())
    scorer = Scorer(Ask(0, job(), ledger), PlanSettings())
    stays, comes = (scorer.score(ledger.states[0], Company(), present=True, stays=known) for known in (True, False))
    assert stays - comes == pytest.approx(0.5 / 9)


# The sense of the tiers ----------------------------------------------------------------------------------------------
#
# A shop with two small boards, a mall next door and a region of a cloud. A board runs a model at a twentieth of the
# reference's speed, the mall's servers at the reference's, the cloud's accelerators four times as fast. The shop and the
# mall share a fibre of 1 Gbit/s; the cloud is behind 100 Mbit/s and 38 ms.

BOARDS = Site("shop", "edge", region="south", rtt=0.001, bandwidth=1e9)
MALL = Site("mall", "fog", region="south", rtt=0.001, bandwidth=1e9)
REGION = Site("cloud", "cloud", region="west", rtt=0.037, bandwidth=1e8)


def calm(cores: float) -> Live:
    """A fifth in use."""
    return Live(cpu=Sample(cores / 5, NOW - 10), memory=Sample(GI, NOW - 10))


TOWN = [
    node("board-1", site="shop", tier="edge", speed=0.05, live=calm(4)),
    node("board-2", site="shop", tier="edge", speed=0.05, live=calm(4)),
    node("server-1", site="mall", tier="fog", allocatable=Resources(16000, 64 * GI, 110), live=calm(16)),
    node("server-2", site="mall", tier="fog", allocatable=Resources(16000, 64 * GI, 110), live=calm(16)),
    node("cloud-1", site="cloud", tier="cloud", speed=4.0, allocatable=Resources(16000, 64 * GI, 110), live=calm(16)),
]


def decide(one: Job) -> JobPlan:
    decided = plan(fleet(TOWN, [one], sites=(BOARDS, MALL, REGION))).job(one.key)
    assert decided is not None
    return decided


def chosen(one: Job) -> list[str]:
    return sorted({p.tier for p in decide(one).placements})


BIG_AND_QUICK = job(source_selector=SHOP, request_bytes=10 * MI, response_bytes=1000, service_seconds=0.005)
"""10 MiB of picture and 5 ms of work: a board takes 100 ms and a fifth of it again for what it does already; the way to
the mall is 86 ms and its work 5; to the cloud it is 877 ms."""
SMALL_AND_HEAVY = job(source_selector=SHOP, request_bytes=2048, response_bytes=512, service_seconds=2.0)
"""2 KiB of text and 2 s of work: 40 s on a board, 2 s in the mall, .5 s in the cloud, where 38 ms of way are nothing."""
IN_TIME = job(source_selector=SHOP, request_bytes=2048, response_bytes=512, service_seconds=0.0005, slo_latency=0.02)
"""half a millisecond of work, 10 ms on a board; 20 ms are promised where the data is"""


def test_big_requests_with_a_quick_model_go_to_the_fog() -> None:
    assert chosen(BIG_AND_QUICK) == ["fog"]


def test_a_tiny_request_with_a_heavy_model_goes_to_the_cloud() -> None:
    assert chosen(SMALL_AND_HEAVY) == ["cloud"]


def test_a_bound_of_20_ms_goes_to_the_edge() -> None:
    """With the mall 25 ms away, as behind a radio link, only the boards are near enough."""
    radio = replace(MALL, rtt=0.024)
    decided = plan(fleet(TOWN, [IN_TIME], sites=(BOARDS, radio, REGION))).job(IN_TIME.key)
    assert decided is not None
    assert [p.tier for p in decided.placements] == ["edge"]
    assert {(r.reason, r.count) for r in decided.explanation.rejected} == {("LatencyTooHigh", 3)}


def test_without_the_bound_the_same_job_is_free_to_go() -> None:
    free = replace(IN_TIME, slo_latency=None, tiers=frozenset({"fog", "cloud"}))
    assert decide(free).missing == 0


def test_the_bound_that_nobody_can_keep_is_said_and_not_broken() -> None:
    decided = decide(replace(IN_TIME, slo_latency=0.0004))
    assert (decided.placements, decided.reason) == ((), "LatencyTooHigh")
    assert (
        "nearest: server-1 would answer in 2.5" in decided.message
        or "nearest: server-2 would answer in 2.5" in decided.message
    )
