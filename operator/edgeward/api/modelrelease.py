"""ModelRelease: one model, edited in place. A new version is a one-line diff in git, a rollback a revert."""

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
    Model,
    NonNegative,
    Percent,
    Quantity,
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
Uri = Annotated[str, Field(pattern=r"^(https?|oci|s3|file)://[^\s]+$", max_length=2048)]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([-+._A-Za-z0-9]*[A-Za-z0-9])?$", min_length=1, max_length=63)]
CountOrPercent = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,4}|(100|[1-9][0-9]?)%)$", max_length=5)]


class Signature(Model):
    """Whether and by whom the artifact must be signed."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "self.policy == 'Off' || (has(self.keys) && size(self.keys) > 0)",
                "signature.keys is empty but signature.policy is not Off: add a public key, or set policy to Off",
                ".keys",
            )
        )
    )

    policy: Literal["Require", "Warn", "Off"] = Field(
        "Off", description="Require loads nothing that no key has signed; Warn loads it and says so."
    )
    keys: tuple[Annotated[str, Field(max_length=8192)], ...] = Field(
        (),
        max_length=8,
        description="Public keys in PEM, Ed25519 or ECDSA P-256; one must have signed.",
        json_schema_extra=_ATOMIC,
    )


class Artifact(Model):
    """The bytes of a model."""

    uri: Uri = Field(description="Where the model is: https, http, file, oci or s3.")
    mirrors: tuple[Uri, ...] = Field(
        (), max_length=8, description="Where else it is, tried in this order.", json_schema_extra=_ATOMIC
    )
    digest: Digest = Field(description="sha256 of the file (for oci: of the manifest). A model is its digest.")
    pull_secret: DnsLabel | None = Field(None, description="Secret in this namespace with the credentials.")
    signature: Signature | None = Field(None, description="Whether and by whom the artifact must be signed.")


class VariantMatch(Model):
    """Which nodes a variant is for."""

    tier: Tier | None = Field(None, description="Tier of the site.")
    arch: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="Architecture of the node, such as arm64."
    )
    max_memory: Quantity | None = Field(None, description="Nodes with no more allocatable memory than this.")


class Variant(Model):
    """Another artifact for some nodes."""

    match: VariantMatch = Field(description="Which nodes the variant is for.")
    artifact: Artifact = Field(description="What they serve instead.")


class Track(Model):
    """Follows the versions that appear in a repository."""

    repository: Uri = Field(description="Repository to watch, such as oci://registry/models/sign-reader.")
    constraint: str = Field(min_length=1, max_length=128, description="Versions that are taken, such as 1.x.")
    interval: Duration = Field("5m", description="How often to look.")
    pull_secret: DnsLabel | None = Field(None, description="Secret in this namespace with the credentials.")
    signature: Signature | None = Field(None, description="Whether and by whom a version must be signed to be taken.")


class WaveSites(Model):
    """Which sites a wave takes; exactly one way."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "[has(self.count), has(self.percent), has(self.selector), has(self.names)].filter(x, x).size() == 1",
                "sites must hold exactly one of count, percent, selector and names: keep one of them, or leave"
                " sites out to take all that remain",
            )
        )
    )

    count: int | None = Field(None, ge=1, le=10000, description="So many sites.")
    percent: int | None = Field(None, ge=1, le=100, description="So many per cent of the sites, with the waves before.")
    selector: LabelSelector | None = Field(None, description="Sites with these labels.")
    names: tuple[SiteName, ...] | None = Field(None, max_length=256, description="These sites.", json_schema_extra=_SET)


class Wave(Model):
    """One step of a rollout."""

    name: DnsLabel = Field(description="Name of the wave.")
    sites: WaveSites | None = Field(None, description="Which sites it takes; absent: all that remain.")
    traffic: Percent | None = Field(None, description="Share of the requests that the new version answers.")
    mirror: int | None = Field(None, ge=0, le=100, description="Per cent of the requests that both versions see.")
    bake: Duration | None = Field(None, description="How long to watch before the next wave.")
    max_concurrent: int | None = Field(None, ge=1, le=10000, description="Sites that change at the same time.")


class Pace(Model):
    """Keeps a registry from being flattened."""

    concurrent_downloads: int | None = Field(None, ge=1, le=10000, description="Downloads at the same time.")
    bandwidth: Bandwidth | None = Field(None, description="Bit/s of each download, such as 2M.")


class Window(Model):
    """A weekly time in which changes may happen, in the site's own time zone."""

    days: tuple[Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], ...] = Field(
        (), max_length=7, description="Days on which it opens; empty: every day.", json_schema_extra=_SET
    )
    start: Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", max_length=5)] = Field(
        description="When it opens, such as 02:00."
    )
    duration: Duration = Field(description="How long it stays open, such as 3h.")


class Rollout(Model):
    """How a new version goes out."""

    waves: tuple[Wave, ...] = Field((), max_length=16, description="Steps, in order.", json_schema_extra=keyed("name"))
    max_unavailable_sites: CountOrPercent | None = Field(
        None, description="Sites that may be without service at once: a number or a percentage, in quotes."
    )
    pace: Pace | None = Field(None, description="Keeps a registry from being flattened.")
    activation_time: Time | None = Field(None, description="When sites switch; the download happens before.")
    windows: tuple[Window, ...] = Field(
        (), max_length=16, description="When sites may switch; empty: at any time.", json_schema_extra=_ATOMIC
    )
    deadline: Duration | None = Field(None, description="How long the whole rollout may take.")


BuiltinGate = Literal["ErrorRate", "LatencyP95", "Drift", "Agreement", "Accuracy", "CrashLoop"]


class Gate(Model):
    """One check between waves."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "has(self.builtin) != has(self.query)",
                "exactly one of builtin and query is needed: set builtin to a built-in check, or query to a"
                " PromQL expression",
            ),
            cel(
                "has(self.max) || has(self.min)",
                "max and min are both missing, so the gate could never fail: set max, min or both",
            ),
        )
    )

    name: DnsLabel = Field(description="Name of the gate.")
    builtin: BuiltinGate | None = Field(None, description="A check that needs no Prometheus.")
    query: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(None, description="A PromQL expression.")
    evaluate_at: Literal["Site", "Hub"] | None = Field(None, description="Whose Prometheus is asked; absent: Site.")
    compare: Literal["Baseline", "Absolute"] | None = Field(
        None, description="Whether the bound is a ratio to the old version or a plain number; absent: Absolute."
    )
    max: Decimal | None = Field(None, description='Largest value that passes, in quotes, such as "1.05".')
    min: Decimal | None = Field(None, description='Smallest value that passes, in quotes, such as "0.9".')
    initial_delay: Duration | None = Field(None, description="Warm-up before the first look.")
    interval: Duration | None = Field(None, description="Time between looks.")
    count: int | None = Field(None, ge=0, le=10000, description="How many looks; 0: until the bake ends.")
    min_samples: int | None = Field(None, ge=0, le=1_000_000_000, description="Fewer requests than this are no data.")
    consecutive_success_limit: int | None = Field(None, ge=1, le=1000, description="Passes in a row that are needed.")
    failure_limit: int | None = Field(None, ge=0, le=1000, description="Failures that are tolerated.")
    on_no_data: Literal["Pause", "Fail"] | None = Field(
        None, description="What no data means; never a pass; absent: Pause."
    )


class Rollback(Model):
    """What happens when a gate fails."""

    automatic: bool = Field(True, description="Whether the old version is put back without asking.")


class ModelReleaseSpec(Model):
    """What is wanted."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "!(has(self.track) && has(self.artifact))",
                "artifact and track are both set: keep artifact with version for a fixed model, or track to follow a"
                " repository",
                ".track",
            ),
            cel(
                "!(has(self.track) && has(self.version))",
                "version and track are both set: remove version, the tracked repository supplies it",
                ".version",
            ),
            cel(
                "has(self.track) || has(self.version)",
                "version is missing: set version (with artifact), or use track to follow a repository",
                ".version",
            ),
            cel(
                "has(self.track) || has(self.artifact)",
                "artifact is missing: set artifact.uri and artifact.digest, or use track to follow a repository",
                ".artifact",
            ),
        )
    )

    version: Version | None = Field(None, description='Version of the model, in quotes, such as "1.4.0".')
    artifact: Artifact | None = Field(None, description="The bytes of the model.")
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings of the model (thresholds, sampling, labels): versioned and rolled back with it.",
        json_schema_extra=_OPAQUE,
    )
    variants: tuple[Variant, ...] = Field(
        (),
        max_length=16,
        description="Other artifacts for some nodes; the first match wins.",
        json_schema_extra=_ATOMIC,
    )
    track: Track | None = Field(None, description="Follows a repository, instead of version and artifact.")
    rollout: Rollout | None = Field(None, description="How a new version goes out; absent: everywhere at once.")
    gates: tuple[Gate, ...] = Field(
        (), max_length=16, description="Checks between waves.", json_schema_extra=keyed("name")
    )
    rollback: Rollback | None = Field(None, description="What happens when a gate fails.")
    paused: bool = Field(False, description="Holds the rollout where it is.")


class ReleaseSites(Model):
    """Sites by state; updated + pending + failed + offline = total."""

    total: NonNegative = Field(0, description="Sites that should serve the model.")
    updated: NonNegative = Field(0, description="Sites that serve the target version.")
    pending: NonNegative = Field(0, description="Sites on their way.")
    failed: NonNegative = Field(0, description="Sites that refused the target version.")
    offline: NonNegative = Field(0, description="Sites that are not connected; they catch up by themselves.")
    summary: str = Field("", max_length=63, description="The same in a few words.")


class ReleaseException(Model):
    """A site that is not where it should be."""

    site: SiteName = Field(description="The site.")
    job: str = Field("", max_length=63, description="The job that serves the model there.")
    version: str | None = Field(None, max_length=63, description="Version that the site serves; absent: none.")
    digest: str | None = Field(None, max_length=71, description="Digest that the site serves; absent: none.")
    state: Literal["Pending", "Failed", "Offline"] = Field(description="Pending, Failed or Offline.")
    reason: str = Field("", max_length=128, description="Why, as one word.")
    message: str = Field("", max_length=1024, description="Why, for a person.")


Outcome = Literal["Waiting", "Passed", "Failed", "NoData", "Error"]


class GateCheck(Model):
    """One look through a gate."""

    at: Time = Field(description="When the value was taken.")
    outcome: Outcome = Field(description="What it said.")
    value: str | None = Field(None, max_length=32, description="Value that was seen.")
    baseline: str | None = Field(None, max_length=32, description="Value of the old version over the same window.")
    threshold: str | None = Field(None, max_length=32, description="Bound that it was held against.")
    samples: NonNegative = Field(0, description="Samples behind the value.")


class GateStatus(Model):
    """Outcome of a gate; each outcome is its own, and no data is never a pass."""

    name: DnsLabel = Field(description="The gate.")
    variant: str = Field("", max_length=71, description="Digest of the variant that was judged; absent: the main one.")
    query: str = Field("", max_length=2048, description="PromQL that was asked last, resolved.")
    looks: NonNegative = Field(0, description="Looks in this wave.")
    passes: NonNegative = Field(0, description="Passes in a row.")
    failures: NonNegative = Field(0, description="Failures in this wave.")
    baseline: str | None = Field(None, max_length=32, description="Last value of the old version.")
    checks: tuple[GateCheck, ...] = Field(
        (), max_length=5, description="The last looks, the newest first.", json_schema_extra=_ATOMIC
    )
    outcome: Outcome = Field(description="What the last look said.")
    value: str | None = Field(None, max_length=32, description="Value that was seen.")
    threshold: str | None = Field(None, max_length=32, description="Bound that it was held against.")
    samples: NonNegative = Field(0, description="Requests behind the value.")
    at: Time | None = Field(None, description="When it was looked at.")
    message: str = Field("", max_length=1024, description="The outcome, for a person.")


class RolloutStatus(Model):
    """What a rollout remembers, so that whoever leads goes on from it."""

    target: str = Field(max_length=128, description="Identity of the version that goes out: digest and parameters.")
    phase: Literal["Rolling", "Baking", "Done", "RolledBack"] = Field(description="How far it is.")
    wave: NonNegative = Field(0, description="Number of the wave, from 0.")
    members: tuple[SiteName, ...] = Field(
        (), max_length=5000, description="Sites of the wave, as it began.", json_schema_extra=_ATOMIC
    )
    started: Time = Field(description="When it began.")
    baking_since: Time | None = Field(None, description="Since when the wave is watched.")
    hold: Literal["Command", "GateFailed"] | None = Field(None, description="Why nothing moves until somebody says so.")
    token: str = Field("", max_length=128, description="Of the last command that was acted on.")
    attempt: NonNegative = Field(0, description="Counts up with every retry.")
    why: str = Field("", max_length=1024, description="Why it went back, or is held.")
    waits_for: str = Field("", max_length=1024, description="What the next move hangs on.")


class RefusedVersion(Model):
    """A version that is not tried again until somebody says retry."""

    version: str = Field("", max_length=63, description="Version.")
    identity: str = Field(max_length=128, description="Its digest and parameters.")
    reason: str = Field("", max_length=1024, description="Why.")
    attempt: NonNegative = Field(0, description="Attempt that it was refused in; a later one may try it again.")
    at: Time = Field(description="When.")


class ReleasedVersion(Model):
    """A version that finished: what a way back leads to."""

    version: str = Field(max_length=63, description="Version.")
    digest: Digest = Field(description="Digest.")
    sources: tuple[Uri, ...] = Field((), max_length=16, description="Where it is.", json_schema_extra=_ATOMIC)
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Settings that belong to it.", json_schema_extra=_OPAQUE
    )
    signature: Signature | None = Field(None, description="Whether and by whom it must be signed.")
    pull_secret: DnsLabel | None = Field(None, description="Secret with the credentials.")
    variants: tuple[Variant, ...] = Field(
        (), max_length=16, description="Its artifacts for some nodes.", json_schema_extra=_ATOMIC
    )
    finished: Time = Field(description="When every site that was there served it.")


class TrackedVersion(Model):
    """What spec.track came to: the newest version that matches and whose signature holds."""

    version: Version = Field(description="Version.")
    artifact: Artifact = Field(description="Its bytes.")
    variants: tuple[Variant, ...] = Field(
        (), max_length=16, description="Its artifacts for some nodes.", json_schema_extra=_ATOMIC
    )
    at: Time = Field(description="When it was taken.")


class ModelReleaseStatus(Model):
    """What is so."""

    observed_generation: NonNegative = Field(0, description="Generation of the spec that this status is about.")
    conditions: tuple[Condition, ...] = Field(
        (), max_length=32, description="Conditions.", json_schema_extra=keyed("type")
    )
    current_version: str | None = Field(None, max_length=63, description="Last version that every site served.")
    current_digest: Digest | None = Field(None, description="Its digest.")
    target_version: str | None = Field(None, max_length=63, description="Version that is wanted.")
    target_digest: Digest | None = Field(None, description="Its digest.")
    wave: str | None = Field(None, max_length=63, description="Wave that is on its way.")
    sites: ReleaseSites | None = Field(None, description="Sites by state.")
    exceptions: tuple[ReleaseException, ...] = Field(
        (), max_length=50, description="Sites that are not where they should be.", json_schema_extra=_ATOMIC
    )
    gates: tuple[GateStatus, ...] = Field(
        (), max_length=64, description="Outcome of the gates, variant by variant.", json_schema_extra=_ATOMIC
    )
    rollout: RolloutStatus | None = Field(None, description="How far it is; absent where it goes everywhere at once.")
    tracked: TrackedVersion | None = Field(None, description="What spec.track came to.")
    refused: tuple[RefusedVersion, ...] = Field(
        (), max_length=10, description="Versions that are not tried again until told.", json_schema_extra=_ATOMIC
    )
    history: tuple[ReleasedVersion, ...] = Field(
        (), max_length=10, description="Versions that finished, the newest first.", json_schema_extra=_ATOMIC
    )


class ModelRelease(KubeObject):
    """A ModelRelease object."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="ModelRelease",
        plural="modelreleases",
        singular="modelrelease",
        short_names=("mr",),
        namespaced=True,
        description="One model and the version of it that every site should serve.",
        rules=(
            cel(
                "size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",
                "metadata.name names the model in URLs and labels: use at most 63 lower case letters, digits and"
                " dashes",
                ".metadata.name",
            ),
        ),
        columns=(
            Column(name="Version", path=".status.targetVersion", description="Version that is wanted"),
            Column(name="Current", path=".status.currentVersion", description="Last version that every site served"),
            Column(name="Sites", path=".status.sites.summary", description="Sites that serve the wanted version"),
            Column(name="Wave", path=".status.wave", description="Wave that is on its way"),
            Column(name="Ready", path='.status.conditions[?(@.type=="Ready")].status'),
            Column(name="Reason", path='.status.conditions[?(@.type=="Ready")].reason'),
            Column(name="Age", path=".metadata.creationTimestamp", type="date"),
            Column(name="Digest", path=".status.targetDigest", priority=1),
            Column(name="Message", path='.status.conditions[?(@.type=="Ready")].message', priority=1),
        ),
    )

    kind: str = Field("ModelRelease", description="Kind of the object.")
    spec: ModelReleaseSpec = Field(description="What is wanted.")
    status: ModelReleaseStatus = Field(default_factory=ModelReleaseStatus, description="What is so.")
