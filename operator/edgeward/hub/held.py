"""What must not be published yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from edgeward.api.assignment import Assignment, AssignmentSpec
from edgeward.api.common import to_dict
from edgeward.api.inferencejob import InferenceJob
from edgeward.cluster.resources import INFERENCE_JOBS, MODEL_RELEASES, Resource
from edgeward.fleet.podspec import told

from .publish import Published, Write


def held_back(
    published: Published,
    unsaid: frozenset[tuple[Resource, str]],
    *,
    jobs: Mapping[str, InferenceJob],
    present: Iterable[Assignment],
) -> Published:
    """Without what would tell a site of a decision that its release, or of its pods that its job, does not remember yet.
    unsaid: keys of such ones. Where replicas belong is told all the same."""
    if not unsaid:
        return published
    known = {item.name: item.spec for item in present}

    def waits(write: Write) -> bool:
        job, before = jobs[write.job], known.get(write.name)
        if before is None:
            return False
        after = AssignmentSpec.model_validate(write.body["spec"])
        if (INFERENCE_JOBS, write.job) in unsaid and told(after).identity != told(before).identity:
            return True
        news = write.body["spec"].get("models") != to_dict(before).get("models")
        return news and (MODEL_RELEASES, f"{job.namespace}/{job.spec.model.name}") in unsaid

    return replace(published, writes=tuple(write for write in published.writes if not waits(write)))
