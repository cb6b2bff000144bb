"""Windows at a real API server: a new version waits at the sites, and the agent switches it at its moment."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from .operator_harness import Object, eventually
from .test_operator_gates import NEW, OLD, Story, story  # noqa: F401  (a fixture)

AHEAD = 20
"""seconds until the moment: enough to get there with everybody else on the machine at work"""


def told(story: Story) -> dict[str, Object]:  # noqa: F811
    """The config of the pods, by site."""
    items = story.world.api.get(f"/api/v1/namespaces/{story.namespace}/configmaps")["items"]
    mine = [item for item in items if "models.json" in item.get("data", {})]
    return {item["metadata"]["labels"]["edgeward.dev/site"]: item for item in mine}


def roles(story: Story) -> list[list[tuple[str, str]]]:  # noqa: F811
    return [
        [(one["digest"], one["role"]) for one in json.loads(item["data"]["models.json"])["models"]]
        for item in told(story).values()
    ]


def in_seconds(count: float) -> tuple[float, str]:
    moment = float(int(time.time() + count))
    return moment, datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def waits(story: Story) -> Any:  # noqa: F811
    return story.release.get("status", {}).get("rollout", {}).get("waitsFor", "")


WAITING = [[(OLD, "Stable"), (NEW, "Staged")]] * 2


def test_sites_switch_at_the_moment_and_an_operator_that_starts_anew_keeps_it(story: Story) -> None:  # noqa: F811
    moment, written = in_seconds(AHEAD)
    story.world.release(story.namespace, version="2.0.0", digest=2, rollout={"activationTime": written})
    eventually(lambda: roles(story) == WAITING, what="it waits on both sites", seconds=AHEAD - 4)
    eventually(lambda: f"opens at {written}" in waits(story), what="what it waits for", seconds=AHEAD - 4)
    story.operator.stop()
    story.operator = story.world.operator("two").start().await_leading()
    eventually(lambda: roles(story) == [[(NEW, "Stable")]] * 2, what="switched", seconds=30 + AHEAD)
    switched = [
        write.at
        for write in story.world.writes(since=moment - AHEAD)
        if write.resource == "configmaps" and write.name in {one["metadata"]["name"] for one in told(story).values()}
    ]
    last = sorted(switched)[-2:]
    assert all(at >= moment for at in last), "not before"
    eventually(lambda: story.ready().get("reason") == "Released", what="version 2 released", seconds=30)


def test_a_closed_window_holds_it_and_abort_takes_it_back_at_once(story: Story) -> None:  # noqa: F811
    closed = datetime.fromtimestamp(time.time() + 12 * 3600, UTC)
    window = {"start": closed.strftime("%H:%M"), "duration": "1h"}
    story.world.release(story.namespace, version="2.0.0", digest=2, rollout={"windows": [window]})
    eventually(lambda: roles(story) == WAITING, what="it waits on both sites", seconds=30)
    eventually(lambda: "the window of 2 sites, next opens at" in waits(story), what="what it waits for")
    begun = time.time()
    path = f"/apis/edgeward.dev/v1alpha1/namespaces/{story.namespace}/modelreleases/reader"
    story.world.api.patch(path, {"metadata": {"annotations": {"edgeward.dev/release-command": "abort@1"}}})
    eventually(lambda: roles(story) == [[(OLD, "Stable")]] * 2, what="nothing waits any more", seconds=30)
    assert not any(write.resource.startswith("deployments") for write in story.world.writes(since=begun))
