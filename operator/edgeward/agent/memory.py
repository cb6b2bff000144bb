"""What a site remembers of versions that must not be tried again: one ConfigMap a site in the agent's namespace, so that it
outlives the Assignment, the job, this process and the hub. Pure; the agent reads and writes the object.

    data:
      NAMESPACE.MODEL: [{identity, digest, version, scope, step, reason, attempt, at}, ...]     the newest first, at most 10

Scope Site: this site refused it, by its pods' checks or by a gate of its own. Scope Release: the release went back from it
everywhere, which the hub says (AssignmentSpec.avoid). An entry of an attempt below the one that the hub tells now is
forgotten: somebody said retry.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from edgeward.api.assignment import AssignedModel, Assignment, AvoidedVersion, RefusedHere
from edgeward.api.common import ApiError, parse_time, to_dict
from edgeward.cluster.resources import Object
from edgeward.fleet.model import parameters_hash
from edgeward.fleet.names import LABEL_MANAGED_BY, LABEL_SITE, MANAGED_BY, derived_name

from .report import MOST_MODELS
from .wanted import PREVIOUS, identity

log = logging.getLogger(__name__)
MOST = 10
"""versions that are remembered of a model"""
GATE = "Gate"
OF_THE_SITE = ("Load", "Schema", "Golden", "Warm", "Mirror")
"""steps whose refusal says something of the version; the others want for its bytes or a signature, and are tried again"""
LONGEST_REASON = 300
"""characters, so that the memory of some hundred models fits into one object"""
_DIGEST = len("sha256:") + 64


def name_of(site: str, *, namespace: str) -> str:
    return derived_name(namespace=namespace, name="edgeward-memory", site=site)


def key_of(namespace: str, model: str) -> str:
    """Of the ConfigMap's data. Neither part holds a dot."""
    return f"{namespace}.{model}"


def read(config: Object | None, key: str) -> tuple[RefusedHere, ...]:
    """What was written; an entry that somebody has damaged counts as none, and holds up no other."""
    text = ((config or {}).get("data") or {}).get(key)
    if text is None:
        return ()
    found = []
    try:
        for item in json.loads(text):
            entry = RefusedHere.model_validate(item)
            parse_time(entry.at)
            found.append(entry)
    except (ValueError, TypeError, ApiError) as error:
        log.warning("memory of %s cannot be read: %s", key, error)
    return tuple(found[:MOST])


def written(
    config: Object | None, *, site: str, namespace: str, entries: Mapping[str, Iterable[RefusedHere]]
) -> Object:
    """The whole ConfigMap with `entries` in the place of what stands under their keys; a model without any has no key."""
    data = dict((config or {}).get("data") or {})
    for key, found in entries.items():
        data[key] = json.dumps([to_dict(one) for one in found], sort_keys=True, separators=(",", ":"))
        if data[key] == "[]":
            del data[key]
    labels = {LABEL_MANAGED_BY: MANAGED_BY, **({LABEL_SITE: site} if site else {})}
    return {
        "metadata": {"name": name_of(site, namespace=namespace), "namespace": namespace, "labels": labels},
        "data": data,
    }


def after(
    known: Iterable[RefusedHere],
    assignment: Assignment,
    model: str,
    *,
    said: Iterable[Object],
    gates: Iterable[RefusedHere] = (),
) -> tuple[RefusedHere, ...]:
    """What is remembered of a model from now on.

    known: what was. said: what the runtimes of its pods answered (the contract's status) that have read the newest
    models.json; an older answer may be about an attempt before. gates: what failed a gate of the site's own just now, of
    whatever model.
    """
    told = [one for one in assignment.spec.models if one.name == model and one.role != PREVIOUS]
    answers = [entry for answer in said for entry in answer["models"] if entry["name"] == model]
    found = [one for one in known if not _tried_again(one, told) and not _came_right(one, told, answers)]
    here = {identity(model): model.attempt for model in told}
    own = [one for one in gates if one.attempt >= here.get(one.identity, one.attempt + 1)]
    for one in (*_of_release(assignment.spec.avoid, told), *own, *_of_pods(told, answers)):
        same = [other for other in found if (other.scope, other.identity) == (one.scope, one.identity)]
        # A gate's word stands over what the pods say later of what they no longer serve.
        if not any(other.attempt >= one.attempt for other in same):
            found = [other for other in found if other not in same] + [one]
    return tuple(sorted(found, key=order, reverse=True)[:MOST])


def order(one: RefusedHere) -> tuple[float, str, str]:
    """The newest last."""
    return parse_time(one.at), one.scope, one.identity


def with_refused(
    reported: list[dict[str, Any]], told: Iterable[AssignedModel], known: Iterable[RefusedHere]
) -> list[dict[str, Any]]:
    """The models of an Assignment's status; with the gate that took the site back from one, which its pods know nothing of."""
    result = list(reported)
    for model in told:
        gone = next((one for one in known if one.step == GATE and one.identity == identity(model)), None)
        if gone is None or model.role == PREVIOUS:
            continue
        refusal = {"step": GATE, "reason": "GateFailed", "message": gone.reason, "at": gone.at}
        same = [entry for entry in result if _identity(entry) == gone.identity]
        if same:
            result = [{**entry, "refused": refusal} if entry in same else entry for entry in result]
        else:
            parameters = {"parameters": parameters_hash(model.parameters)} if model.parameters else {}
            entry = {"name": model.name, "version": model.version, "digest": model.digest, **parameters}
            result.append({**entry, "state": "Failed", "serving": False, "replicas": 0, "refused": refusal})
    return result[:MOST_MODELS]


def _identity(entry: Mapping[str, Any]) -> str:
    """Of what a runtime or a status says of one model."""
    return f"{entry['digest']}+{entry['parameters']}" if entry.get("parameters") else str(entry["digest"])


def is_about(entry: Mapping[str, Any], model: AssignedModel) -> bool:
    """Whether it is about this model; a runtime of before says nothing of parameters."""
    return entry["digest"] == model.digest and ("parameters" not in entry or _identity(entry) == identity(model))


def fallen(known: Iterable[RefusedHere]) -> frozenset[str]:
    """Identities that the site went back from by itself."""
    return frozenset(one.identity for one in known if one.scope == "Site" and one.step == GATE)


def _tried_again(one: RefusedHere, told: Iterable[AssignedModel]) -> bool:
    return any(
        model.attempt > one.attempt
        and (identity(model) == one.identity or (one.scope == "Release" and model.version == one.version))
        for model in told
    )


def _came_right(one: RefusedHere, told: Iterable[AssignedModel], answers: Iterable[Object]) -> bool:
    """Some refusals hang on the moment, such as too little memory: the pods try again, and now they all serve it."""
    model = next((model for model in told if identity(model) == one.identity), None)
    if one.scope != "Site" or one.step == GATE or model is None:
        return False
    about = [entry for entry in answers if is_about(entry, model)]
    return bool(about) and all(entry["serving"] and not entry.get("refused") for entry in about)


def _of_release(avoid: Iterable[AvoidedVersion], told: Iterable[AssignedModel]) -> Iterable[RefusedHere]:
    for one in avoid:
        entry = RefusedHere(
            identity=one.identity,
            digest=one.identity[:_DIGEST],
            version=one.version,
            scope="Release",
            reason=one.reason[:LONGEST_REASON],
            attempt=one.attempt,
            at=one.at,
        )
        if not _tried_again(entry, told):
            yield entry


def _of_pods(told: Iterable[AssignedModel], answers: Iterable[Object]) -> Iterable[RefusedHere]:
    answers = list(answers)
    for model in told:
        refusals = [
            entry["refused"]
            for entry in answers
            if is_about(entry, model) and entry.get("refused") and not entry["serving"]
        ]
        first = min(
            (one for one in refusals if one["step"] in OF_THE_SITE),
            key=lambda one: (one["at"], one["step"], one["reason"]),
            default=None,
        )
        if first is not None:
            yield refused(model, step=first["step"], reason=f"{first['reason']}: {first['message']}", at=first["at"])


def refused(model: AssignedModel, *, step: str, reason: str, at: str) -> RefusedHere:
    return RefusedHere(
        identity=identity(model),
        digest=model.digest,
        version=model.version,
        scope="Site",
        step=step,
        reason=reason[:LONGEST_REASON],
        attempt=model.attempt,
        at=at,
    )
