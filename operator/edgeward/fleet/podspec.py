"""What of a job its pods are made from. It goes out by waves like a model's version, and names the pods that are there:
the same identity is the same pods, whichever version of Edgeward renders them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeward.api.assignment import AssignmentSpec
from edgeward.api.common import QuantityError, parse_quantity, to_dict
from edgeward.api.inferencejob import Priority, Resources, Toleration

IDENTITY_LENGTH = 16


def priority_tier(importance: int, urgency: int, satisfaction: int) -> int:
    """tier = (A + B + C + 2) // 3, so 1..5 and 5 the highest. Absolute: a new job changes nobody else's."""
    return (importance + urgency + satisfaction + 2) // 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSpec:
    """The part of a job's spec that cannot change under a pod that runs."""

    template: Mapping[str, object] = field(default_factory=dict)
    """spec.podTemplate"""
    resources: Resources = field(default_factory=Resources)
    """as they are told to a site: with the defaults of what the job does not say"""
    tolerations: tuple[Toleration, ...] = ()
    priority: Priority = field(default_factory=Priority)
    """of which the pods know the tier alone"""

    @property
    def identity(self) -> str:
        return digest(self.facts())

    def facts(self) -> Mapping[str, object]:
        """What the pods are made from, however it was written: 1000m is 1, and marks of one tier are alike."""
        marks = self.priority
        return {
            "template": {key: self.template[key] for key in ("metadata", "spec") if self.template.get(key)},
            "requests": _amounts(self.resources.requests),
            "limits": _amounts(self.resources.limits),
            "tolerations": [to_dict(one) for one in self.tolerations],
            "tier": priority_tier(marks.importance, marks.urgency, marks.satisfaction),
        }


def digest(facts: object) -> str:
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:IDENTITY_LENGTH]


def told(spec: AssignmentSpec) -> PodSpec:
    """What an Assignment tells its site."""
    return PodSpec(
        template=spec.pod_template,
        resources=spec.effective.resources,
        tolerations=spec.effective.placement.tolerations,
        priority=spec.effective.priority,
    )


def _amounts(amounts: Mapping[str, str]) -> Mapping[str, str]:
    return {name: _amount(value) for name, value in sorted(amounts.items())}


def _amount(value: str) -> str:
    try:
        return str(parse_quantity(value))
    except QuantityError:
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePods:
    """The pods of one job at one site: what they were told to be, and how far they are."""

    site: str
    told: PodSpec
    replicas: int = 0
    """assigned, those that leave aside"""
    ready: int = 0
    updated: bool = False
    """every replica is of the told spec, and ready"""
    crowded: tuple[str, ...] = ()
    """nodes where a new pod has found no room beside the old one for longer than one waits for that"""
    changing: bool = False
    """pods from before serve while a change of them is not through"""
    broken: str = ""
    """why pods of the told spec do not come up, longer than one waits for that; empty when they do"""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPods:
    """How the pods of a job are to be made, and how they are."""

    wanted: PodSpec
    sites: tuple[SitePods, ...] = ()
    remembered: Mapping[str, object] = field(default_factory=dict)
    """status.podRollout as the hub wrote it; empty when nothing is"""
    command: str = ""
    """VERB@TOKEN of the last command, "" for none"""
