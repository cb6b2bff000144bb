"""Requests of pods and amounts of nodes, as the stock scheduler counts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeward.api.common import QuantityError, parse_bytes, parse_cpu, parse_quantity

from .model import Resources

Raw = Mapping[str, Any]

DEFAULT_REQUEST = Resources(cpu=100, memory=128 * 1024 * 1024, pods=1)
"""what one replica is taken to need when its job names nothing: the runtime with a small model"""


def pod_request(pod: Raw) -> Resources:
    """What the scheduler counts for a pod: the sum of its containers, or its largest init container, plus overhead.

    Sidecars (init containers that restart always) count with the containers; amounts of the pod itself replace what its
    containers add up to. Source: the Kubernetes documentation on init containers, pod overhead and pod-level resources.
    """
    spec = pod.get("spec") or {}
    running, largest = Resources(), Resources()
    for container in spec.get("initContainers") or []:
        need = amounts(_requests(container))
        if container.get("restartPolicy") == "Always":
            running += need
            largest = _larger(largest, running)
        else:
            largest = _larger(largest, running + need)
    for container in spec.get("containers") or []:
        running += amounts(_requests(container))
    total = _larger(running, largest)
    whole = _requests(spec)
    own, overhead = amounts(whole), amounts(spec.get("overhead") or {})
    return Resources(
        cpu=(own.cpu if "cpu" in whole else total.cpu) + overhead.cpu,
        memory=(own.memory if "memory" in whole else total.memory) + overhead.memory,
        pods=1,
        storage=total.storage + overhead.storage,
        extended=total.extended,
    )


def _requests(container: Raw) -> Raw:
    found: Raw = (container.get("resources") or {}).get("requests") or {}
    return found


def _larger(one: Resources, other: Resources) -> Resources:
    names = sorted({name for name, _ in one.extended + other.extended})
    return Resources(
        max(one.cpu, other.cpu),
        max(one.memory, other.memory),
        max(one.pods, other.pods),
        max(one.storage, other.storage),
        tuple((name, max(one.count(name), other.count(name))) for name in names),
    )


def amounts(raw: Raw) -> Resources:
    """What cannot be read counts as nothing: a node so has no room, and no other object suffers for it."""
    return Resources(
        cpu=_amount(parse_cpu, raw.get("cpu")),
        memory=_amount(parse_bytes, raw.get("memory")),
        # The API writes a count as a quantity too: 1000 pods are `1k`.
        pods=_count(raw.get("pods")),
        storage=_amount(parse_bytes, raw.get("ephemeral-storage")),
        extended=tuple(sorted((name, count) for name in raw if "/" in name and (count := _count(raw[name])))),
    )


def _count(value: object) -> int:
    return _amount(lambda given: int(parse_quantity(given)), value)


def _amount(reader: Any, value: object) -> int:
    if not isinstance(value, str | int):
        return 0
    try:
        return int(reader(value))
    except QuantityError:
        return 0


def request_of(requests: Raw, limits: Raw) -> Resources:
    """What one replica requests. As in a pod, a limit without a request is the request; what neither names is a default.

    Raises QuantityError for an amount that cannot be read.
    """
    both = {**limits, **requests}
    cpu, memory, storage = both.get("cpu"), both.get("memory"), both.get("ephemeral-storage")
    extended = ((name, int(parse_quantity(amount))) for name, amount in both.items() if "/" in name)
    return Resources(
        cpu=DEFAULT_REQUEST.cpu if cpu is None else parse_cpu(cpu),
        memory=DEFAULT_REQUEST.memory if memory is None else parse_bytes(memory),
        pods=1,
        storage=0 if storage is None else parse_bytes(storage),
        extended=tuple(sorted((name, count) for name, count in extended if count > 0)),
    )
