"""A release that follows a real registry, at a real API server: versions, variants and a pin reach the Assignments."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.registry import Registry
from tests.runtime_artifacts import Pushed, push, sign
from tests.unit.runtime.onnx_models import constant_times
from tests.unit.runtime.signing import pair

from .operator_harness import Object, World, eventually

NAME = "followed"
SITES = {"key": "edgeward.dev/site", "operator": "In", "values": ["follow-amd", "follow-arm"]}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path) as one:
        yield one


@pytest.fixture
def sites(replicas: World) -> Iterator[World]:
    made = []
    for arch in ("amd", "arm"):
        labels = {"edgeward.dev/tier": "edge", "edgeward.dev/site": f"follow-{arch}"}
        made += replicas.add_nodes(f"follow-{arch}", labels=labels, arch=f"{arch}64")
    yield replicas
    replicas.remove_nodes(*made)


def publish(registry: Registry, version: str, factor: float) -> Pushed:
    pushed = push(registry.host, "models/m", {"model.onnx": constant_times(factor)}, version=version)
    sign(pushed, pair())
    return pushed


def test_following_a_registry(sites: World, namespace: str, registry: Registry) -> None:
    world = sites
    publish(registry, "1.3.0", 1.0)
    small = publish(registry, "1.4.0_arch-arm64", 2.0)
    main = publish(registry, "1.4.0", 3.0)
    world.operator("one", registries={"plainHttp": [registry.host]}).start().await_leading()
    track: dict[str, Any] = {"repository": main.source, "constraint": "1.x", "interval": "1s"}
    track["signature"] = {"policy": "Require", "keys": [pair().public]}
    world._apply("modelreleases", "ModelRelease", namespace, NAME, {"track": track})
    where = {"siteSelector": {"matchExpressions": [SITES]}}
    world.job(namespace, NAME, model={"name": NAME}, replicas=1, replicaScope="PerSite", placement=where)

    def told(job: str = NAME) -> dict[str, list[tuple[str, str]]]:
        return {
            item["spec"]["site"]: [(one["version"], one["digest"]) for one in item["spec"]["models"]]
            for item in world.assignments(namespace, job)
        }

    def status() -> Object:
        path = f"/apis/edgeward.dev/v1alpha1/namespaces/{namespace}/modelreleases/{NAME}"
        return dict(world.api.get(path).get("status", {}))

    def following() -> Object:
        return next((one for one in status().get("conditions", []) if one["type"] == "Following"), {})

    first = {"follow-amd": [("1.4.0", main.digest)], "follow-arm": [("1.4.0", small.digest)]}
    eventually(lambda: told() == first, what="each site its artifact of 1.4.0", seconds=60)
    assert status()["tracked"]["artifact"]["digest"] == main.digest
    assert following()["reason"] == "Newest"

    # Looks that find the same, one each second, are no writes.
    def written() -> list[str]:
        return [one.name for one in world.writes(since=time.time() - 4) if one.resource.startswith("modelreleases")]

    eventually(lambda: NAME not in written(), what="four seconds without a write", seconds=40)

    # A newer one, first without a signature.
    newer = push(registry.host, "models/m", {"model.onnx": constant_times(4.0)}, version="1.5.0")
    eventually(lambda: "1.5.0: SignatureMissing" in following().get("message", ""), what="passed over", seconds=30)
    assert told() == first
    sign(newer, pair())
    second = {site: [("1.5.0", newer.digest)] for site in first}
    eventually(lambda: told() == second, what="1.5.0 at both sites", seconds=30)

    # A job that stays with a version which only the registry knows any more.
    world.job(namespace, "pinned", model={"name": NAME, "version": "1.3.0"}, replicas=1, placement=where)
    eventually(lambda: [one[0][0] for one in told("pinned").values() if one] == ["1.3.0"], what="the pin", seconds=30)

    registry.stop()
    eventually(lambda: following().get("reason") == "LookFailed", what="the registry is away", seconds=30)
    assert "1.5.0 stays" in following()["message"]
    assert told() == second
    assert status()["tracked"]["version"] == "1.5.0"
