"""Which of an Assignment's models its pods are told to serve. Pure.

The hub names the new version and what the site goes back to by itself: the Stable one beside a Canary, a Previous one
beside a new Stable. A Previous one is never told as such: the pods serve it where the site has gone back, else its bytes
only stay on their disks, so that the way back needs no network.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeward.api.assignment import AssignedModel, Assignment
from edgeward.api.common import ApiError, parse
from edgeward.cluster.resources import Object
from edgeward.fleet.model import ModelVersion

log = logging.getLogger(__name__)
PREVIOUS, STABLE, CANARY = "Previous", "Stable", "Canary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Of one name: what the site tries, and what it would go back to."""

    new: AssignedModel
    back: AssignedModel | None = None
    """None: there is nothing, so the new one serves whatever it does"""


def read_assignment(raw: Object) -> Assignment | None:
    """None for one that cannot be read, as of a newer hub: the others are seen to."""
    try:
        return parse(Assignment, raw)
    except ApiError as error:
        log.error("assignment %s cannot be read: %s", raw["metadata"]["name"], error)
        return None


def identity(model: AssignedModel) -> str:
    """As everywhere: of the digest and the parameters."""
    return ModelVersion(model.name, model.version, model.digest, parameters=model.parameters).identity


def pairs(models: Iterable[AssignedModel]) -> list[Pair]:
    by_name: dict[str, dict[str, AssignedModel]] = {}
    for model in models:
        by_name.setdefault(model.name, {})[model.role] = model
    found = []
    for roles in by_name.values():
        canary, stable, previous = (roles.get(role) for role in (CANARY, STABLE, PREVIOUS))
        if canary is not None:
            found.append(Pair(new=canary, back=stable))
        elif stable is not None:
            apart = previous is not None and identity(previous) != identity(stable)
            found.append(Pair(new=stable, back=previous if apart else None))
    return found


def without(
    models: Iterable[AssignedModel], fallen: Collection[str], *, present: Iterable[Mapping[str, Any]] = ()
) -> tuple[AssignedModel, ...]:
    """The models with the way back in the place of each new one that the site went back from.

    fallen: identities. present: the entries of the models.json that there is now. Where the hub names no way back any more
    (the version has finished elsewhere), or one that the site went back from as well, the pods keep what they serve.
    """
    result = tuple(models)
    here = list(present)
    for pair in pairs(result):
        if identity(pair.new) not in fallen:
            continue
        named = [pair.back] if pair.back is not None and identity(pair.back) not in fallen else []
        served = [one for one in map(_read, here) if one is not None and one.name == pair.new.name]
        back = next((one for one in (*named, *served) if identity(one) not in fallen), pair.back)
        if back is None:
            continue
        others = [one for one in result if one.name != pair.new.name]
        back = back.model_copy(
            update={"role": STABLE, "traffic": None, "mirror": None, "activation": None, "local_gates": ()}
        )
        result = (*others, back)
    return result


def _read(entry: Mapping[str, Any]) -> AssignedModel | None:
    """What stands in a models.json as Stable, as the hub once told it; None for anything else."""
    if entry.get("role", STABLE) != STABLE:
        return None
    try:
        return AssignedModel.model_validate(
            {
                "name": entry["name"],
                "version": entry["version"],
                "digest": entry["digest"],
                "sources": entry["sources"],
                "parameters": entry.get("parameters", {}),
                "attempt": entry.get("attempt", 0),
                **({"signature": entry["signature"]} if "signature" in entry else {}),
            }
        )
    except (KeyError, ValueError):
        return None


def kept(models: Iterable[AssignedModel]) -> tuple[str, ...]:
    """Digests whose bytes stay although nothing serves them."""
    models = tuple(models)
    served = {one.digest for one in models if one.role != PREVIOUS}
    return tuple(sorted({one.digest for one in models if one.role == PREVIOUS} - served))
