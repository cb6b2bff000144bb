"""What the runtime answers to the agent at GET /edgeward/v1/status (../contract/status.schema.json)."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from edgeward_runtime.config import CONTRACT, Entry
from edgeward_runtime.lifecycle import Progress, Refused, State


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
    wanted: Mapping[str, tuple[Entry, Progress]],
    serving: Mapping[str, Serving],
    config_refused: ConfigRefused | None,
) -> dict[str, object]:
    """One entry for each wanted version, failed ones too, and one for each that serves and is not the wanted one."""
    models: list[dict[str, object]] = []
    for name, (entry, progress) in wanted.items():
        live = serving.get(name)
        serves = progress.state is State.SERVING
        models.append(_model(entry, progress, serves))
        if live is not None and not serves:
            models.append(_model(live.entry, live.progress, True))
    models += [_model(live.entry, live.progress, True) for name, live in serving.items() if name not in wanted]
    answer: dict[str, object] = {"contract": CONTRACT, "revision": revision, "models": models}
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
    }
    if progress.size is not None:
        model["bytes"] = progress.size
    if progress.seconds is not None:
        model["seconds"] = round(progress.seconds, 3)
    if progress.refused is not None:
        model["refused"] = _refused(progress.refused)
    return model


def _refused(refused: Refused) -> dict[str, object]:
    return {"step": refused.step, "reason": refused.reason, "message": refused.message, "at": timestamp(refused.at)}
