"""Which queries fit what is scraped. Each is one vector query for all nodes, never one per node.

Every figure comes with a second query for the time of its sample: an instant query stamps samples up to five minutes
old with the time of the query, so the value alone says nothing about its age.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    value: str
    """PromQL: one sample a node, in the figure's unit. WINDOW stands for the window of a rate"""
    measured_at: str
    """PromQL: one sample a node, the Unix time in seconds of the newest raw sample behind the value"""


@dataclass(frozen=True, slots=True)
class Profile:
    """Queries for cores in use and for bytes in use, and the label that names the node."""

    name: str
    node_label: str
    cpu: Query
    memory: Query


_PODS_CGROUP = '{id=~"/(.+/)?kubepods(.slice)?"}'

_CONTAINERS = '{container!="",pod!=""}'
_CPU, _MEMORY = "container_cpu_usage_seconds_total", "container_memory_working_set_bytes"

PER_CONTAINER = Profile(
    name="PerContainer",
    node_label="node",
    cpu=Query(
        value=f"sum by (node) (rate({_CPU}{_CONTAINERS}[WINDOW]))",
        measured_at=f"max by (node) (timestamp({_CPU}{_CONTAINERS}))",
    ),
    memory=Query(
        value=f"sum by (node) ({_MEMORY}{_CONTAINERS})",
        measured_at=f"max by (node) (timestamp({_MEMORY}{_CONTAINERS}))",
    ),
)
"""The second half of KUBELET; it knows nothing of a node on which no pod runs."""

KUBELET = Profile(
    name="Kubelet",
    node_label="node",
    cpu=Query(
        value=f"max by (node) (rate({_CPU}{_PODS_CGROUP}[WINDOW])) or {PER_CONTAINER.cpu.value}",
        measured_at=f"max by (node) (timestamp({_CPU}{_PODS_CGROUP})) or {PER_CONTAINER.cpu.measured_at}",
    ),
    memory=Query(
        value=f"max by (node) ({_MEMORY}{_PODS_CGROUP}) or {PER_CONTAINER.memory.value}",
        measured_at=f"max by (node) (timestamp({_MEMORY}{_PODS_CGROUP})) or {PER_CONTAINER.memory.measured_at}",
    ),
)
"""The kubelet's own cAdvisor series: of the cgroup that holds all pods, and where that is dropped on the way (as
kube-prometheus-stack does by default), the sum over the containers."""

NODE_EXPORTER = Profile(
    name="NodeExporter",
    node_label="node",
    cpu=Query(
        value='sum by (node) (rate(node_cpu_seconds_total{mode!~"idle|iowait|steal"}[WINDOW]))',
        measured_at='max by (node) (timestamp(node_cpu_seconds_total{mode="idle"}))',
    ),
    memory=Query(
        value="max by (node) (node_memory_MemTotal_bytes - node_memory_MemAvailable_bytes)",
        measured_at="max by (node) (timestamp(node_memory_MemAvailable_bytes))",
    ),
)
"""The whole machine, what runs outside of pods included. The scrape must put the node's name into the label `node`."""

PROFILES = {profile.name: profile for profile in (KUBELET, NODE_EXPORTER)}
METRICS_API = "MetricsApi"
"""the name of the last resort, the metrics.k8s.io API, which has no queries"""
