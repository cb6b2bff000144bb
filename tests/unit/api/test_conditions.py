"""The truth table of the design, golden; and a condition list that changes only when something changed."""

import re
from collections.abc import Mapping

import pytest

from edgeward.api.conditions import (
    STEP_REASONS,
    TRUTH,
    ConditionType,
    Reason,
    find,
    is_true,
    remove_condition,
    set_condition,
    set_outcome,
)
from edgeward.api.reasons import NodeRejection, Rejection, most_severe

T, F, KEEP = True, False, None

# reason: Ready, Placed, Reconciling, Stalled, what kstatus makes of it
GOLDEN = {
    "Serving": (T, T, F, F, "Current"),
    "Released": (T, KEEP, F, F, "Current"),
    "PodsStarting": (F, T, T, F, "InProgress"),
    "Moving": (F, T, T, F, "InProgress"),
    "NoCapacity": (F, F, T, F, "InProgress"),
    "Preempted": (F, F, T, F, "InProgress"),
    "NoRunnableModel": (F, F, T, F, "InProgress"),
    "InvalidSpec": (F, F, F, T, "Failed"),
    "PolicyForbids": (F, F, F, T, "Failed"),
    "ResidencyForbids": (F, F, F, T, "Failed"),
    "QuotaExceeded": (F, F, F, T, "Failed"),
    "FeatureNotYetAvailable": (F, KEEP, F, T, "Failed"),
    "RollingOut": (F, KEEP, T, F, "InProgress"),
    "Paused": (F, KEEP, F, F, "InProgress"),
    "WaitingForData": (F, KEEP, F, F, "InProgress"),
    "RolledBack": (F, KEEP, F, T, "Failed"),
    "FetchFailed": (F, KEEP, F, T, "Failed"),
    "VerifyFailed": (F, KEEP, F, T, "Failed"),
    "LoadFailed": (F, KEEP, F, T, "Failed"),
    "WarmFailed": (F, KEEP, F, T, "Failed"),
}


def kstatus(values: Mapping[str, str]) -> str:
    """The generic rule of cli-utils' kstatus for objects with the standard conditions."""
    if values.get("Reconciling") == "True":
        return "InProgress"
    if values.get("Stalled") == "True":
        return "Failed"
    return "Current" if values.get("Ready") == "True" else "InProgress"


@pytest.mark.parametrize("reason", GOLDEN)
def test_truth_table(reason: str) -> None:
    ready, placed, reconciling, stalled, word = GOLDEN[reason]
    conditions = set_outcome((), reason=Reason(reason), message="why", generation=4, now=60.0)
    values = {condition.type: condition.status for condition in conditions}
    expected = {"Ready": str(ready), "Reconciling": str(reconciling), "Stalled": str(stalled)}
    if placed is not None:
        expected["Placed"] = str(placed)
    assert values == expected
    assert kstatus(values) == word
    assert {condition.observed_generation for condition in conditions} == {4}
    assert {condition.reason for condition in conditions} == {reason}


def test_no_outcome_contradicts_itself() -> None:
    for reason, outcome in TRUTH.items():
        assert not (outcome.reconciling and outcome.stalled), reason
        if outcome.ready:
            assert not outcome.reconciling and not outcome.stalled, reason


def test_every_rejection_of_a_job_can_be_shown() -> None:
    for rejection in Rejection:
        assert Reason(rejection.value) in TRUTH


def test_words_are_fit_for_the_api() -> None:
    words = [*Reason, *ConditionType, *Rejection, *NodeRejection]
    assert all(re.fullmatch(r"[A-Z][A-Za-z0-9]+", word) for word in words)
    assert set(STEP_REASONS) == {"Fetch", "Verify", "Signature", "Load", "Schema", "Golden", "Warm", "Mirror", "Gate"}
    assert all(reason in TRUTH for reason in STEP_REASONS.values())


def test_the_worst_obstacle_is_shown() -> None:
    assert most_severe([]) is None
    assert most_severe([Rejection.NO_CAPACITY, Rejection.POLICY_FORBIDS]) is Rejection.POLICY_FORBIDS
    assert [str(rejection) for rejection in Rejection] == [
        "InvalidSpec",
        "PolicyForbids",
        "ResidencyForbids",
        "NoRunnableModel",
        "TooBigForAnyNode",
        "QuotaExceeded",
        "NoCapacity",
        "MetricsStale",
        "WaitingForPreemption",
        "SiteDisconnected",
        "PendingEvaluation",
    ]


def test_time_moves_with_status_only() -> None:
    first = set_condition((), type=ConditionType.READY, status=False, reason=Reason.NO_CAPACITY, now=60)
    second = set_condition(first, type=ConditionType.READY, status=False, reason=Reason.PODS_STARTING, now=120)
    third = set_condition(second, type=ConditionType.READY, status=True, reason=Reason.SERVING, now=180)
    stamps = [conditions[0].last_transition_time for conditions in (first, second, third)]
    assert stamps == ["1970-01-01T00:01:00Z", "1970-01-01T00:01:00Z", "1970-01-01T00:03:00Z"]
    assert second[0].reason == "PodsStarting"


def test_same_facts_give_the_same_list() -> None:
    first = set_outcome((), reason=Reason.SERVING, message="3/3", generation=1, now=60)
    assert set_outcome(first, reason=Reason.SERVING, message="3/3", generation=1, now=999) == first


def test_the_others_are_left_alone() -> None:
    start = set_condition((), type=ConditionType.METRICS_FRESH, status=None, reason=Reason.NO_METRICS, now=60)
    conditions = set_outcome(start, reason=Reason.SERVING, now=60)
    fresh = find(conditions, "MetricsFresh")
    assert fresh is not None
    assert fresh.status == "Unknown"
    assert not is_true(conditions, "MetricsFresh")
    assert is_true(conditions, ConditionType.PLACED)
    assert not is_true(conditions, "Absent")
    assert find(remove_condition(conditions, "MetricsFresh"), "MetricsFresh") is None


def test_a_refused_feature_leaves_placed_as_it_was() -> None:
    serving = set_outcome((), reason=Reason.SERVING, now=60)
    refused = set_outcome(serving, reason=Reason.FEATURE_NOT_YET_AVAILABLE, now=90)
    assert is_true(refused, "Placed")
    assert not is_true(refused, "Ready")
