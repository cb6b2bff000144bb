"""Each constraint alone: what it keeps out, under which reason, and how it names the nearest miss."""

from dataclasses import replace

import pytest

from edgeward.api.common import LabelSelector
from edgeward.fleet.model import (
    Exclusion,
    Job,
    Node,
    Resources,
    Site,
    Taint,
    Toleration,
)
from edgeward.placement import JobPlan, plan
from edgeward.placement.constraints import cpu_text, memory_text, selector_text
from tests.unit.placement.strategies import GI, MI, NOW, fleet, job, node


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
                 "n is not ready for 61 s", id="not ready"),
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
                 "n refused it (Unschedulable: no disk), tried again in 90 s", id="excluded"),
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
