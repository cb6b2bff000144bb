"""SiteReport (internal): what a site's agent sees, for the hub. One writer, so it is all spec and has no status.

A site with more than 100 nodes is reported in parts, one object each, so that none passes 64 KiB.
"""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from edgeward.api.common import (
    Bandwidth,
    Column,
    Duration,
    KindInfo,
    KubeObject,
    LabelText,
    Model,
    ResourceMap,
    SiteName,
    Time,
)

_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}


class ReportTaint(Model):
    """A taint of a node."""

    key: LabelText = Field(description="Key.")
    value: str = Field("", max_length=63, description="Value.")
    effect: str = Field(max_length=32, description="Effect.")


class Sample(Model):
    """One live figure with its own time, so that its age is known and missing is never zero."""

    name: str = Field(max_length=64, description="Figure, such as cpuUsage.")
    value: int = Field(ge=0, description="Value in thousandths of its base unit (cores, bytes, seconds).")
    at: Time = Field(description="When it was sampled.")


class ReportNode(Model):
    """One node as the agent sees it."""

    name: str = Field(max_length=253, description="Node.")
    ready: bool = Field(description="Whether the node is ready.")
    unschedulable: bool = Field(False, description="Whether the node is cordoned.")
    arch: str = Field("", max_length=63, description="Architecture.")
    labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=64)] = Field(
        default_factory=dict, description="Labels that selectors may ask for."
    )
    taints: tuple[ReportTaint, ...] = Field((), max_length=32, description="Taints.", json_schema_extra=_ATOMIC)
    allocatable: ResourceMap = Field(default_factory=dict, description="What pods may use.")
    requested: ResourceMap = Field(default_factory=dict, description="What pods have asked for.")
    storage: ResourceMap = Field(default_factory=dict, description="Free and total bytes of the model store.")
    digests: tuple[Annotated[str, Field(max_length=71)], ...] = Field(
        (), max_length=64, description="Models that are on its disk.", json_schema_extra=_ATOMIC
    )
    samples: tuple[Sample, ...] = Field((), max_length=16, description="Live figures.", json_schema_extra=_ATOMIC)


class ReportLink(Model):
    """The link to the hub as the agent measures it."""

    bandwidth: Bandwidth | None = Field(None, description="Bit/s.")
    rtt: Duration | None = Field(None, description="Round trip.")
    observed_at: Time | None = Field(None, description="When it was measured.")


class SiteReportSpec(Model):
    """What the agent sees."""

    site: SiteName = Field(description="The site.")
    part: int = Field(0, ge=0, le=1000, description="Number of this part, from 0.")
    parts: int = Field(1, ge=1, le=1000, description="How many parts there are.")
    observed_at: Time = Field(description="When the agent looked.")
    agent_version: str = Field("", max_length=63, description="Version of the agent.")
    nodes: tuple[ReportNode, ...] = Field((), max_length=100, description="Nodes.", json_schema_extra=_ATOMIC)
    link: ReportLink | None = Field(None, description="The link to the hub.")


class SiteReport(KubeObject):
    """A SiteReport object."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="SiteReport",
        plural="sitereports",
        singular="sitereport",
        namespaced=True,
        description="Internal: what a site's agent sees. Written by the agent, read by the hub.",
        status=False,
        columns=(
            Column(name="Site", path=".spec.site"),
            Column(name="Observed", path=".spec.observedAt", type="date"),
            Column(name="Agent", path=".spec.agentVersion"),
            Column(name="Age", path=".metadata.creationTimestamp", type="date"),
        ),
    )

    kind: str = Field("SiteReport", description="Kind of the object.")
    spec: SiteReportSpec = Field(description="What the agent sees.")
