"""What a namespace's labels allow to its jobs, and which jobs they forbid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from edgeward.api.common import QuantityError, parse_cpu
from edgeward.api.inferencejob import InferenceJob

from .model import Namespace, Problem
from .names import LABEL_MAX_CPU, LABEL_MAX_PRIORITY_TIER, LABEL_MAX_REPLICAS, LABEL_REDACTION
from .redaction import of_label

Raw = Mapping[str, Any]
LOWEST, HIGHEST = 1, 5


class Limits:
    """Of all namespaces. A label that cannot be read protects: jobs of its namespace are not placed until it can."""

    def __init__(self, raws: Iterable[Raw], *, max_priority_tier: int) -> None:
        self.max_priority_tier = max_priority_tier
        """of a namespace that does not say"""
        self._known: dict[str, Namespace] = {}
        self._problems: dict[str, Problem] = {}
        for raw in raws:
            self._read(raw["metadata"]["name"], raw["metadata"].get("labels") or {})

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        """Those that have a limit of their own."""
        return tuple(self._known[name] for name in sorted(self._known))

    def problem(self, job: InferenceJob) -> Problem | None:
        """Why the job's namespace forbids it; None when it does not. What it runs already stays."""
        broken = self._problems.get(job.namespace)
        if broken is not None:
            return broken
        own = self._known.get(job.namespace)
        limit = own.max_priority_tier if own and own.max_priority_tier else self.max_priority_tier
        marks = job.spec.priority
        tier = (marks.importance + marks.urgency + marks.satisfaction + 2) // 3
        if tier <= limit:
            return None
        whose = f"label {LABEL_MAX_PRIORITY_TIER}" if own and own.max_priority_tier else "the default of this cluster"
        return Problem(
            reason="PolicyForbids",
            message=(
                f"spec.priority makes priority tier {tier}; namespace {job.namespace} may have {limit} at most"
                f" ({whose}): lower importance, urgency or satisfaction, or have the limit raised"
            ),
            path="spec.priority",
        )

    def _read(self, name: str, labels: Mapping[str, str]) -> None:
        read: dict[str, int | None] = {}
        for label, reader in _READERS.items():
            if label not in labels:
                continue
            try:
                read[label] = reader(labels[label])
            except ValueError as error:
                text = f"label {label} of namespace {name} is {labels[label]!r}: {error}; correct or remove it"
                self._problems.setdefault(name, Problem(reason="PolicyForbids", message=text))
        redaction = of_label(labels)
        if redaction is not None and redaction != labels[LABEL_REDACTION]:
            text = f"label {LABEL_REDACTION} of namespace {name} is {labels[LABEL_REDACTION]!r}: one of Raw, Features, Sketch"
            self._problems.setdefault(
                name, Problem(reason="PolicyForbids", message=f"{text} or None was expected; correct or remove it")
            )
        if read or redaction is not None:
            self._known[name] = Namespace(
                name=name,
                max_replicas=read.get(LABEL_MAX_REPLICAS),
                max_cpu=read.get(LABEL_MAX_CPU),
                max_priority_tier=read.get(LABEL_MAX_PRIORITY_TIER),
                redaction=redaction,
            )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("a whole number was expected, such as 20")
    return int(text)


def _cpu(text: str) -> int:
    try:
        found = parse_cpu(text)
    except QuantityError as error:
        raise ValueError("cores or millicores were expected, such as 4 or 500m") from error
    if found < 0:
        raise ValueError("it is below 0")
    return found


def _tier(text: str) -> int:
    if text not in {str(tier) for tier in range(LOWEST, HIGHEST + 1)}:
        raise ValueError(f"a priority tier was expected, {LOWEST} to {HIGHEST}")
    return int(text)


_READERS: Mapping[str, Callable[[str], int]] = {
    LABEL_MAX_REPLICAS: _count,
    LABEL_MAX_CPU: _cpu,
    LABEL_MAX_PRIORITY_TIER: _tier,
}
