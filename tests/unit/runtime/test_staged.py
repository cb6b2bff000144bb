"""A version that is only to be fetched: it is verified and kept, never loaded, and then goes live from disk."""

from __future__ import annotations

import json

import pytest

from edgeward_runtime.config import parse
from edgeward_runtime.errors import Refusal
from tests.unit.runtime.onnx_models import digest
from tests.unit.runtime.test_manager import SCHEMA, V1, V2, V3, World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def entry(version: str, content: bytes, role: str = "Stable", **fields: object) -> dict:
    source = ["https://models.example.com/m"]
    return {"name": "m", "version": version, "digest": digest(content), "sources": source, "role": role, **fields}


def want(world: World, *models: dict, revision: int = 1) -> None:
    job = {"namespace": "shop", "name": "job"}
    world.config = json.dumps({"contract": 1, "revision": revision, "job": job, "models": models}).encode()
    world.step()


def staged(world: World) -> dict:
    document = world.manager.status()
    SCHEMA.validate(document)
    return next(one for one in document["models"] if one.get("role") == "Staged")


def test_it_is_fetched_and_verified_and_not_loaded(world):
    want(world, entry("1", V1), entry("2", V2, "Staged"))
    assert world.calls == ["fetch 1", "load 1", "fetch 2"]
    assert world.live() == "1" and world.registry.ready()
    assert staged(world)["state"] == "Staged" and not staged(world)["serving"]
    assert staged(world)["bytes"] == len(V2)
    world.step()
    assert world.calls == ["fetch 1", "load 1", "fetch 2"]


def test_its_turn_comes_without_network(world):
    want(world, entry("1", V1), entry("2", V2, "Staged"))
    world.offline = True
    world.calls.clear()
    want(world, entry("2", V2), revision=2)
    assert world.calls == ["load 2"] and world.live() == "2"
    assert world.entry("2")["seconds"] == 0.0, "what the fetch took is still known"


def test_its_signature_is_looked_at_before_it_waits(world):
    world.signature_error = Refusal(step="Signature", reason="SignatureMissing", message="unsigned", permanent=False)
    keys = {"policy": "Require", "keys": ["any"]}
    want(world, entry("1", V1), entry("2", V2, "Staged", signature=keys))
    assert staged(world)["state"] == "Failed" and staged(world)["refused"]["step"] == "Signature"
    assert world.live() == "1"
    world.signature_error = None
    world.now += 1000
    world.step()
    assert staged(world)["state"] == "Staged" and "refused" not in staged(world)


def test_what_is_to_go_live_comes_before_what_is_fetched_for_later(world):
    want(world, entry("1", V1))

    def meanwhile() -> None:
        world.during_fetch = lambda: None
        world.now += 1
        job = {"namespace": "shop", "name": "job"}
        models = [entry("3", V3), entry("2", V2, "Staged")]
        world.config = json.dumps({"contract": 1, "revision": 3, "job": job, "models": models}).encode()

    world.during_fetch = meanwhile
    world.calls.clear()
    want(world, entry("1", V1), entry("2", V2, "Staged"), revision=2)
    world.step()
    assert world.calls == ["fetch 2", "fetch 3", "load 3", "fetch 2"]
    assert world.live() == "3" and staged(world)["state"] == "Staged"


def test_a_restart_serves_the_stable_one_and_keeps_the_other(world):
    want(world, entry("1", V1), entry("2", V2, "Staged"))
    world.restart()
    world.offline = True
    world.calls.clear()
    want(world, entry("1", V1), entry("2", V2, "Staged"))
    assert world.calls == ["load 1"]
    assert world.live() == "1" and staged(world)["state"] == "Staged"


def test_a_name_that_is_only_staged_keeps_nobody_from_being_ready(world):
    other = {**entry("2", V2, "Staged"), "name": "other"}
    want(world, entry("1", V1), other)
    assert world.registry.ready()


def test_other_parameters_are_told_apart_by_their_hash(world):
    parameters = {"capture": {"lowConfidence": 0.6}}
    want(world, entry("1", V1), entry("1", V1, "Staged", parameters=parameters))
    document = world.manager.status()
    SCHEMA.validate(document)
    assert [(one["state"], one["parameters"]) for one in document["models"]] == [
        ("Serving", ""),
        ("Staged", parse_hash(parameters)),
    ]
    assert "counters" not in document["models"][1]


def parse_hash(parameters: dict) -> str:
    job = {"namespace": "shop", "name": "job"}
    text = json.dumps({"contract": 1, "revision": 1, "job": job, "models": [entry("1", V1, parameters=parameters)]})
    return parse(text.encode()).entries[0].parameters_hash
