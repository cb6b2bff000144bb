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

KUBELET = Profile(
    name="Kubelet",
    node_label="node",
    cpu=Query(
        value=f"max by (node) (rate(container_cpu_usage_seconds_total{_PODS_CGROUP}[WINDOW]))",
        measured_at=f"max by (node) (timestamp(container_cpu_usage_seconds_total{_PODS_CGROUP}))",
    ),
    memory=Query(
        value=f"max by (node) (container_memory_working_set_bytes{_PODS_CGROUP})",
        measured_at=f"max by (node) (timestamp(container_memory_working_set_bytes{_PODS_CGROUP}))",
    ),
)
"""The kubelet's own cAdvisor series, of the cgroup that holds all pods: there wherever Prometheus scrapes kubelets."""

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
