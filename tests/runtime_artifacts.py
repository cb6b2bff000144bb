"""Model artifacts for tests: made from plain bytes, signed, and pushed to a real registry by its HTTP API
(github.com/opencontainers/distribution-spec)."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeward_runtime.artifact import manifest
from edgeward_runtime.artifact.build import Built, File, build, digest_of
from edgeward_runtime.tensors import to_binary
from edgeward_runtime.trust import bundle, keys
from tests.cluster.registry import PASSWORD, USER
from tests.unit.runtime.signing import Pair

Arrays = Mapping[str, npt.NDArray[Any]]
_DATATYPE = {"float32": "FP32", "float16": "FP16", "int64": "INT64", "int32": "INT32", "uint8": "UINT8", "bool": "BOOL"}


@dataclass(frozen=True, kw_only=True)
class Pushed:
    source: str  # oci://HOST/REPOSITORY
    digest: str  # of the manifest
    built: Built


def golden(*cases: tuple[Arrays, Arrays], **tolerances: float) -> dict[str, bytes]:
    """golden.json and golden.bin for cases of (inputs, outputs)."""
    data = b""

    def tensors(arrays: Arrays) -> list[dict[str, object]]:
        nonlocal data
        listed = []
        for name, array in arrays.items():
            datatype = _DATATYPE.get(array.dtype.name, "BYTES")
            raw = to_binary(datatype, array)
            listed.append(
                {"name": name, "datatype": datatype, "shape": array.shape, "offset": len(data), "size": len(raw)}
            )
            data += raw
        return listed

    listed = [{"inputs": tensors(inputs), "outputs": tensors(outputs)} for inputs, outputs in cases]
    return {"golden.json": json.dumps({"format": 1, "cases": listed, **tolerances}).encode(), "golden.bin": data}


def golden_of(factor: float, width: int = 4) -> dict[str, bytes]:
    """Golden data of onnx_models.constant_times(factor, width)."""
    row = np.arange(width, dtype=np.float32).reshape(1, width)
    return golden(({"x": row}, {"y": row * np.float32(factor)}))


def made(files: Mapping[str, bytes], *, name: str = "m", version: str = "1") -> Built:
    listed = [File(path=path, digest=digest_of(data), size=len(data)) for path, data in files.items()]
    return build(listed, name=name, version=version)


def push(host: str, repository: str, files: Mapping[str, bytes], *, name: str = "m", version: str = "1") -> Pushed:
    """Builds the artifact of `files`, path -> content, and pushes it, tagged with its version."""
    built = made(files, name=name, version=version)
    client = Client(host, repository)
    for data in (*files.values(), built.config):
        client.blob(data)
    client.manifest(built.manifest, tag=version)
    return Pushed(source=f"oci://{host}/{repository}", digest=built.digest, built=built)


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


class Client:
    """Writes to one repository. Sends the test registry's user and password, which one without asks for neither."""

    def __init__(self, host: str, repository: str) -> None:
        self._connection = http.client.HTTPConnection(host, timeout=20)
        self._base = f"/v2/{repository}"
        self._authorization = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"

    def blob(self, data: bytes) -> str:
        _, location = self._ask("POST", f"{self._base}/blobs/uploads/", status=202)
        digest = digest_of(data)
        target = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        self._ask("PUT", target, data, {"Content-Type": "application/octet-stream"}, status=201)
        return digest

    def manifest(self, data: bytes, *, tag: str | None = None, media_type: str = manifest.MEDIA_TYPE) -> str:
        digest = digest_of(data)
        self._ask("PUT", f"{self._base}/manifests/{tag or digest}", data, {"Content-Type": media_type}, status=201)
        return digest

    def delete_blob(self, digest: str) -> None:
        self._ask("DELETE", f"{self._base}/blobs/{digest}", status=202)

    def _ask(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, status: int
    ) -> tuple[bytes, str]:
        # An upload's address is absolute.
        path = target.partition("://")[2].partition("/")[2] if "://" in target else target[1:]
        self._connection.request(
            method,
            f"/{path}",
            body,
            {"Authorization": self._authorization, "Content-Length": str(len(body)), **(headers or {})},
        )
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != status:
            raise AssertionError(f"{method} {path}: {answer.status} {text[:300]!r}")
        return text, answer.headers.get("Location", "")


def sign(pushed: Pushed, *pairs: Pair) -> None:
    """Puts signatures beside an artifact as `cosign sign` does."""
    host, _, repository = pushed.source.removeprefix("oci://").partition("/")
    content, blobs = bundle.build_manifest([keys.sign(pushed.digest, pair.private) for pair in pairs])
    client = Client(host, repository)
    for blob in blobs:
        client.blob(blob)
    client.manifest(content, tag=bundle.tag(pushed.digest))
