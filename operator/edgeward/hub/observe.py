"""From the cache to a plan: what one pass sees and what it makes of it. Nothing here waits, writes or touches the cache,
so that it may run in a thread beside the event loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from edgeward.api.assignment import Assignment
from edgeward.api.common import ApiError as InvalidObject
from edgeward.api.common import Model
from edgeward.api.inferencejob import InferenceJob
from edgeward.api.modelrelease import ModelRelease
from edgeward.api.site import Site
from edgeward.cluster.resources import Object, key_of
from edgeward.fleet.build import build
from edgeward.fleet.model import Answer, Fleet, Followed, Live
from edgeward.fleet.reading import Reader
from edgeward.fleet.settings import BuildSettings
from edgeward.fleet.sites import membership
from edgeward.fleet.traffic import Measured
from edgeward.placement.model import Guidance, Plan
from edgeward.placement.plan import plan as make_plan
from edgeward.placement.settings import PlanSettings
from edgeward.placement.spare import spares
from edgeward.rollout import pods as rollout_pods
from edgeward.rollout.pods import JobPodStep
from edgeward.rollout.step import RolloutStep
from edgeward.rollout.step import step as roll

from .planner import Wants, wants
from .publish import Published, publish

M = TypeVar("M", bound=Model)


@dataclass(frozen=True, slots=True)
class Seen:
    """The objects as they were at one moment. They are never changed in place, so nobody needs to copy them."""

    now: float
    nodes: list[Object]
    pods: list[Object]
    jobs: list[Object]
    releases: list[Object]
    sites: list[Object]
    assignments: list[Object]
    namespaces: list[Object]
    live: Mapping[str, Live]
    heard: Mapping[str, bool]
    """by node, whether it renewed its Lease lately"""
    metrics_problem: str
    answers: Mapping[str, Answer]
    """of the hub's Prometheus to the gates"""
    measured: tuple[Measured, ...]
    followed: Mapping[str, Followed]
    """the last looks at the repositories of releases, by namespace/name"""


@dataclass(frozen=True, slots=True)
class Facts:
    """The Fleet, and the objects that it was made of, by key; what cannot be read is in the Fleet alone, with a Problem."""

    fleet: Fleet
    jobs: Mapping[str, InferenceJob]
    releases: Mapping[str, ModelRelease]
    sites: Mapping[str, Site]
    assignments: list[Assignment]
    overlaps: Mapping[str, tuple[str, ...]]
    """by site: nodes that an older Site claims as well"""
    wants: Wants
    seconds: float


@dataclass(slots=True)
class Observed:
    """One pass: what was seen and what was made of it. Kept for /metrics and for whoever explains."""

    fleet: Fleet
    plan: Plan
    rollout: RolloutStep
    pods: Mapping[str, JobPodStep]
    """by job"""
    seconds: float


def observe(seen: Seen, *, settings: BuildSettings, reader: Reader) -> Facts:
    begun = time.perf_counter()
    fleet = build(
        now=seen.now,
        nodes=seen.nodes,
        pods=seen.pods,
        jobs=seen.jobs,
        releases=seen.releases,
        sites=seen.sites,
        assignments=seen.assignments,
        namespaces=seen.namespaces,
        live=seen.live,
        heard=seen.heard,
        measured=seen.measured,
        metrics_problem=seen.metrics_problem,
        answers=seen.answers,
        followed=seen.followed,
        settings=settings,
        reader=reader,
    )
    sites = _readable(seen.sites, Site, reader)
    labels = {node["metadata"]["name"]: node["metadata"].get("labels") or {} for node in seen.nodes} if sites else {}
    return Facts(
        fleet=fleet,
        jobs=_readable(seen.jobs, InferenceJob, reader),
        releases=_readable(seen.releases, ModelRelease, reader),
        sites=sites,
        assignments=list(_readable(seen.assignments, Assignment, reader).values()),
        overlaps=membership(labels, sites.values()).overlaps if sites else {},
        wants=wants(fleet),
        seconds=time.perf_counter() - begun,
    )


def decide(
    facts: Facts, *, guidance: Guidance | None, settings: PlanSettings, namespace: str
) -> tuple[Observed, Published]:
    begun = time.perf_counter()
    rollout = roll(facts.fleet)
    pods = rollout_pods.step(facts.fleet, rollout)
    plan = make_plan(facts.fleet, settings, guidance=guidance)
    published = publish(
        facts.fleet,
        plan,
        rollout,
        jobs=facts.jobs,
        present=facts.assignments,
        namespace=namespace,
        pods=pods,
        spares=spares(facts.fleet, settings),
    )
    return Observed(facts.fleet, plan, rollout, pods, facts.seconds + time.perf_counter() - begun), published


def _readable(raws: Iterable[Object], model: type[M], reader: Reader) -> dict[str, M]:
    """Parsed objects by key. What cannot be read is left out here; the Fleet holds it with its Problem."""
    found: dict[str, M] = {}
    for raw in raws:
        if "deletionTimestamp" in raw["metadata"] and model is not Assignment:
            continue
        with contextlib.suppress(InvalidObject):
            found[key_of(raw)] = reader.parse(model, raw) if model is Assignment else reader.read(model, raw)
    return found
