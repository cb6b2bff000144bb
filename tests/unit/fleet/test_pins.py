"""What a job that names a version or a digest serves."""

from __future__ import annotations

from typing import Any

import pytest

from edgeward.api.inferencejob import ModelRef
from edgeward.api.modelrelease import Artifact, ReleasedVersion, Signature, TrackedVersion, Variant, VariantMatch
from edgeward.fleet.model import Followed, Job, ModelVersion, Release, ServedModel, SiteModels
from edgeward.fleet.pins import Pin, asked_key, pinned
from tests.unit.fleet.objects import OTHER, assignment, job, node, only_job, release


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


SMALL = Variant(match=VariantMatch(arch="arm64"), artifact=Artifact(uri="oci://r/m", digest=digest(11)))
SIGNED = Signature(policy="Require", keys=("key",))
TARGET = ModelVersion("m", "2", digest(2), ("oci://r/m:2",), signature=SIGNED, pull_secret="login", parameters={"t": 1})
PAST = ReleasedVersion(
    version="1",
    digest=digest(1),
    sources=("oci://r/m",),
    variants=(SMALL,),
    parameters={"t": 9},
    finished="2026-01-01T00:00:00Z",
)


def of(wanted: str, looked: dict[str, Followed] | None = None, **more: Any) -> Pin:
    known: dict[str, Any] = {"target": TARGET, "history": (PAST,)}
    pin = ModelRef(name="m", **({"digest": wanted} if wanted.startswith("sha256:") else {"version": wanted}))
    return pinned(pin, Release("shop", "m", **{**known, **more}), looked or {})


def version(pin: Pin) -> ModelVersion:
    assert pin.version is not None, pin.message
    return pin.version


def test_the_target_then_the_history() -> None:
    assert version(of("2")) == TARGET
    old = version(of("1"))
    assert (old.digest, old.parameters, old.variants) == (digest(1), {"t": 9}, (SMALL,)), "as it was then"
    assert of("1").asks is None


def test_a_digest_is_the_same_bytes_at_every_site() -> None:
    assert (version(of(digest(1))).digest, version(of(digest(1))).variants) == (digest(1), ())
    small = version(of(digest(11)))
    assert (small.version, small.digest, small.variants, small.sources) == ("1", digest(11), (), ("oci://r/m",))


def test_what_sites_were_told_then_what_they_serve() -> None:
    told = ModelVersion("m", "0", digest(7), ("https://m/0",))
    serves = ServedModel(digest=digest(8), version="0.1", serving=True)
    sites = (SiteModels("shop/other", "a", told, served=(serves,)),)
    assert version(of("0", sites=sites)) == told
    found = version(of("0.1", sites=sites))
    assert (found.digest, found.sources, found.signature) == (digest(8), ("oci://r/m",), SIGNED)
    elsewhere = ModelVersion("m", "2", digest(2), ("https://m/2",))
    assert of("0.1", sites=sites, target=elsewhere).version is None, "nobody knows where its bytes are"


def test_the_registry_is_asked_last_with_the_releases_own_login_and_keys() -> None:
    asked = of("0.9").asks
    assert asked is not None
    assert (asked.repository, asked.constraint, asked.pull_secret, asked.signature) == (
        "oci://r/m",
        "0.9",
        "login",
        SIGNED,
    )
    assert of("0.9").message == "oci://r/m has not been asked for 0.9 yet"
    key = asked_key("shop", asked)
    away = of("0.9", {key: Followed(asked=asked, problem="Unreachable: timed out")})
    assert (away.version, away.message) == (None, "oci://r/m is asked for 0.9: Unreachable: timed out")
    artifact = Artifact(uri="oci://r/m", digest=digest(9))
    there = TrackedVersion(version="0.9", artifact=artifact, variants=(SMALL,), at="2026-01-01T00:00:00Z")
    found = of("0.9", {key: Followed(asked=asked, found=there)})
    assert (version(found).digest, version(found).sources, version(found).variants) == (
        digest(9),
        ("oci://r/m",),
        (SMALL,),
    )
    assert version(found).parameters == {"t": 1}
    assert found.asks == asked, "asked until a site reports it"


@pytest.mark.parametrize(
    ("uri", "repository"),
    [
        ("oci://r:5000/models/m", "oci://r:5000/models/m"),
        ("oci://r:5000/m:1.4.0", "oci://r:5000/m"),
        (f"oci://r/m@{digest(2)}", "oci://r/m"),
        (f"oci://r/m:1.4.0@{digest(2)}", "oci://r/m"),
    ],
)
def test_the_repository_of_an_address(uri: str, repository: str) -> None:
    asked = of("0.9", target=ModelVersion("m", "2", digest(2), (uri,))).asks
    assert asked is not None
    assert asked.repository == repository


def test_what_nobody_can_be_asked_for_says_so() -> None:
    plain = of("0.9", target=ModelVersion("m", "2", digest(2), ("https://m/2",)))
    assert (plain.asks, "only registries are asked" in plain.message) == (None, True)
    missing = pinned(ModelRef(name="m", version="1"), None, {})
    assert missing.message == "there is no ModelRelease m to take 1 from"


def job_of(model: dict[str, str], **parts: Any) -> Job:
    raw = job(model={"name": "m", **model})
    known: dict[str, Any] = {"releases": [release(version="2", status={"history": [one()]})], "nodes": [node("n1")]}
    return only_job(jobs=[raw], **{**known, **parts})


def one() -> dict[str, Any]:
    return {"version": "1", "digest": OTHER, "sources": ["https://m/1"], "finished": "2026-01-01T00:00:00Z"}


def test_a_job_is_given_what_it_names() -> None:
    found = job_of({"version": "1"})
    assert (found.pinned, found.model_digest) == (True, OTHER)
    assert found.pin is not None
    assert found.pin.sources == ("https://m/1",)
    free = job_of({})
    assert (free.pinned, free.pin) == (False, None)
    unknown = job_of({"version": "3"})
    assert (unknown.model_digest, unknown.pin) == ("", None)
    assert "neither in the history" in unknown.pin_message


def test_a_job_whose_release_is_gone_keeps_the_version_that_it_names() -> None:
    held = {"name": "n1", "replicas": 1}
    found = job_of({"version": "1.0"}, releases=[], assignments=[assignment(held)])
    assert found.model_digest
    assert found.pin is None
