"""Site: a pool of nodes at one place in one cluster."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from edgeward.api.common import (
    Bandwidth,
    Column,
    Condition,
    Decimal,
    Duration,
    KindInfo,
    KubeObject,
    LabelText,
    Model,
    NonNegative,
    Quantity,
    Tier,
    Time,
    cel,
    keyed,
)
from edgeward.api.modelrelease import Window

_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}


class Connection(Model):
    """How the site's agent and the hub meet."""

    mode: Literal["Local", "Pull"] = Field(
        "Local", description="Local: the hub's own cluster. Pull: the agent of another cluster dials out to the hub."
    )


class PrometheusAuth(Model):
    """Credentials for Prometheus."""

    secret_name: Annotated[str, Field(min_length=1, max_length=253)] | None = Field(
        None, description="Secret beside the agent with token, or username and password, and ca.crt."
    )


class Prometheus(Model):
    """Where the site's live figures come from."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2048)] | None = Field(
        None, description="Address of Prometheus as the agent reaches it; absent: the chart's setting."
    )
    auth: PrometheusAuth | None = Field(None, description="Credentials.")
    profile: Literal["NodeExporter", "Kubelet", "MetricsApi"] | None = Field(
        None, description="Which set of queries fits what is scraped; absent: the chart's setting."
    )


class Uplink(Model):
    """The site's link to the hub."""

    bandwidth: Bandwidth | None = Field(None, description="Bit/s, such as 20M.")
    rtt: Duration | None = Field(None, description="Round trip to the hub, such as 40ms.")


class Cost(Model):
    """What the site costs, in one currency for the whole fleet."""

    cpu_hour: Decimal | None = Field(None, description='Price of a core for an hour, in quotes, such as "0.04".')
    egress_gib: Decimal | None = Field(
        None, alias="egressGiB", description='Price of a GiB that leaves the site, in quotes, such as "0.09".'
    )


class Power(Model):
    """What the site burns."""

    watts_per_cpu: Decimal | None = Field(None, description="Watts of a busy core.")


class Quota(Model):
    """The most that Edgeward may place at the site."""

    replicas: int | None = Field(None, ge=0, le=100000, description="Replicas.")
    cpu: Quantity | None = Field(None, description="Requested CPU.")


class SiteSpec(Model):
    """What is known and wanted."""

    tier: Tier | None = Field(None, description="Tier of the site; wins over the nodes' labels.")
    node_selector: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict,
        max_length=32,
        description="Labels of the nodes that belong to it; empty: nodes whose label edgeward.dev/site is its name.",
    )
    nodes: Literal["Fixed", "Elastic"] = Field(
        "Fixed", description="Fixed: each node is known. Elastic: an autoscaled pool, placed as a whole."
    )
    region: LabelText | None = Field(None, description="Region, for the residency of data.")
    time_zone: Annotated[str, Field(pattern=r"^[A-Za-z0-9_+/-]+$", max_length=64)] | None = Field(
        None, description="IANA time zone of windows, such as Europe/Zurich; absent: UTC."
    )
    connection: Connection | None = Field(None, description="How the site's agent and the hub meet.")
    prometheus: Prometheus | None = Field(None, description="Where the site's live figures come from.")
    uplink: Uplink | None = Field(None, description="The site's link to the hub.")
    cost: Cost | None = Field(None, description="What the site costs.")
    power: Power | None = Field(None, description="What the site burns.")
    quota: Quota | None = Field(None, description="The most that Edgeward may place at the site.")
    unschedulable: bool = Field(False, description="Nothing new is placed here; what runs stays.")
    frozen: bool = Field(False, description="Nothing changes here: no placement, no move, no new model.")
    windows: tuple[Window, ...] = Field(
        (), max_length=16, description="When changes may happen; empty: at any time.", json_schema_extra=_ATOMIC
    )


class Counts(Model):
    """What is at the site."""

    nodes: NonNegative = Field(0, description="Nodes.")
    nodes_ready: NonNegative = Field(0, description="Nodes that are ready.")
    jobs: NonNegative = Field(0, description="Jobs with a replica here.")
    replicas: NonNegative = Field(0, description="Replicas placed here.")
    ready_replicas: NonNegative = Field(0, description="Replicas that serve.")


class LinkStatus(Model):
    """The link as measured."""

    bandwidth: Bandwidth | None = Field(None, description="Bit/s as last measured.")
    rtt: Duration | None = Field(None, description="Round trip as last measured.")
    observed_at: Time | None = Field(None, description="When it was measured.")


class SiteStatus(Model):
    """What is so; written only when a condition or a count changes."""

    observed_generation: NonNegative = Field(0, description="Generation of the spec that this status is about.")
    conditions: tuple[Condition, ...] = Field(
        (), max_length=32, description="Conditions.", json_schema_extra=keyed("type")
    )
    counts: Counts | None = Field(None, description="What is at the site.")
    link: LinkStatus | None = Field(None, description="The link as measured.")
    agent_version: str | None = Field(None, max_length=63, description="Version of the agent.")


class Site(KubeObject):
    """A Site object."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="Site",
        plural="sites",
        singular="site",
        short_names=("st",),
        namespaced=False,
        description="A pool of nodes at one place in one cluster.",
        rules=(
            cel(
                "size(self.metadata.name) <= 48 && !self.metadata.name.contains('.')",
                "metadata.name is part of the namespace edgeward-site-NAME: use at most 48 lower case letters,"
                " digits and dashes",
                ".metadata.name",
            ),
        ),
        columns=(
            Column(name="Tier", path=".spec.tier"),
            Column(name="Connected", path='.status.conditions[?(@.type=="Connected")].status'),
            Column(name="Nodes", path=".status.counts.nodes", type="integer"),
            Column(name="Jobs", path=".status.counts.jobs", type="integer"),
            Column(name="Age", path=".metadata.creationTimestamp", type="date"),
            Column(name="Region", path=".spec.region", priority=1),
            Column(name="Metrics", path='.status.conditions[?(@.type=="MetricsFresh")].status', priority=1),
            Column(name="Agent", path=".status.agentVersion", priority=1),
        ),
    )

    kind: str = Field("Site", description="Kind of the object.")
    spec: SiteSpec = Field(default_factory=SiteSpec, description="What is known and wanted.")
    status: SiteStatus = Field(default_factory=SiteStatus, description="What is so.")
