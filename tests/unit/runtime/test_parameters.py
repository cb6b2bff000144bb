"""Other parameters of the version that serves go live in its session: nothing is fetched, loaded or checked."""

from __future__ import annotations

import pytest

from edgeward_runtime.capture.tap import thresholds
from edgeward_runtime.errors import Refusal
from tests.unit.runtime.test_manager import V1, V2, World
from tests.unit.runtime.test_staged import entry, staged, want


@pytest.fixture
def world(tmp_path):
    found = World(tmp_path)
    want(found, entry("1", V1, parameters={"capture": {"lowConfidence": 0.6}}))
    found.calls.clear()
    return found


def test_they_are_live_in_the_same_session(world):
    before = world.registry.live["m"]
    session = before.session
    want(world, entry("1", V1, parameters={"capture": {"lowConfidence": 0.9}}), revision=2)
    after = world.registry.live["m"]
    assert world.calls == [] and after.session is session and after is not before
    assert after.parameters == {"capture": {"lowConfidence": 0.9}}
    assert after.stats is before.stats
    assert before.session is None, "what was replaced holds nothing"
    assert world.entry("1")["state"] == "Serving" and world.manager.status()["revision"] == 2


def test_the_status_says_which_are_live(world):
    said = world.entry("1")["parameters"]
    want(world, entry("1", V1), revision=2)
    assert world.entry("1")["parameters"] == "" != said


def test_ones_that_make_no_sense_are_refused_and_the_old_ones_stay(world):
    def again(model, entry):
        raise Refusal(step="Load", reason="ParametersInvalid", message="labels", permanent=True)

    object.__setattr__(world.manager._steps._tools, "again", again)
    want(world, entry("1", V1, parameters={"labels": 3}), revision=2)
    shown = world.manager.status()["models"]
    assert [(one["state"], one["serving"]) for one in shown] == [("Failed", False), ("Serving", True)]
    assert shown[0]["refused"]["reason"] == "ParametersInvalid"
    assert world.registry.live["m"].parameters == {"capture": {"lowConfidence": 0.6}}


def test_another_version_of_the_same_bytes_is_loaded(world):
    want(world, entry("2", V1), revision=2)
    assert world.calls == ["load 2"]


def test_however_often_they_change_the_counters_of_versions_before_stay(world):
    want(world, entry("2", V2), revision=2)
    for revision in range(3, 23):
        want(world, entry("2", V2, parameters={"capture": {"drift": revision}}), revision=revision)
    assert [(model.version, state) for model, state in world.registry.versions()] == [
        ("2", "Serving"),
        ("1", "Drained"),
    ]


def test_a_request_that_holds_the_old_ones_ends_with_them(world):
    before = world.registry.live["m"]
    before.inflight = 1
    want(world, entry("1", V1), revision=2)
    assert before.session is not None
    before.inflight = 0
    world.step()
    assert before.session is None and world.registry.live["m"].session is not None


def test_they_wait_for_their_moment_like_a_version(world):
    new = {"capture": {"lowConfidence": 0.9}}
    old = entry("1", V1, parameters={"capture": {"lowConfidence": 0.6}})
    want(world, old, entry("1", V1, "Staged", parameters=new), revision=2)
    assert staged(world)["state"] == "Staged"
    assert world.registry.live["m"].parameters == {"capture": {"lowConfidence": 0.6}}
    want(world, entry("1", V1, parameters=new), revision=3)
    assert world.registry.live["m"].parameters == new and world.calls == []


def test_after_a_restart_the_last_ones_serve(world):
    want(world, entry("1", V1, parameters={"labels": ["stop"]}), revision=2)
    world.restart()
    world.offline = True
    want(world, entry("1", V1, parameters={"labels": ["stop"]}), revision=2)
    assert world.entry("1")["state"] == "Serving"


@pytest.mark.parametrize("rules", [3, [{"when": "Never"}], [{"when": "Always", "every": 0}], [{"when": "Always"}] * 17])
def test_sampling_rules_that_make_no_sense(rules):
    with pytest.raises(Refusal, match=r"capture\.rules"):
        thresholds({"capture": {"rules": rules}})


def test_sampling_rules_come_with_the_model():
    assert thresholds({}).rules is None
    (rule,) = thresholds({"capture": {"rules": [{"when": "Drifted", "every": 10, "priority": 2}]}}).rules
    assert (rule.when, rule.every, rule.priority) == ("Drifted", 10, 2)
