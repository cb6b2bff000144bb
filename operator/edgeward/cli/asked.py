"""A job's spec in a few lines: what it asks, defaults included where they decide."""

from __future__ import annotations

from edgeward.api.common import LabelSelector, format_bytes, format_cpu
from edgeward.api.inferencejob import InferenceJob, InferenceJobSpec
from edgeward.fleet.amounts import request_of


def asks(job: InferenceJob) -> list[tuple[str, str]]:
    """(what, how much) of everything that decides where the job may run."""
    spec = job.spec
    lines = [("model", _model(job)), ("replicas", _replicas(spec)), ("each replica", _request(spec))]
    lines += [("where", _where(spec))]
    if spec.slo and (spec.slo.latency or spec.slo.throughput):
        parts = [f"95% answered within {spec.slo.latency}"] if spec.slo.latency else []
        parts += [f"{spec.slo.throughput} requests a second per replica"] if spec.slo.throughput else []
        lines.append(("promises", ", ".join(parts)))
    if spec.data:
        lines.append(("data", _data(spec)))
    keeps = [f"lost after {spec.disconnect.lost_after}"]
    if not spec.disconnect.replace:
        keeps.append("not replaced then")
    lines.append(("cut off", ", ".join(keeps)))
    lines += [("override", _override(spec, at)) for at in range(len(spec.overrides))]
    return lines


def selector_text(selector: LabelSelector | None) -> str:
    """As kubectl takes it: app=web,tier in (a,b)."""
    if selector is None:
        return ""
    parts = [f"{key}={value}" for key, value in sorted(selector.match_labels.items())]
    for item in selector.match_expressions:
        values = f"({','.join(item.values)})"
        parts.append(
            {
                "In": f"{item.key} in {values}",
                "NotIn": f"{item.key} notin {values}",
                "Exists": item.key,
                "DoesNotExist": f"!{item.key}",
            }[item.operator]
        )
    return ",".join(parts)


def _model(job: InferenceJob) -> str:
    pin = job.spec.model
    told = job.status.model_version
    pinned = f" pinned to {pin.version or pin.digest}" if pin.version or pin.digest else ""
    return f"{pin.name}{pinned}" + (f", version {told} at present" if told else "")


def _replicas(spec: InferenceJobSpec) -> str:
    scope = " at each site" if spec.replica_scope == "PerSite" else ""
    if spec.scaling:
        return f"{spec.scaling.min_replicas} to {spec.scaling.max_replicas}{scope}, by measured arrivals"
    return f"{spec.replicas}{scope}"


def _request(spec: InferenceJobSpec) -> str:
    asked = request_of(spec.resources.requests, spec.resources.limits)
    named = {**spec.resources.limits, **spec.resources.requests}
    default = "" if named.get("cpu") and named.get("memory") else " (what is not named has a default)"
    more = [f"{amount} {name}" for name, amount in sorted(named.items()) if name not in ("cpu", "memory")]
    return ", ".join([f"{format_cpu(asked.cpu)} cpu", f"{format_bytes(asked.memory)} memory", *more]) + default


def _where(spec: InferenceJobSpec) -> str:
    place = spec.placement
    parts = ["tiers " + ", ".join(place.tiers) if place.tiers else "any tier"]
    sites = selector_text(place.site_selector)
    parts += [f"sites with {sites}"] if sites else []
    parts += ["nodes with " + ",".join(f"{k}={v}" for k, v in sorted(place.node_selector.items()))] * bool(
        place.node_selector
    )
    parts += [f"{len(place.tolerations)} toleration{'s' * (len(place.tolerations) != 1)}"] * bool(place.tolerations)
    if place.spread and place.spread.max_per_site:
        parts.append(f"at most {place.spread.max_per_site} at a site")
    if place.spread and place.spread.min_sites:
        parts.append(f"at {place.spread.min_sites} sites or more")
    parts += [f"uplinks of {place.min_bandwidth}bit/s or more"] * bool(place.min_bandwidth)
    return "; ".join(parts)


def _data(spec: InferenceJobSpec) -> str:
    data = spec.data
    assert data is not None
    parts = []
    if data.source is not None:
        parts.append(f"from sites with {selector_text(data.source.site_selector) or 'any label'}")
    if data.request_size:
        parts.append(f"{data.request_size} a request")
    if data.response_size:
        parts.append(f"{data.response_size} an answer")
    if data.residency != "Anywhere":
        parts.append(f"stays in its {data.residency.lower()}")
    if data.max_drain:
        parts.append(f"drains within {data.max_drain}")
    return ", ".join(parts) or "nothing said"


def _override(spec: InferenceJobSpec, at: int) -> str:
    one = spec.overrides[at]
    parts = [f"replicas {one.replicas}"] if one.replicas is not None else []
    if one.resources is not None:
        named = {**one.resources.limits, **one.resources.requests}
        parts += [", ".join(f"{amount} {name}" for name, amount in sorted(named.items()))]
    return f"at sites with {selector_text(one.site_selector) or 'any label'}: {', '.join(parts) or 'nothing'}"
