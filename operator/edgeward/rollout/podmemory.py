"""What a change of pods remembers, as a job's status.podRollout: how far it is, what was refused, and the whole PodSpec
that finished last, since after the last wave no Assignment holds it any more."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from edgeward.api.common import format_time, parse_time, to_dict
from edgeward.api.inferencejob import Priority, Resources, Toleration
from edgeward.api.modelrelease import GateStatus
from edgeward.fleet.model import Job
from edgeward.fleet.podspec import PodSpec
from edgeward.rollout import looks
from edgeward.rollout.model import Decision, Hold, Phase, Progress, Refused

MOST_REFUSED = 3
MOST_NAMED = 100
"""sites of a wave that are remembered by name. Of a larger wave the first few are, for people, and all by a short hash:
2,000 long names would be 90 KB, and a job's status is to stay below 100"""
FIRST_FEW = 5
HASH_LENGTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    progress: Progress
    waits_for: str = ""
    finished: PodSpec | None = None
    refused: tuple[Refused, ...] = ()


def recalled(said: Mapping[str, Any], sites: Iterable[str] = ()) -> Memory | None:
    """None when nothing is remembered, or nothing that this version can read: then what the sites run has the word.

    sites: that the job has. Without them, only the first few of a large wave are known.
    """
    try:
        spec = said.get("finished")
        return Memory(
            progress=Progress(
                target=str(said["target"]),
                phase=Phase(said["phase"]),
                wave=int(said.get("wave", 0)),
                members=_members(said, sites),
                started=parse_time(said["started"]),
                baking_since=parse_time(said["bakingSince"]) if "bakingSince" in said else None,
                hold=Hold(said.get("hold", "")),
                token=str(said.get("token", "")),
                attempt=int(said.get("attempt", 0)),
                why=str(said.get("why", "")),
                looks=looks.looks(GateStatus.model_validate(one) for one in said.get("gates", ())),
            ),
            waits_for=str(said.get("waitsFor", "")),
            finished=_spec(spec) if spec is not None else None,
            refused=tuple(
                Refused(version=one["target"], reason=one["reason"], at=parse_time(one["at"]), attempt=one["attempt"])
                for one in said.get("refused", ())
            ),
        )
    except (ValidationError, KeyError, TypeError, ValueError, AttributeError):
        return None


def told(decision: Decision, finished: PodSpec | None) -> Mapping[str, Any]:
    """For status.podRollout. finished: the PodSpec of the decision's stable version."""
    progress = decision.progress
    said: dict[str, Any] = {
        "target": progress.target,
        "phase": progress.phase.value,
        "wave": progress.wave,
        **_named(progress.members),
        "started": format_time(progress.started),
        "bakingSince": format_time(progress.baking_since) if progress.baking_since is not None else None,
        "hold": progress.hold.value,
        "token": progress.token,
        "attempt": progress.attempt,
        "why": progress.why[:1024],
        "waitsFor": decision.waits_for[:1024],
        "gates": [to_dict(one) for one in looks.statuses(progress)],
        "finished": _told(finished) if finished is not None else None,
        "refused": [
            {"target": one.version, "reason": one.reason[:512], "at": format_time(one.at), "attempt": one.attempt}
            for one in decision.refused[-MOST_REFUSED:]
        ],
    }
    return {key: value for key, value in said.items() if value not in (None, "", 0, [])}


def _named(members: Sequence[str]) -> Mapping[str, Any]:
    if len(members) <= MOST_NAMED:
        return {"members": list(members)}
    return {"members": list(members[:FIRST_FEW]), "memberHashes": "".join(_hash(name) for name in members)}


def _members(said: Mapping[str, Any], sites: Iterable[str]) -> tuple[str, ...]:
    named, hashes = tuple(str(name) for name in said.get("members", ())), str(said.get("memberHashes", ""))
    if not hashes:
        return named
    known = {_hash(name): name for name in sites}
    parts = (hashes[at : at + HASH_LENGTH] for at in range(0, len(hashes), HASH_LENGTH))
    return tuple(known[part] for part in parts if part in known) or named


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:HASH_LENGTH]


def size_of_wave(said: Mapping[str, Any]) -> int:
    return len(str(said.get("memberHashes", ""))) // HASH_LENGTH or len(said.get("members", ()))


def done(spec: PodSpec, *, now: float) -> Mapping[str, Any]:
    """Of a job that began with it."""
    progress = Progress(target=spec.identity, phase=Phase.DONE, started=now)
    return told(Decision(progress=progress, told={}, stable=spec.identity, refused=()), spec)


def turned(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a change took a step that the next one builds on. What it waits for is only told, and what a job began with
    is known as well from what its sites run."""
    if not before and after.get("phase") == Phase.DONE:
        return False
    measured = {"waitsFor": "", "gates": []}
    return {**before, **measured} != {**after, **measured}


def on_its_way(job: Job) -> str:
    """The change of pods that the rollout of the job's model has to wait for, for a person; empty when there is none."""
    memory = recalled(job.pods.remembered) if job.pods is not None else None
    if memory is None or job.pods is None or memory.progress.phase not in (Phase.ROLLING, Phase.BAKING):
        return ""
    mixed = len({one.told.identity for one in job.pods.sites if one.replicas}) > 1
    return f"the change of the pods of {job.name}" if memory.progress.begun or mixed else ""


def _told(spec: PodSpec) -> Mapping[str, Any]:
    said = {
        "podTemplate": dict(spec.template),
        "resources": to_dict(spec.resources),
        "tolerations": [to_dict(one) for one in spec.tolerations],
        "priority": to_dict(spec.priority),
    }
    return {key: value for key, value in said.items() if value}


def _spec(said: Mapping[str, Any]) -> PodSpec:
    return PodSpec(
        template=said.get("podTemplate", {}),
        resources=Resources.model_validate(said.get("resources", {})),
        tolerations=tuple(Toleration.model_validate(one) for one in said.get("tolerations", ())),
        priority=Priority.model_validate(said.get("priority", {})),
    )
