"""Two nodes of one site bring a model over its link once: one fetches, the other takes it from there, over real DNS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import Cluster
from tests.demo.kube import Object, wait
from tests.demo.stage import Stage
from tests.unit.runtime import onnx_models

from .space import Space, space

NAMESPACE = "sharing"
NAME = "shared"
FILES = {f"v{number}.onnx": onnx_models.mlp((64, 2000 + number, 10)) for number in (1, 2)}
SITE = {
    "apiVersion": "edgeward.dev/v1alpha1",
    "kind": "Site",
    "metadata": {"name": "both"},
    "spec": {"tier": "edge", "nodeSelector": {"edgeward.dev/tier": "edge"}},
}


@pytest.fixture(scope="module")
def own(stage: Stage, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """The two edge nodes as one site, and a job that has room for one replica on each."""
    with space(stage, cluster, tmp_path_factory.mktemp("sharing"), NAMESPACE, FILES) as made:
        made.apply(SITE)
        try:
            release(made, 1)
            resources = {"requests": {"cpu": "600m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}}
            placement = {"tiers": ["edge"]}
            made.job(NAME, model={"name": NAME}, replicas=2, placement=placement, resources=resources)
            yield made
        finally:
            stage.kubectl.run("delete", "site", "both", "--wait=false")


def release(own: Space, number: int) -> None:
    file = f"v{number}.onnx"
    own.release(NAME, file, onnx_models.digest(FILES[file]), version=str(number))


def reported(own: Space, number: int) -> Object | None:
    """What the Assignment says of a version that both replicas serve."""
    for item in own.stage.kubectl.items("assignments", "-n", own.stage.operator_namespace):
        if item["spec"]["job"]["namespace"] == NAMESPACE:
            for model in item.get("status", {}).get("models") or []:
                if model["version"] == str(number) and model.get("replicas") == 2:
                    return dict(model)
    return None


@pytest.mark.parametrize("number", [1, 2])
def test_each_byte_comes_to_the_site_once(own: Space, number: int) -> None:
    """The first version at pods that start, the second at pods that serve."""
    if number > 1:
        release(own, number)
    model = wait(f"both serve version {number}", lambda: reported(own, number), seconds=120)
    assert len({pod["spec"]["nodeName"] for pod in own.pods(NAME)}) == 2
    size = len(FILES[f"v{number}.onnx"])
    assert (model["received"], model["shared"]) == (size, size)
