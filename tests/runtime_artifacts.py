"""Model artifacts for tests: made from plain bytes, signed, and pushed to a real registry, without a look at the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeward_runtime.artifact import golden
from edgeward_runtime.artifact.build import Built, File, build, digest_of
from edgeward_runtime.fetch import Access, Credentials, http, oci
from edgeward_runtime.fetch.credentials import Login
from edgeward_runtime.publish.push import sign as signed
from edgeward_runtime.publish.registry import Blob, Uploads
from tests.cluster.registry import PASSWORD, USER
from tests.unit.runtime.signing import Pair


@dataclass(frozen=True, kw_only=True)
class Pushed:
    source: str  # oci://HOST/REPOSITORY
    digest: str  # of the manifest
    built: Built


def golden_of(factor: float, width: int = 4) -> dict[str, bytes]:
    """Golden data of onnx_models.constant_times(factor, width)."""
    row = np.arange(width, dtype=np.float32).reshape(1, width)
    case = ({"x": ("FP32", row)}, {"y": ("FP32", row * np.float32(factor))})
    return golden.files([case], atol=golden.DEFAULT_ATOL, rtol=golden.DEFAULT_RTOL)


def made(files: Mapping[str, bytes], *, name: str = "m", version: str = "1") -> Built:
    listed = [File(path=path, digest=digest_of(data), size=len(data)) for path, data in files.items()]
    return build(listed, name=name, version=version)


def push(host: str, repository: str, files: Mapping[str, bytes], *, name: str = "m", version: str = "1") -> Pushed:
    """Builds the artifact of `files`, path -> content, and pushes it, tagged with its version."""
    built = made(files, name=name, version=version)
    source = f"oci://{host}/{repository}"
    uploads = _uploads(source)
    for data in (*files.values(), built.config):
        uploads.blob(Blob(digest=digest_of(data), size=len(data), content=data))
    uploads.manifest(built.manifest, reference=version)
    return Pushed(source=source, digest=built.digest, built=built)


def external(location: str) -> bytes:
    """y = x * w, with w of 16 bytes in another file."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in ("x", "y"))
    weight = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "graph", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(onnx.ModelProto.SerializeToString(model))


class _Login(Credentials):
    """The test registry's user, which one without passwords asks nobody for."""

    def login(self, host: str, path: str = "") -> Login:
        return Login(user=USER, password=PASSWORD)


def _uploads(source: str) -> Uploads:
    host = source.removeprefix("oci://").partition("/")[0]
    access = Access(credentials=_Login(), plain_http=frozenset({host}))
    return Uploads(oci.Repository(source, digest=None, client=http.Client(timeout=20), access=access))


def sign(pushed: Pushed, *pairs: Pair) -> None:
    """Puts signatures beside an artifact as `cosign sign` does."""
    signed(_uploads(pushed.source), pushed.digest, *(pair.private for pair in pairs))
