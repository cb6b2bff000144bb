"""The options of `edgeward what-if` into changes of a Fleet. What is wrong is named with its remedy."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from edgeward.api.common import ApiError, QuantityError, parse, parse_bytes, parse_cpu
from edgeward.api.inferencejob import InferenceJob
from edgeward.api.modelrelease import ModelRelease
from edgeward.fleet.build import build
from edgeward.fleet.model import Fleet, Namespace, Release, Resources
from edgeward.fleet.names import LABEL_MAX_CPU, LABEL_MAX_PRIORITY_TIER, LABEL_MAX_REPLICAS, LABEL_REDACTION
from edgeward.fleet.settings import BuildSettings
from edgeward.placement.change import TIERS, ChangeError, Shape, common_shape, with_job, with_nodes, with_release
from edgeward.placement.settings import PlanSettings, Weights

from .errors import CommandError, Exit

Raw = dict[str, Any]
MOST_ADDED = 10_000
KEYS = ("tier", "cpu", "memory", "site", "count", "name", "arch", "pods", "storage")
EXAMPLE = "such as tier=edge,cpu=4,memory=8Gi,count=2"
API = "edgeward.dev/v1alpha1"


def wrong(field: str, message: str, remedy: str) -> CommandError:
    return CommandError(f"{field}: {message}", remedy=remedy, code=Exit.INPUT)


# Nodes -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Added:
    """One --add-node."""

    shape: Shape
    count: int
    name: str


def added(option: str, text: str, fleet: Fleet) -> Added:
    """tier=edge,cpu=4,memory=8Gi[,site=S][,count=N][,name=N][,arch=A][,pods=N][,storage=N][,label.KEY=V]
    [,EXTENDED/RESOURCE=N]. What is left out is as with the nodes that the tier has most of."""
    given = _pairs(option, text)
    for key in ("tier", "cpu", "memory"):
        if key not in given:
            raise wrong(f"{option} {key}", "is missing", EXAMPLE)
    tier = given.pop("tier")
    if tier not in TIERS:
        raise wrong(f"{option} tier", f"{tier} is no tier", f"one of {', '.join(TIERS)}")
    like = common_shape(fleet.nodes, tier)
    usual = like.allocatable if like else Resources(pods=110)
    cpu = _amount(option, "cpu", given.pop("cpu"), parse_cpu)
    memory = _amount(option, "memory", given.pop("memory"), parse_bytes)
    storage = _amount(option, "storage", given.pop("storage", ""), parse_bytes, default=usual.storage)
    pods = _whole(option, "pods", given.pop("pods", str(usual.pods or 110)), most=10_000)
    count = _whole(option, "count", given.pop("count", "1"), most=MOST_ADDED)
    site, name = given.pop("site", ""), given.pop("name", "")
    arch = given.pop("arch", like.arch if like else "amd64")
    labels = {
        key.removeprefix("label."): given.pop(key) for key in sorted(given) if key.startswith("label.") and key[6:]
    }
    extended = tuple((key, _whole(option, key, given.pop(key), most=1_000_000)) for key in sorted(given) if "/" in key)
    if given:
        raise wrong(
            f"{option} {next(iter(given))}",
            "is no property of a node",
            f"use {', '.join(KEYS)}, label.KEY, or an extended resource such as example.com/npu",
        )
    shape = Shape(
        tier=tier,
        allocatable=Resources(cpu, memory, pods, storage, extended),
        site=site,
        arch=arch,
        labels=labels,
    )
    return Added(shape, count, name)


def add(fleet: Fleet, one: Added) -> Fleet:
    return with_nodes(fleet, one.shape, one.count, name=one.name)


def _pairs(option: str, text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise wrong(f"{option} {part.strip() or text}", "is not KEY=VALUE", EXAMPLE)
        if key.strip() in found:
            raise wrong(f"{option} {key.strip()}", "is there twice", "give it once")
        found[key.strip()] = value.strip()
    return found


def _amount(option: str, key: str, text: str, reader: Any, *, default: int = 0) -> int:
    if not text:
        return default
    try:
        amount = int(reader(text))
    except QuantityError as error:
        raise wrong(f"{option} {key}", str(error), EXAMPLE) from error
    if amount <= 0:
        raise wrong(f"{option} {key}", f"{text} is nothing", "give more than 0")
    return amount


def _whole(option: str, key: str, text: str, *, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise wrong(f"{option} {key}", f"{text} is no whole number from 1 to {most}", EXAMPLE)
    return int(text)


# Weights ---------------------------------------------------------------------------------------------------------------


def with_weights(settings: PlanSettings, texts: Iterable[str]) -> PlanSettings:
    """--set-weight NAME=NUMBER, any number of times."""
    known = [item.name for item in fields(Weights)]
    weights = settings.weights
    for text in texts:
        name, _, number = text.partition("=")
        if name not in known:
            raise wrong(f"--set-weight {name}", "is no term of the score", f"one of {', '.join(known)}")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not isfinite(value) or value < 0:
            raise wrong(f"--set-weight {name}", f"{number or 'nothing'} is no weight", f"0 or more, such as {name}=2")
        weights = replace(weights, **{name: value})
    if not any(getattr(weights, name) for name in known):
        raise wrong("--set-weight", "every weight is 0", "leave at least one above 0")
    return replace(settings, weights=weights)


# Jobs and releases -----------------------------------------------------------------------------------------------------


def with_files(fleet: Fleet, paths: Iterable[str], *, namespace: str) -> Fleet:
    """-f FILE, any number of times: InferenceJobs and ModelReleases, new ones or other specs for those that are there.
    namespace: of what names none."""
    objects = [(where, raw) for path in paths for where, raw in _documents(path)]
    releases: dict[str, Raw] = {}
    jobs: list[tuple[str, Raw]] = []
    for where, raw in objects:
        meta = raw.get("metadata")
        if not isinstance(meta, dict) or not meta.get("name"):
            raise wrong(f"{where}: metadata.name", "is missing", "every object needs a name")
        meta = {**meta, "namespace": meta.get("namespace") or namespace}
        raw = {**{key: value for key, value in raw.items() if key != "status"}, "metadata": meta}
        kind, model = (
            raw.get("kind"),
            {"InferenceJob": InferenceJob, "ModelRelease": ModelRelease}.get(raw.get("kind", "")),
        )
        if model is None or raw.get("apiVersion") != API:
            raise wrong(
                f"{where}: {raw.get('apiVersion')} {kind}",
                "is nothing that the planner decides about",
                f"give InferenceJobs and ModelReleases of {API}",
            )
        try:
            parse(model, raw, strict=True)
        except ApiError as error:
            path, text = error.problems[0]
            raise wrong(f"{where}: {kind} {meta['name']}: {path}", text, "docs/api.md has every field") from error
        if kind == "ModelRelease":
            releases[f"{meta['namespace']}/{meta['name']}"] = raw
        else:
            jobs.append((where, raw))
    known = {release.key: _as_object(release) for release in fleet.releases if release.target is not None}
    settings = BuildSettings(max_priority_tier=fleet.max_priority_tier)
    if fleet.jobs:
        settings = replace(settings, architectures=fleet.jobs[0].architectures)
    read = build(
        now=fleet.now,
        nodes=(),
        pods=(),
        jobs=[raw for _, raw in jobs],
        releases=[*{**known, **releases}.values()],
        sites=(),
        assignments=(),
        namespaces=[_as_namespace(item) for item in fleet.namespaces],
        settings=settings,
    )
    for release in read.releases:
        if release.key in releases:
            fleet = with_release(fleet, release)
            fleet = _retargeted(fleet, release)
    for job in read.jobs:
        fleet = with_job(fleet, job)
    return fleet


def _retargeted(fleet: Fleet, release: Release) -> Fleet:
    """With the jobs that had no version to run given the release's."""
    if release.target is None or release.problem is not None:
        return fleet
    digest = release.target.digest
    jobs = tuple(
        replace(job, model_digest=digest)
        if (job.namespace, job.model_name, job.model_digest) == (release.namespace, release.name, "")
        else job
        for job in fleet.jobs
    )
    return replace(fleet, jobs=jobs)


def _as_object(release: Release) -> Raw:
    """The object again, as far as it decides which version its jobs are to run. Where the model comes from does not."""
    target = release.target
    assert target is not None
    return {
        "apiVersion": API,
        "kind": "ModelRelease",
        "metadata": {"namespace": release.namespace, "name": release.name},
        "spec": {"version": target.version, "artifact": {"uri": "file:///model", "digest": target.digest}},
    }


def _as_namespace(limits: Namespace) -> Raw:
    """The object again, as far as its labels limit what its jobs may have and be."""
    said = {
        LABEL_MAX_REPLICAS: limits.max_replicas,
        LABEL_MAX_CPU: None if limits.max_cpu is None else f"{limits.max_cpu}m",
        LABEL_MAX_PRIORITY_TIER: limits.max_priority_tier,
        LABEL_REDACTION: limits.redaction,
    }
    labels = {key: str(value) for key, value in said.items() if value is not None}
    return {"metadata": {"name": limits.name, "labels": labels}}


def _documents(path: str) -> Iterator[tuple[str, Raw]]:
    """(where, object) of each object in a file, lists taken apart; `-` is standard input."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        documents = list(yaml.safe_load_all(text))
    except (OSError, UnicodeDecodeError) as error:
        raise wrong(f"-f {path}", str(error), "name a file of InferenceJobs as YAML or JSON") from error
    except yaml.YAMLError as error:
        raise wrong(f"-f {path}", f"is no YAML: {' '.join(str(error).split())}", "correct it there") from error
    found = False
    for document in documents:
        if document is None:
            continue
        items = document.get("items") if isinstance(document, Mapping) and "items" in document else [document]
        for item in items if isinstance(items, list) else [items]:
            if not isinstance(item, dict):
                raise wrong(f"-f {path}", "holds something that is no object", "give InferenceJobs as YAML or JSON")
            found = True
            yield path, item
    if not found:
        raise wrong(f"-f {path}", "holds no object", "give InferenceJobs as YAML or JSON")


def as_command_error(error: ChangeError) -> CommandError:
    return wrong(error.field, error.message, error.remedy)
