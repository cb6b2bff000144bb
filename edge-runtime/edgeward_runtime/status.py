"""What the runtime answers to the agent at GET /edgeward/v1/status (../contract/status.schema.json)."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Set
from dataclasses import dataclass

from edgeward_runtime import agreement
from edgeward_runtime.config import CANARY, CONTRACT, STABLE, STAGED, Entry
from edgeward_runtime.lifecycle import Progress, Refused, State
from edgeward_runtime.metrics import BOUNDS_S
from edgeward_runtime.model import Model


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """The version that answers for a name."""

    entry: Entry
    progress: Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigRefused:
    reason: str
    message: str
    at: float


def timestamp(unix: float) -> str:
    """RFC 3339, UTC, whole seconds."""
    return datetime.datetime.fromtimestamp(unix, tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def document(
    *,
    revision: int,
    wanted: Mapping[tuple[str, str], tuple[Entry, Progress]],
    serving: Mapping[tuple[str, str], Serving],
    config_refused: ConfigRefused | None,
    versions: Mapping[tuple[str, str], Model] | None = None,
    gaps: Set[str] = frozenset(),
    started: float | None = None,
) -> dict[str, object]:
    """One entry for each wanted version, failed ones too, and one for each that serves and is not the wanted one.

    wanted, serving: by name and role. versions: those with counters, by name and version. gaps: names that no version
    answers for because the old one made room. started: when the process began, Unix seconds.
    """
    shown: list[tuple[Entry, Progress, bool]] = []
    for place, (entry, progress) in wanted.items():
        live = serving.get(place)
        serves = progress.state is State.SERVING
        shown.append((entry, progress, serves))
        if live is not None and not serves:
            shown.append((live.entry, live.progress, True))
    shown += [(live.entry, live.progress, True) for place, live in serving.items() if place not in wanted]
    models: list[dict[str, object]] = []
    for entry, progress, serves in shown:
        model = _model(entry, progress, serves)
        version = (versions or {}).get((entry.name, entry.version))
        if version is not None and version.digest == entry.digest and entry.role != STAGED:
            model["counters"] = counters(version)
        if entry.name in gaps and entry.role == STABLE and not serves:
            model["gap"] = True
        models.append(model)
    answer: dict[str, object] = {"contract": CONTRACT, "revision": revision, "models": models}
    if started is not None:
        answer["started"] = timestamp(started)
    if config_refused is not None:
        answer["configRefused"] = {
            "reason": config_refused.reason,
            "message": config_refused.message,
            "at": timestamp(config_refused.at),
        }
    return answer


def _model(entry: Entry, progress: Progress, serving: bool) -> dict[str, object]:
    model: dict[str, object] = {
        "name": entry.name,
        "version": entry.version,
        "digest": entry.digest,
        "state": progress.state.value,
        "serving": serving,
        "since": timestamp(progress.since),
        "parameters": entry.parameters_hash,
    }
    if entry.role == STAGED:
        model["role"] = STAGED
    if entry.role == CANARY:
        model["role"] = CANARY
        model["traffic"] = f"{entry.traffic}%"
    if entry.mirror_requests:
        model["mirrorRequests"] = entry.mirror_requests
    if progress.size is not None:
        model["bytes"] = progress.size
    if progress.received:
        model["received"] = progress.received
    if progress.shared:
        model["shared"] = progress.shared
    if progress.seconds is not None:
        model["seconds"] = round(progress.seconds, 3)
    if progress.refused is not None:
        model["refused"] = _refused(progress.refused)
    if progress.warning is not None:
        model["warning"] = _refused(progress.warning)
    return model


def _refused(refused: Refused) -> dict[str, object]:
    return {"step": refused.step, "reason": refused.reason, "message": refused.message, "at": timestamp(refused.at)}


def counters(model: Model) -> dict[str, object]:
    """What a version did, for who decides whether it may go on. Errors are answers of 500 and above but 503: a request
    that does not fit the model is the client's, a full queue the box's."""
    stats, copies = model.stats, model.copies
    errors = sum(count for status, count in stats.failures.items() if status >= 500 and status != 503)
    counted: dict[str, object] = {
        "requests": stats.successes + errors,
        "errors": errors,
        "latency": {"bounds": list(BOUNDS_S), "counts": list(stats.buckets), "sum": round(stats.duration_ns / 1e9, 6)},
    }
    if copies.requests or copies.dropped:
        counted["mirror"] = {
            "requests": copies.requests,
            "agreed": copies.agreed,
            "failed": copies.failed,
            "dropped": copies.dropped,
            "agreement": {
                "bounds": list(agreement.BOUNDS),
                "counts": list(copies.buckets),
                "sum": round(copies.score, 6),
            },
        }
    if model.tap is not None:
        counted |= model.tap.counters()
    return counted
