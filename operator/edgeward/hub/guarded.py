"""What an Assignment's models are told beside their bytes: the checks that the site makes by itself, and the way back."""

from __future__ import annotations

from collections.abc import Callable

from edgeward.api.assignment import Activation, AssignedModel, Assignment, LocalGate
from edgeward.fleet.model import ModelVersion, parameters_hash
from edgeward.rollout.site_step import SiteStep

NEW = ("Canary", "Stable")
"""roles that the new version may have, the first that there is"""


def guarded(
    models: tuple[AssignedModel, ...],
    step: SiteStep | None,
    there: Assignment | None,
    *,
    assigned: Callable[[ModelVersion], AssignedModel],
) -> tuple[AssignedModel, ...]:
    """`models` with the local gates at the new version, and with the Previous one beside a new Stable. assigned: how a
    version is told."""
    if step is None or step.told is None:
        return models
    new = next((role for role in NEW if any(model.role == role for model in models)), "")
    told = tuple(
        model.model_copy(update={"local_gates": _local_gates(model, step, there)}) if model.role == new else model
        for model in models
    )
    if step.activation is not None:
        return _timed(told, new, step.activation, there)
    if step.previous is None or step.previous.identity == step.told.identity:
        return told
    return (*told, assigned(step.previous).model_copy(update={"role": "Previous"}))


def _timed(
    models: tuple[AssignedModel, ...], new: str, activation: Activation, there: Assignment | None
) -> tuple[AssignedModel, ...]:
    """`models` with the moment from which the new one may serve, and beside a new Stable what serves until then: the
    version that this site has, whatever finished elsewhere. Where there is none, nothing is waited for."""
    model = next(one for one in models if one.role == new)
    timed = tuple(one.model_copy(update={"activation": activation}) if one is model else one for one in models)
    if new == "Canary":
        return timed
    before = _served_before(model, there)
    if before is None:
        return models
    plain = {"role": "Previous", "activation": None, "traffic": None, "mirror": None, "local_gates": ()}
    return (*timed, before.model_copy(update=plain))


def _served_before(model: AssignedModel, there: Assignment | None) -> AssignedModel | None:
    if there is None:
        return None
    known = {one.role: one for one in there.spec.models if one.name == model.name}
    stable, previous = known.get("Stable"), known.get("Previous")
    if stable is None or _same(stable, model):
        return previous
    if previous is None or _serves(stable, there):
        return stable
    # The one that it was told last has not begun: it goes on with the one before.
    return None if _same(previous, model) else previous


def _same(one: AssignedModel, other: AssignedModel) -> bool:
    return (one.version, one.digest, one.parameters) == (other.version, other.digest, other.parameters)


def _serves(model: AssignedModel, there: Assignment) -> bool:
    asked = parameters_hash(model.parameters)
    return any(
        one.serving and one.digest == model.digest and one.parameters in (None, asked) for one in there.status.models
    )


def _local_gates(model: AssignedModel, step: SiteStep, there: Assignment | None) -> tuple[LocalGate, ...]:
    if step.local_gates is not None:
        return step.local_gates
    # A version that is not the wanted one keeps what it was told: a new release is no news for the sites that wait.
    known = (one for one in there.spec.models if one.digest == model.digest) if there is not None else ()
    return next((one.local_gates for one in known if one.role == model.role), ())
