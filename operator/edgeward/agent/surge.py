"""How the pods of one node are changed, in this order: a new one beside the old where that fits; in the old one's place
while a spare on another node of the site serves (the hub makes it); in the old one's place once the new image is on the
node, where the job allows a gap (spec.update: Recreate); else they wait. Pure.

Nothing is remembered outside the API: that a change goes on in place shows in the Deployment's strategy.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from edgeward.api.common import parse_time
from edgeward.cluster.resources import Object
from edgeward.fleet.names import ANNOTATION_PODS, LABEL_PLACEMENT, LABEL_PULL

from .podtemplate import RESTRICTED

SURGE = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
IN_PLACE = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
_NO_ROOM = ("Insufficient ", "Too many pods")
"""what the stock scheduler says where a node would do if it were emptier"""
_PULLED = frozenset({"CrashLoopBackOff", "RunContainerError", "CreateContainerError", "CreateContainerConfigError"})
"""reasons for which a container waits whose image is on the node"""


class Way(StrEnum):
    SURGE = "Surge"
    PULL = "Pull"
    """the new image is brought to the node first"""
    IN_PLACE = "InPlace"


def lacks_room(message: str) -> bool:
    return any(text in message for text in _NO_ROOM)


def is_through(deployment: Object) -> bool:
    """Whether all pods are of the newest template, as far as the controller has looked at it. Fields of a Deployment's
    status are left out when they are 0."""
    state = deployment.get("status") or {}
    updated = state.get("updatedReplicas", 0)
    seen = state.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    # The Deployment keeps a pod from before for each updated one that is not ready: maxUnavailable is 0.
    return bool(seen and updated >= deployment["spec"].get("replicas", 1) and state.get("replicas", 0) <= updated)


def is_in_place(deployment: Object) -> bool:
    """Whether a change that is not through goes on in the old pods' place."""
    strategy = (deployment.get("spec") or {}).get("strategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    return rolling.get("maxUnavailable") == 1 and not is_through(deployment)


def no_room_since(pods: Iterable[Object]) -> float | None:
    """Since when (Unix seconds) the scheduler finds no room for a pod; None when it does."""
    found = []
    for pod in pods:
        if "deletionTimestamp" in pod["metadata"]:
            continue
        for condition in (pod.get("status") or {}).get("conditions") or []:
            waits = condition["type"] == "PodScheduled" and condition["status"] == "False"
            if waits and lacks_room(str(condition.get("message", ""))):
                found.append(parse_time(condition["lastTransitionTime"]))
    return min(found, default=None)


def idle_since(pods: Iterable[Object]) -> float | None:
    """Since when (Unix seconds) none of the pods that run on a node serves; None while one does, and where none runs."""
    found = []
    for pod in pods:
        if "deletionTimestamp" in pod["metadata"]:
            continue
        for condition in (pod.get("status") or {}).get("conditions") or []:
            if condition["type"] == "Ready":
                if condition["status"] == "True":
                    return None
                found.append(parse_time(condition["lastTransitionTime"]))
    return max(found, default=None)


def way(
    *,
    present: Object | None,
    revision: str,
    pods: Iterable[Object],
    pulls: Iterable[Object],
    recreate: bool,
    spare: bool,
    turn: bool,
    now: float,
    patience: float,
) -> tuple[Way, float | None]:
    """How the pods of a node change now, and when to look again (None: with the next event).

    present: the Deployment that is there. revision: of the pods that are wanted. pods: the node's. pulls: those that bring
    the wanted image. spare: whether another node serves meanwhile. turn: whether no other node of the site is in its gap.
    patience: seconds that a surge may wait for room, and then once more for a spare.
    """
    if present is None or (present["metadata"].get("annotations") or {}).get(ANNOTATION_PODS) != revision:
        return Way.SURGE, None
    if is_through(present):
        return Way.SURGE, None
    if is_in_place(present):
        return Way.IN_PLACE, None
    pods = list(pods)
    since = no_room_since(pods)
    if since is None:
        return Way.SURGE, None
    if now - since < patience:
        return Way.SURGE, since + patience
    idle = idle_since(pods)
    if idle is not None:  # there is nothing to lose
        return (Way.IN_PLACE, None) if now - idle >= patience else (Way.SURGE, idle + patience)
    if spare:
        return (Way.IN_PLACE if turn else Way.SURGE), None
    if not recreate:
        return Way.SURGE, None
    if now - since < 2 * patience:
        return Way.SURGE, since + 2 * patience
    pulls = list(pulls)
    full = no_room_since(pod for pod in pulls if _of_revision(pod, revision))
    if turn and (is_pulled(pulls, revision) or (full is not None and now - full >= patience)):
        return Way.IN_PLACE, None
    return Way.PULL, full + patience if full is not None and now - full < patience else None


def is_pulled(pulls: Iterable[Object], revision: str) -> bool:
    """Whether every image is on the node. What its containers do is no matter: some images have nothing to run here."""
    for pod in pulls:
        states = (pod.get("status") or {}).get("containerStatuses") or []
        if "deletionTimestamp" in pod["metadata"] or not _of_revision(pod, revision):
            continue
        if (
            states
            and len(states) >= len(pod["spec"].get("containers") or [])
            and all(_has_image(one) for one in states)
        ):
            return True
    return False


def _of_revision(pod: Object, revision: str) -> bool:
    return (pod["metadata"].get("annotations") or {}).get(ANNOTATION_PODS) == revision


def _has_image(container: Object) -> bool:
    state = container.get("state") or {}
    waiting = (state.get("waiting") or {}).get("reason")
    return "running" in state or "terminated" in state or waiting in _PULLED or bool(container.get("imageID"))


def pull_name(deployment: str) -> str:
    return f"{deployment}-pull"


def pulling(deployment: Object, *, assignment: str, revision: str) -> Object:
    """A Deployment beside the one that changes: its pod asks for nothing but the images. No Service and no count knows
    the pod."""
    meta, template = deployment["metadata"], deployment["spec"]["template"]
    spec, name = template["spec"], pull_name(meta["name"])
    images = {
        (item["image"], item.get("imagePullPolicy", "")): item
        for kind in ("containers", "initContainers")
        for item in spec.get(kind) or []
    }
    kept = ("affinity", "tolerations", "priorityClassName", "securityContext", "imagePullSecrets", "nodeSelector")
    selector = {LABEL_PULL: assignment, LABEL_PLACEMENT: name}
    return {
        "metadata": {
            "name": name,
            "namespace": meta["namespace"],
            "labels": {key: text for key, text in meta["labels"].items() if key != LABEL_PLACEMENT},
        },
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": selector},
            "strategy": {"type": "Recreate"},
            "template": {
                "metadata": {"labels": selector, "annotations": {ANNOTATION_PODS: revision}},
                "spec": {
                    **{key: spec[key] for key in kept if key in spec},
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": 0,
                    "containers": [
                        {
                            "name": f"image-{number}",
                            "image": image,
                            **({"imagePullPolicy": policy} if policy else {}),
                            "command": ["true"],
                            "resources": {"requests": {"cpu": "0", "memory": "0"}},
                            "securityContext": {**RESTRICTED, "readOnlyRootFilesystem": True},
                        }
                        for number, (image, policy) in enumerate(images)
                    ],
                },
            },
        },
    }
