"""A call as a request to another server of the Open Inference Protocol, and its answer back: binary tensors both ways."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from edgeward_runtime.errors import ProtocolError
from edgeward_runtime.tensors import Array, TensorSpec, from_binary, to_binary

# Tells the other server not to hand the request on again: two that offload to each other would play ball.
FORWARDED = "edgeward_forwarded"


class WireError(Exception):
    """The other server answered with something else than this model's outputs."""


def request(
    feeds: Mapping[str, Array], specs: Mapping[str, TensorSpec], names: Sequence[str], *, id: str, timeout: float
) -> tuple[bytes, int]:
    """The body and the length of its JSON part. `timeout` in seconds is what the answer may take: work that nobody waits
    for any more is not begun there either."""
    inputs: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for name, tensor in feeds.items():
        datatype = specs[name].datatype
        data = to_binary(datatype, tensor)
        raw.append(data)
        inputs.append(
            {
                "name": name,
                "datatype": datatype,
                "shape": tensor.shape,
                "parameters": {"binary_data_size": len(data)},
            }
        )
    header = orjson.dumps(
        {
            "id": id,
            "parameters": {FORWARDED: True, "timeout": max(1, int(timeout * 1e6))},
            "inputs": inputs,
            "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in names],
        }
    )
    return header + b"".join(raw), len(header)


def answer(
    body: bytes, json_length: int | None, specs: Mapping[str, TensorSpec], names: Sequence[str]
) -> tuple[list[Array], str]:
    """The tensors in the order of `names`, and the version that made them. WireError if they are not what our own model
    would have answered with: the client must not notice who did."""
    length = len(body) if json_length is None else json_length
    try:
        document = orjson.loads(memoryview(body)[:length])
        entries = {entry["name"]: entry for entry in document["outputs"]}
        version = f"{document['model_name']}/{document.get('model_version', '')}"
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise WireError(f"not an answer to infer: {error!r:.200}") from None
    found: dict[str, Array] = {}
    offset = length
    for name, entry in entries.items():
        spec = specs.get(name)
        if spec is None or name not in names:
            raise WireError(f"output {name!r:.100} was not asked for")
        size = (entry.get("parameters") or {}).get("binary_data_size")
        shape = entry.get("shape")
        if entry.get("datatype") != spec.datatype or not _fits(shape, spec.shape):
            raise WireError(f"output '{name}' is {entry.get('datatype')} {shape}, ours {spec.datatype} {spec.shape}")
        if type(size) is not int or not 0 <= size <= len(body) - offset:
            raise WireError(f"output '{name}' did not come as binary data")
        try:
            tensor = from_binary(spec, shape, math.prod(shape), body, offset, size)
        except ProtocolError as error:
            raise WireError(error.text) from None
        found[name] = np.array(tensor)  # its own memory, not the whole answer's
        offset += size
    if set(found) != set(names):
        raise WireError(f"outputs {sorted(set(names) - set(found))} are missing")
    return [found[name] for name in names], version


def _fits(shape: object, wanted: tuple[int, ...]) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) == len(wanted)
        and all(type(dim) is int and dim >= 0 and want in (-1, dim) for dim, want in zip(shape, wanted, strict=True))
    )
