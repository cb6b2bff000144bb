"""What the pods of an Assignment are told, the contract's models.json: how it is written and read again. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterable

from edgeward.api.assignment import AssignedModel, Assignment, AssignmentSpec
from edgeward.api.common import parse_bandwidth, parse_bytes, parse_quantity, seconds, to_dict
from edgeward.api.inferencejob import Capture, ModelSwap
from edgeward.cluster.resources import Object
from edgeward.fleet.redaction import DEFAULT, Redaction, strictest
from edgeward.placement.formulas import priority_tier

from . import sharing
from .activation import Part
from .settings import AgentSettings
from .wanted import kept

CONTRACT = 1
MOST_BYTES = 2**53
"""the largest whole number that every JSON reader gets right"""


def models_document(
    assignment: Assignment, parts: Iterable[Part], settings: AgentSettings, *, peers: str = ""
) -> Object:
    """The contract's config without its revision. Schema: edge-runtime/contract/config.schema.json

    parts: what the pods are told now, of the versions that the Assignment names. peers: the Service that finds pods with
    stores apart, which should share what they fetch; empty: there are none.
    """
    job = assignment.spec.job
    return {
        "contract": CONTRACT,
        "job": {"namespace": job.namespace, "name": job.name},
        "models": [
            {
                "name": model.name,
                "version": model.version,
                "digest": model.digest,
                "sources": list(model.sources),
                "role": role,
                "parameters": dict(model.parameters),
                **_signature(model),
                **({"downloadPace": parse_bandwidth(model.download_pace)} if model.download_pace else {}),
                **{key: value for key, value in (("traffic", model.traffic), ("mirror", model.mirror)) if value},
                **({"attempt": model.attempt} if model.attempt else {}),
            }
            for model, role in ((part.model, part.role) for part in parts)
        ],
        "priority": 6 - _tier_of(assignment),  # its classes count from the most urgent, as Triton's do
        **_keep(assignment.spec.models),
        **_model_swap(assignment.spec.effective.model_swap),
        **_offload(assignment.spec),
        **_capture(assignment.spec.effective.capture, settings.redaction),
        **({"peers": sharing.told(assignment, peers)} if peers else {}),
    }


def _keep(models: Iterable[AssignedModel]) -> Object:
    """What the site goes back to by itself must not need a network then."""
    digests = kept(models)
    return {"keep": list(digests)} if digests else {}


def _model_swap(asked: ModelSwap | None) -> Object:
    return {} if asked is None else {"modelSwap": {"whenTooBig": asked.when_too_big}}


def _offload(spec: AssignmentSpec) -> Object:
    asked = spec.offload
    if asked is None:
        return {}
    budget: Object = {}
    if asked.budget is not None and asked.budget.requests is not None:
        budget["requests"] = asked.budget.requests
    if asked.budget is not None and asked.budget.bytes_per_hour is not None:
        budget["bytesPerHour"] = float(parse_quantity(asked.budget.bytes_per_hour))
    slo = spec.effective.slo
    told: Object = {"url": asked.url, "criterion": asked.criterion, "spill": asked.spill, "budget": budget}
    if asked.ca_bundle is not None:
        told["caBundle"] = asked.ca_bundle
    if slo is not None and slo.latency is not None:
        told["latencySeconds"] = seconds(slo.latency)
    return {"offload": told}


def _capture(asked: Capture | None, most: Redaction) -> Object:
    """With the last word on redaction this cluster's own. What is not said is the runtime's default."""
    if asked is None:
        return {}
    told: Object = {
        "redaction": strictest([asked.redaction or DEFAULT, most]),
        "rules": [to_dict(rule) for rule in asked.rules],
    }
    if asked.ttl is not None:
        told["ttlSeconds"] = max(int(seconds(asked.ttl)), 1)
    if asked.max_bytes is not None:
        told["maxBytes"] = min(parse_bytes(asked.max_bytes), MOST_BYTES)
    return {"capture": told}


def _signature(model: AssignedModel) -> Object:
    asked = model.signature
    if asked is None or asked.policy == "Off":
        return {}
    return {"signature": {"policy": asked.policy, "keys": list(asked.keys)}}


def _tier_of(assignment: Assignment) -> int:
    marks = assignment.spec.effective.priority
    return priority_tier(marks.importance, marks.urgency, marks.satisfaction)


def config_revision(config: Object | None) -> int:
    """The revision that a ConfigMap of ours carries, 0 when there is none."""
    try:
        return int(json.loads(config["data"]["models.json"])["revision"]) if config else 0
    except (KeyError, TypeError, ValueError):
        return 0


def told_models(config: Object | None) -> list[Object]:
    """The entries that a ConfigMap of ours holds for the pods; none where there is none, or it makes no sense."""
    try:
        models = json.loads(config["data"]["models.json"])["models"] if config else []
        return [one for one in models if isinstance(one, dict)]
    except (KeyError, TypeError, ValueError):
        return []
