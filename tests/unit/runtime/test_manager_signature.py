"""What the manager does with what the policy says of a signature; the signatures themselves are test_trust_*.py's."""

from pathlib import Path

import pytest

from .test_manager import V1, V2, World, digest, refusal

MISSING = refusal("SignatureMissing", "Signature", permanent=False)
KEYS = {"keys": ["PEM"]}
REQUIRE, WARN = {"policy": "Require", **KEYS}, {"policy": "Warn", **KEYS}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_is_not_signed_is_never_loaded_and_tried_again_after_a_while(world: World) -> None:
    world.want("1", V1)
    world.signature_error = MISSING
    world.want("2", V2, signature=REQUIRE)
    refused = world.entry("2")
    assert (refused["state"], refused["refused"]["step"], refused["refused"]["reason"]) == (
        "Failed",
        "Signature",
        "SignatureMissing",
    )
    assert world.live() == "1" and world.registry.ready()
    status = world.manager.status()
    world.step(59)
    assert world.calls == ["fetch 1", "load 1", "fetch 2", "signature 2"]
    world.step(30)
    assert world.calls[4:] == ["signature 2"] and world.manager.status() == status
    world.signature_error = None
    world.step(200)
    assert world.live() == "2"


def test_a_source_that_is_away_is_asked_again_soon(world: World) -> None:
    world.signature_error = refusal("SignatureUnreachable", "Signature", permanent=False)
    world.want("1", V1, signature=REQUIRE)
    world.signature_error = None
    world.step(2)
    assert world.live() == "1"


def test_a_bad_key_waits_for_another_entry(world: World) -> None:
    world.signature_error = refusal("BadKey", "Signature")
    world.want("1", V1, signature=REQUIRE)
    world.step(10_000)
    assert world.calls == ["fetch 1", "signature 1"]
    world.signature_error = None
    world.want("1", V1, signature={"policy": "Require", "keys": ["another"]}, revision=2)
    assert world.live() == "1"


def test_under_warn_it_serves_and_the_status_says_so(world: World) -> None:
    world.signature_error = MISSING
    world.want("1", V1, signature=WARN)
    entry = world.entry("1")
    assert (entry["state"], entry["warning"]["reason"]) == ("Serving", "SignatureMissing")
    assert "refused" not in entry
    world.signature_error = None
    world.want("1", V1, signature={"policy": "Off"}, revision=2)
    assert "warning" not in world.entry("1")


def test_a_policy_that_comes_later_is_held_against_what_serves_without_touching_it(world: World) -> None:
    world.want("1", V1)
    world.want("1", V1, signature=REQUIRE, revision=2)
    assert world.entry("1")["state"] == "Serving"
    assert world.calls == ["fetch 1", "load 1", "signature 1"]
    world.signature_error = MISSING
    world.want("1", V1, signature={"policy": "Require", "keys": ["another"]}, revision=3)
    wanted, serving = world.manager.status()["models"]
    assert (wanted["state"], wanted["refused"]["reason"]) == ("Failed", "SignatureMissing")
    assert (serving["state"], serving["serving"]) == ("Serving", True)
    assert world.live() == "1" and world.registry.ready()
    assert world.calls.count("load 1") == 1


def test_a_boot_verifies_again_and_asks_no_source_for_what_served_last(world: World) -> None:
    world.want("1", V1, signature=REQUIRE)
    world.restart()
    world.calls.clear()
    world.offline = True
    world.want("2", V2, signature=REQUIRE)
    assert world.live() == "1"
    assert world.calls == ["signature 1 offline", "load 1", "fetch 2"]


def test_at_a_boot_what_is_trusted_today_counts_and_not_what_a_record_says(world: World) -> None:
    world.want("1", V1, signature={"policy": "Off"})
    world.restart()
    world.offline, world.signature_error = True, MISSING
    world.want("2", V2, signature=REQUIRE)
    assert world.live() is None and not world.registry.ready()
    assert "load 1" not in world.calls[2:]


def test_a_boot_with_a_config_that_is_refused_goes_by_the_record(world: World) -> None:
    world.want("1", V1, signature=REQUIRE)
    for error, version in ((None, "1"), (MISSING, None)):
        world.restart()
        world.signature_error = error
        world.want("1", V1, contract=99)
        assert world.live() == version


@pytest.mark.parametrize(
    "policy", ["Require", 5, {"policy": "No"}, {"policy": "Require"}, {"policy": "Off", "keys": 1}]
)
def test_a_record_that_makes_no_sense_lets_nothing_pass(world: World, policy: object) -> None:
    world.want("1", V1)
    record = world.store.read_record("shop", "job", "last-good")
    record["m"]["signature"] = policy
    world.store.write_record("shop", "job", "last-good", record)
    world.restart()
    world.signature_error = MISSING
    world.want("1", V1, contract=99)
    assert world.live() is None


def test_a_canary_becomes_stable_without_a_load_only_if_it_was_verified_as_strictly(world: World) -> None:
    import json

    def want(*models: dict[str, object], revision: int) -> None:
        job = {"namespace": "shop", "name": "job"}
        whole = [{"name": "m", "sources": ["https://models.example.com/m"], **model} for model in models]
        world.config = json.dumps({"contract": 1, "revision": revision, "job": job, "models": whole}).encode()
        world.step()

    one, two = {"version": "1", "digest": digest(V1)}, {"version": "2", "digest": digest(V2)}
    want(one, {**two, "role": "Canary", "traffic": "10%"}, revision=1)
    want({**two, "signature": REQUIRE}, revision=2)
    assert world.live() == "2"
    assert "signature 2" in world.calls


def test_a_change_of_mind_reaches_the_search_for_signatures(world: World) -> None:
    world.want("1", V1, signature=REQUIRE)
    cancelled = world.cancelled
    assert not cancelled()
    world.want("2", V2, signature=REQUIRE, revision=2)
    assert cancelled()
