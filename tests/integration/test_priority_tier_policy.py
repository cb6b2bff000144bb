"""The highest priority tier of a namespace: what the API server refuses with the chart's policy, and what the operator
refuses by itself. Also the quotas of a namespace, which only the operator knows."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import Binaries, ControlPlane, silent
from tests.unit.chart.values_table import CHART

from .operator_harness import Operator, World, eventually

LABEL = "edgeward.dev/max-priority-tier"
LOW, MIDDLE, TOP = ({"importance": mark, "urgency": mark, "satisfaction": mark} for mark in (2, 3, 5))
"""priority tiers 2, 3 and 5"""


def policy(*, default: int, directory: Path) -> list[dict[str, Any]]:
    """The policy and its binding as Helm renders them."""
    binaries = Binaries(say=silent)
    binaries.ensure("helm")
    given = directory / "values.yaml"
    given.write_text(yaml.safe_dump({"config": {"placement": {"maxPriorityTier": default}}}))
    command = [str(binaries.path("helm")), "template", "edgeward", str(CHART), "--values", str(given)]
    command += ["--show-only", "templates/prioritytierpolicy.yaml"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    return list(yaml.safe_load_all(text))


class Door:
    """Tries to make jobs and says what came of it."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def space(self, name: str, limit: str | None) -> None:
        labels = {} if limit is None else {LABEL: limit}
        self._plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    def refusal(self, space: str, name: str, priority: dict[str, int] | None, *, dry: bool = False, **more: Any) -> str:
        """What the API server says to the job; empty when it takes it. dry: nothing is made, as a job that is there may
        be applied again whatever its tier."""
        spec = {"model": {"name": "reader"}, **({} if priority is None else {"priority": priority}), **more}
        job = {"apiVersion": "edgeward.dev/v1alpha1", "kind": "InferenceJob", "metadata": {"name": name}, "spec": spec}
        done = self._plane.kubectl(
            "apply", *(["--dry-run=server"] if dry else []), "-n", space, "-f", "-", stdin=json.dumps(job), check=False
        )
        return done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def door(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """With the policy in force; 4 is the default of namespaces without a label."""
    objects = policy(default=4, directory=tmp_path_factory.mktemp("policy"))
    door = Door(control_plane)
    door.space("tier-probe", "1")
    control_plane.apply(*objects)
    # The API server reads a new policy after a moment.
    eventually(
        lambda: door.refusal("tier-probe", "probe", TOP, dry=True), what="the policy is in force", every=0.5, seconds=60
    )
    yield door
    for item in objects:
        control_plane.kubectl("delete", item["kind"].lower(), item["metadata"]["name"])


CASES: list[tuple[str | None, dict[str, int] | None, str]] = [
    ("3", MIDDLE, ""),
    ("3", None, ""),
    ("3", {"importance": 4}, "tier 4; namespace"),  # what is left out is 3: (4 + 3 + 3 + 2) // 3 = 4
    ("3", {"importance": 4, "urgency": 2}, ""),  # (4 + 2 + 3 + 2) // 3 = 3
    ("2", None, "tier 3; namespace"),
    ("3", TOP, "tier 5; namespace"),
    (None, TOP, "may have 4 at most"),
    (None, {"importance": 4, "urgency": 4, "satisfaction": 4}, ""),
    ("5", TOP, ""),
    ("high", LOW, "is high, not a priority tier from 1 to 5: correct or remove it"),
]


@pytest.mark.parametrize(("limit", "priority", "refused"), CASES)
def test_the_api_server_refuses_what_is_above_the_limit(
    door: Door, limit: str | None, priority: dict[str, int] | None, refused: str
) -> None:
    space = f"tier-{CASES.index((limit, priority, refused))}"
    door.space(space, limit)
    said = door.refusal(space, "job", priority)
    assert bool(said) == bool(refused)
    assert refused in said


def test_the_refusal_says_what_to_do(door: Door) -> None:
    door.space("tier-words", "3")
    said = door.refusal("tier-words", "job", TOP)
    assert "forbidden" in said.lower()
    assert (
        "spec.priority makes priority tier 5; namespace tier-words may have 3 at most: lower importance, urgency or"
        " satisfaction, or have label edgeward.dev/max-priority-tier of the namespace raised" in said
    )


def test_a_job_from_before_the_limit_can_be_edited_and_lowered_but_not_raised(door: Door) -> None:
    door.space("tier-before", "5")
    assert door.refusal("tier-before", "job", {"importance": 4, "urgency": 4, "satisfaction": 4}) == ""
    door.space("tier-before", "2")
    # A namespace's labels reach the policy through a cache.
    eventually(
        lambda: door.refusal("tier-before", "other", MIDDLE, dry=True), what="the new limit", every=0.5, seconds=60
    )
    assert door.refusal("tier-before", "job", {"importance": 4, "urgency": 4, "satisfaction": 4}, replicas=2) == ""
    assert "tier 5" in door.refusal("tier-before", "job", TOP)
    assert door.refusal("tier-before", "job", MIDDLE) == "", "still above, but lower than it was"


# Without the policy --------------------------------------------------------------------------------------------------


def label(world: World, namespace: str, **labels: str | None) -> None:
    texts = [f"edgeward.dev/{key.replace('_', '-')}" + (f"={value}" if value else "-") for key, value in labels.items()]
    world.plane.kubectl("label", "--overwrite", "namespace", namespace, *texts)


def test_the_operator_refuses_by_itself_and_places_once_the_limit_is_raised(
    world: World, operator: Operator, namespace: str
) -> None:
    label(world, namespace, max_priority_tier="3")
    world.job(namespace, "high", priority=TOP)
    world.job(namespace, "usual", priority=MIDDLE)
    world.await_ready(namespace, "usual")
    ready = world.await_condition(namespace, "high", "Ready", "False", reason="PolicyForbids")
    assert "spec.priority makes priority tier 5; namespace" in ready["message"]
    world.await_condition(namespace, "high", "Stalled", "True")
    assert world.pods(namespace, "high") == []
    label(world, namespace, max_priority_tier="5")
    world.await_ready(namespace, "high")


def test_a_limit_that_comes_down_stops_nothing_that_runs(world: World, operator: Operator, namespace: str) -> None:
    world.job(namespace, "high", priority=TOP)
    world.await_ready(namespace, "high")
    before = world.uids(namespace)
    label(world, namespace, max_priority_tier="2")
    world.await_condition(namespace, "high", "Ready", "False", reason="PolicyForbids")
    assert world.uids(namespace) == before


def test_a_namespaces_quota_holds_for_all_its_jobs_and_says_what_is_used(
    world: World, operator: Operator, namespace: str
) -> None:
    label(world, namespace, max_replicas="3")
    world.job(namespace, "first", replicas=2)
    world.await_ready(namespace, "first")
    world.job(namespace, "second", replicas=2)
    ready = world.await_condition(namespace, "second", "Ready", "False", reason="QuotaExceeded")
    assert f"namespace {namespace}: edgeward.dev/max-replicas is 3, 3 used, 1 more wanted" in ready["message"]
    world.await_condition(namespace, "second", "Stalled", "True")
    assert len(world.scheduled_on(namespace, "second")) == 1
    label(world, namespace, max_replicas=None)
    world.await_ready(namespace, "second")
