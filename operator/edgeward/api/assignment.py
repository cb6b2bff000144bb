"""Assignment (internal): what one job should run at one site. Written by the hub, carried out by the site's agent."""

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
    Model,
    NonNegative,
    Percent,
    Quantity,
    SiteName,
    Time,
    cel,
    keyed,
    rules,
)
from edgeward.api.inferencejob import (
    Capture,
    Data,
    Disconnect,
    Expose,
    ModelSwap,
    Placement,
    Priority,
    Resources,
    Slo,
)
from edgeward.api.modelrelease import BuiltinGate, Signature, Uri, Window

_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
_OPAQUE: dict[str, Any] = {"x-kubernetes-preserve-unknown-fields": True}
PULL = "Pull"
"""use of a Secret: its files are mounted for fetching models"""


class JobRef(Model):
    """The job that the assignment is for."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "self.__namespace__ == oldSelf.__namespace__ && self.name == oldSelf.name",
                "job.namespace and job.name are immutable: make a new Assignment for another job",
                ".name",
            )
        )
    )

    namespace: DnsLabel = Field(description="Namespace of the job, the same in every cluster.")
    name: DnsLabel = Field(description="Name of the job.")
    uid: str = Field("", max_length=64, description="Identity of the job; a later job of the same name takes over.")


class Effective(Model):
    """The job's spec as it holds at this site, overrides applied."""

    priority: Priority = Field(default_factory=Priority, description="How much the job matters.")
    resources: Resources = Field(default_factory=Resources, description="What one replica needs.")
    slo: Slo | None = Field(None, description="What the job's users are promised.")
    data: Data | None = Field(None, description="What the job's data is like and where it may go.")
    placement: Placement = Field(default_factory=Placement, description="Where replicas may run.")
    disconnect: Disconnect = Field(default_factory=Disconnect, description="What happens when a site is cut off.")
    expose: Expose = Field(default_factory=Expose, description="The Service in front of the replicas.")
    update: Literal["Surge", "Recreate"] = Field("Surge", description="How pod changes go when a surge has no room.")
    model_swap: ModelSwap | None = Field(None, description="What to do when two versions do not fit in memory.")
    capture: Capture | None = Field(None, description="What the runtime keeps of requests for learning.")


class NodePool(Model):
    """The nodes of an elastic site that a job may use."""

    labels: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict, max_length=64, description="Labels that they have."
    )
    architectures: tuple[Annotated[str, Field(max_length=63)], ...] = Field(
        (), max_length=8, description="Processors that they have.", json_schema_extra=_ATOMIC
    )


class AssignedNode(Model):
    """Replicas on one node."""

    name: str = Field(min_length=1, max_length=253, description="Node; SITE/* stands for any node of an elastic site.")
    replicas: int = Field(ge=0, le=10000, description="Replicas on it.")
    leaving: int = Field(
        0, ge=0, le=10000, description="Replicas beyond those, which go once what replaces them elsewhere serves."
    )
    since: Time | None = Field(None, description="When this node was decided for.")
    moved_from: SiteName | None = Field(
        None, description="Site that a replica left at that time for a better score; counted in the budgets of moves."
    )
    pool: NodePool | None = Field(None, description="With SITE/*: which nodes may take the replicas.")


class LocalGate(Model):
    """A check of the model that the site makes by itself, whoever else is away; see Gate of ModelRelease."""

    name: DnsLabel = Field(description="Name of the gate.")
    builtin: BuiltinGate = Field(description="What is checked.")
    compare: Literal["Baseline", "Absolute"] = Field("Absolute", description="Whether the bound is a ratio.")
    max: Decimal | None = Field(None, description="Largest value that passes.")
    min: Decimal | None = Field(None, description="Smallest value that passes.")
    initial_delay: Duration | None = Field(None, description="Warm-up before the first look.")
    interval: Duration | None = Field(None, description="Time between looks.")
    min_samples: int = Field(0, ge=0, le=1_000_000_000, description="Fewer requests than this are no data.")
    failure_limit: int = Field(0, ge=0, le=1000, description="Failures that are tolerated.")


class Activation(Model):
    """When a model may begin to serve; it is fetched before."""

    not_before: Time | None = Field(None, description="Not before this moment.")
    windows: tuple[Window, ...] = Field(
        (), max_length=32, description="Within one of these; empty: at any time.", json_schema_extra=_ATOMIC
    )
    time_zone: Annotated[str, Field(max_length=64)] = Field(
        "", description="IANA time zone of the windows; absent: UTC."
    )


class AssignedModel(Model):
    """A model that the pods should serve."""

    name: DnsLabel = Field(description="Name under which it is served.")
    version: str = Field(min_length=1, max_length=63, description="Version.")
    digest: Digest = Field(description="Digest of the bytes.")
    sources: tuple[Uri, ...] = Field(
        (), max_length=16, description="Where it can be fetched, tried in this order.", json_schema_extra=_ATOMIC
    )
    role: Literal["Stable", "Canary", "Previous"] = Field(
        "Stable",
        description="Whether it is the trusted one, the new one beside it, or what the site goes back to by itself.",
    )
    activation: Activation | None = Field(None, description="When it may begin to serve; absent: at once.")
    attempt: NonNegative = Field(0, description="A refusal here of an earlier attempt is forgotten.")
    traffic: Percent | None = Field(None, description="Share of the requests that it answers.")
    mirror: int | None = Field(None, ge=0, le=100, description="Per cent of the requests that both versions see.")
    signature: Signature | None = Field(None, description="Whether and by whom it must be signed.")
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Settings that belong to the model.", json_schema_extra=_OPAQUE
    )
    local_gates: tuple[LocalGate, ...] = Field(
        (), max_length=16, description="Checks that the agent makes.", json_schema_extra=_ATOMIC
    )
    download_pace: Bandwidth | None = Field(None, description="Bit/s of the download.")


class AssignedBudget(Model):
    """How much may be offloaded from this site."""

    requests: Percent | None = Field(None, description="Largest share of the requests.")
    bytes_per_hour: Quantity | None = Field(None, description="Most bytes an hour.")


class AssignedOffload(Model):
    """Where hard requests go from this site."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$", max_length=2048)] = Field(description="Where they go.")
    ca_bundle: str | None = Field(None, max_length=65536, description="Certificates to trust, in PEM.")
    criterion: Literal["Confidence", "Margin", "Entropy", "Random"] = Field(
        "Confidence", description="What makes a request hard."
    )
    spill: bool = Field(False, description="Whether overload goes the same way.")
    budget: AssignedBudget | None = Field(None, description="How much may go.")


class AssignedSecret(Model):
    """A Secret that the job needs beside its pods."""

    name: str = Field(min_length=1, max_length=253, description="Secret.")
    use: str = Field(min_length=1, max_length=64, description="What it is for: Pull, to fetch models.")


class WatchedQuery(Model):
    """A question to the site's Prometheus."""

    name: DnsLabel = Field(description="Gate that asks.")
    query: Annotated[str, Field(max_length=4096)] = Field(description="PromQL, resolved.")
    baseline_query: Annotated[str, Field(max_length=4096)] | None = Field(
        None, description="The same about the old version."
    )


class Watch(Model):
    """What the hub needs to know of the models while it watches them."""

    since: Time = Field(description="Counters count from here.")
    interval: Duration = Field(description="How often they are reported.")
    queries: tuple[WatchedQuery, ...] = Field(
        (), max_length=16, description="Asked of the site's Prometheus.", json_schema_extra=_ATOMIC
    )


class AvoidedVersion(Model):
    """A version that the whole release went back from: the site remembers it."""

    identity: str = Field(max_length=128, description="Its digest and parameters.")
    version: str = Field("", max_length=63, description="Version.")
    reason: str = Field("", max_length=1024, description="Why.")
    attempt: NonNegative = Field(0, description="Attempt that it was refused in.")
    at: Time = Field(description="When.")


class AssignmentSpec(Model):
    """What should run."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "self.revision >= oldSelf.revision",
                "revision only counts up: read the current revision and write a higher one",
                ".revision",
            )
        )
    )

    job: JobRef = Field(description="The job.")
    site: SiteName = Field(description="The site.")
    revision: int = Field(ge=0, le=2**53, description="Counts up with every change.")
    effective: Effective = Field(default_factory=Effective, description="The job's spec as it holds at this site.")
    pod_template: dict[str, Any] = Field(
        default_factory=dict,
        description="Parts of a pod template that are merged into the generated one.",
        json_schema_extra=_OPAQUE,
    )
    nodes: tuple[AssignedNode, ...] = Field(
        (), max_length=1000, description="Replicas by node.", json_schema_extra=_ATOMIC
    )
    models: tuple[AssignedModel, ...] = Field(
        (), max_length=8, description="Models that the pods should serve.", json_schema_extra=_ATOMIC
    )
    watch: Watch | None = Field(None, description="What is to be reported while the models are watched.")
    avoid: tuple[AvoidedVersion, ...] = Field(
        (), max_length=10, description="Versions that the release went back from.", json_schema_extra=_ATOMIC
    )
    offload: AssignedOffload | None = Field(None, description="Where hard requests go.")
    secrets: tuple[AssignedSecret, ...] = Field(
        (), max_length=16, description="Secrets that the job needs.", json_schema_extra=_ATOMIC
    )

    @property
    def pull_secret(self) -> str:
        """Name of the Secret to fetch the models with, "" for none."""
        return next((secret.name for secret in self.secrets if secret.use == PULL), "")


class NodeStatus(Model):
    """Replicas of the job on one node, as they are."""

    name: str = Field(max_length=253, description="Node.")
    replicas: NonNegative = Field(0, description="Replicas that exist.")
    ready: NonNegative = Field(0, description="Replicas that serve.")
    reason: str = Field("", max_length=128, description="Why some do not, as one word.")
    message: str = Field("", max_length=1024, description="Why some do not, for a person.")
    since: Time | None = Field(None, description="Since when the reason holds.")


class Refusal(Model):
    """Why a digest is not tried again here until told."""

    step: Literal["Fetch", "Verify", "Signature", "Load", "Schema", "Golden", "Warm", "Mirror", "Gate"] = Field(
        description="Step that failed."
    )
    reason: str = Field(max_length=128, description="Why, as one word.")
    message: str = Field("", max_length=1024, description="Why, for a person.")
    at: Time | None = Field(None, description="When.")


class ModelStatus(Model):
    """A version at the site, wanted or serving."""

    name: str = Field("", max_length=63, description="Model.")
    version: str = Field("", max_length=63, description="Version.")
    digest: str = Field(max_length=71, description="Digest.")
    parameters: str | None = Field(None, max_length=16, description="Hash of its parameters.")
    state: (
        Literal[
            "Pending",
            "Fetching",
            "Verifying",
            "Staged",
            "Loading",
            "Checking",
            "Warming",
            "Mirroring",
            "Serving",
            "Failed",
        ]
        | None
    ) = Field(None, description="How far it is on the pod that is furthest behind.")
    serving: bool = Field(False, description="Whether every ready replica serves it.")
    replicas: NonNegative = Field(0, description="Replicas that serve it.")
    since: Time | None = Field(None, description="Since when it serves.")
    refused: Refusal | None = Field(None, description="Why it is not tried again here until told.")
    warning: Refusal | None = Field(None, description="What policy Require would have refused it for.")
    bytes: NonNegative | None = Field(None, description="Bytes of its files.")
    received: NonNegative | None = Field(None, description="Bytes of it that came to the site.")
    shared: NonNegative | None = Field(None, description="Bytes that nodes of the site got from each other.")
    seconds: Decimal | None = Field(None, description="Seconds from the order to serving.")


class Histogram(Model):
    """A histogram that merges by adding: counts[i] samples at or below bounds[i], one count more for the rest."""

    name: Literal["Latency", "Drift", "Agreement", "Accuracy"] = Field(description="What was measured.")
    bounds: tuple[Decimal, ...] = Field((), max_length=64, description="Upper bounds.", json_schema_extra=_ATOMIC)
    counts: tuple[NonNegative, ...] = Field((), max_length=65, description="Counts.", json_schema_extra=_ATOMIC)
    sum: Decimal | None = Field(None, description="Sum of the samples.")


class Counters(Model):
    """What happened with one digest here."""

    digest: Digest = Field(description="Digest.")
    requests: NonNegative = Field(0, description="Requests.")
    errors: NonNegative = Field(0, description="Requests that failed.")
    restarts: NonNegative = Field(0, description="Restarts of its pods.")
    since: Time | None = Field(None, description="Counted from; absent: since its pods began to serve it.")
    at: Time | None = Field(None, description="Counted last.")
    histograms: tuple[Histogram, ...] = Field((), max_length=8, description="Histograms.", json_schema_extra=_ATOMIC)


class QueryResult(Model):
    """What the site's Prometheus said to a question of a gate."""

    name: DnsLabel = Field(description="Gate that asks.")
    at: Time = Field(description="When the value was taken.")
    value: Annotated[str, Field(max_length=32)] | None = Field(None, description="The value; absent: no data.")
    baseline: Annotated[str, Field(max_length=32)] | None = Field(None, description="Value of the old version.")
    samples: NonNegative = Field(0, description="Points of the range that had a value.")
    error: str = Field("", max_length=1024, description="Why there is no answer.")


class RefusedHere(Model):
    """A version that is not tried again at this site until told."""

    identity: str = Field(max_length=128, description="Its digest and parameters.")
    digest: Digest = Field(description="Digest.")
    version: str = Field("", max_length=63, description="Version.")
    scope: Literal["Site", "Release"] = Field(
        description="Whether this site refused it, or the release went back from it everywhere."
    )
    step: str = Field("", max_length=16, description="Step that failed here.")
    reason: str = Field("", max_length=1024, description="Why.")
    attempt: NonNegative = Field(0, description="Attempt that it was refused in.")
    at: Time = Field(description="When.")


class LocalPlan(Model):
    """What the agent decided by itself while the site was cut off."""

    based_on: int = Field(ge=0, description="Revision of the last word from the hub.")
    nodes: tuple[AssignedNode, ...] = Field(
        (), max_length=1000, description="Replicas by node.", json_schema_extra=_ATOMIC
    )
    reason: str = Field("", max_length=256, description="Why.")
    since: Time | None = Field(None, description="Since when.")


class AssignmentStatus(Model):
    """What runs."""

    observed_generation: NonNegative = Field(0, description="Generation of the spec that this status is about.")
    conditions: tuple[Condition, ...] = Field(
        (), max_length=32, description="Conditions.", json_schema_extra=keyed("type")
    )
    applied_revision: NonNegative = Field(0, description="Last revision that was carried out.")
    serves: str = Field("", max_length=256, description="What the site serves, for a person.")
    replicas: NonNegative = Field(0, description="Replicas that exist.")
    ready_replicas: NonNegative = Field(0, description="Replicas that serve.")
    nodes: tuple[NodeStatus, ...] = Field(
        (), max_length=1000, description="Replicas by node.", json_schema_extra=_ATOMIC
    )
    models: tuple[ModelStatus, ...] = Field(
        (), max_length=16, description="Models at the site.", json_schema_extra=_ATOMIC
    )
    counters: tuple[Counters, ...] = Field(
        (), max_length=8, description="What happened, by digest.", json_schema_extra=_ATOMIC
    )
    gates: tuple[QueryResult, ...] = Field(
        (), max_length=16, description="What the site's Prometheus said.", json_schema_extra=_ATOMIC
    )
    refused: tuple[RefusedHere, ...] = Field(
        (), max_length=10, description="Versions that are not tried again here.", json_schema_extra=_ATOMIC
    )
    local_plan: LocalPlan | None = Field(None, description="What the agent decided by itself.")


class Assignment(KubeObject):
    """An Assignment object."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="Assignment",
        plural="assignments",
        singular="assignment",
        namespaced=True,
        description="Internal: what one job should run at one site. Written by the hub, carried out by its agent.",
        columns=(
            Column(name="Job", path=".spec.job.name"),
            Column(name="Site", path=".spec.site"),
            Column(name="Serves", path=".status.serves"),
            Column(name="Revision", path=".spec.revision", type="integer"),
            Column(name="Age", path=".metadata.creationTimestamp", type="date"),
            Column(name="Applied", path=".status.appliedRevision", type="integer", priority=1),
            Column(name="Namespace-Of-Job", path=".spec.job.namespace", priority=1),
        ),
    )

    kind: str = Field("Assignment", description="Kind of the object.")
    spec: AssignmentSpec = Field(description="What should run.")
    status: AssignmentStatus = Field(default_factory=AssignmentStatus, description="What runs.")
