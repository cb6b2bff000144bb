"""What may be kept of requests: the strictest of job, namespace and site, wherever it is said and whenever it changes."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from edgeward.fleet.redaction import STRICTEST_FIRST, strictest
from tests.unit.fleet.objects import job
from tests.unit.fleet.objects import site as site_object

from .world import World, plan_of

PLAN = plan_of({"a1": 1})


def kept(world: World) -> Any:
    (told,) = world.assignments.values()
    return told["spec"]["effective"].get("capture")


def labelled(redaction: str | None) -> dict[str, str]:
    return {} if redaction is None else {"edgeward.dev/redaction": redaction}


def world_of(
    *, asked: str | None = None, namespace: str | None = None, site: str | None = None, capture: bool = True
) -> World:
    world = World()
    spec: dict[str, Any] = {"rules": [{"when": "Always"}]}
    if asked is not None:
        spec["redaction"] = asked
    world.job = job(capture=spec) if capture else job()
    say(world, namespace=namespace, site=site)
    return world


def say(world: World, *, namespace: str | None = None, site: str | None = None) -> None:
    world.namespaces = [{"metadata": {"name": "shop", "labels": labelled(namespace)}}]
    world.sites = [] if site is None else [labelled_site(site)]


def labelled_site(redaction: str) -> Any:
    found = site_object("a")
    found["metadata"]["labels"] = labelled(redaction)
    return found


@pytest.mark.parametrize(("asked", "namespace", "site"), list(product([*STRICTEST_FIRST, None], repeat=3)))
def test_the_strictest_wins(asked: str | None, namespace: str | None, site: str | None) -> None:
    world = world_of(asked=asked, namespace=namespace, site=site)
    world.settle(PLAN)
    said = [one for one in (asked or "Features", namespace, site) if one is not None]
    assert kept(world)["redaction"] == min(said, key=STRICTEST_FIRST.index)


def test_without_capture_nothing_is_said() -> None:
    world = world_of(capture=False, site="Sketch")
    world.settle(PLAN)
    assert kept(world) is None


def test_what_cannot_be_read_lets_nothing_be_kept() -> None:
    assert strictest(["Raw", "raw"]) == "None"


def test_a_stricter_word_reaches_what_runs_and_is_written_once() -> None:
    world = world_of(asked="Raw")
    world.settle(PLAN)
    assert kept(world)["redaction"] == "Raw"
    say(world, site="Features")
    world.settle(PLAN)
    assert kept(world)["redaction"] == "Features"
    before = world.writes
    world.settle(PLAN)
    assert world.writes == before


def test_it_reaches_a_job_that_is_left_as_it_is() -> None:
    """A namespace label that makes no sense holds the job where it is; what is kept there is stopped at once."""
    world = world_of(asked="Raw")
    world.settle(PLAN)
    say(world, namespace="Sketchy")
    world.settle(PLAN)
    assert kept(world)["redaction"] == "None"
