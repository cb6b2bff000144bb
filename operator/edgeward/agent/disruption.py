"""PodDisruptionBudgets: the agent's own, and those of the user over the same pods. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from edgeward.api.common import ApiError, LabelSelector
from edgeward.cluster.resources import Object, key_of
from edgeward.fleet.names import LABEL_MANAGED_BY, MANAGED_BY


def users_budgets(budgets: Iterable[Object], pods: Iterable[Object]) -> list[Object]:
    """The budgets over any of these pods that Edgeward did not make, by name.

    Where there is one, the agent makes none of its own: the eviction API refuses every eviction of a pod that two
    budgets cover, even where both would allow it.
    """
    labels = [(pod["metadata"].get("namespace"), pod["metadata"].get("labels") or {}) for pod in pods]
    found = []
    for budget in budgets:
        meta = budget["metadata"]
        if (meta.get("labels") or {}).get(LABEL_MANAGED_BY) == MANAGED_BY:
            continue
        selector = _selector((budget.get("spec") or {}).get("selector"))
        if selector and any(where == meta.get("namespace") and selector.matches(own) for where, own in labels):
            found.append(budget)
    return sorted(found, key=key_of)


def protection(budgets: Iterable[Object]) -> str:
    """Which of these budgets allows no disruption now, for people; empty when all allow one. One that nobody has
    counted yet allows none: unknown is not "any number"."""
    for budget in budgets:
        if not (budget.get("status") or {}).get("disruptionsAllowed"):
            return f"PodDisruptionBudget {key_of(budget)} allows no disruption now"
    return ""


def _selector(raw: Any) -> LabelSelector | None:
    """None selects nothing, {} everything: policy/v1 differs from its betas here."""
    if raw is None:
        return None
    try:
        return LabelSelector.model_validate(raw)
    except (ValidationError, ApiError):
        return None
