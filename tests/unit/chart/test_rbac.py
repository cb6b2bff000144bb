"""The chart grants what the code calls, no less and no more."""

from __future__ import annotations

from .rights import Right, granted, needed, rules_of

CLUSTER_ROLE = rules_of("clusterrole.yaml", "ClusterRole")
ROLE = rules_of("role.yaml", "Role")


def test_every_call_is_allowed() -> None:
    assert needed() - granted([CLUSTER_ROLE, ROLE]) == set()


def test_nothing_else_is_allowed() -> None:
    assert granted([CLUSTER_ROLE, ROLE]) - needed() == set()


def test_the_source_was_read() -> None:
    """A few rights that are known by other means, so that a reader that finds nothing does not pass."""
    assert {
        Right(True, "apps", "deployments", "create"),
        Right(True, "", "pods", "patch"),
        Right(True, "", "events", "create"),
        Right(True, "edgeward.dev", "modelreleases/status", "patch"),
        Right(False, "edgeward.dev", "assignments/status", "patch"),
        Right(False, "edgeward.dev", "assignments", "delete"),
        Right(False, "coordination.k8s.io", "leases", "update"),
        Right(True, "metrics.k8s.io", "nodes", "list"),
    } <= needed()


def test_no_secrets_and_no_wildcards() -> None:
    for rule in CLUSTER_ROLE["rules"] + ROLE["rules"]:
        words = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
        assert not words & {"*", "secrets", "impersonate", "escalate", "bind"}
