"""What a decision must remember is read back from the API: nominations, who took a place, moves, protection."""

from __future__ import annotations

from typing import Any

from edgeward.fleet.model import Nomination
from tests.unit.fleet.objects import NOW, ago, assignment, job, node, only_job


def test_a_nomination_and_who_took_the_place_come_from_status() -> None:
    status: dict[str, Any] = {
        "nomination": {"site": "edge", "node": "n1", "victims": ["shop/a"], "until": ago(-60)},
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "Preempted",
                "message": "shop/x (priority tier 5) needed 1 cpu on n1; 0/1 nodes fit: 1 InsufficientCpu",
                "lastTransitionTime": ago(5),
            }
        ],
    }
    found = only_job(nodes=[node()], jobs=[job(status=status)])
    assert found.nomination == Nomination("edge", "n1", ("shop/a",), NOW + 60)
    assert found.preempted == "shop/x (priority tier 5) needed 1 cpu on n1"
    status["conditions"][0]["reason"] = "NoCapacity"
    assert only_job(nodes=[node()], jobs=[job(status=status)]).preempted == ""


def test_a_move_and_a_budget_of_the_users_come_from_the_assignment() -> None:
    told = assignment({"name": "n1", "replicas": 1, "since": ago(50), "movedFrom": "far"})
    (placed,) = only_job(nodes=[node()], jobs=[job()], assignments=[told]).placed
    assert (placed.moved_from, placed.since, placed.protected) == ("far", NOW - 50, "")
    text = "PodDisruptionBudget shop/keep allows no disruption now"
    for status, protected in (("True", text), ("False", "")):
        condition = {
            "type": "Protected",
            "status": status,
            "reason": "DisruptionBudget",
            "message": text,
            "lastTransitionTime": ago(5),
        }
        told["status"] = {"conditions": [condition]}
        (placed,) = only_job(nodes=[node()], jobs=[job()], assignments=[told]).placed
        assert placed.protected == protected
