"""A namespace of a module's own, with a file server for its models; everything of it is gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from tests.cluster import Cluster
from tests.demo.kube import Object
from tests.demo.stage import Stage, confirm_all_may_go, install, make_namespace
from tests.unit.runtime import onnx_models


@dataclass(frozen=True, kw_only=True)
class Space:
    stage: Stage
    namespace: str
    url: str
    """where the files are"""

    def apply(self, *objects: Object) -> None:
        self.stage.kubectl.run("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def release(self, name: str, file: str, digest: str, *, version: str = "1", **spec: object) -> None:
        """A ModelRelease of a file of the server."""
        artifact = {"uri": f"{self.url}/{file}", "digest": digest}
        self.apply(self._object("ModelRelease", name, {"version": version, "artifact": artifact, **spec}))

    def serve(self, content: bytes, *, name: str = "m") -> None:
        """Version 1 of a model that is among the files as NAME.onnx."""
        self.release(name, f"{name}.onnx", onnx_models.digest(content))

    def job(self, name: str, **spec: object) -> None:
        """An InferenceJob of model `m` that asks for little, unless told otherwise."""
        resources = {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}}
        self.apply(self._object("InferenceJob", name, {"model": {"name": "m"}, "resources": resources, **spec}))

    def pods(self, job: str) -> list[Object]:
        return self.stage.kubectl.items("pods", "-n", self.namespace, "-l", f"edgeward.dev/job={job}")

    def _object(self, kind: str, name: str, spec: Mapping[str, object]) -> Object:
        meta = {"name": name, "namespace": self.namespace}
        return {"apiVersion": "edgeward.dev/v1alpha1", "kind": kind, "metadata": meta, "spec": dict(spec)}


@contextmanager
def space(
    stage: Stage,
    cluster: Cluster,
    folder: Path,
    namespace: str,
    files: Mapping[str, bytes],
    *,
    config: Mapping[str, object] | None = None,
) -> Iterator[Space]:
    """files: content by name. config: what the operator is to be told otherwise in the meantime."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    server = cluster.start_file_server(folder, name=namespace)
    if config:
        install(replace(stage, config=dict(config)))
    make_namespace(stage, namespace)
    yield Space(stage=stage, namespace=namespace, url=server.url)
    confirm_all_may_go(stage)
    stage.kubectl.run("delete", "namespace", namespace, "--wait", timeout=120)
    server.stop()
    if config:
        install(stage)
