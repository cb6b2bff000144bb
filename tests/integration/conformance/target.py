"""The server that the conformance suite runs against, and the models that it has to serve.

Ours is started for it. Any other is named by the environment, with the models of MODELS loaded under their names:

    EDGEWARD_CONFORMANCE_REST      host:port of its REST side
    EDGEWARD_CONFORMANCE_GRPC      host:port of its gRPC side
    EDGEWARD_CONFORMANCE_VERSION   the version of its models

Cases marked `ours` are about what this project decided where the protocol leaves a choice; others do not run them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from tests.integration.test_runtime_serving import Server, free_port, server
from tests.unit.runtime import onnx_models
from tests.unit.runtime.http_source import serving

LIMIT = 20.0  # seconds for anything to happen on a busy machine
VERSION = os.environ.get("EDGEWARD_CONFORMANCE_VERSION", "2026.1")  # versions are strings
MAX_BODY = 8_000_000  # bytes, of our server in this suite

# Datatype -> ONNX's element type and values that show sign, range and rounding.
DATATYPES: dict[str, tuple[int, list[Any]]] = {
    "BOOL": (TensorProto.BOOL, [True, False, True]),
    "UINT8": (TensorProto.UINT8, [0, 1, 255]),
    "UINT16": (TensorProto.UINT16, [0, 1, 2**16 - 1]),
    "UINT32": (TensorProto.UINT32, [0, 1, 2**32 - 1]),
    "UINT64": (TensorProto.UINT64, [0, 1, 2**64 - 1]),
    "INT8": (TensorProto.INT8, [-128, 0, 127]),
    "INT16": (TensorProto.INT16, [-(2**15), 0, 2**15 - 1]),
    "INT32": (TensorProto.INT32, [-(2**31), 0, 2**31 - 1]),
    "INT64": (TensorProto.INT64, [-(2**63), 0, 2**63 - 1]),
    "FP16": (TensorProto.FLOAT16, [-1.5, 0.1, 65504.0]),
    "BF16": (TensorProto.BFLOAT16, [-1.5, 0.1, 3e38]),
    "FP32": (TensorProto.FLOAT, [-1.5, 0.1, 3e38]),
    "FP64": (TensorProto.DOUBLE, [-1.5, 0.1, 1e300]),
    "BYTES": (TensorProto.STRING, ["", "a", "grün ☃"]),
}
NUMPY = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "BF16": ml_dtypes.bfloat16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_,
}  # fmt: skip
MODELS = {
    "simple": onnx_models.sum_and_difference(),
    "mlp": onnx_models.mlp(),
    "text": onnx_models.identity(TensorProto.STRING, (1,)),
    "scalar": onnx_models.identity(TensorProto.FLOAT, ()),
    **{name: onnx_models.identity(element, (None, None)) for name, (element, _values) in DATATYPES.items()},
}
FIRST, SECOND = np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), 3, np.int32)


@dataclass(frozen=True, kw_only=True)
class Target:
    rest: str
    grpc: str

    @property
    def host(self) -> str:
        return self.rest.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.rest.rpartition(":")[2])


def foreign() -> Target | None:
    """The server that the environment names."""
    rest = os.environ.get("EDGEWARD_CONFORMANCE_REST")
    return Target(rest=rest, grpc=os.environ.get("EDGEWARD_CONFORMANCE_GRPC", "")) if rest else None


@contextlib.contextmanager
def ours(folder: Path, **settings: str) -> Iterator[tuple[Target, Server]]:
    """One server of ours with all models, as in a pod: following a models.json."""
    grpc = free_port()
    with serving() as source:
        entries = []
        for name, content in MODELS.items():
            source.files[f"/{name}.onnx"] = content
            digest = onnx_models.digest(content)
            entries.append(
                {"name": name, "version": VERSION, "digest": digest, "sources": [source.url(f"/{name}.onnx")]}
            )
        with server(folder, EDGEWARD_GRPC_PORT=str(grpc), EDGEWARD_MAX_BODY_BYTES=str(MAX_BODY), **settings) as one:
            one.want(*entries)
            one.until(lambda: one.get("/v2/health/ready")[0] == 200)
            yield Target(rest=f"127.0.0.1:{one.port}", grpc=f"127.0.0.1:{grpc}"), one


def values_of(datatype: str, rows: int) -> Any:
    """[rows, 3] of the datatype's telling values."""
    return np.array([DATATYPES[datatype][1]] * rows, NUMPY[datatype]).reshape(rows, 3)
