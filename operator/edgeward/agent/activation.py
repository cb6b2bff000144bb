"""Which of the versions that an Assignment names the pods are told now, and as what. Pure.

A new version that may not begin yet is Staged: the runtime fetches and verifies it, and loads nothing. Until its moment
the site goes on with what it does. Decided here and by this cluster's clock, so it holds while the hub is away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeward.api.assignment import AssignedModel, Assignment, ModelStatus
from edgeward.fleet import windows
from edgeward.fleet.model import parameters_hash

from .wanted import identity

STAGED = "Staged"


@dataclass(frozen=True, slots=True)
class Part:
    """A version and the role that it has for now: Stable, Canary or Staged."""

    model: AssignedModel
    role: str


@dataclass(frozen=True, slots=True)
class Parts:
    parts: tuple[Part, ...]
    next: float | None = None
    """Unix seconds at which something is to change; None: at no known time"""


def parts(assignment: Assignment, *, told: Iterable[Mapping[str, Any]], now: float) -> Parts:
    """told: the entries of the models.json that there is now. What has begun once stays, though its window closes: it
    is told as Stable there. Not so what was refused and is to be tried again: that begins anew."""
    models = assignment.spec.models
    present = [one for one in told if not _tried_again(one, models, assignment.status.models)]
    result: list[Part] = []
    moments: list[float] = []
    for model in models:
        if model.role == "Previous":
            continue
        opening = windows.of(model.activation, now=now)
        if opening.open or _has_begun(model, models, present, assignment.status.models):
            result.append(Part(model, model.role))
            continue
        before = next((one for one in models if one.role == "Previous" and one.name == model.name), None)
        if model.role == "Stable" and before is None:
            # Nothing else could serve, and what serves nothing protects nobody.
            result.append(Part(model, model.role))
            continue
        if opening.next is not None:
            moments.append(opening.next)
        if model.role == "Stable" and before is not None:
            result.append(Part(before, "Stable"))
        result.append(_waiting(model, present))
    return Parts(tuple(result), next=min(moments, default=None))


def waiting(assignment: Assignment, *, told: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Identities of the versions that have not begun: no pod was told to load them."""
    present = list(told)
    return frozenset(
        identity(model)
        for model in assignment.spec.models
        if model.activation is not None
        and present
        and not any(one.get("role") != STAGED and _is(model, one) for one in present)
    )


def _waiting(model: AssignedModel, present: Sequence[Mapping[str, Any]]) -> Part:
    """Staged; but a canary that is to have all the requests goes on with the share that it has."""
    canary = next((one for one in present if one.get("role") == "Canary" and _is(model, one)), None)
    if canary is None:
        return Part(model, STAGED)
    share = {"traffic": canary.get("traffic"), "mirror": canary.get("mirror")}
    return Part(model.model_copy(update=share), "Canary")


def _has_begun(
    model: AssignedModel,
    models: Sequence[AssignedModel],
    present: Sequence[Mapping[str, Any]],
    reported: Sequence[ModelStatus],
) -> bool:
    roles = ("Stable",) if model.role == "Stable" else ("Stable", "Canary")
    if any(one.get("role", "Stable") in roles and _is(model, one) for one in present):
        return True
    # Somebody removed the ConfigMap: what the pods were last heard of to serve, alone, is what they were told.
    served = [one for one in reported if one.serving and one.name == model.name]
    return (
        not present
        and model.role == "Stable"
        and len(served) == 1
        and served[0].digest == model.digest
        and served[0].parameters in (None, parameters_hash(model.parameters))
    )


def _tried_again(entry: Mapping[str, Any], models: Sequence[AssignedModel], reported: Sequence[ModelStatus]) -> bool:
    """Whether the pods refused it, and are told of a later attempt now."""
    return any(
        one.refused is not None
        and not one.serving
        and one.digest == model.digest
        and one.parameters in (None, parameters_hash(model.parameters))
        for model in models
        if _is(model, entry) and model.attempt > int(entry.get("attempt") or 0)
        for one in reported
    )


def _is(model: AssignedModel, entry: Mapping[str, Any]) -> bool:
    return all(
        entry.get(key, default) == value
        for key, default, value in (
            ("name", None, model.name),
            ("version", None, model.version),
            ("digest", None, model.digest),
            ("parameters", {}, model.parameters),
        )
    )
