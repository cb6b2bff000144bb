"""What must not be published yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from edgeward.api.assignment import Assignment
from edgeward.api.common import to_dict
from edgeward.api.inferencejob import InferenceJob

from .publish import Published, Write


def held_back(
    published: Published, unsaid: frozenset[str], *, jobs: Mapping[str, InferenceJob], present: Iterable[Assignment]
) -> Published:
    """Without what would tell a site of a decision that its release does not remember yet. unsaid: keys of such releases.
    Where replicas belong is told all the same."""
    if not unsaid:
        return published
    known = {item.name: to_dict(item.spec).get("models") for item in present}

    def waits(write: Write) -> bool:
        job = jobs[write.job]
        news = write.name in known and write.body["spec"].get("models") != known[write.name]
        return news and f"{job.namespace}/{job.spec.model.name}" in unsaid

    return replace(published, writes=tuple(write for write in published.writes if not waits(write)))
