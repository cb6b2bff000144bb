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
    found = []
    for roles in _by_name(models).values():
        canary, stable, previous = (roles.get(role) for role in (CANARY, STABLE, PREVIOUS))
        if canary is not None:
            found.append(Pair(new=canary, back=stable))
        elif stable is not None:
            apart = previous is not None and identity(previous) != identity(stable)
            found.append(Pair(new=stable, back=previous if apart else None))
    return found


def _by_name(models: Iterable[AssignedModel]) -> dict[str, dict[str, AssignedModel]]:
    """By name and role."""
    found: dict[str, dict[str, AssignedModel]] = {}
    for model in models:
        found.setdefault(model.name, {})[model.role] = model
    return found


def without(
    models: Iterable[AssignedModel], fallen: Collection[str], *, present: Iterable[Mapping[str, Any]] = ()
) -> tuple[AssignedModel, ...]:
    """The models without those that the site went back from: a canary takes no part, and the way back takes the place of a
    Stable one.

    fallen: identities. present: the entries of the models.json that there is now. Where the hub names no way back any more
    (the version has finished elsewhere), or one that the site went back from as well, the pods keep what they serve.
    """
    result = tuple(models)
    served = [one for one in map(_read, present) if one is not None and identity(one) not in fallen]
    for name, roles in _by_name(result).items():
        known = next((one for one in served if one.name == name), None)
        told = _without(roles, fallen, known)
        if told != roles:
            result = (*(one for one in result if one.name != name), *told.values())
    return result


def _without(
    roles: Mapping[str, AssignedModel], fallen: Collection[str], served: AssignedModel | None
) -> dict[str, AssignedModel]:
    """Of one name, by role. served: what its pods were told as Stable, if that is not fallen."""
    canary, stable, previous = (roles.get(role) for role in (CANARY, STABLE, PREVIOUS))
    if previous is not None and identity(previous) in fallen and served is not None:
        previous = _as(PREVIOUS, served)
    if stable is None or identity(stable) in fallen:
        back = previous if previous is not None and identity(previous) not in fallen else served or previous
        stable = _as(STABLE, back) if back is not None else stable
    if stable is None:
        return dict(roles)
    if canary is not None and (identity(canary) in fallen or canary.version == stable.version):
        canary = None  # of the same version: no runtime reads that, as answers could not name the one that made them
    if previous is not None and identity(previous) == identity(stable):
        previous = None
    found = {STABLE: stable, CANARY: canary, PREVIOUS: previous}
    return {role: one for role in (*roles, STABLE) if (one := found[role]) is not None}


def _as(role: str, model: AssignedModel) -> AssignedModel:
    plain = {"traffic": None, "mirror": None, "activation": None, "local_gates": ()}
    return model.model_copy(update={"role": role, **plain})


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
