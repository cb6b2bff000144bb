"""`edgeward release status` as text, kept and reviewed by eye: EDGEWARD_UPDATE_GOLDEN=1 rewrites it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeward.api.assignment import Assignment
from edgeward.api.common import parse, parse_time
from edgeward.api.modelrelease import ModelRelease
from edgeward.cli.release_text import history_of, lines_of
from edgeward.cli.table import Page
from edgeward.cli.transfers import transfers

GOLDEN = Path(__file__).parent / "golden"
NOW = parse_time("2026-03-04T10:00:00Z")
DIGEST = {number: f"sha256:{number:064x}" for number in (1, 2)}
WAVES = [
    {"name": "canary", "sites": {"count": 1}, "traffic": "10%", "bake": "10m"},
    {"name": "half", "sites": {"percent": 50}},
    {"name": "all"},
]


def release(ready: str, *, spec: Any = None, **status: Any) -> ModelRelease:
    reason, _, message = ready.partition(": ")
    return parse(
        ModelRelease,
        {
            "metadata": {"name": "sign-reader", "namespace": "shop", "generation": 2},
            "spec": {
                "version": "1.4.0",
                "artifact": {"uri": "https://models/2", "digest": DIGEST[2]},
                "rollout": {"waves": WAVES},
                **(spec or {}),
            },
            "status": {
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "False",
                        "reason": reason,
                        "message": message,
                        "lastTransitionTime": "2026-03-04T09:50:00Z",
                    }
                ],
                "currentVersion": "1.3.0",
                "targetVersion": "1.4.0",
                **status,
            },
        },
    )


STARTED = "2026-03-04T09:50:00Z"
STORIES = {
    "baking": release(
        "RollingOut: 1/12 sites serve 1.4.0, wave canary (1 of 3); "
        "waits for the end of wave canary's bake at 2026-03-04T10:05:00Z",
        sites={"total": 12, "updated": 1, "pending": 9, "offline": 2},
        rollout={
            "target": DIGEST[2], "phase": "Baking", "wave": 0, "members": ["north"], "started": STARTED,
            "bakingSince": "2026-03-04T09:55:00Z", "waitsFor": "the end of wave canary's bake at 2026-03-04T10:05:00Z",
        },
        gates=[
            {"name": "errors", "outcome": "Passed", "value": "0.001", "threshold": "at most 0.01", "samples": 812,
             "looks": 2, "passes": 2, "message": "0.001, allowed is at most 0.01"},
            {"name": "agreement", "outcome": "NoData", "samples": 12, "looks": 2, "message": "12 of 100 samples"},
        ],
        exceptions=[
            {"site": "ship-3", "job": "signs", "version": "1.2.0", "state": "Offline", "reason": "SiteDisconnected",
             "message": "catches up when it is back"},
        ],
    ),
    "rolled-back": release(
        "RolledBack: every site of wave canary refuses it, north: Golden: outputs differ by 0.3; 1.3.0 serves",
        sites={"total": 12, "updated": 0, "pending": 10, "failed": 1, "offline": 1},
        rollout={"target": DIGEST[2], "phase": "RolledBack", "wave": 0, "started": STARTED, "why": "north refuses it"},
        refused=[{"version": "1.4.0", "identity": DIGEST[2], "reason": "north refuses it", "at": STARTED}],
        exceptions=[
            {"site": "north", "job": "signs", "version": "1.3.0", "state": "Failed", "reason": "GoldenFailed",
             "message": "outputs differ by 0.3"},
        ],
    ),
    "everywhere-at-once": release(
        "Released: 12/12 sites serve 1.4.0", spec={"rollout": None}, sites={"total": 12, "updated": 12}
    ),
}  # fmt: skip


def told(site: str, received: int, **model: Any) -> Assignment:
    """The Assignment of a site that fetches 1.4.0."""
    one = {"name": "sign-reader", "version": "1.4.0", "digest": DIGEST[2]}
    return parse(
        Assignment,
        {
            "metadata": {"name": f"signs-{site}", "namespace": "edgeward"},
            "spec": {"job": {"namespace": "shop", "name": "signs"}, "site": site, "revision": 1, "models": [one]},
            "status": {"models": [{**one, "received": received, "bytes": 45_000_000, **model}]},
        },
    )


MOVED = {
    "baking": [
        told("north", 4_500_000, shared=9_000_000, state="Serving", serving=True, seconds="12.5"),
        told("south", 20_000_000, state="Fetching"),
        told("west", 0, state="Fetching", bytes=None),
    ]
}


@pytest.mark.parametrize("name", sorted(STORIES))
def test_as_a_person_reads_it(name: str) -> None:
    moved = transfers(STORIES[name], MOVED.get(name, []))
    text = "\n".join(lines_of(STORIES[name], Page(width=100), now=NOW, moved=moved)) + "\n"
    file = GOLDEN / f"release-{name}.txt"
    if os.environ.get("EDGEWARD_UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()
    assert max(map(len, text.splitlines())) <= 100


def test_a_site_with_several_jobs_is_as_slow_as_the_slowest() -> None:
    """The last job's time stood for the site, be it none."""
    at_site = [told("north", 1, state="Serving", serving=True, seconds=text) for text in ("12.5", "3")]
    (one,) = transfers(STORIES["baking"], [*at_site, told("north", 1, state="Fetching")])
    assert (one.seconds, one.received, one.fetching) == (12.5, 3, True)


def test_the_bar_never_says_done_before_it_is() -> None:
    for updated in range(399):
        one = release("RollingOut: x", sites={"total": 399, "updated": updated, "pending": 399 - updated})
        assert "█" * 40 not in lines_of(one, Page(), now=NOW)[1]


def test_history() -> None:
    one = {"version": "1.3.0", "digest": DIGEST[1], "finished": STARTED, "parameters": {"threshold": 0.4}}
    text = "\n".join(history_of(release("Released: x", history=[one]), Page()))
    assert "1.3.0" in text and "threshold" in text and STARTED in text
    assert history_of(release("Released: x"), Page()) == ["no version has finished yet"]


def test_the_sample_of_the_api_can_be_shown() -> None:
    raw = yaml.safe_load((Path(__file__).parents[1] / "api" / "samples" / "modelrelease.yaml").read_text())
    assert lines_of(parse(ModelRelease, raw), Page(), now=NOW)
