"""The chart grants what the code calls, no less and no more."""

from __future__ import annotations

import ast

from edgeward.cli.reach import LEASE

from .rights import NAMED, PEOPLES, SOURCE, TEMPLATES, Right, granted, needed, rules_of

CLUSTER_ROLE = rules_of("clusterrole.yaml", "ClusterRole")
ROLE = rules_of("role.yaml", "Role")
NODE_ROLE = rules_of("noderole.yaml", "Role")
SNAPSHOT_ROLE = rules_of("snapshotrole.yaml", "Role")


def test_every_call_is_allowed() -> None:
    assert needed() - granted([CLUSTER_ROLE, ROLE, NODE_ROLE]) == NAMED


def test_nothing_else_is_allowed() -> None:
    assert granted([CLUSTER_ROLE, ROLE, NODE_ROLE]) - needed() == set()


def test_secrets_are_read_by_name_in_their_namespace_only() -> None:
    text = (TEMPLATES / "pullsecrets.yaml").read_text(encoding="utf-8")
    assert "ClusterRole" not in text
    assert text.count("resources:") == 1
    rule = text.partition("rules:\n")[2].partition("---")[0]
    assert "resources: [secrets]" in rule
    assert "resourceNames: {{ toJson $names }}" in rule
    assert "verbs: [get]" in rule


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


def test_who_takes_a_snapshot_may_ask_the_leader_and_nothing_else() -> None:
    assert granted([SNAPSHOT_ROLE]) == {
        Right(False, "coordination.k8s.io", "leases", "get"),
        Right(False, "", "pods/proxy", "get"),
    }
    assert SNAPSHOT_ROLE["rules"][0]["resourceNames"] == [LEASE]


def test_what_people_run_makes_no_write() -> None:
    """Their commands call what reads, and nothing else; what they may read is theirs to know."""
    called = {
        call.func.attr
        for name in sorted(PEOPLES)
        for call in ast.walk(ast.parse((SOURCE / name).read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and ast.unparse(call.func.value) == "client"
    }
    assert called == {"get", "list", "request"}
    requests = [
        ast.literal_eval(call.args[0])
        for name in sorted(PEOPLES)
        for call in ast.walk(ast.parse((SOURCE / name).read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "client.request"
    ]
    assert requests == ["GET"]
