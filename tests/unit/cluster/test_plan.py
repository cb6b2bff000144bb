"""Addresses, names and reservations: clusters and nodes never clash, and what does not fit is refused in words."""

from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cluster.plan import (
    FIRST,
    LAST,
    NodeSpec,
    check_socket_path,
    cpu_quota,
    default_nodes,
    free_index,
    make_plan,
    reserved,
)
from tests.cluster.progress import ClusterError

indexes = st.integers(0, LAST - FIRST)


@given(indexes)
def test_every_range_of_a_cluster_is_its_own_and_inside_its_network(index: int) -> None:
    plan = make_plan("one", index, default_nodes())
    whole = ipaddress.ip_network(plan.network)
    parts = [ipaddress.ip_network(f"{plan.host}/24", strict=False), ipaddress.ip_network(plan.pods)]
    parts.append(ipaddress.ip_network(plan.services))
    assert all(part.subnet_of(whole) for part in parts)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(parts, 2))
    for node in plan.nodes:
        assert ipaddress.ip_address(node.address) in parts[0]
        assert ipaddress.ip_network(node.pods).subnet_of(parts[1])
    for service in (plan.kubernetes_service, plan.dns):
        assert ipaddress.ip_address(service) in parts[2]


@given(indexes, indexes)
def test_two_clusters_share_nothing(first: int, second: int) -> None:
    if first == second:
        return
    one, two = make_plan("one", first, default_nodes()), make_plan("two", second, default_nodes())
    assert not ipaddress.ip_network(one.network).overlaps(ipaddress.ip_network(two.network))
    assert one.bridge != two.bridge
    for attribute in ("address", "pods", "namespace", "veth", "cgroup", "machine_id"):
        ours = {getattr(node, attribute) for node in one.nodes}
        theirs = {getattr(node, attribute) for node in two.nodes}
        assert len(ours) == len(one.nodes)
        assert not ours & theirs, attribute


@given(indexes)
def test_interface_names_fit_the_kernel_even_with_the_most_nodes(index: int) -> None:
    specs = [NodeSpec(name=f"edge-{n}", cpu_millis=100, memory_mib=100) for n in range(15)]
    plan = make_plan("x" * 30, index, specs)
    assert all(len(name) <= 15 for name in [plan.bridge, *(node.veth for node in plan.nodes)])
    assert ipaddress.ip_network(plan.nodes[-1].pods).subnet_of(ipaddress.ip_network(plan.pods))


@pytest.mark.parametrize("name", ["", "Upper", "-dash", "dash-", "a/b", "..", "x" * 31, "a b"])
def test_a_name_that_would_not_do_as_a_folder_or_a_namespace_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="cluster name"):
        make_plan(name, 0, default_nodes())


def test_nodes_must_differ_and_be_few() -> None:
    node = NodeSpec(name="a", cpu_millis=100, memory_mib=100)
    for specs in ([], [node, node], [NodeSpec(name=f"n{i}", cpu_millis=1, memory_mib=1) for i in range(16)]):
        with pytest.raises(ClusterError, match="1 to 15 nodes"):
            make_plan("one", 0, specs)


def test_labels_are_the_usual_ones_or_none() -> None:
    assert [n.labels for n in default_nodes()] == [
        {"edgeward.dev/tier": "cloud", "edgeward.dev/site": "cloud"},
        {"edgeward.dev/tier": "edge", "edgeward.dev/site": "site-a"},
        {"edgeward.dev/tier": "edge", "edgeward.dev/site": "site-b"},
    ]
    assert [n.labels for n in default_nodes(labelled=False)] == [{}, {}, {}]


def test_an_index_is_free_when_neither_a_cluster_nor_a_route_has_it() -> None:
    assert free_index(taken=[], routes=["default", "192.0.2.0/24"]) == 0
    assert free_index(taken=[0, 1, 3], routes=[]) == 2
    assert free_index(taken=[0], routes=["10.201.5.0/24", "10.202.0.7"]) == 3


def test_a_wide_private_route_does_not_take_every_index() -> None:
    assert free_index(taken=[], routes=["10.0.0.0/8"]) == 0


def test_no_index_left_is_said() -> None:
    with pytest.raises(ClusterError, match="no free address range"):
        free_index(taken=range(LAST - FIRST + 1), routes=[])


def test_quota_is_millis_of_a_core_and_never_below_what_the_kernel_takes() -> None:
    assert cpu_quota(1500) == 150_000
    assert cpu_quota(1000) == 100_000
    assert cpu_quota(1) == 1000


@given(st.integers(1, 64), st.integers(600, 10**6), st.integers(1, 64_000), st.integers(1, 10**6))
def test_reserved_leaves_exactly_what_the_node_is_to_offer(cores: int, memory: int, cpu: int, offered: int) -> None:
    spec = NodeSpec(name="n", cpu_millis=cpu, memory_mib=offered)
    if cpu > cores * 1000 or offered + 50 > memory:
        with pytest.raises(ClusterError, match="this machine has"):
            reserved(machine_cpus=cores, machine_mib=memory, spec=spec, eviction_mib=50)
        return
    cpu_reserved, memory_reserved = reserved(machine_cpus=cores, machine_mib=memory, spec=spec, eviction_mib=50)
    assert cores * 1000 - cpu_reserved == cpu
    assert memory - memory_reserved - 50 == offered


def test_a_socket_path_beyond_the_kernels_limit_is_refused_with_the_remedy() -> None:
    assert check_socket_path("/" + "a" * 106)
    with pytest.raises(ClusterError, match="EDGEWARD_CACHE"):
        check_socket_path("/" + "a" * 107)
