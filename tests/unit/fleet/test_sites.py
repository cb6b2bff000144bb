"""Which node belongs where: labels alone, other products' labels, and Site objects."""

from edgeward.api.common import parse
from edgeward.api.site import Site
from edgeward.fleet.sites import membership, tier_of

from .objects import fleet, node, site


def sites_of(*objects: object) -> list[Site]:
    return [parse(Site, item) for item in objects]  # type: ignore[arg-type]


def test_labels_alone_make_default_sites() -> None:
    nodes = {
        "a": {"edgeward.dev/tier": "edge", "edgeward.dev/site": "shop-1"},
        "b": {"edgeward.dev/tier": "edge", "apps.openyurt.io/nodepool": "pool"},
        "c": {"edgeward.dev/tier": "cloud"},
        "d": {"edgeward.dev/tier": "fog", "edgeward.dev/site": "shop-1", "apps.openyurt.io/nodepool": "pool"},
        "e": {"apps.openyurt.io/nodepool": "pool"},
    }
    found = membership(nodes, [])
    assert found.site == {"a": "shop-1", "b": "pool", "c": "cloud", "d": "shop-1", "e": "pool"}
    assert found.tier == {"a": "edge", "b": "edge", "c": "cloud", "d": "fog", "e": "edge"}


def test_a_node_that_says_nothing_or_nonsense_is_left_out() -> None:
    nodes = {"plain": {}, "typo": {"edgeward.dev/tier": "Edge"}, "other": {"kubernetes.io/arch": "arm64"}}
    assert membership(nodes, []).site == {}
    assert fleet(nodes=[node("plain", tier=None)]).nodes == ()


def test_kubeedge_role_counts_as_edge_unless_the_tier_says_otherwise() -> None:
    assert tier_of({"node-role.kubernetes.io/edge": ""}) == "edge"
    assert tier_of({"node-role.kubernetes.io/edge": "", "edgeward.dev/tier": "fog"}) == "fog"
    assert tier_of({"node-role.kubernetes.io/edge": "", "edgeward.dev/tier": "nonsense"}) == ""


def test_the_older_site_object_wins_and_the_other_is_told() -> None:
    young = site("young", created=10, nodeSelector={"zone": "a"})
    old = site("old", created=20, nodeSelector={"zone": "a"}, tier="fog")
    found = membership({"n1": {"zone": "a"}, "n0": {"zone": "a"}, "n2": {"zone": "b"}}, sites_of(young, old))
    assert found.site == {"n1": "old", "n0": "old"}
    assert found.overlaps == {"young": ("n0", "n1")}


def test_sites_of_one_age_are_told_apart_by_name_whatever_the_order() -> None:
    pair = [site("b", nodeSelector={"zone": "a"}), site("a", nodeSelector={"zone": "a"})]
    for order in (pair, pair[::-1]):
        assert membership({"n": {"zone": "a"}}, sites_of(*order)).site == {"n": "a"}


def test_the_sites_tier_wins_over_the_nodes_label_and_then_the_label() -> None:
    labels = {"n": {"zone": "a", "edgeward.dev/tier": "cloud"}}
    assert membership(labels, sites_of(site("s", nodeSelector={"zone": "a"}, tier="fog"))).tier == {"n": "fog"}
    assert membership(labels, sites_of(site("s", nodeSelector={"zone": "a"}))).tier == {"n": "cloud"}


def test_a_site_object_without_a_selector_takes_the_nodes_that_name_it() -> None:
    labels = {"n": {"edgeward.dev/site": "s"}, "m": {"edgeward.dev/site": "t"}}
    assert membership(labels, sites_of(site("s"))).site == {"n": "s", "m": "t"}


def test_every_site_carries_its_own_labels_for_selectors() -> None:
    (found,) = fleet(nodes=[node(edgeward_dev__site="s")], sites=[]).sites
    assert found.labels == {"edgeward.dev/site": "s", "edgeward.dev/tier": "edge"}
    assert (found.name, found.tier, found.connected) == ("s", "edge", True)


def test_a_site_without_a_ready_node_or_without_any_is_not_connected() -> None:
    down = fleet(nodes=[node(ready=False)], sites=[site("empty")])
    assert {item.name: item.connected for item in down.sites} == {"edge": False, "empty": False}


def test_what_a_site_object_says_is_read_in_units() -> None:
    said = site("edge", uplink={"bandwidth": "20M", "rtt": "40ms"}, region="eu", unschedulable=True, frozen=True)
    (found,) = fleet(nodes=[node(edgeward_dev__site="edge")], sites=[said]).sites
    assert (found.bandwidth, found.rtt, found.region) == (20e6, 0.04, "eu")
    assert found.unschedulable and found.frozen


def test_a_site_that_asks_for_protection_not_yet_there_gets_nothing_new() -> None:
    (found,) = fleet(sites=[site("s", connection={"mode": "Pull"})]).sites
    assert found.unschedulable


def test_a_site_that_cannot_be_read_does_not_hide_its_nodes() -> None:
    bad = site("shop-1", tier="basement")
    found = fleet(nodes=[node(edgeward_dev__site="shop-1")], sites=[bad, site("other")])
    assert [item.name for item in found.nodes] == ["n1"]
    assert {item.name for item in found.sites} == {"shop-1", "other"}
