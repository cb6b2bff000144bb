"""The end of an Assignment: what was made for it goes, unless its whole kind does; then the finalizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeward.api.conditions import Reason
from edgeward.cluster.cache import Cache
from edgeward.cluster.client import ApiError, Client
from edgeward.cluster.events import Recorder
from edgeward.cluster.resources import (
    ASSIGNMENTS,
    CONFIG_MAPS,
    DEFINITIONS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    NAMESPACES,
    PODS,
    SERVICES,
    VOLUME_CLAIMS,
    Object,
    Resource,
    key_of,
)
from edgeward.fleet.names import (
    ANNOTATION_NODE,
    FINALIZER,
    LABEL_ASSIGNMENT,
    LABEL_JOB,
    LABEL_MANAGED_BY,
    MANAGED_BY,
)

from .settings import MANAGER


class Removal:
    def __init__(self, *, client: Client, hub: Client, cache: Cache, recorder: Recorder, namespace: str) -> None:
        """hub: of the cluster that holds the Assignments."""
        self._client = client
        self._hub = hub
        self._cache = cache
        self._recorder = recorder
        self._namespace = namespace

    async def remove(self, raw: Object) -> bool:
        """One step towards the end; True when it is let go."""
        meta = raw["metadata"]
        if FINALIZER not in (meta.get("finalizers") or []):
            return False
        if await self._all_going():
            # Everything of the kind is being swept away, which is no word about this job: what runs is orphaned.
            message = "its kind or namespace is being deleted as a whole; the pods of this Assignment serve on"
            await self._recorder.tell(ASSIGNMENTS, raw, Reason.ORPHANED, message, warning=True)
            await self._let_go(meta)
            return True
        job, left = raw["spec"]["job"], 0
        shared = self._job_still_assigned(job, besides=meta["name"])
        for resource in (DEPLOYMENTS, DISRUPTION_BUDGETS, CONFIG_MAPS, SERVICES):
            found = {key_of(obj): obj for obj in self._cache[resource].labelled(LABEL_ASSIGNMENT, meta["name"])}
            if resource is SERVICES and not shared:
                services = self._cache[SERVICES].labelled(LABEL_JOB, job["name"])
                found |= {key_of(obj): obj for obj in services if _is_service_of(obj, job)}
            left += len(found)
            for obj in found.values():
                await self._delete(resource, obj)
        left += len(self._cache[PODS].labelled(LABEL_ASSIGNMENT, meta["name"]))
        if left:
            # Each of them, gone, brings this key back by its event.
            return False
        await self._drop_claims(raw)
        await self._let_go(meta)
        return True

    async def _all_going(self) -> bool:
        """Whether Assignments are deleted because their definition or their namespace is."""
        try:
            definition = await self._hub.get(DEFINITIONS, "", f"{ASSIGNMENTS.plural}.{ASSIGNMENTS.group}")
            namespace = await self._hub.get(NAMESPACES, "", self._namespace)
        except ApiError as error:
            if error.not_found:
                return True
            raise
        return any("deletionTimestamp" in found["metadata"] for found in (definition, namespace))

    async def _let_go(self, meta: Mapping[str, Any]) -> None:
        """Take our finalizer off, so that the Assignment can go."""
        finalizers = [name for name in meta["finalizers"] if name != FINALIZER]
        patch = {"metadata": {"finalizers": finalizers, "resourceVersion": meta["resourceVersion"]}}
        try:
            await self._hub.merge(ASSIGNMENTS, meta["namespace"], meta["name"], patch, manager=MANAGER)
        except ApiError as error:
            if not error.not_found:
                raise

    async def _drop_claims(self, raw: Object) -> None:
        """The model store of a node goes with the last job of its namespace there."""
        namespace = raw["spec"]["job"]["namespace"]
        used = {
            node["name"]
            for other in self._cache[ASSIGNMENTS].all()
            if other["spec"]["job"]["namespace"] == namespace and "deletionTimestamp" not in other["metadata"]
            for node in other["spec"].get("nodes") or []
        }
        for claim in self._cache[VOLUME_CLAIMS].all():
            meta = claim["metadata"]
            if meta.get("namespace") != namespace or (meta.get("labels") or {}).get(LABEL_MANAGED_BY) != MANAGED_BY:
                continue
            if (meta.get("annotations") or {}).get(ANNOTATION_NODE) not in used:
                await self._delete(VOLUME_CLAIMS, claim)

    async def _delete(self, resource: Resource, obj: Object) -> None:
        meta = obj["metadata"]
        if "deletionTimestamp" not in meta:
            await self._client.delete(resource, meta["namespace"], meta["name"], uid=meta["uid"])

    def _job_still_assigned(self, job: Mapping[str, Any], *, besides: str) -> bool:
        return any(
            other["metadata"]["name"] != besides
            and "deletionTimestamp" not in other["metadata"]
            and other["spec"]["job"]["name"] == job["name"]
            and other["spec"]["job"]["namespace"] == job["namespace"]
            for other in self._cache[ASSIGNMENTS].all()
        )


def _is_service_of(obj: Object, job: Mapping[str, Any]) -> bool:
    meta = obj["metadata"]
    labels = meta.get("labels") or {}
    return (
        labels.get(LABEL_MANAGED_BY) == MANAGED_BY
        and labels.get(LABEL_JOB) == job["name"]
        and meta.get("namespace") == job["namespace"]
    )
