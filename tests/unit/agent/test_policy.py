"""What a podTemplate may not ask for; as installed, a site allows none of it and the pod stays `restricted`."""

from __future__ import annotations

from typing import Any

import pytest

from edgeward.agent.policy import forbidden

ROOT = "spec.podTemplate.spec"


def container(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "runtime", **fields}]}}


def secure(**fields: Any) -> dict[str, Any]:
    return container(securityContext=fields)


TABLE: list[tuple[dict[str, Any], str]] = [
    ({"spec": {"hostNetwork": True}}, f"{ROOT}.hostNetwork"),
    ({"spec": {"hostPID": True}}, f"{ROOT}.hostPID"),
    ({"spec": {"hostIPC": True}}, f"{ROOT}.hostIPC"),
    ({"spec": {"serviceAccountName": "admin"}}, f"{ROOT}.serviceAccountName"),
    ({"spec": {"serviceAccount": "admin"}}, f"{ROOT}.serviceAccount"),
    ({"spec": {"automountServiceAccountToken": True}}, f"{ROOT}.automountServiceAccountToken"),
    ({"spec": {"nodeName": "n"}}, f"{ROOT}.nodeName"),
    ({"spec": {"affinity": {}}}, f"{ROOT}.affinity"),
    ({"spec": {"tolerations": []}}, f"{ROOT}.tolerations"),
    ({"spec": {"priorityClassName": "system-node-critical"}}, f"{ROOT}.priorityClassName"),
    ({"spec": {"preemptionPolicy": "PreemptLowerPriority"}}, f"{ROOT}.preemptionPolicy"),
    ({"spec": {"schedulerName": "mine"}}, f"{ROOT}.schedulerName"),
    ({"spec": {"securityContext": {"runAsUser": 0}}}, f"{ROOT}.securityContext.runAsUser"),
    ({"spec": {"securityContext": {"runAsNonRoot": False}}}, f"{ROOT}.securityContext.runAsNonRoot"),
    (
        {"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}},
        f"{ROOT}.securityContext.seccompProfile",
    ),
    (
        {"spec": {"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}},
        f"{ROOT}.securityContext.appArmorProfile",
    ),
    ({"spec": {"securityContext": {"sysctls": [{"name": "kernel.x"}]}}}, f"{ROOT}.securityContext.sysctls"),
    ({"spec": {"securityContext": {"seLinuxOptions": {"type": "x"}}}}, f"{ROOT}.securityContext.seLinuxOptions"),
    ({"spec": {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}}, f"{ROOT}.volumes[0].hostPath"),
    ({"spec": {"volumes": [{"name": "x", "nfs": {"server": "x"}}]}}, f"{ROOT}.volumes[0].nfs"),
    (
        {"spec": {"volumes": [{"name": "x", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}},
        f"{ROOT}.volumes[0].projected.sources[0].serviceAccountToken",
    ),
    (secure(privileged=True), f"{ROOT}.containers[0].securityContext.privileged"),
    (secure(allowPrivilegeEscalation=True), f"{ROOT}.containers[0].securityContext.allowPrivilegeEscalation"),
    (secure(capabilities={"add": ["SYS_ADMIN"]}), f"{ROOT}.containers[0].securityContext.capabilities.add"),
    (secure(capabilities={"drop": []}), f"{ROOT}.containers[0].securityContext.capabilities.drop"),
    (secure(runAsUser=0), f"{ROOT}.containers[0].securityContext.runAsUser"),
    (secure(runAsNonRoot=False), f"{ROOT}.containers[0].securityContext.runAsNonRoot"),
    (secure(procMount="Unmasked"), f"{ROOT}.containers[0].securityContext.procMount"),
    (secure(seccompProfile={"type": "Unconfined"}), f"{ROOT}.containers[0].securityContext.seccompProfile"),
    (secure(appArmorProfile={"type": "Unconfined"}), f"{ROOT}.containers[0].securityContext.appArmorProfile"),
    (container(ports=[{"containerPort": 1, "hostPort": 80}]), f"{ROOT}.containers[0].ports[0].hostPort"),
    (
        {"spec": {"initContainers": [{"name": "i", "securityContext": {"privileged": True}}]}},
        f"{ROOT}.initContainers[0].securityContext.privileged",
    ),
    (
        {"metadata": {"labels": {"edgeward.dev/job": "another"}}},
        "spec.podTemplate.metadata.labels[edgeward.dev/job]",
    ),
    (
        {"metadata": {"annotations": {"edgeward.dev/node": "another"}}},
        "spec.podTemplate.metadata.annotations[edgeward.dev/node]",
    ),
    (
        {"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/runtime": "unconfined"}}},
        "spec.podTemplate.metadata.annotations[container.apparmor.security.beta.kubernetes.io/runtime]",
    ),
]


@pytest.mark.parametrize(("template", "path"), TABLE, ids=[path for _, path in TABLE])
def test_what_is_forbidden_is_named_by_its_path(template: dict[str, Any], path: str) -> None:
    (said,) = forbidden(template)
    assert said.startswith(f"{path}: ")


@pytest.mark.parametrize(
    "template",
    [
        {},
        {"metadata": {"labels": {"team": "a"}, "annotations": {"x": "y"}}},
        {"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/runtime": "runtime/default"}}},
        secure(appArmorProfile={"type": "RuntimeDefault"}),
        {"spec": {"hostNetwork": False, "automountServiceAccountToken": False, "nodeSelector": {"a": "b"}}},
        {"spec": {"volumes": [{"name": "x", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "s"}}]}},
        {"spec": {"securityContext": {"runAsUser": 1000, "runAsNonRoot": True, "fsGroup": 0}}},
        secure(readOnlyRootFilesystem=False, allowPrivilegeEscalation=False, capabilities={"drop": ["ALL"]}),
        secure(capabilities={"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}),
        container(env=[{"name": "A", "value": "b"}], ports=[{"containerPort": 9000}], image="other"),
    ],
)
def test_what_is_fine_is_let_through(template: dict[str, Any]) -> None:
    assert forbidden(template) == []


@pytest.mark.parametrize("odd", [None, 1, "x", [], [1], {"containers": {}}, {"containers": "x"}, {"a": {"b": []}}])
def test_nonsense_is_left_to_the_api_server_and_ends_nothing(odd: Any) -> None:
    assert forbidden({"spec": odd, "metadata": odd}) == []
    assert forbidden({"spec": {"volumes": odd, "securityContext": odd, "containers": [odd]}}) == []
    for field in ("securityContext", "ports"):
        assert forbidden(container(**{field: odd})) == []
    assert forbidden(secure(capabilities=odd)) == []
    for field in ("seccompProfile", "appArmorProfile"):
        assert forbidden(secure(**{field: odd})) == []
    assert forbidden(secure(runAsUser=False)) == []
