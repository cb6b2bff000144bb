"""Each constraint alone: what it keeps out, under which reason, and how it names the nearest miss."""

from dataclasses import replace

import pytest

from edgeward.api.common import LabelSelector
from edgeward.fleet.model import (
    Exclusion,
    Job,
    Live,
    Node,
    Resources,
    Sample,
    Site,
    Taint,
    Toleration,
)
from edgeward.placement import JobPlan, plan
from edgeward.placement.constraints import selector_text
from edgeward.placement.room import cpu_text, memory_text
from tests.unit.placement.strategies import GI, MI, NOW, fleet, job, node, placed


def decide(nodes: list[Node], one: Job, **changes: object) -> JobPlan:
    decided = plan(fleet(nodes, [one], **changes)).job(one.key)
    assert decided is not None
    return decided


SITE = Site("shop", "edge")

CASES = [
    pytest.param(node(tier="cloud"), job(tiers=frozenset({"edge", "fog"})), SITE, "TierMismatch",
                 "n is cloud, not edge or fog", id="tier"),
    pytest.param(node(), job(site_selector=LabelSelector(match_labels={"zone": "a"})), SITE, "SiteMismatch",
                 "site shop of n does not match zone=a", id="site selector"),
    pytest.param(node(labels={"disk": "hdd"}), job(node_selector={"disk": "ssd"}), SITE, "NodeSelectorMismatch",
                 "n has disk=hdd, not disk=ssd", id="node selector, other value"),
    pytest.param(node(), job(node_selector={"disk": "ssd"}), SITE, "NodeSelectorMismatch",
                 "n has no label disk, not disk=ssd", id="node selector, no label"),
    pytest.param(node(taints=(Taint("gpu", "yes", "NoSchedule"),)), job(), SITE, "UntoleratedTaint",
                 "n has taint gpu=yes:NoSchedule", id="taint"),
    pytest.param(node(arch="riscv64"), job(), SITE, "ArchMismatch",
                 "n is riscv64, the model runs on amd64 or arm64", id="architecture"),
    pytest.param(node(ready=False, not_ready_since=NOW - 61), job(), SITE, "NodeNotReady",
                 "n is not ready since 1970-01-12T13:45:39Z", id="not ready"),
    pytest.param(node(unschedulable=True), job(), SITE, "NodeUnschedulable", "n is cordoned", id="cordoned"),
    pytest.param(node(), job(), replace(SITE, unschedulable=True), "SiteUnschedulable",
                 "site shop of n takes nothing new (spec.unschedulable)", id="site unschedulable"),
    pytest.param(node(), job(), replace(SITE, frozen=True), "SiteFrozen", "site shop of n is frozen", id="frozen"),
    pytest.param(node(), job(), replace(SITE, connected=False), "SiteDisconnected",
                 "site shop of n is not connected", id="disconnected"),
    pytest.param(node(foreign=Resources(3800, 0, 1)), job(), SITE, "InsufficientCpu", "n lacks 300m cpu", id="cpu"),
    pytest.param(node(foreign=Resources(0, 8 * GI - 100 * MI, 1)), job(), SITE, "InsufficientMemory",
                 "n lacks 412Mi memory", id="memory"),
    pytest.param(node(foreign=Resources(0, 0, 110)), job(), SITE, "InsufficientPods",
                 "n has room for 1 pod too few", id="pods"),
    pytest.param(node(), job(exclusions=(Exclusion("n", "Unschedulable", "no disk", 1, NOW + 90),)), SITE, "Excluded",
                 "n refused it (Unschedulable: no disk), tried again at 1970-01-12T13:48:10Z", id="excluded"),
]  # fmt: skip


@pytest.mark.parametrize(("spot", "one", "site", "reason", "miss"), CASES)
def test_a_constraint_keeps_the_node_out_and_says_by_how_much(
    spot: Node, one: Job, site: Site, reason: str, miss: str
) -> None:
    decided = decide([spot], one, sites=(site,))
    assert decided.placements == ()
    assert decided.missing == 1
    assert [(r.reason, r.count, r.nearest_miss) for r in decided.explanation.rejected] == [(reason, 1, miss)]
    assert decided.message == f"0/1 nodes fit: 1 {reason} (nearest: {miss})"
    capacity = reason.startswith("Insufficient") or reason == "Excluded"
    assert decided.reason == ("NoCapacity" if capacity else reason)


SHOP = LabelSelector(match_labels={"edgeward.dev/site": "shop"})
FAR = Site("yard", "edge", region="north", rtt=0.03, bandwidth=1e8)
"""a second site; the data comes from shop. 30 ms from the hub, so 50 ms from shop."""
HERE = Site("shop", "edge", region="south", rtt=0.02, bandwidth=2e7)

BEYOND = [
    pytest.param(node(site="yard"), job(source_selector=SHOP, residency="Site"), (HERE, FAR), "ResidencyForbids",
                 "site yard of n is none that the data comes from (data.residency Site)", id="residency site"),
    pytest.param(node(site="yard"), job(source_selector=SHOP, residency="Region"), (HERE, FAR), "ResidencyForbids",
                 "site yard of n is in region north, the data's is south (data.residency Region)", id="residency region"),
    pytest.param(node(site="yard"), job(source_selector=SHOP, residency="Region"),
                 (replace(HERE, region=""), replace(FAR, region="")), "ResidencyForbids",
                 "site yard of n is in region (not declared), the data's is none that is declared"
                 " (data.residency Region)", id="residency, two regions that nobody declared are not the same"),
    pytest.param(node(site="yard"), job(source_selector=LabelSelector(match_labels={"camera": "yes"}), residency="Site"),
                 (HERE, FAR), "ResidencyForbids",
                 "site yard of n: no site matches data.source, so the data may not leave for any (data.residency)",
                 id="residency without a source"),
    # 150 kB and 50 kB over the narrower of 20 and 100 Mbit/s are 80 ms, the rtts 50 ms, and 20 ms of work at half speed.
    pytest.param(node(site="yard", speed=0.5),
                 job(source_selector=SHOP, slo_latency=0.1, service_seconds=0.01, request_bytes=150_000,
                     response_bytes=50_000), (HERE, FAR), "LatencyTooHigh",
                 "n would answer in 150 ms, 50 ms over slo.latency 100 ms: 130 ms on the way from shop, 20 ms of work",
                 id="latency"),
    pytest.param(node(speed=0.1), job(slo_latency=0.08, service_seconds=0.01), (HERE,), "LatencyTooHigh",
                 "n would answer in 100 ms, 20 ms over slo.latency 80 ms: 0 ms on the way, 100 ms of work",
                 id="latency, a slow node beside its data"),
    pytest.param(node(), job(min_bandwidth=5e7), (HERE,), "BandwidthTooLow",
                 "site shop of n has 20Mbit/s uplink, minBandwidth is 50Mbit/s", id="bandwidth"),
    # 10 requests a second of 100 kB are 8 Mbit a second: .4 s of the 20 Mbit/s link.
    pytest.param(node(site="yard"), job(source_selector=SHOP, max_drain=0.3, slo_throughput=10.0, request_bytes=100_000),
                 (HERE, FAR), "DrainTooSlow",
                 "n: the link of 20Mbit/s from shop to yard drains in 400 ms, maxDrain is 300 ms", id="drain"),
    # 50 a second are 40 Mbit/s, more than the link carries: no time is long enough.
    pytest.param(node(site="yard"), job(source_selector=SHOP, max_drain=60.0, slo_throughput=50.0, request_bytes=100_000),
                 (HERE, FAR), "DrainTooSlow",
                 "n: the link of 20Mbit/s from shop to yard never drains 40Mbit/s of requests, maxDrain is 60 s",
                 id="drain never"),
    pytest.param(node(allocatable=Resources(4000, 8 * GI, 110, storage=GI), foreign=Resources(storage=GI // 2)),
                 job(request=Resources(500, GI, 1, storage=GI)), (HERE,), "InsufficientStorage",
                 "n lacks 512Mi ephemeral-storage", id="storage"),
    pytest.param(node(allocatable=Resources(4000, 8 * GI, 110, extended=(("x.io/npu", 2),)),
                      foreign=Resources(extended=(("x.io/npu", 1),))),
                 job(request=Resources(500, GI, 1, extended=(("x.io/npu", 2),))), (HERE,), "InsufficientExtended",
                 "n lacks 1 x.io/npu", id="extended"),
    pytest.param(node(allocatable=Resources(4000, 2 * GI, 110), foreign=Resources(0, GI, 1)),
                 job(memory_peak=3 * GI // 2), (HERE,), "InsufficientMemoryPeak",
                 "n lacks 512Mi memory for a peak of 1.5Gi a replica", id="memory peak"),
]  # fmt: skip


@pytest.mark.parametrize(("spot", "one", "sites", "reason", "miss"), BEYOND)
def test_a_constraint_of_data_time_or_room_keeps_the_node_out_and_says_by_how_much(
    spot: Node, one: Job, sites: tuple[Site, ...], reason: str, miss: str
) -> None:
    decided = decide([spot], one, sites=sites)
    assert (decided.placements, decided.missing) == ((), 1)
    assert [(r.reason, r.count, r.nearest_miss) for r in decided.explanation.rejected] == [(reason, 1, miss)]
    assert f"1 {reason} (nearest: {miss})" in decided.message


PASSES = [
    pytest.param(node(), job(source_selector=SHOP, residency="Site"), id="the source itself"),
    pytest.param(node(site="yard"), job(source_selector=SHOP, residency="Anywhere"), id="anywhere"),
    pytest.param(node(site="port"), job(source_selector=SHOP, residency="Region"), id="the same region"),
    pytest.param(node(site="dark"), job(source_selector=SHOP, slo_latency=0.001, min_bandwidth=1e9, max_drain=0.001,
                                        slo_throughput=9.0), id="all that is unknown"),
    pytest.param(node(site="yard", live=Live()), job(source_selector=SHOP, slo_latency=0.15, service_seconds=0.02,
                                        request_bytes=200_000), id="latency to the point"),
    pytest.param(node(live=Live(cpu=Sample(3.9, NOW - 500))), job(slo_latency=0.02, service_seconds=0.01),
                 id="a busy figure that is not believed"),
    pytest.param(node(site="yard"), job(source_selector=SHOP, max_drain=0.4, slo_throughput=10.0,
                                        request_bytes=100_000), id="drain to the point"),
    pytest.param(node(), job(source_selector=SHOP, max_drain=0.001, slo_throughput=1e6, request_bytes=1_000_000),
                 id="nothing has to travel"),
    pytest.param(node(), job(memory_peak=8 * GI), id="the whole node as peak"),
]  # fmt: skip


@pytest.mark.parametrize(("spot", "one"), PASSES)
def test_what_is_met_or_not_known_keeps_nobody_out(spot: Node, one: Job) -> None:
    dark = Site("dark", "edge")
    shop = replace(HERE, rtt=None, bandwidth=None) if spot.site == "dark" else HERE
    assert decide([spot], one, sites=(shop, FAR, replace(FAR, name="port", region="south"), dark)).missing == 0


def test_the_peaks_of_all_replicas_on_a_node_must_fit_together() -> None:
    """512Mi requested, 1Gi at the peak, 4Gi: four replicas of eight that requests would allow."""
    spot = node(allocatable=Resources(64000, 4 * GI, 110))
    assert decide([spot], job(replicas=9)).missing == 1
    assert decide([spot], job(replicas=9, memory_peak=GI)).missing == 5


def test_too_big_names_every_resource_that_the_biggest_node_lacks() -> None:
    spot = node(allocatable=Resources(4000, 8 * GI, 110, storage=GI, extended=(("x.io/npu", 1),)))
    one = job(request=Resources(500, GI, 1, storage=2 * GI, extended=(("x.io/npu", 3),)))
    decided = decide([spot], one)
    assert decided.reason == "TooBigForAnyNode"
    assert "lacks 1Gi ephemeral-storage and 2 x.io/npu; 0/1" in decided.message


@pytest.mark.parametrize(("spot", "one", "site", "reason", "miss"), CASES)
def test_without_the_obstacle_the_same_node_takes_it(spot: Node, one: Job, site: Site, reason: str, miss: str) -> None:
    """So that no case above passes for another cause than the one it names."""
    plain = job()
    cleared = decide([node()], plain, sites=(SITE,))
    assert [p.node for p in cleared.placements] == ["n"]
    assert (cleared.reason, cleared.message, cleared.missing) == ("", "", 0)


def test_checks_are_made_in_order_and_a_node_counts_once() -> None:
    spot = node(tier="cloud", ready=False, foreign=Resources(4000, 0, 0))
    decided = decide([spot], job(tiers=frozenset({"edge"})))
    assert [(r.reason, r.count) for r in decided.explanation.rejected] == [("TierMismatch", 1)]


def test_the_nearest_of_several_is_named() -> None:
    nodes = [node("far", foreign=Resources(4000, 0, 1)), node("near", foreign=Resources(3800, 0, 1)),
             node("other", tier="cloud")]  # fmt: skip
    decided = decide(nodes, job(tiers=frozenset({"edge"})))
    assert decided.message == "0/3 nodes fit: 2 InsufficientCpu (nearest: near lacks 300m cpu), 1 TierMismatch"
    assert decided.reason == "NoCapacity"


def test_the_reason_is_the_constraint_that_removed_the_last_node() -> None:
    nodes = [node("a", tier="cloud"), node("b", tier="cloud"), node("c")]
    decided = decide(nodes, job(tiers=frozenset({"edge"}), node_selector={"disk": "ssd"}))
    assert decided.reason == "NodeSelectorMismatch"
    assert decided.message == (
        "0/3 nodes fit: 2 TierMismatch, 1 NodeSelectorMismatch (nearest: c has no label disk, not disk=ssd)"
    )


def test_too_big_for_any_node_says_by_how_much_for_the_biggest() -> None:
    nodes = [node("small", allocatable=Resources(1000, GI, 110)), node("big")]
    decided = decide(nodes, job(request=Resources(5000, 9 * GI, 1)))
    assert decided.reason == "TooBigForAnyNode"
    assert decided.message.startswith(
        "even empty, big, the biggest node that it may use, lacks 1 cpu and 1Gi memory; 0/2 nodes fit: "
    )


def test_too_big_looks_at_allowed_nodes_only() -> None:
    """A cloud node that would hold it is no comfort to a job that must be at the edge."""
    nodes = [node("edge"), node("cloud", tier="cloud", allocatable=Resources(64000, 64 * GI, 110))]
    decided = decide(nodes, job(request=Resources(5000, GI, 1), tiers=frozenset({"edge"})))
    assert decided.reason == "TooBigForAnyNode"
    assert "even empty, edge, " in decided.message


def test_a_full_node_that_would_hold_it_when_empty_is_no_capacity() -> None:
    decided = decide([node(foreign=Resources(4000, 0, 1))], job())
    assert decided.reason == "NoCapacity"


def test_no_nodes_at_all() -> None:
    decided = decide([], job())
    assert (decided.reason, decided.missing) == ("NoCapacity", 1)
    assert decided.message == "0/0 nodes fit: the fleet has no node that is labeled for placement"


def test_tolerated_taints_and_soft_taints_keep_nothing_out() -> None:
    taints = (Taint("gpu", "", "NoSchedule"), Taint("slow", "", "PreferNoSchedule"))
    decided = decide([node(taints=taints)], job(tolerations=(Toleration("gpu", "Exists"),)))
    assert decided.missing == 0


def test_taints_of_node_states_are_left_to_the_checks_of_those_states() -> None:
    """A pod of ours tolerates not-ready without limit; and once the node is Ready a taint that lags is no obstacle."""
    taints = (
        Taint("node.kubernetes.io/not-ready", "", "NoExecute"),
        Taint("node.kubernetes.io/unreachable", "", "NoExecute"),
        Taint("node.kubernetes.io/unschedulable", "", "NoSchedule"),
    )
    assert decide([node(taints=taints)], job()).missing == 0


def test_an_exclusion_ends_at_its_hour_and_is_remembered_for_the_back_off() -> None:
    past = Exclusion("n", "Unschedulable", "", 3, NOW)
    ancient = Exclusion("m", "Unschedulable", "", 3, NOW - 3600)
    decided = decide([node()], job(exclusions=(past, ancient)))
    assert decided.missing == 0
    assert decided.exclusions == (past,)


def test_a_site_selector_sees_name_tier_and_region_without_any_labels() -> None:
    sites = (Site("shop", "edge", region="north"),)
    for labels in ({"edgeward.dev/site": "shop"}, {"edgeward.dev/tier": "edge"},
                   {"topology.kubernetes.io/region": "north"}):  # fmt: skip
        assert decide([node()], job(site_selector=LabelSelector(match_labels=labels)), sites=sites).missing == 0
        other = {key: value + "x" for key, value in labels.items()}
        assert (
            decide([node()], job(site_selector=LabelSelector(match_labels=other)), sites=sites).reason == "SiteMismatch"
        )


def test_texts() -> None:
    assert [cpu_text(300), cpu_text(2000), cpu_text(2500)] == ["300m", "2", "2500m"]
    texts = [memory_text(1), memory_text(1536), memory_text(412 * MI), memory_text(8 * GI), memory_text(10 * GI)]
    assert texts == ["1", "1.5Ki", "412Mi", "8Gi", "10Gi"]
    selector = LabelSelector.model_validate(
        {
            "matchLabels": {"b": "2", "a": "1"},
            "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["x", "y"]},
                {"key": "d", "operator": "Exists"},
                {"key": "e", "operator": "DoesNotExist"},
            ],
        }
    )
    assert selector_text(selector) == "a=1,b=2,c in (x,y),d,!e"


def test_what_is_where_its_data_may_not_be_goes_at_once_and_where_nothing_takes_it_that_is_no_success() -> None:
    far, full = node("far", site="yard"), node("full", foreign=Resources(4000, 0, 1))
    held = job(source_selector=SHOP, residency="Site", placed=(placed(far),))
    moved = decide([far, node("near")], held, sites=(HERE, FAR))
    assert ([p.node for p in moved.placements], moved.reason) == (["near"], "")
    stuck = decide([far, full], held, sites=(HERE, FAR))
    assert ([p.node for p in stuck.placements], stuck.missing, stuck.reason) == (["far"], 0, "ResidencyForbids")
    assert "1 replica stays where it should not be" in stuck.message


def test_a_node_that_is_too_busy_for_the_bound_takes_nothing_new_and_loses_nothing() -> None:
    """3 of 4 cores in use: a request of 10 ms meets 10 ms * .75/.25 = 30 ms of others' work, 40 in all."""
    busy = node(live=Live(cpu=Sample(3.0, NOW - 10)))
    asks = job(slo_latency=0.03, service_seconds=0.01)
    decided = decide([busy], asks)
    assert (decided.placements, decided.reason) == ((), "NoCapacity")
    assert [(r.reason, r.nearest_miss) for r in decided.explanation.rejected] == [
        ("BacklogTooLong", "n is too busy now for slo.latency 30 ms: idle it would answer in 10 ms"
                           " (0 ms on the way, 10 ms of work)")
    ]  # fmt: skip
    assert decide([busy], replace(asks, slo_latency=0.041)).missing == 0
    assert decide([busy], replace(asks, placed=(placed(busy),))).missing == 0


def test_no_message_changes_with_time_or_with_a_sample_alone() -> None:
    """Status is written when the message changes, so an age or a live figure in it would be a write with every look."""
    spots = [
        node("busy", live=Live(cpu=Sample(3.0, NOW - 10))),
        node("busier", live=Live(cpu=Sample(3.5, NOW - 10))),
        node("refused"),
        node("away", ready=False, not_ready_since=NOW - 61),
        node("full", foreign=Resources(3800, 0, 1)),
    ]
    asks = job(
        slo_latency=0.03, service_seconds=0.01, exclusions=(Exclusion("refused", "Unschedulable", "", 1, NOW + 900),)
    )
    before = decide(spots, asks)
    later = [replace(spot, live=Live(cpu=Sample(3.2, NOW + 20))) for spot in spots]
    after = decide(later, asks, now=NOW + 30)
    assert before.missing == after.missing == 1
    assert after.message == before.message
    assert "others BacklogTooLong (too busy now for slo.latency 30 ms)" in before.message
