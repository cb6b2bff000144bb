"""What a site allows in a podTemplate. The site decides, never the hub; as installed, it allows none of this.

What is refused is what would take a pod out of the Pod Security Standard `restricted`, give it a token, or take it out
of Edgeward's hands: where it runs, what it may preempt, whose it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

HOST_FIELDS = ("hostNetwork", "hostPID", "hostIPC")
ACCOUNT_FIELDS = ("serviceAccountName", "serviceAccount", "automountServiceAccountToken")
OURS = {
    "nodeName": "Edgeward chooses the node; use spec.placement",
    "affinity": "Edgeward chooses the node; use spec.placement",
    "schedulerName": "Edgeward chooses the node; use spec.placement",
    "tolerations": "use spec.placement.tolerations",
    "priorityClassName": "use spec.priority",
    "priority": "use spec.priority",
    "preemptionPolicy": "use spec.priority",
}
VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
"""the volume types of `restricted`"""
PREFIX = "edgeward.dev/"
APP_ARMOR = "container.apparmor.security.beta.kubernetes.io/"
"""how a pod names a container's profile where the field of Kubernetes 1.30 is not known"""
NOT_ALLOWED = "this site does not allow it"


def forbidden(template: Mapping[str, Any]) -> list[str]:
    """Paths below spec.podTemplate that ask for more than the site allows, each with the reason."""
    return [*_metadata(_map(template.get("metadata"))), *_pod(_map(template.get("spec")))]


def _metadata(metadata: Mapping[str, Any]) -> Iterator[str]:
    for kind in ("labels", "annotations"):
        for key in _map(metadata.get(kind)):
            if str(key).startswith(PREFIX):
                yield f"spec.podTemplate.metadata.{kind}[{key}]: Edgeward tells its pods apart by it"
    for key, value in _map(metadata.get("annotations")).items():
        if str(key).startswith(APP_ARMOR) and value == "unconfined":
            yield f"spec.podTemplate.metadata.annotations[{key}]: {NOT_ALLOWED}"


def _pod(spec: Mapping[str, Any]) -> Iterator[str]:
    root = "spec.podTemplate.spec"
    for field in HOST_FIELDS + ACCOUNT_FIELDS:
        if spec.get(field):
            yield f"{root}.{field}: {NOT_ALLOWED}"
    for field, instead in OURS.items():
        if field in spec:
            yield f"{root}.{field}: {instead}"
    yield from _security(f"{root}.securityContext", _map(spec.get("securityContext")))
    for index, volume in enumerate(_maps(spec.get("volumes"))):
        yield from _volume(f"{root}.volumes[{index}]", volume)
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(_maps(spec.get(kind))):
            yield from _container(f"{root}.{kind}[{index}]", container)


def _volume(path: str, volume: Mapping[str, Any]) -> Iterator[str]:
    for kind in volume.keys() - VOLUMES - {"name"}:
        yield f"{path}.{kind}: {NOT_ALLOWED}"
    for index, source in enumerate(_maps(_map(volume.get("projected")).get("sources"))):
        if "serviceAccountToken" in source:
            yield f"{path}.projected.sources[{index}].serviceAccountToken: {NOT_ALLOWED}"


def _security(path: str, context: Mapping[str, Any]) -> Iterator[str]:
    """Of a pod or of a container: the fields that `restricted` holds to a value, where they are set to another."""
    if context.get("runAsNonRoot") is False:
        yield f"{path}.runAsNonRoot: {NOT_ALLOWED}"
    user = context.get("runAsUser")
    if type(user) is int and user == 0:
        yield f"{path}.runAsUser: {NOT_ALLOWED}"
    for field in ("seccompProfile", "appArmorProfile"):
        if _map(context.get(field)).get("type") == "Unconfined":
            yield f"{path}.{field}: {NOT_ALLOWED}"
    for field in ("sysctls", "seLinuxOptions", "windowsOptions"):
        if context.get(field):
            yield f"{path}.{field}: {NOT_ALLOWED}"


def _container(path: str, container: Mapping[str, Any]) -> Iterator[str]:
    context = _map(container.get("securityContext"))
    root = f"{path}.securityContext"
    yield from _security(root, context)
    for field in ("privileged", "allowPrivilegeEscalation"):
        if context.get(field):
            yield f"{root}.{field}: {NOT_ALLOWED}"
    if context.get("procMount") not in (None, "Default"):
        yield f"{root}.procMount: {NOT_ALLOWED}"
    capabilities = _map(context.get("capabilities"))
    if _texts(capabilities.get("add")) - {"NET_BIND_SERVICE"}:
        yield f"{root}.capabilities.add: {NOT_ALLOWED}"
    if "drop" in capabilities and "ALL" not in _texts(capabilities["drop"]):
        yield f"{root}.capabilities.drop: {NOT_ALLOWED}"
    for index, port in enumerate(_maps(container.get("ports"))):
        if port.get("hostPort"):
            yield f"{path}.ports[{index}].hostPort: {NOT_ALLOWED}"


# What has another type than it should is left to the API server, which says so better than we could.


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [_map(item) for item in value] if isinstance(value, list) else []


def _texts(value: Any) -> set[str]:
    return {item for item in value if isinstance(item, str)} if isinstance(value, list) else set()
