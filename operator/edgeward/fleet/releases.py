"""ModelReleases and what the sites say of them, from raw objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeward.api.assignment import AssignedModel, Assignment
from edgeward.api.common import ApiError
from edgeward.api.modelrelease import ModelRelease, ModelReleaseSpec, Rollout

from .model import Followed, ModelVersion, Problem, Release, ServedModel, SiteModels
from .names import ANNOTATION_COMMAND
from .reading import Reader, not_yet
from .tracking import Tracked, target_of, tracked_now

Raw = Mapping[str, Any]


def read_release(
    raw: Raw, assignments: list[Assignment], reader: Reader, *, followed: Followed | None = None
) -> Release:
    """followed: the last look at the repository that it follows."""
    meta = raw["metadata"]
    base = {
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta.get("uid", ""),
        "generation": int(meta.get("generation") or 0),
    }
    sites = tuple(
        _site_models(assignment, meta["name"])
        for assignment in assignments
        if assignment.spec.job.namespace == meta["namespace"]
        and not assignment.deleting
        and (any(model.name == meta["name"] for model in assignment.spec.models))
    )
    try:
        release = reader.read(ModelRelease, raw)
    except ApiError as error:
        path, text = error.problems[0]
        return Release(**base, problem=Problem(reason="InvalidSpec", message=f"{path}: {text}", path=path), sites=sites)
    spec, status = release.spec, release.status
    problem = not_yet(reader.features(raw, spec).protecting)
    tracked = tracked_now(spec.track, status.tracked, followed) if spec.track is not None else Tracked()
    current = None
    if status.current_version and status.current_digest:
        current = ModelVersion(name=release.name, version=status.current_version, digest=status.current_digest)
    return Release(
        **base,
        target=target_of(release.name, spec, tracked.version),
        current=current,
        paused=spec.paused,
        problem=problem or tracked.problem,
        tracked=tracked.version,
        following=tracked.following,
        sites=sites,
        rollout=(spec.rollout or Rollout()) if _has_a_way(spec) else None,
        gates=spec.gates,
        automatic_rollback=spec.rollback is None or spec.rollback.automatic,
        remembered=status.rollout,
        looked=status.gates,
        refused=status.refused,
        history=status.history,
        command=str((meta.get("annotations") or {}).get(ANNOTATION_COMMAND, ""))[:160],
    )


def _has_a_way(spec: ModelReleaseSpec) -> bool:
    """Whether spec.rollout says more than how fast one site fetches. Gates alone are asked after one wave of all sites."""
    asked = spec.rollout
    if spec.gates:
        return True
    if asked is None:
        return False
    paced = asked.pace is not None and asked.pace.concurrent_downloads is not None
    timed = asked.windows or asked.activation_time
    return bool(asked.waves or asked.max_unavailable_sites or asked.deadline or paced or timed)


def version_of(model: AssignedModel, assignment: Assignment) -> ModelVersion:
    return ModelVersion(
        name=model.name,
        version=model.version,
        digest=model.digest,
        sources=tuple(model.sources),
        parameters=dict(model.parameters),
        signature=model.signature,
        pull_secret=assignment.spec.pull_secret,
        pace=model.download_pace or "",
        attempt=model.attempt,
    )


def _site_models(assignment: Assignment, model_name: str) -> SiteModels:
    mine = [model for model in assignment.spec.models if model.name == model_name]
    told = next((model for model in mine if model.role == "Stable"), None)
    beside = next((model for model in mine if model.role == "Canary"), None)
    return SiteModels(
        job=f"{assignment.spec.job.namespace}/{assignment.spec.job.name}",
        site=assignment.spec.site,
        told=version_of(told, assignment) if told else None,
        beside=version_of(beside, assignment) if beside else None,
        served=tuple(
            ServedModel(
                digest=model.digest,
                version=model.version,
                serving=model.serving,
                refused_step=model.refused.step if model.refused else "",
                refused_reason=model.refused.reason if model.refused else "",
                refused_message=model.refused.message if model.refused else "",
                warning=f"{model.warning.reason}: {model.warning.message}" if model.warning else "",
                parameters=model.parameters,
                staged=model.state == "Staged",
            )
            for model in assignment.status.models
        ),
        ready=assignment.status.ready_replicas,
        replicas=sum(node.replicas for node in assignment.spec.nodes),
        nodes=tuple(node.name for node in assignment.spec.nodes if node.replicas),
        counters=assignment.status.counters,
        results=assignment.status.gates,
        avoids=assignment.status.refused,
    )
