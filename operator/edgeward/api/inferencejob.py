"""InferenceJob: one model that should answer requests somewhere in the fleet, with its needs and its limits."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from edgeward.api.common import (
    Bandwidth,
    Column,
    Decimal,
    Digest,
    DnsLabel,
    Duration,
    KindInfo,
    KubeObject,
    LabelSelector,
    LabelText,
    Model,
    Percent,
    Quantity,
    Tier,
    cel,
    rules,
)
from edgeward.api.jobstatus import (
    Decision,
    Exclusion,
    Explanation,
    Figures,
    InferenceJobStatus,
    Learned,
    LearnedSite,
    Moves,
    Nomination,
    PriorityStatus,
    ProposedMove,
    Rejected,
    RightSizing,
    RunnerUp,
    ScalingStatus,
    SitesStatus,
    Term,
)
from edgeward.api.resources import Resources

# One door to the kind: whoever reads a job reads its status too.
__all__ = [
    "SERVICE_NAME_RULE",
    "Capture",
    "CaptureRule",
    "Data",
    "DataSource",
    "Decision",
    "Disconnect",
    "Exclusion",
    "Explanation",
    "Expose",
    "Figures",
    "InferenceJob",
    "InferenceJobSpec",
    "InferenceJobStatus",
    "Learned",
    "LearnedSite",
    "ModelRef",
    "ModelSwap",
    "Moves",
    "NodeLabels",
    "Nomination",
    "Offload",
    "OffloadBudget",
    "Override",
    "Placement",
    "Priority",
    "PriorityStatus",
    "ProposedMove",
    "Rejected",
    "Resources",
    "RightSizing",
    "RunnerUp",
    "Scaling",
    "ScalingStatus",
    "SitesStatus",
    "Slo",
    "Spread",
    "Term",
    "Toleration",
]

_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
_SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}
_OPAQUE: dict[str, Any] = {"x-kubernetes-preserve-unknown-fields": True}
NodeLabels = Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)]


class ModelRef(Model):
    """Which model the job serves."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "!(has(self.version) && has(self.digest))",
                "model.version and model.digest are both set: keep one of them, either pins the job",
                ".digest",
            )
        )
    )

    name: DnsLabel = Field(description="ModelRelease in this namespace that supplies the model.")
    version: str | None = Field(
        None, min_length=1, max_length=63, description="Pins the job to this version of the release."
    )
    digest: Digest | None = Field(None, description="Pins the job to this digest.")


class Scaling(Model):
    """Bounds for sizing by measured arrivals over measured throughput."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "self.minReplicas <= self.maxReplicas",
                "scaling.minReplicas is above scaling.maxReplicas: lower minReplicas or raise maxReplicas",
                ".minReplicas",
            )
        )
    )

    min_replicas: int = Field(1, ge=0, le=10000, description="Never fewer replicas than this.")
    max_replicas: int = Field(ge=1, le=10000, description="Never more replicas than this.")


class Priority(Model):
    """How much the job matters; the priority tier 1..5 is (importance + urgency + satisfaction + 2) // 3."""

    importance: int = Field(3, ge=1, le=5, description="How much depends on the job, 1 to 5.")
    urgency: int = Field(3, ge=1, le=5, description="How soon its answers are needed, 1 to 5.")
    satisfaction: int = Field(3, ge=1, le=5, description="How much its users must be kept content, 1 to 5.")


class Slo(Model):
    """What the job's users are promised."""

    latency: Duration | None = Field(
        None, description="95th percentile of the answer time as seen where the data comes from, such as 80ms."
    )
    throughput: Decimal | None = Field(None, description="Requests a second that one replica must sustain.")


class DataSource(Model):
    """Where the data comes from."""

    site_selector: LabelSelector | None = Field(None, description="Sites where the data arises, by their labels.")


class Data(Model):
    """What the job's data is like and where it may go."""

    source: DataSource | None = Field(None, description="Where the data comes from.")
    request_size: Quantity | None = Field(None, description="Bytes of a typical request, such as 150Ki.")
    response_size: Quantity | None = Field(None, description="Bytes of a typical answer, such as 2Ki.")
    residency: Literal["Anywhere", "Region", "Site"] = Field(
        "Anywhere", description="How far the data may travel: nowhere beyond its Site, its Region, or Anywhere."
    )
    max_drain: Duration | None = Field(
        None, description="Longest time in which data that goes to the cloud must have drained over the link."
    )


class Toleration(Model):
    """A pod toleration."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
                "value must be left out when operator is Exists: remove value, or use operator Equal",
                ".value",
            ),
            cel(
                "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
                "key may be left out only with operator Exists: give the taint's key, or set operator to Exists",
                ".key",
            ),
        )
    )

    key: LabelText | None = Field(None, description="Taint key; absent with Exists matches every taint.")
    operator: Literal["Equal", "Exists"] | None = Field(None, description="Equal (also when absent) or Exists.")
    value: Annotated[str, Field(max_length=63)] | None = Field(None, description="Taint value for Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Taint effect; absent matches every effect."
    )
    toleration_seconds: int | None = Field(
        None, description="How long a NoExecute taint is tolerated; absent: for ever."
    )

    def tolerates(self, *, key: str, value: str, effect: str) -> bool:
        """Whether this toleration covers the taint: the rule of the Kubernetes scheduler."""
        if self.effect and self.effect != effect:
            return False
        if self.key and self.key != key:
            return False
        if (self.operator or "Equal") == "Exists":
            return True
        return bool(self.key) and (self.value or "") == value


class Spread(Model):
    """How replicas are kept apart."""

    max_per_site: int | None = Field(None, ge=1, le=10000, description="At most this many replicas at one site.")
    min_sites: int | None = Field(None, ge=1, le=10000, description="At least this many sites.")


class Placement(Model):
    """Where replicas may run."""

    tiers: tuple[Tier, ...] = Field(
        (), max_length=3, description="Tiers that may be used; empty means all.", json_schema_extra=_SET
    )
    site_selector: LabelSelector | None = Field(
        None, description="Sites that may be used, by label; edgeward.dev/site and edgeward.dev/tier always exist."
    )
    node_selector: NodeLabels = Field(default_factory=dict, description="Labels that a node must have, as in a pod.")
    tolerations: tuple[Toleration, ...] = Field(
        (), max_length=32, description="Taints that are no obstacle, as in a pod.", json_schema_extra=_ATOMIC
    )
    spread: Spread | None = Field(None, description="How replicas are kept apart.")
    min_bandwidth: Bandwidth | None = Field(
        None, description="Least uplink of the site, in bit/s with k, M, G or T, such as 1M."
    )


class Disconnect(Model):
    """What happens to replicas at a site that is cut off."""

    lost_after: Duration = Field("5m", description="How long a site is silent before its replicas count as lost.")
    replace: bool = Field(True, description="Whether lost replicas are started elsewhere.")
    stop_local_after: Duration | None = Field(
        None, description="When a site that is cut off stops its own replicas; absent: it serves on."
    )
    reconcile: Literal["BestScore", "KeepOriginal", "KeepReplacement", "LongestRunning"] | None = Field(
        None, description="Which replica stays when the site is back; absent: BestScore."
    )


class Expose(Model):
    """The Service in front of the replicas."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = Field("ClusterIP", description="Type of the Service.")
    port: int = Field(80, ge=1, le=65535, description="Port of the Service.")


class ModelSwap(Model):
    """What to do when two versions do not fit in memory side by side."""

    when_too_big: Literal["Refuse", "OffloadInGap"] = Field(
        "Refuse", description="Refuse the new version, or answer through the offload target during the gap."
    )


class OffloadBudget(Model):
    """How much may be offloaded."""

    requests: Percent | None = Field(None, description="Largest share of the requests, such as 10%.")
    bytes_per_hour: Quantity | None = Field(None, description="Most bytes an hour, such as 50Mi.")


class Offload(Model):
    """Sends hard requests to a bigger model elsewhere, never outside the residency."""

    job: DnsLabel = Field(description="InferenceJob in this namespace that answers the hard requests.")
    criterion: Literal["Confidence", "Margin", "Entropy", "Random"] = Field(
        "Confidence", description="What makes a request hard."
    )
    budget: OffloadBudget | None = Field(None, description="How much may be offloaded.")
    spill: bool = Field(False, description="Whether overload goes the same way.")


class CaptureRule(Model):
    """One rule about which requests are kept."""

    when: Literal["Always", "LowConfidence", "Drifted", "Error"] = Field(
        description="Which requests the rule is about."
    )
    every: int | None = Field(None, ge=1, le=1_000_000_000, description="Keep every n-th of them; absent: each one.")
    priority: int | None = Field(None, ge=0, le=100, description="What is dropped last when space runs out.")


class Capture(Model):
    """What the runtime keeps of requests and answers for learning."""

    rules: tuple[CaptureRule, ...] = Field(
        (), max_length=16, description="Which requests are kept.", json_schema_extra=_ATOMIC
    )
    ttl: Duration | None = Field(None, description="How long they are kept, such as 72h.")
    max_bytes: Quantity | None = Field(None, description="Most bytes on a node, such as 1Gi.")
    redaction: Literal["None", "Raw", "Features", "Sketch"] | None = Field(
        None, description="What of a request may be kept; the strictest of job, namespace and site wins."
    )


class Override(Model):
    """Other values for some sites; later entries win."""

    site_selector: LabelSelector = Field(description="Sites that the override is for, by label.")
    resources: Resources | None = Field(None, description="Replaces resources there.")
    replicas: int | None = Field(None, ge=0, le=10000, description="Replaces replicas there.")


class InferenceJobSpec(Model):
    """What is wanted."""

    model: ModelRef = Field(description="Which model the job serves.")
    replicas: int = Field(1, ge=0, le=10000, description="How many replicas run.")
    replica_scope: Literal["Total", "PerSite"] = Field(
        "Total", description="Whether replicas counts over the whole fleet or at each matching site."
    )
    scaling: Scaling | None = Field(None, description="Bounds for automatic sizing; absent: replicas is the number.")
    priority: Priority = Field(default_factory=Priority, description="How much the job matters.")
    resources: Resources = Field(default_factory=Resources, description="What one replica needs.")
    slo: Slo | None = Field(None, description="What the job's users are promised.")
    data: Data | None = Field(None, description="What the job's data is like and where it may go.")
    placement: Placement = Field(default_factory=Placement, description="Where replicas may run.")
    disconnect: Disconnect = Field(default_factory=Disconnect, description="What happens when a site is cut off.")
    expose: Expose = Field(default_factory=Expose, description="The Service in front of the replicas.")
    update: Literal["Surge", "Recreate"] = Field(
        "Surge", description="Whether a pod change may stop the old replica first where both do not fit."
    )
    model_swap: ModelSwap | None = Field(None, description="What to do when two versions do not fit in memory.")
    offload: Offload | None = Field(None, description="Sends hard requests to a bigger model elsewhere.")
    capture: Capture | None = Field(None, description="What the runtime keeps of requests for learning.")
    overrides: tuple[Override, ...] = Field(
        (), max_length=32, description="Other values for some sites; later entries win.", json_schema_extra=_ATOMIC
    )
    pod_template: dict[str, Any] = Field(
        default_factory=dict,
        description="Parts of a pod template that are merged into the generated one: named lists by name, the rest"
        " replaces. Checked by a dry run.",
        json_schema_extra=_OPAQUE,
    )


SERVICE_NAME_RULE = "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')"


class InferenceJob(KubeObject):
    """An InferenceJob object."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="InferenceJob",
        plural="inferencejobs",
        singular="inferencejob",
        short_names=("ij",),
        namespaced=True,
        description="One model that should answer requests somewhere in the fleet, with its needs and its limits.",
        scale=True,
        rules=(
            cel(
                SERVICE_NAME_RULE,
                "metadata.name names the Service too: use at most 63 lower case letters, digits and dashes,"
                " beginning with a letter",
                ".metadata.name",
            ),
        ),
        columns=(
            Column(name="Ready", path='.status.conditions[?(@.type=="Ready")].status'),
            Column(name="Reason", path='.status.conditions[?(@.type=="Ready")].reason'),
            Column(
                name="Priority",
                path=".status.priority.tier",
                type="integer",
                description="Priority tier, 5 is the highest",
            ),
            Column(name="Replicas", path=".spec.replicas", type="integer", description="Replicas wanted"),
            Column(name="Serving", path=".status.readyReplicas", type="integer", description="Replicas that serve"),
            Column(name="Sites", path=".status.sites.total", type="integer", description="Sites with a replica"),
            Column(name="Version", path=".status.modelVersion", description="Version that the job should serve"),
            Column(name="Age", path=".metadata.creationTimestamp", type="date"),
            Column(
                name="Score",
                path=".status.decisions[0].score",
                type="integer",
                priority=1,
                description="Score of the first site, per thousand",
            ),
            Column(
                name="Sized",
                path=".status.scaling.replicas",
                type="integer",
                priority=1,
                description="Replicas wanted by spec.scaling",
            ),
            Column(name="Message", path='.status.conditions[?(@.type=="Ready")].message', priority=1),
        ),
    )

    kind: str = Field("InferenceJob", description="Kind of the object.")
    spec: InferenceJobSpec = Field(description="What is wanted.")
    status: InferenceJobStatus = Field(default_factory=InferenceJobStatus, description="What is so.")
