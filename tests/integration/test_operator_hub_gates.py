"""Gates that the hub's own Prometheus answers, with a real one and a real API server."""

from __future__ import annotations

import pytest

from .operator_harness import eventually
from .test_operator_gates import INTERVAL, Story, rollout, story

__all__ = ["story"]


def released(story: Story, query: str) -> None:
    gate = {"name": "central", "query": query, "evaluateAt": "Hub", "interval": f"{INTERVAL}s", "max": "0.1"}
    story.world.release(story.namespace, version="2.0.0", digest=2, rollout=rollout(), gates=[gate])


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ('sum(up{job="cadvisor"}) * 0 + 0.2', "RolledBack"),
        ('sum(up{job=~"cadvisor|{{model}}-{{version}}"}) * 0 + 0.01', "Released"),
    ],
)
def test_a_query_to_the_hubs_prometheus_decides(story: Story, query: str, reason: str) -> None:
    released(story, query)
    eventually(lambda: story.ready().get("reason") == reason, what=reason, seconds=90)
    (told,) = story.release["status"]["gates"]
    assert told["outcome"] == ("Failed" if reason == "RolledBack" else "Passed")
    assert told["query"] == query.replace("{{model}}-{{version}}", "reader-2.0.0") and told["samples"] >= 1
    assert all("watch" not in item["spec"] for item in story.assignments().values()), "no site is asked"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ('sum(nobody_counts{model="{{model}}"})', "NoData: no value"),
        ("sum(up", "Error: Prometheus at"),
        ('up{site="{{shop}}"}', "unknown placeholder {{shop}}"),
    ],
)
def test_what_has_no_answer_is_waited_for_and_says_why(story: Story, query: str, words: str) -> None:
    released(story, query)
    said = eventually(
        lambda: (one := story.ready()).get("reason") == "WaitingForData" and one, what="it waits", seconds=60
    )
    assert words in said["message"], said["message"]
    assert story.canary(), "and goes neither on nor back"
