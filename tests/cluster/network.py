"""The bridge, one network namespace per node, and the few firewall rules; and taking all of it away again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from .plan import ClusterPlan, NodePlan
from .progress import ClusterError


def run(*command: str, check: bool = True, text_in: str | None = None) -> subprocess.CompletedProcess[str]:
    """ClusterError with the program's own words when it fails and check is set."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, input=text_in)
    except FileNotFoundError:
        raise ClusterError(f"{command[0]} is missing; run `python -m tests.cluster up`, which installs it") from None
    if check and done.returncode != 0:
        raise ClusterError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()[-400:]}")
    return done


def route_destinations() -> list[str]:
    return [str(r.get("dst", "")) for r in json.loads(run("ip", "-json", "-4", "route", "show").stdout or "[]")]


def _rules(plan: ClusterPlan) -> list[tuple[str, list[str]]]:
    """(table, rule) pairs. The FORWARD ones matter where a firewall drops by default, as Docker's does."""
    note = ["-m", "comment", "--comment", f"edgeward-{plan.name}"]
    return [
        ("filter", ["FORWARD", "-i", plan.bridge, *note, "-j", "ACCEPT"]),
        ("filter", ["FORWARD", "-o", plan.bridge, *note, "-j", "ACCEPT"]),
        ("nat", ["POSTROUTING", "-s", plan.network, "!", "-o", plan.bridge, *note, "-j", "MASQUERADE"]),
    ]


def make_bridge(plan: ClusterPlan) -> None:
    run("ip", "link", "add", plan.bridge, "type", "bridge")
    run("ip", "address", "add", f"{plan.host}/24", "dev", plan.bridge)
    run("ip", "link", "set", plan.bridge, "up")
    # Forwarding for this interface alone: it goes away with the bridge, unlike net.ipv4.ip_forward.
    for name, value in (("forwarding", "1"), ("send_redirects", "0"), ("rp_filter", "0")):
        Path(f"/proc/sys/net/ipv4/conf/{plan.bridge}/{name}").write_text(value)
    for table, rule in _rules(plan):
        run("iptables", "-w", "10", "-t", table, "-I", *rule)


def remove_bridge(plan: ClusterPlan) -> None:
    for table, rule in _rules(plan):
        while run("iptables", "-w", "10", "-t", table, "-D", *rule, check=False).returncode == 0:
            continue
    run("ip", "link", "delete", plan.bridge, check=False)


def make_node_network(plan: ClusterPlan, node: NodePlan) -> None:
    run("ip", "netns", "add", node.namespace)
    run("ip", "link", "add", node.veth, "type", "veth", "peer", "name", "eth0", "netns", node.namespace)
    run("ip", "link", "set", node.veth, "master", plan.bridge, "up")
    inside = ["nsenter", f"--net=/run/netns/{node.namespace}"]
    batch = "\n".join(
        [
            "link set lo up",
            "link set eth0 up",
            f"address add {node.address}/24 dev eth0",
            f"route add default via {plan.host}",
        ]
    )
    run(*inside, "ip", "-batch", "-", text_in=batch)
    for name, value in (("ip_forward", "1"), ("conf/all/send_redirects", "0"), ("conf/eth0/send_redirects", "0")):
        run(*inside, "sh", "-c", f"echo {value} > /proc/sys/net/ipv4/{name}")
    restore_routes(plan, node)


def restore_routes(plan: ClusterPlan, node: NodePlan) -> None:
    """The host's and the other nodes' way to this node's pods, and this node's to theirs. Safe to repeat."""
    run("ip", "route", "replace", node.pods, "via", node.address, "dev", plan.bridge)
    inside = ["nsenter", f"--net=/run/netns/{node.namespace}", "ip", "-force", "-batch", "-"]
    lines = [f"route replace default via {plan.host}"]
    lines += [f"route replace {other.pods} via {other.address}" for other in plan.nodes if other.number != node.number]
    run(*inside, text_in="\n".join(lines))


def remove_node_network(node: NodePlan) -> None:
    run("ip", "link", "delete", node.veth, check=False)
    run("ip", "netns", "delete", node.namespace, check=False)


def clear_pod_links(node: NodePlan) -> None:
    """Remove the pods' interfaces inside the node's namespace, as a reboot would."""
    inside = ["nsenter", f"--net=/run/netns/{node.namespace}", "ip"]
    links = json.loads(run(*inside, "-json", "link", "show", "type", "veth").stdout or "[]")
    for link in links:
        if link["ifname"] != "eth0":
            run(*inside, "link", "delete", link["ifname"], check=False)


def set_link(node: NodePlan, *, up: bool) -> None:
    run("ip", "link", "set", node.veth, "up" if up else "down")


def shape(node: NodePlan, rate: str | None) -> None:
    """Hold the node's link to a rate in tc's notation ("1mbit"), both ways; None lifts it.

    A token bucket, since netem (loss, delay) is not in every kernel; 400 ms of queue, then drops.
    """
    ends = (["tc"], node.veth), (["nsenter", f"--net=/run/netns/{node.namespace}", "tc"], "eth0")
    for tc, device in ends:
        if rate is None:
            run(*tc, "qdisc", "delete", "dev", device, "root", check=False)
        else:
            run(*tc, *f"qdisc replace dev {device} root tbf rate {rate} burst 32kbit latency 400ms".split())
