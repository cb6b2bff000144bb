"""A small client of the Open Inference Protocol with the binary tensor extension. numpy only, as it runs in pods too."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

_TYPES = {np.dtype(np.float32): "FP32", np.dtype(np.int32): "INT32"}
_DTYPES = {name: dtype for dtype, name in _TYPES.items()}


class InferError(Exception):
    """The request was not answered as it should be."""


@dataclass(frozen=True)
class Answer:
    model: str
    version: str
    tensor: np.ndarray
    seconds: float


class Client:
    """One kept connection to one server, for one thread. Raises InferError."""

    def __init__(self, url: str, *, timeout: float = 10) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout)

    def close(self) -> None:
        self._connection.close()

    def infer(self, model: str, *, name: str, tensor: np.ndarray) -> Answer:
        """The first output for one input."""
        raw = tensor.tobytes()
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": name,
                        "shape": list(tensor.shape),
                        "datatype": _TYPES[tensor.dtype],
                        "parameters": {"binary_data_size": len(raw)},
                    }
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        started = time.perf_counter()
        try:
            self._connection.request("POST", f"/v2/models/{model}/infer", head + raw, headers)
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise InferError(f"{type(error).__name__}: {error}") from error
        seconds = time.perf_counter() - started
        if response.status != 200:
            raise InferError(f"{response.status}: {body[:300].decode(errors='replace')}")
        length = int(response.getheader("Inference-Header-Content-Length") or len(body))
        document = json.loads(body[:length])
        output = document["outputs"][0]
        values = np.frombuffer(body[length:], _DTYPES[output["datatype"]]).reshape(output["shape"])
        return Answer(document["model_name"], document["model_version"], values, seconds)
