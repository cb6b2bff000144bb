"""InferenceJob: one model that should answer requests somewhere in the fleet, with its needs and its limits."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from edgeward.api.common import (
    Bandwidth,
    Column,
    Condition,
    Decimal,
    Digest,
    DnsLabel,
    Duration,
    KindInfo,
    KubeObject,
    LabelSelector,
    LabelText,
    Model,
    NonNegative,
    Percent,
    Quantity,
    ResourceMap,
    SiteName,
    Tier,
    Time,
    cel,
    keyed,
    rules,
)

_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
_SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}
_OPAQUE: dict[str, Any] = {"x-kubernetes-preserve-unknown-fields": True}
NodeLabels = Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=32)]
PerMille = Annotated[int, Field(ge=0, le=1000)]


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


_MEMORY_FLOOR = (
    "!has(self.{0}) || !('memory' in self.{0}) || quantity(string(self.{0}['memory'])).compareTo(quantity('1Mi')) >= 0"
)
_CPU_CEILING = (
    "!has(self.{0}) || !('cpu' in self.{0}) || quantity(string(self.{0}['cpu'])).compareTo(quantity('1024')) <= 0"
)
_MEMORY_CEILING = (
    "!has(self.{0}) || !('memory' in self.{0}) || quantity(string(self.{0}['memory'])).compareTo(quantity('64Ti')) <= 0"
)


class Resources(Model):
    """What one replica asks for and may use, as in a pod: cpu, memory, ephemeral-storage and extended resources."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "!has(self.requests) || !has(self.limits) || self.requests.all(name, !(name in self.limits) ||"
                " quantity(string(self.requests[name])).compareTo(quantity(string(self.limits[name]))) <= 0)",
                "resources.requests asks for more than resources.limits allows: raise the limit or lower the request",
                ".requests",
            ),
            *(
                cel(
                    _MEMORY_FLOOR.format(part),
                    f"resources.{part}.memory is below 1Mi, which no server fits in: write the unit, such as 256Mi"
                    " (256m means a quarter of a byte)",
                    f".{part}.memory",
                )
                for part in ("requests", "limits")
            ),
            *(
                cel(
                    _CPU_CEILING.format(part),
                    f"resources.{part}.cpu is above 1024 cores, which no node has: write cores or millicores, such as"
                    " 2 or 500m",
                    f".{part}.cpu",
                )
                for part in ("requests", "limits")
            ),
            *(
                cel(
                    _MEMORY_CEILING.format(part),
                    f"resources.{part}.memory is above 64Ti, which no node has: write bytes with a unit, such as 256Mi",
                    f".{part}.memory",
                )
                for part in ("requests", "limits")
            ),
        )
    )

    requests: ResourceMap = Field(default_factory=dict, description="What is set aside on the node, by resource name.")
    limits: ResourceMap = Field(default_factory=dict, description="What the replica may use at most, by resource name.")


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


class PriorityStatus(Model):
    """The priority as of the last decision."""

    tier: int = Field(ge=1, le=5, description="Priority tier, 5 is the highest.")
    score: PerMille = Field(0, description="Order within the priority tier, per thousand.")


class SitesStatus(Model):
    """Sites that the job should serve at."""

    total: NonNegative = Field(0, description="Sites with a decision.")
    ready: NonNegative = Field(0, description="Sites where every decided replica serves.")
    offline: NonNegative = Field(0, description="Sites that are not connected.")


class Decision(Model):
    """What was decided for one site."""

    cluster_name: str = Field("", max_length=253, description="Cluster of the site.")
    site: SiteName = Field(description="The site.")
    tier: Tier | None = Field(None, description="Tier of the site.")
    nodes: tuple[Annotated[str, Field(max_length=253)], ...] = Field(
        (), max_length=1000, description="Nodes that carry a replica.", json_schema_extra=_ATOMIC
    )
    replicas: NonNegative = Field(0, description="Replicas decided.")
    ready_replicas: NonNegative = Field(0, description="Replicas that serve.")
    score: PerMille = Field(0, description="Score of the site's best node at the decision, per thousand.")
    since: Time | None = Field(None, description="When this was decided.")


class Exclusion(Model):
    """A node that is left out for a while because what was placed there did not start."""

    node: str = Field(max_length=253, description="The node.")
    site: str = Field("", max_length=63, description="Its site.")
    reason: str = Field(max_length=128, description="What the scheduler or the kubelet said, as one word.")
    message: str = Field("", max_length=1024, description="What was said, for a person.")
    count: NonNegative = Field(1, description="How often in a row; the time doubles with each.")
    until: Time = Field(description="When the node is considered again.")


class Term(Model):
    """One term of a score."""

    name: str = Field(max_length=64, description="The term.")
    weight: PerMille = Field(description="Its weight, per thousand of all weights.")
    value: PerMille = Field(description="Its value, per thousand.")


class Figures(Model):
    """The numbers behind the terms of one node, as if the replica were there. What is absent was not known."""

    cores: Decimal = Field(description="C: allocatable cores.")
    free_cores: Decimal = Field(description="R: free of them, live blended with requested by confidence.")
    requested_cores: Decimal = Field(description="Sum of the requests on the node, in cores.")
    in_flight_cores: Decimal = Field(description="Of which placed too recently to show in the live figure.")
    live_cores: Decimal | None = Field(None, description="Cores in use, as measured.")
    live_at: Time | None = Field(None, description="When that was measured.")
    confidence: PerMille = Field(0, description="How far the measured figure was trusted, per thousand.")
    load: PerMille = Field(0, description="l = 1 - R/C, per thousand.")
    capability: PerMille = Field(0, description="K over the largest K, per thousand, where K = C R / T.")
    transfer_seconds: Decimal | None = Field(None, description="T_d: seconds to pack, send and receive one request.")
    completion_seconds: Decimal | None = Field(None, description="Seconds until one request would be answered.")


class RunnerUp(Model):
    """A node that was not chosen."""

    node: str = Field(max_length=253, description="The node.")
    site: str = Field("", max_length=63, description="Its site.")
    score: PerMille = Field(0, description="Its score, per thousand.")
    reason: str = Field("", max_length=256, description="Why another was better.")
    terms: tuple[Term, ...] = Field((), max_length=16, description="Its score by term.", json_schema_extra=_ATOMIC)
    figures: Figures | None = Field(None, description="The numbers behind its terms.")


class Rejected(Model):
    """Nodes that could not be chosen, by reason."""

    reason: str = Field(max_length=128, description="Reason code of the constraint.")
    count: NonNegative = Field(description="How many nodes.")
    nearest_miss: str = Field("", max_length=256, description="The node that came nearest and what it lacks.")


class Explanation(Model):
    """Why here and why not there, as of the last decision."""

    node: str = Field("", max_length=253, description="The best of the nodes that were chosen; the terms are its.")
    decided_at: Time | None = Field(None, description="When this was decided.")
    figures: Figures | None = Field(None, description="The numbers behind the chosen node's terms.")
    notes: tuple[Annotated[str, Field(max_length=512)], ...] = Field(
        (), max_length=10, description="What was not believed and why.", json_schema_extra=_ATOMIC
    )
    terms: tuple[Term, ...] = Field(
        (), max_length=16, description="The chosen node's score by term.", json_schema_extra=_ATOMIC
    )
    runners_up: tuple[RunnerUp, ...] = Field(
        (), max_length=3, description="The best nodes that were not chosen.", json_schema_extra=_ATOMIC
    )
    rejected: tuple[Rejected, ...] = Field(
        (), max_length=10, description="Nodes that could not be chosen, by reason.", json_schema_extra=_ATOMIC
    )
    data_age: str | None = Field(None, max_length=32, description="Age of the oldest figure that was used.")
    order: str = Field("", max_length=256, description="Whose turn it was: priority tier, P and place in the order.")
    message: str = Field("", max_length=4096, description="Why replicas are missing; empty when none is.")


class Moves(Model):
    """Moves in the current window, counted so that a new leader keeps to the same budget."""

    window_start: Time | None = Field(None, description="When the window began.")
    count: NonNegative = Field(0, description="Moves since then.")


class ProposedMove(Model):
    """A move that would gain; it is made when it still does after some evaluations in a row."""

    source: str = Field(max_length=253, description="Node that a replica would leave.")
    target: str = Field(max_length=253, description="Node that it would go to.")
    evaluations: NonNegative = Field(1, description="Evaluations in a row that found the gain.")
    last_at: Time = Field(description="When it was last found.")


class InferenceJobStatus(Model):
    """What is so. Lists are atomic: under server-side apply a keyed list of 200 sites would double the object."""

    observed_generation: NonNegative = Field(0, description="Generation of the spec that this status is about.")
    conditions: tuple[Condition, ...] = Field(
        (), max_length=32, description="Conditions.", json_schema_extra=keyed("type")
    )
    priority: PriorityStatus | None = Field(None, description="The priority as of the last decision.")
    model_version: str | None = Field(None, max_length=63, description="Version that the job should serve.")
    model_digest: Digest | None = Field(None, description="Digest that the job should serve.")
    replicas: NonNegative = Field(0, description="Replicas placed.")
    ready_replicas: NonNegative = Field(0, description="Replicas that serve.")
    selector: str = Field(
        "", max_length=1024, description="Label selector of the job's pods, for the scale subresource."
    )
    sites: SitesStatus | None = Field(None, description="Sites that the job should serve at.")
    decisions: tuple[Decision, ...] = Field(
        (),
        max_length=200,
        description="What was decided per site, sites that are not ready first.",
        json_schema_extra=_ATOMIC,
    )
    decisions_omitted: NonNegative = Field(0, description="Sites that the list has no room for.")
    exclusions: tuple[Exclusion, ...] = Field(
        (), max_length=100, description="Nodes that are left out for a while.", json_schema_extra=_ATOMIC
    )
    explanation: Explanation | None = Field(None, description="Why here and why not there.")
    moves: Moves | None = Field(None, description="Moves in the current window.")
    proposed_move: ProposedMove | None = Field(None, description="A move that is being considered.")


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
            Column(name="Message", path='.status.conditions[?(@.type=="Ready")].message', priority=1),
        ),
    )

    kind: str = Field("InferenceJob", description="Kind of the object.")
    spec: InferenceJobSpec = Field(description="What is wanted.")
    status: InferenceJobStatus = Field(default_factory=InferenceJobStatus, description="What is so.")
