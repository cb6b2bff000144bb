"""Which fields of a spec work in this version, and what an object that uses another one is told.

The schema holds every field from the start, so that a spec written for a later version is accepted. A field that
protects something must not be silently without effect: the object is refused (Ready=False FeatureNotYetAvailable).
Any other is ignored and named in the condition FeaturesIgnored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from edgeward.api.inferencejob import InferenceJobSpec
from edgeward.api.modelrelease import ModelReleaseSpec
from edgeward.api.site import SiteSpec


class State(Enum):
    """What this version does with a field."""

    WORKS = "works"
    PROTECTS = "protects"  # not available, and leaving it without effect could do harm
    IGNORED = "ignored"  # not available, and leaving it without effect is only less than was hoped for


@dataclass(frozen=True, kw_only=True)
class Row:
    """One field (with all below it) and its state."""

    path: str
    state: State
    why: str


@dataclass(frozen=True, kw_only=True)
class Features:
    """Paths in use that do not work yet, in the order of the table."""

    protecting: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def _works(path: str, why: str) -> Row:
    return Row(path=path, state=State.WORKS, why=why)


def _protects(path: str, why: str) -> Row:
    return Row(path=path, state=State.PROTECTS, why=why)


def _ignored(path: str, why: str) -> Row:
    return Row(path=path, state=State.IGNORED, why=why)


INFERENCE_JOB_ROWS: tuple[Row, ...] = (
    _works("spec.model", "pins resolve through history, site reports and the registry; NoRunnableModel until then"),
    _works("spec.replicas", "counts over the fleet, or at each site"),
    _works("spec.replicaScope", "PerSite: each site that the job may use has its own"),
    _works("spec.scaling", "sizes the job by measured arrivals"),
    _works("spec.priority", "orders the plan"),
    _works("spec.resources", "fit, ephemeral-storage and extended resources among it"),
    _works("spec.slo", "the latency is a constraint, the throughput sizes the job and its stream of data"),
    _works("spec.data.source", "where latency, residency and transfers are measured from"),
    _works("spec.data.requestSize", "makes transfer and drain times"),
    _works("spec.data.responseSize", "makes transfer times"),
    _works("spec.data.residency", "a constraint"),
    _works("spec.data.maxDrain", "a constraint"),
    _works("spec.placement.tiers", "a constraint"),
    _works("spec.placement.siteSelector", "a constraint"),
    _works("spec.placement.nodeSelector", "a constraint"),
    _works("spec.placement.tolerations", "a constraint"),
    _works("spec.placement.spread", "a constraint"),
    _works("spec.placement.minBandwidth", "a constraint"),
    _works("spec.disconnect.lostAfter", "when replicas at a place that is away are replaced"),
    _works("spec.disconnect.replace", "false: what is lost is not started elsewhere"),
    _protects("spec.disconnect.stopLocalAfter", "replicas that must stop would serve on"),
    _ignored("spec.disconnect.reconcile", "says which of two good replicas stays"),
    _works("spec.expose", "makes the Service"),
    _works("spec.update", "whether pods may be changed with a gap where nothing else is possible"),
    _works("spec.modelSwap", "a version that does not fit beside the old one is refused, or takes its place in a gap"),
    _works("spec.offload", "hard and overflowing requests go to another job's Service, within the residency"),
    _works("spec.capture", "a ring on disk beside the models, by the strictest redaction of job, namespace and site"),
    _ignored("spec.overrides", "the job's own values hold everywhere"),
    _works("spec.podTemplate", "merged and checked by a dry run"),
)

MODEL_RELEASE_ROWS: tuple[Row, ...] = (
    _works("spec.version", "names the model"),
    _works("spec.artifact.uri", "fetched by the runtime: oci, https, http, s3 and file"),
    _works("spec.artifact.mirrors", "asked in this order when the uri fails"),
    _works("spec.artifact.digest", "verified before a model is loaded"),
    _works("spec.artifact.pullSecret", "mounted into the pods"),
    _works("spec.artifact.signature", "checked by the runtime before every load"),
    _works("spec.parameters", "handed to the runtime with the model"),
    _works("spec.variants", "picked by the site's tier, and by what all of the job's nodes there are"),
    _works("spec.track", "the newest version that matches, looked for in the background"),
    _works("spec.rollout.waves", "site by site, as the state machine says"),
    _works("spec.rollout.maxUnavailableSites", "bounds how many sites change at once"),
    _works("spec.rollout.pace.bandwidth", "bounds each download"),
    _works("spec.rollout.pace.concurrentDownloads", "bounds how many sites change at once"),
    _works("spec.rollout.activationTime", "fetched before, switched then"),
    _works("spec.rollout.windows", "each site switches within them, by its own time zone"),
    _works("spec.rollout.deadline", "takes the version back"),
    _works("spec.gates", "each wave is watched before the next begins"),
    _works("spec.rollback", "whether a rollout in waves goes back by itself"),
    _works("spec.paused", "holds the rollout"),
)

SITE_ROWS: tuple[Row, ...] = (
    _works("spec.tier", "wins over the nodes' labels"),
    _works("spec.nodeSelector", "says which nodes belong to the site"),
    _works("spec.nodes", "Elastic: one Deployment for the site, for whatever nodes its autoscaler brings"),
    _works("spec.region", "how far data may travel, and a label for siteSelector"),
    _works("spec.timeZone", "of the windows"),
    _protects("spec.connection", "another cluster's nodes cannot be reached: nothing placed there would run"),
    _ignored("spec.prometheus", "the chart's Prometheus is asked for every node"),
    _works("spec.uplink", "makes latencies, transfer and drain times"),
    _works("spec.cost", "a score term"),
    _works("spec.power", "a score term"),
    _works("spec.quota", "a constraint"),
    _works("spec.unschedulable", "a constraint"),
    _works("spec.frozen", "a constraint"),
    _works("spec.windows", "new versions begin to serve within them"),
)

TABLE: dict[type[BaseModel], tuple[Row, ...]] = {
    InferenceJobSpec: INFERENCE_JOB_ROWS,
    ModelReleaseSpec: MODEL_RELEASE_ROWS,
    SiteSpec: SITE_ROWS,
}


def _asks(value: Any, default: Any) -> bool:
    """Whether a value asks for anything: not when absent, empty, its default, or a model that holds only such."""
    if value is None or value == default:
        return False
    if isinstance(value, BaseModel):
        return any(_asks(getattr(value, name), _default(value, name)) for name in type(value).model_fields)
    return not (isinstance(value, Sequence | dict) and len(value) == 0)


def _default(model: BaseModel, name: str) -> Any:
    default = type(model).model_fields[name].get_default(call_default_factory=True)
    return None if default is PydanticUndefined else default


def _at(model: BaseModel, parts: Sequence[str]) -> Iterator[Any]:
    """The value at a camelCase path, if it asks for anything."""
    for name, field in type(model).model_fields.items():
        if field.alias == parts[0]:
            value = getattr(model, name)
            if len(parts) > 1:
                if isinstance(value, BaseModel):
                    yield from _at(value, parts[1:])
            elif _asks(value, _default(model, name)):
                yield value


Spec = InferenceJobSpec | ModelReleaseSpec | SiteSpec


def unavailable(spec: Spec) -> Features:
    """Paths of the fields that the spec uses and this version does not honour.

    A value equal to its default asks for nothing: the apiserver fills defaults in, and nobody wrote them.
    """
    found: dict[State, list[str]] = {State.PROTECTS: [], State.IGNORED: []}
    for row in TABLE[type(spec)]:
        if row.state is not State.WORKS and any(True for _ in _at(spec, row.path.split(".")[1:])):
            found[row.state].append(row.path)
    if isinstance(spec, InferenceJobSpec) and spec.scaling is not None and spec.replica_scope == "PerSite":
        found[State.IGNORED].append("spec.scaling beside replicaScope PerSite")
    return Features(protecting=tuple(found[State.PROTECTS]), ignored=tuple(found[State.IGNORED]))
