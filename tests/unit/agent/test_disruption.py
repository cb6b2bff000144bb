"""Whose budget covers which pods, and whether it allows a disruption now."""

from __future__ import annotations

from typing import Any

import pytest

from edgeward.agent.disruption import protection, users_budgets
from edgeward.fleet.names import LABEL_MANAGED_BY, MANAGED_BY

Raw = dict[str, Any]
POD = {"metadata": {"name": "p", "namespace": "shop", "labels": {"edgeward.dev/job": "signs", "app": "x"}}}


def budget(
    selector: Any, *, name: str = "keep", namespace: str = "shop", allowed: int | None = 0, **labels: str
) -> Raw:
    status = {} if allowed is None else {"disruptionsAllowed": allowed}
    meta = {"name": name, "namespace": namespace, "labels": labels}
    return {"metadata": meta, "spec": {"selector": selector, "minAvailable": 1}, "status": status}


@pytest.mark.parametrize(
    ("selector", "covers"),
    [
        ({"matchLabels": {"edgeward.dev/job": "signs"}}, True),
        ({"matchLabels": {"edgeward.dev/job": "other"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", "y"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({}, True),
        (None, False),
        ({"matchExpressions": [{"key": "app", "operator": "Perhaps"}]}, False),
    ],
)
def test_a_selector_covers_pods_as_policy_v1_says(selector: Any, covers: bool) -> None:
    assert bool(users_budgets([budget(selector)], [POD])) is covers


def test_budgets_elsewhere_and_our_own_are_none_of_the_users() -> None:
    assert users_budgets([budget({}, namespace="other"), budget({}, **{LABEL_MANAGED_BY: MANAGED_BY})], [POD]) == []
    assert users_budgets([budget({})], []) == []


def test_the_first_that_allows_nothing_protects_and_one_not_counted_yet_does_too() -> None:
    free, full, fresh = budget({}, name="b", allowed=2), budget({}, name="c"), budget({}, name="a", allowed=None)
    assert protection(users_budgets([full, free], [POD])) == "PodDisruptionBudget shop/c allows no disruption now"
    assert protection(users_budgets([free, fresh], [POD])) == "PodDisruptionBudget shop/a allows no disruption now"
    assert protection([free]) == ""
    assert protection([]) == ""
