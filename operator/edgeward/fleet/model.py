"""The Fleet: everything a decision may look at, frozen at one instant.

Decisions are pure functions of a Fleet. What they must remember between two evaluations (since when, proposed moves,
failures) is part of the Fleet as well, because it is read back from the API; no process keeps it.

Units: cpu in millicores, memory in bytes, times in Unix seconds, durations in seconds, bandwidth in bit/s.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeward.api.assignment import Counters, QueryResult, RefusedHere
from edgeward.api.common import LabelSelector
from edgeward.api.modelrelease import (
    Gate,
    GateStatus,
    RefusedVersion,
    ReleasedVersion,
    Rollout,
    RolloutStatus,
    Signature,
    Track,
    TrackedVersion,
    Variant,
    Window,
)

from .podspec import JobPods

Labels = Mapping[str, str]
OWN_CLUSTER = "in-cluster"
"""the hub's own"""


@dataclass(frozen=True, slots=True)
class Resources:
    """An amount of what a node has: cpu in millicores, memory and storage in bytes, pods and the rest as counts."""

    cpu: int = 0
    memory: int = 0
    pods: int = 0
    storage: int = 0
    """ephemeral-storage"""
    extended: tuple[tuple[str, int], ...] = ()
    """extended resources such as ("example.com/npu", 2), sorted by name, none of them zero"""

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            self.cpu + other.cpu,
            self.memory + other.memory,
            self.pods + other.pods,
            self.storage + other.storage,
            _added(self.extended, other.extended, 1) if self.extended or other.extended else (),
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            self.cpu - other.cpu,
            self.memory - other.memory,
            self.pods - other.pods,
            self.storage - other.storage,
            _added(self.extended, other.extended, -1) if self.extended or other.extended else (),
        )

    def times(self, count: int) -> Resources:
        return Resources(
            self.cpu * count,
            self.memory * count,
            self.pods * count,
            self.storage * count,
            tuple((name, amount * count) for name, amount in self.extended if count),
        )

    def covers(self, other: Resources) -> bool:
        return (
            self.cpu >= other.cpu
            and self.memory >= other.memory
            and self.pods >= other.pods
            and self.storage >= other.storage
            and all(self.count(name) >= amount for name, amount in other.extended)
        )

    def count(self, name: str) -> int:
        """Of one extended resource."""
        return next((amount for known, amount in self.extended if known == name), 0)


Extended = tuple[tuple[str, int], ...]


def _added(one: Extended, other: Extended, sign: int) -> Extended:
    total = dict(one)
    for name, amount in other:
        total[name] = total.get(name, 0) + sign * amount
    return tuple(sorted((name, amount) for name, amount in total.items() if amount))


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured value and the time at which it was measured (not the time at which it was asked for)."""

    value: float
    at: float


@dataclass(frozen=True, slots=True)
class Live:
    """What a node really uses. None means unknown, which is neither zero nor idle."""

    cpu: Sample | None = None
    """cores in use"""
    memory: Sample | None = None
    """bytes in use"""
    distrust: str = ""
    """why the newest figures of this node were refused where they were read, so that these are older ones, or none;
    without figures, which would change with every scrape; empty when there was nothing to doubt"""


@dataclass(frozen=True, slots=True)
class Taint:
    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Toleration:
    """As in a pod: an empty key with operator Exists tolerates everything, an empty effect every effect."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def tolerates(self, taint: Taint) -> bool:
        if self.effect and self.effect != taint.effect:
            return False
        if self.operator == "Exists":
            return self.key in ("", taint.key)
        return self.key == taint.key and self.value == taint.value


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    site: str
    tier: str
    """edge, fog or cloud"""
    arch: str = "amd64"
    labels: Labels = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    ready: bool = True
    not_ready_since: float | None = None
    unschedulable: bool = False
    """cordoned"""
    allocatable: Resources = Resources()
    foreign: Resources = Resources()
    """requests of the pods bound here that are not replicas of a job in this Fleet"""
    live: Live = Live()
    models: frozenset[str] = frozenset()
    """digests of the models that are in this node's store"""
    speed: float = 1.0
    """how much faster than the reference this node runs a model; 1 when unknown"""


@dataclass(frozen=True, slots=True)
class Site:
    name: str
    tier: str
    cluster: str = OWN_CLUSTER
    region: str = ""
    labels: Labels = field(default_factory=dict)
    connected: bool = True
    unschedulable: bool = False
    frozen: bool = False
    """nothing here changes: what runs goes on, nothing comes and nothing goes"""
    bandwidth: float | None = None
    """of the uplink, bit/s"""
    rtt: float | None = None
    """to the hub, seconds"""
    elastic: bool = False
    """an autoscaled pool: one Deployment for the whole site"""
    node_labels: Labels = field(default_factory=dict)
    """labels that make a node one of this site; empty for a site without a Site object"""
    cost_cpu_hour: float | None = None
    """price of a core for an hour"""
    cost_egress_gib: float | None = None
    """price of a GiB that leaves the site"""
    watts_per_cpu: float | None = None
    """of a busy core"""
    quota_replicas: int | None = None
    """the most replicas that may be placed here"""
    quota_cpu: int | None = None
    """the most cpu that may be requested here, millicores"""
    time_zone: str = ""
    """IANA name, "" for UTC"""
    windows: tuple[Window, ...] = ()
    """when models and pods here may change; empty: at any time"""


@dataclass(frozen=True, slots=True)
class Namespace:
    """What a namespace's labels allow to its jobs as a whole; None is no limit."""

    name: str
    max_replicas: int | None = None
    max_cpu: int | None = None
    """millicores"""
    max_priority_tier: int | None = None
    """the highest priority tier; None: the fleet's default"""
    redaction: str | None = None
    """the most that may be kept of its jobs' requests, see redaction.py; None: what the job says"""


@dataclass(frozen=True, slots=True)
class Priority:
    """The three marks of a task, 1 to 5 each: A importance, B urgency, C satisfaction."""

    importance: int = 3
    urgency: int = 3
    satisfaction: int = 3


@dataclass(frozen=True, slots=True)
class Placed:
    """Replicas of a job on a node, as its Assignment says and as its pods show."""

    node: str
    site: str
    replicas: int
    """assigned; 0 for pods that are still there after the Assignment dropped the node"""
    ready: int = 0
    started: tuple[float, ...] = ()
    """start times of the pods that are visible on the node, running or not"""
    on: tuple[str, ...] = ()
    """of a pool: the nodes that those pods are bound to, in the same order; Edgeward names the pool alone"""
    since: float = 0.0
    """when this node was decided for"""
    lost_since: float | None = None
    """since when the node has been not ready or gone; None while it is there"""
    moved_from: str = ""
    """the site that a replica left for this node at `since` because that gained; empty when it came otherwise"""
    protected: str = ""
    """which PodDisruptionBudget of the user's allows no disruption of these pods now, for people; empty when none"""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A (job, node) pair that the scheduler or the kubelet refused, kept out until the back-off ends."""

    node: str
    reason: str
    message: str
    count: int
    until: float


@dataclass(frozen=True, slots=True)
class ProposedMove:
    """A move that would gain, and for how many evaluations in a row it has."""

    source: str
    target: str
    evaluations: int
    last_at: float


@dataclass(frozen=True, slots=True)
class Moves:
    """How often a job was moved in its present window."""

    window_start: float = 0.0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of spec.scaling: the job is sized between the two by what is measured."""

    lowest: int
    highest: int


@dataclass(frozen=True, slots=True)
class Scaled:
    """What was decided last for a job that is sized by its arrivals, read back from status."""

    replicas: int
    low_since: float | None = None
    """since when fewer would have done without a break; None when the last look wanted as many or more"""
    low_peak: int = 0
    """the most that any look since then wanted"""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the runtimes of one job at one site measured; every figure is over `window` seconds that ended `at`.

    None is "not measured", which is neither zero nor idle.
    """

    site: str
    digest: str
    at: float
    window: float
    arrivals: float | None = None
    """requests a second, those refused for overload included"""
    replicas: int = 0
    """that reported"""
    service_seconds: float | None = None
    """mean seconds of one execution"""
    latency_p95: float | None = None
    """seconds from the request's arrival at the runtime to its answer"""
    transfer_seconds: float | None = None
    """mean seconds that a request and its answer spent on the way, where a client reported it"""
    samples: int = 0
    """requests behind the means"""
    within_slo: int = 0
    """of `hour_requests`, those answered without an error within the job's latency bound"""
    hour_requests: int = 0
    """in the last hour, or since the measuring began if that is less"""
    hour_window: float = 0.0
    """seconds that all of the last hour covers"""
    hour_samples: int = 0
    """requests of `digest` behind hour_service_seconds"""
    hour_service_seconds: float | None = None
    """as service_seconds, over the last hour"""
    hour_transfers: int = 0
    """requests behind hour_transfer_seconds"""
    hour_transfer_seconds: float | None = None
    """as transfer_seconds, over the last hour"""
    cpu_p95: float | None = None
    """cores in use by one replica, 95th percentile over the last hour"""
    memory_p95: float | None = None
    """bytes in use by one replica, 95th percentile over the last hour"""


@dataclass(frozen=True, slots=True)
class SiteLesson:
    """How a model's times at a site differ from what was predicted: measured over predicted, None when not measured."""

    site: str
    execution: float | None = None
    transfer: float | None = None
    samples: int = 0
    """requests behind it when it was told"""
    at: float = 0.0
    """when it was told, or last found to hold"""


@dataclass(frozen=True, slots=True)
class RightSize:
    """Requests that the measured use of one replica suggests; None: what is asked for is about right."""

    cpu: int | None = None
    """millicores"""
    memory: int | None = None
    """bytes"""
    basis: str = ""
    """from what, for a person"""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a job's runtimes taught, as its status tells it. It is written only when it changes by more than noise, and
    read back, so that a new leader goes on from what the one before had learned."""

    service_seconds: float | None = None
    """of one request on a node of speed 1, where nothing but measurements says it; what the version before took is the
    first guess for a new one, and so are the sites' figures"""
    satisfaction: float | None = None
    """share of the last hour's requests within slo.latency"""
    window: float = 0.0
    """seconds that the share covers"""
    sites: tuple[SiteLesson, ...] = ()
    """by name"""
    right_size: RightSize | None = None


@dataclass(frozen=True, slots=True)
class Nomination:
    """A place that is being made free for a job by preemption, read back from the job's status."""

    site: str
    node: str
    victims: tuple[str, ...]
    """keys of the jobs that give way"""
    until: float


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an object is not acted on: a reason from edgeward.api.reasons, the field and what to do."""

    reason: str
    message: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """An InferenceJob with its quantities in units and with what is known of its replicas."""

    namespace: str
    name: str
    uid: str
    created_at: float = 0.0
    generation: int = 1
    priority: Priority = Priority()
    replicas: int = 1
    """wanted now: spec.replicas, or, beside spec.scaling, what was decided last; 0 is stopped"""
    request: Resources = Resources(pods=1)
    """of one replica"""
    tiers: frozenset[str] = frozenset({"edge", "fog", "cloud"})
    site_selector: LabelSelector = field(default_factory=LabelSelector)
    node_selector: Labels = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    architectures: frozenset[str] = frozenset({"amd64", "arm64"})
    """for which there is a runtime image and a runnable model"""
    request_bytes: int | None = None
    response_bytes: int | None = None
    source_selector: LabelSelector | None = None
    """sites where the data comes from; None when the job does not say"""
    service_seconds: float | None = None
    """measured seconds of one request on a node of speed 1; None when nothing was measured"""
    satisfaction_shortfall: float | None = None
    """1 - live satisfaction; None when it is not measured"""
    lost_after: float = 300.0
    replace_lost: bool = True
    """whether replicas at a place that is lost are started elsewhere"""
    per_site: bool = False
    """replicas counts for each site that the job may use, not for the fleet"""
    residency: str = "Anywhere"
    """how far the data may travel: Site, Region or Anywhere"""
    slo_latency: float | None = None
    """seconds, 95th percentile at the data's source"""
    slo_throughput: float | None = None
    """requests a second that one replica must sustain"""
    max_drain: float | None = None
    """seconds in which what goes to another site must have drained over the link"""
    min_bandwidth: float | None = None
    """bit/s"""
    max_per_site: int | None = None
    min_sites: int | None = None
    memory_peak: int | None = None
    """bytes that a replica was seen to need at most; None when nothing was measured"""
    scaling: Bounds | None = None
    scaled: Scaled | None = None
    traffic: tuple[Traffic, ...] = ()
    """by site, the digest that it serves now"""
    learned: Lesson = Lesson()
    """as it was told last"""
    waiting_since: float | None = None
    """since when replicas of the job have had no place; None when none is missing"""
    nomination: Nomination | None = None
    preempted: str = ""
    """what status says of who took its room and why; empty when nobody did"""
    model_name: str = ""
    model_digest: str = ""
    """what the job is meant to run; empty when the release does not say yet"""
    pin: ModelVersion | None = None
    """the version that the job names for itself; None when it names none, or when nobody knows it"""
    pinned: bool = False
    """whether it names one: then it takes no part in rollouts"""
    pin_message: str = ""
    """why nobody knows it"""
    asks: Track | None = None
    """what the registry is to be asked to know it: its constraint is the tag or the digest"""
    problem: Problem | None = None
    """set when the job must not be placed; what it has stays where it is"""
    placed: tuple[Placed, ...] = ()
    explained: bool = False
    """whether status says already why the replicas are where they are; then a plan that changes nothing need not"""
    exclusions: tuple[Exclusion, ...] = ()
    proposed: ProposedMove | None = None
    moves: Moves = Moves()
    pods: JobPods | None = field(default=None, compare=False)
    """how its pods are to be made, and how they are; None when the job cannot be read. No part of a snapshot, which goes
    to other people: a podTemplate may hold what is not for them"""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


def parameters_hash(parameters: Mapping[str, object]) -> str:
    """What tells parameters apart, "" for none. A runtime says the same of those that it has (edge-runtime/contract)."""
    if not parameters:
        return ""
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model. What a site is told to serve is one artifact of it: rollout/variants.py picks that."""

    name: str
    version: str
    digest: str
    sources: tuple[str, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    signature: Signature | None = None
    """whether and by whom it must be signed"""
    pull_secret: str = ""
    """Secret in the job's namespace with the credentials to fetch it, "" for none"""
    pace: str = ""
    """bit/s of each download as the release says it, such as 2M; "" for no bound"""
    variants: tuple[Variant, ...] = ()
    """its other artifacts for some nodes; the first match wins"""
    attempt: int = field(default=0, compare=False)
    """in which it is tried: no part of what it is"""

    @property
    def identity(self) -> str:
        """What makes it another version for a rollout: parameters and variants are gated and taken back like the bytes."""
        if not self.parameters and not self.variants:
            return self.digest
        said: object = self.parameters
        if self.variants:
            matches = [one.match.model_dump(mode="json", exclude_none=True) for one in self.variants]
            digests = [one.artifact.digest for one in self.variants]
            said = {"parameters": self.parameters, "variants": list(zip(matches, digests, strict=True))}
        text = json.dumps(said, sort_keys=True, separators=(",", ":"), default=str)
        return f"{self.digest}+{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What one pod group at a site says of one digest. `refused` carries step, reason and message."""

    digest: str
    version: str = ""
    serving: bool = False
    refused_step: str = ""
    refused_reason: str = ""
    refused_message: str = ""
    warning: str = ""
    """what signature policy Warn let pass"""
    parameters: str | None = None
    """which it has, see parameters_hash; None: a runtime that does not say"""
    staged: bool = False
    """it is on the disks, and waits for its moment"""

    def of(self, told: ModelVersion) -> bool:
        """Whether it is what was told."""
        return self.digest == told.digest and self.parameters in (None, parameters_hash(told.parameters))

    @property
    def identity(self) -> str:
        """As ModelVersion.identity, of an artifact."""
        return f"{self.digest}+{self.parameters}" if self.parameters else self.digest


@dataclass(frozen=True, slots=True)
class SiteModels:
    """Of one job at one site: what it was told to serve, and what it serves."""

    job: str
    """namespace/name"""
    site: str
    told: ModelVersion | None
    """the version that it trusts"""
    served: tuple[ServedModel, ...] = ()
    ready: int = 0
    replicas: int = 0
    nodes: tuple[str, ...] = ()
    """that have replicas of the job, those that only leave aside"""
    beside: ModelVersion | None = None
    """the new version as its canary"""
    counters: tuple[Counters, ...] = ()
    """what its runtimes did with each digest while they are watched"""
    results: tuple[QueryResult, ...] = ()
    """what the site's Prometheus said to the gates"""
    avoids: tuple[RefusedHere, ...] = ()
    """versions that the site remembers not to try again"""

    def waits(self, told: ModelVersion) -> bool:
        """Whether a version that should serve alone is at the site, and another one answers still: it is on the disks, or a
        canary that keeps its share until its moment."""
        mine = [one for one in self.served if one.of(told)]
        others = any(one.serving and not one.of(told) for one in self.served)
        alone = self.beside is None
        return any(one.staged for one in mine) or (alone and others and any(one.serving for one in mine))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the hub's Prometheus said to a gate's question. Never published: like live figures it is asked anew."""

    at: float
    """when it was asked"""
    value: float | None = None
    """None: no data"""
    samples: int = 0
    """points of the range that had a value"""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Followed:
    """What the last look at a release's repository came to."""

    asked: Track
    """what spec.track said then"""
    found: TrackedVersion | None = None
    """the newest version that matches and may be taken; what was taken before where the look failed"""
    problem: str = ""
    """why the look failed, beginning with one word; empty when it did not"""
    passed_over: tuple[str, ...] = ()
    """what was not taken and why, the newest first"""


@dataclass(frozen=True, slots=True)
class Release:
    """A ModelRelease and what the sites say of it."""

    namespace: str
    name: str
    uid: str = ""
    generation: int = 1
    target: ModelVersion | None = None
    current: ModelVersion | None = None
    """the last version that every site finished, read back from status; None before the first"""
    paused: bool = False
    problem: Problem | None = None
    sites: tuple[SiteModels, ...] = ()
    rollout: Rollout | None = None
    """how a new version goes out; None: everywhere at once"""
    gates: tuple[Gate, ...] = ()
    automatic_rollback: bool = True
    remembered: RolloutStatus | None = None
    looked: tuple[GateStatus, ...] = ()
    """how the gates stood after the last step"""
    refused: tuple[RefusedVersion, ...] = ()
    history: tuple[ReleasedVersion, ...] = ()
    tracked: TrackedVersion | None = None
    """what spec.track came to"""
    following: str = ""
    """what is wrong with spec.track's repository or with its newest versions, beginning with one word; empty when nothing
    is"""
    command: str = ""
    """VERB@TOKEN of the last command, "" for none"""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Fleet:
    """One instant of everything. `now` is part of it, so a replay sees the same ages."""

    now: float
    nodes: tuple[Node, ...] = ()
    sites: tuple[Site, ...] = ()
    jobs: tuple[Job, ...] = ()
    releases: tuple[Release, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    """those that have a limit of their own"""
    max_priority_tier: int = 5
    """of a namespace that does not say"""
    scrape_interval: float = 15.0
    """seconds between two samples of the live figures; confidence is 1 up to two of them"""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """to the gates' questions, by edgeward.rollout.model.Question.key"""
    metrics_problem: str = ""
    """why live figures as a whole are missing or old; empty when they are not"""
