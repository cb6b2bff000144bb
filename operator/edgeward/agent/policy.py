"""What a site allows in a podTemplate. The site decides, never the hub; as installed, it allows none of this."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

HOST_FIELDS = ("hostNetwork", "hostPID", "hostIPC", "hostUsers")
ACCOUNT_FIELDS = ("serviceAccountName", "serviceAccount", "automountServiceAccountToken")


def forbidden(template: Mapping[str, Any]) -> list[str]:
    """Paths below spec.podTemplate that ask for more than the site allows, each with the reason."""
    spec = template.get("spec")
    return list(_pod(spec)) if isinstance(spec, Mapping) else []


def _pod(spec: Mapping[str, Any]) -> Iterator[str]:
    root = "spec.podTemplate.spec"
    for field in HOST_FIELDS + ACCOUNT_FIELDS:
        if spec.get(field):
            yield f"{root}.{field}: this site does not allow it"
    if "nodeName" in spec:
        yield f"{root}.nodeName: Edgeward chooses the node; use spec.placement"
    if "affinity" in spec:
        yield f"{root}.affinity: Edgeward chooses the node; use spec.placement"
    for index, volume in enumerate(_dicts(spec.get("volumes"))):
        if "hostPath" in volume:
            yield f"{root}.volumes[{index}].hostPath: this site does not allow it"
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(_dicts(spec.get(kind))):
            yield from _container(f"{root}.{kind}[{index}]", container)


def _container(path: str, container: Mapping[str, Any]) -> Iterator[str]:
    security = container.get("securityContext") or {}
    for field in ("privileged", "allowPrivilegeEscalation"):
        if security.get(field):
            yield f"{path}.securityContext.{field}: this site does not allow it"
    if (security.get("capabilities") or {}).get("add"):
        yield f"{path}.securityContext.capabilities.add: this site does not allow it"
    for index, port in enumerate(_dicts(container.get("ports"))):
        if port.get("hostPort"):
            yield f"{path}.ports[{index}].hostPort: this site does not allow it"


def _dicts(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
