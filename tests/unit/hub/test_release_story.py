"""What a release tells at each turn of its rollout: the Events, each once, from one status to the next."""

from __future__ import annotations

from typing import Any

import pytest

from edgeward.api.common import parse
from edgeward.api.modelrelease import ModelRelease, ModelReleaseStatus
from edgeward.hub.narrate import release_events

TIME = "2026-03-04T09:50:00Z"
OLD, NEW = f"sha256:{1:064x}", f"sha256:{2:064x}"
NAMES = [f"shop-{number}" for number in range(7)]


def status(name: str | None = "canary", gate: str = "", **rollout: Any) -> ModelReleaseStatus:
    """Of a rollout to 1.4.0. `name`: of the wave. `gate`: how its gate stands."""
    gates = [{"name": "errors", "outcome": gate, "message": "0.2, allowed is at most 0.1"}] if gate else []
    raw = {
        "metadata": {"name": "m", "namespace": "n"},
        "spec": {"version": "1.4.0", "artifact": {"uri": "https://m", "digest": NEW}},
        "status": {
            "currentVersion": "1.3.0",
            "currentDigest": OLD,
            "targetVersion": "1.4.0",
            "targetDigest": NEW,
            "wave": name,
            "gates": gates,
            "rollout": {"target": NEW, "phase": "Rolling", "started": TIME, "waitsFor": "it", **rollout},
        },
    }
    return parse(ModelRelease, raw).status


BAKING = {"phase": "Baking", "members": ["a"], "bakingSince": TIME}
HELD = {"hold": "Command", "why": "paused by command", "waitsFor": "promote"}
TURNS: dict[str, tuple[ModelReleaseStatus, ModelReleaseStatus, list[tuple[str, str, bool]]]] = {
    "a wave begins": (
        status(),
        status(members=NAMES),
        [("WaveStarted", "wave canary began: shop-0, shop-1, shop-2, shop-3, shop-4 and 2 more", False)],
    ),
    "it is watched": (
        status(members=["a"]),
        status(**{**BAKING, "waitsFor": "the end of its bake"}),
        [("WaveBaking", "wave canary was watched: the end of its bake", False)],
    ),
    "it passes and the next begins": (
        status(**BAKING),
        status("all", wave=1, members=["b"]),
        [("WavePassed", "wave canary passed", False), ("WaveStarted", "wave all began: b", False)],
    ),
    "a gate fails and it goes back": (
        status(gate="Passed", **BAKING),
        status(None, gate="Failed", phase="RolledBack", why="gate errors: 0.2"),
        [
            (
                "RolledBack",
                "version 1.4.0 was taken back: gate errors: 0.2; every site was told 1.3.0",
                True,
            ),
            ("GateFailed", "gate errors: 0.2, allowed is at most 0.1", True),
        ],
    ),
    "a gate has no data": (
        status(**BAKING),
        status(gate="NoData", **BAKING),
        [("GateWithoutData", "gate errors: 0.2, allowed is at most 0.1", False)],
    ),
    "somebody holds it": (
        status(**BAKING),
        status(**BAKING, **HELD),
        [("ReleaseHeld", "paused by command; waits for promote", False)],
    ),
    "and lets it go": (
        status(**BAKING, **HELD),
        status(**BAKING),
        [("ReleaseResumed", "version 1.4.0 went on", False)],
    ),
    "it is tried again": (
        status(None, phase="RolledBack", why="gate errors: 0.2"),
        status(attempt=1),
        [("ReleaseRetried", "version 1.4.0 was tried again", False)],
    ),
}


@pytest.mark.parametrize("turn", TURNS)
def test_a_turn_is_told_once(turn: str) -> None:
    before, after, told = TURNS[turn]
    assert [(str(reason), message, warning) for reason, message, warning in release_events(before, after)] == told
    assert release_events(after, after) == []


def test_an_operator_that_starts_in_the_middle_tells_nothing_again() -> None:
    """It reads the status that was written before."""
    for before, after, _ in TURNS.values():
        assert release_events(before, before) == []
        assert release_events(after, after) == []
