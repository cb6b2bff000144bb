"""Triton's model_repository and statistics extensions, as far as they are true here: versions come from the InferenceJob
(or the file named at start), so that a client can look at them but neither load nor unload any.

Shapes: extension_model_repository and extension_statistics of Triton's protocol documents.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from time import perf_counter_ns
from typing import Any

import orjson

from edgeward_runtime.errors import ProtocolError, bad_request
from edgeward_runtime.metrics import ModelStats
from edgeward_runtime.model import Model

_WHO = "versions are set by the InferenceJob, or by the file that this server was started with"


def options(body: bytes) -> dict[str, Any]:
    """The JSON object that an index, load or unload request may have; clients send none, an empty one, or more."""
    if not body:
        return {}
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"failed to parse the request JSON: {error}") from None
    if type(document) is not dict:
        raise bad_request("the request must be a JSON object")
    return document


def index(
    status: Iterable[Mapping[str, Any]], versions: Iterable[tuple[Model, str]], asked: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Every version that serves, is on its way, was refused, or has been replaced. `status` are the models of the
    status document, `versions` those of the registry."""
    ready_only = asked.get("ready", False)
    if type(ready_only) is not bool:
        raise bad_request("ready must be true or false")
    entries = {(one["name"], one["version"]): _state(one) for one in status}
    for model, _state_here in versions:
        if (model.name, model.version) not in entries:
            held = model.session is not None
            entries[model.name, model.version] = ("UNLOADING", "draining") if held else ("UNAVAILABLE", "unloaded")
    return [
        {"name": name, "version": version, "state": state, "reason": reason}
        for (name, version), (state, reason) in sorted(entries.items())
        if state == "READY" or not ready_only
    ]


def _state(model: Mapping[str, Any]) -> tuple[str, str]:
    if model["serving"]:
        return "READY", ""
    refused = model.get("refused")
    if refused is not None:
        return "UNAVAILABLE", f"{refused['step']}: {refused['reason']}: {refused['message']}"
    return "LOADING", str(model["state"])


def load(name: str, status: Iterable[Mapping[str, Any]], asked: Mapping[str, Any]) -> None:
    """Nothing to do for a model that serves; an error that says why for all others."""
    parameters = asked.get("parameters") or {}
    if type(parameters) is not dict:
        raise bad_request("parameters must be an object")
    if any(key == "config" or key.startswith("file:") for key in parameters):
        raise bad_request(f"failed to load '{name:.300}': a config or files cannot be given; {_WHO}")
    entries = [one for one in status if one["name"] == name]
    if any(one["serving"] for one in entries):
        return
    for one in entries:
        state, reason = _state(one)
        raise ProtocolError(503, f"failed to load '{name}': version {one['version']} is {state}: {reason}")
    raise ProtocolError(404, f"failed to load '{name:.300}': no such model here; {_WHO}")


def unload(name: str) -> None:
    raise bad_request(f"failed to unload '{name:.300}': explicit unload is not possible; {_WHO}")


def statistics(models: Iterable[Model]) -> dict[str, object]:
    """Of each version since it was loaded first. Answers are not cached: the cache's counts are 0."""
    return {"model_stats": [_model_statistics(model) for model in models]}


def _model_statistics(model: Model) -> dict[str, object]:
    stats = model.stats
    count = stats.successes
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": _unix_ms(stats),
        "inference_count": stats.rows,
        "execution_count": stats.executions,
        "inference_stats": {
            "success": _duration(count, stats.duration_ns),
            "fail": _duration(sum(stats.failures.values()), stats.failed_ns),
            "queue": _duration(count, stats.queue_ns),
            "compute_input": _duration(count, stats.input_ns),
            "compute_infer": _duration(count, stats.infer_ns),
            "compute_output": _duration(count, stats.output_ns),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(runs, parse),
                "compute_infer": _duration(runs, infer),
                "compute_output": _duration(runs, output),
            }
            for rows, (runs, parse, infer, output) in sorted(stats.batches.items())
        ],
    }


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def _unix_ms(stats: ModelStats) -> int:
    """Of the last answer, 0 before the first. Requests note the monotonic clock only, which they read anyway."""
    return int(time.time() * 1000) - (perf_counter_ns() - stats.last_ns) // 1_000_000 if stats.last_ns else 0
