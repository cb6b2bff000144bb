"""What follows repositories, against a real registry: a private one, a tag that moves, one that is away, one that hangs."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeward.api.modelrelease import Track, VariantMatch
from edgeward.fleet.model import Followed
from edgeward.fleet.pins import asked_key
from edgeward.hub.following import Follower
from edgeward.registry.repository import Models, Reach, Refusal
from tests.cluster.registry import PASSWORD, USER, Registry
from tests.fakes import FakeClient
from tests.integration.test_runtime_registry import issuer
from tests.runtime_artifacts import push, sign
from tests.unit.runtime.onnx_models import constant_times
from tests.unit.runtime.signing import pair

FILES = {"model.onnx": constant_times(2.0)}
OTHER = {"model.onnx": constant_times(3.0)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "registry").mkdir()
    return tmp_path / "registry"


@pytest.fixture
def registry(folder: Path) -> Iterator[Registry]:
    with Registry(folder) as one:
        yield one


class Stage:
    """Releases and the follower of them, on a clock that the test turns."""

    def __init__(self, *plain: str, timeout: float = 10.0) -> None:
        self.releases: list[dict[str, Any]] = []
        self.client = FakeClient()
        self.pins: list[tuple[str, Track]] = []
        self.now = 0.0
        self.heard = 0
        self._loop = asyncio.Runner()
        self.follower = Follower(
            client=self.client,
            releases=lambda: self.releases,
            reach=Reach(plain_http=frozenset(plain), timeout=timeout, total=timeout),
            changed=self._hear,
            pins=lambda: self.pins,
            monotonic=lambda: self.now,
            wall=lambda: 1_800_000_000.0 + self.now,
        )

    def _hear(self) -> None:
        self.heard += 1

    def add(self, name: str, repository: str, constraint: str = "1.x", **track: Any) -> dict[str, Any]:
        raw = {
            "apiVersion": "edgeward.dev/v1alpha1",
            "kind": "ModelRelease",
            "metadata": {"name": name, "namespace": "models", "uid": name, "resourceVersion": "1"},
            "spec": {"track": {"repository": repository, "constraint": constraint, **track}},
        }
        self.releases.append(raw)
        return raw

    def secret(self, name: str, host: str, password: str = PASSWORD) -> None:
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        text = base64.b64encode(json.dumps({"auths": {host: {"auth": auth}}}).encode()).decode()
        path = f"/api/v1/namespaces/models/secrets/{name}"
        self.client.server.objects[path] = {"metadata": {"name": name}, "data": {".dockerconfigjson": text}}

    def look(self, *, later: float = 0.0) -> dict[str, Followed]:
        self.now += later
        self._loop.run(self.follower.once())
        return dict(self.follower.followed)

    def taken(self, name: str = "m", **more: Any) -> tuple[str, str]:
        found = self.look(**more)[f"models/{name}"].found
        return (found.version, found.artifact.digest) if found else ("", "")


def test_the_newest_signed_one_and_a_tag_that_moves(registry: Registry) -> None:
    stage = Stage(registry.host)
    first = push(registry.host, "models/m", FILES, version="1.4.0")
    sign(first, pair())
    push(registry.host, "models/m", OTHER, version="1.5.0")
    push(registry.host, "models/m", OTHER, version="2.0.0")
    signature = {"policy": "Require", "keys": [pair().public]}
    stage.add("m", first.source, interval="1m", signature=signature)
    assert stage.taken() == ("1.4.0", first.digest)
    assert stage.follower.followed["models/m"].passed_over == ("1.5.0: SignatureMissing",)
    assert stage.heard == 1
    assert stage.taken(later=10.0) == ("1.4.0", first.digest), "not due, not asked"
    # Signed now: taken by the next look.
    second = push(registry.host, "models/m", OTHER, version="1.5.0")
    sign(second, pair("p256"))
    assert stage.taken(later=70.0) == ("1.4.0", first.digest), "by another key"
    sign(second, pair())
    assert stage.taken(later=70.0) == ("1.5.0", second.digest)
    # The tag moves: to what nobody signed, then to what somebody did.
    third = push(registry.host, "models/m", {"model.onnx": constant_times(4.0)}, version="1.5.0")
    assert third.digest != second.digest
    assert stage.taken(later=70.0) == ("1.5.0", second.digest), "nobody who may push can lead it back"
    sign(third, pair())
    assert stage.taken(later=70.0) == ("1.5.0", third.digest)
    heard = stage.heard
    assert stage.taken(later=70.0) == ("1.5.0", third.digest)
    assert stage.heard == heard, "a look that finds the same is no news"


def test_variants_beside_a_version(registry: Registry) -> None:
    stage = Stage(registry.host)
    main = push(registry.host, "models/m", FILES, version="1.4.0")
    small = push(registry.host, "models/m", OTHER, version="1.4.0_arch-arm64_tier-edge")
    stage.add("m", main.source)
    found = stage.look()["models/m"].found
    assert found is not None
    (variant,) = found.variants
    assert variant.match == VariantMatch(tier="edge", arch="arm64")
    assert (variant.artifact.uri, variant.artifact.digest) == (main.source, small.digest)


@pytest.mark.parametrize("tokens", [False, True])
def test_a_private_registry(tmp_path: Path, folder: Path, tokens: bool) -> None:
    with (
        issuer(tmp_path) as configuration,
        Registry(folder, **({"tokens": configuration} if tokens else {"password": True})) as registry,
    ):
        stage = Stage(registry.host)
        pushed = push(registry.host, "models/m", FILES, version="1.0.0")
        raw = stage.add("m", pushed.source)
        assert stage.look()["models/m"].problem.startswith("Unauthorized")
        raw["spec"]["track"]["pullSecret"] = "login"
        raw["metadata"]["resourceVersion"] = "2"
        assert "there is no Secret models/login" in stage.look()["models/m"].problem
        stage.secret("login", registry.host, password="wrong")
        assert stage.look(later=600.0)["models/m"].problem.startswith("Unauthorized")
        stage.secret("login", registry.host)
        assert stage.taken(later=600.0) == ("1.0.0", pushed.digest)
        # It is known by now. A Secret that goes takes nothing back.
        stage.client.server.objects.clear()
        assert stage.taken(later=600.0) == ("1.0.0", pushed.digest)
        assert "there is no Secret" in stage.follower.followed["models/m"].problem


def test_a_secret_that_may_not_be_read_is_named_with_what_to_do(registry: Registry) -> None:
    from edgeward.cluster.client import ApiError

    stage = Stage(registry.host)
    stage.add("m", f"oci://{registry.host}/models/m", pullSecret="login")
    stage.client.server.failing.append(ApiError(403, "Forbidden", "secrets is forbidden"))
    problem = stage.look()["models/m"].problem
    assert (
        problem
        == "Unauthorized: the operator may not read Secret models/login: add it to the chart's tracking.pullSecrets"
    )


def test_a_registry_that_is_away_keeps_what_was_taken_and_holds_up_nobody(registry: Registry, folder: Path) -> None:
    """A listener that never answers stands for a dead one: a connect succeeds, and nothing comes."""
    with socket.create_server(("127.0.0.1", 0)) as dead:
        silent = f"127.0.0.1:{dead.getsockname()[1]}"
        stage = Stage(registry.host, silent, timeout=2.0)
        pushed = push(registry.host, "models/m", FILES, version="1.0.0")
        for number in range(3):
            stage.add(f"dead{number}", f"oci://{silent}/models/m")
        stage.add("m", pushed.source)
        order: list[str] = []
        stage.follower._changed = lambda: order.extend(set(stage.follower.followed) - set(order))
        stage.look()
        assert order[0] == "models/m"
        assert set(order[1:]) == {f"models/dead{number}" for number in range(3)}
        assert stage.follower.followed["models/dead0"].problem.startswith("Unreachable")
    registry.stop()
    found = stage.look(later=600.0)["models/m"]
    assert found.problem.startswith("Unreachable")
    assert found.found is not None
    assert found.found.artifact.digest == pushed.digest


def test_a_release_that_goes_or_asks_for_something_else(registry: Registry) -> None:
    stage = Stage(registry.host)
    for version in ("1.0.0", "2.0.0"):
        push(registry.host, "models/m", FILES, version=version)
    raw = stage.add("m", f"oci://{registry.host}/models/m")
    assert stage.taken()[0] == "1.0.0"
    raw["spec"]["track"]["constraint"] = ">=1"
    raw["metadata"]["resourceVersion"] = "2"
    assert stage.taken()[0] == "2.0.0"
    stage.releases.clear()
    assert stage.look() == {}


def test_tags_page_by_page(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        push(registry.host, "models/m", FILES, version=f"1.{number}.0")
    monkeypatch.setattr("edgeward.registry.repository._PAGE", 2)
    models = Models(f"oci://{registry.host}/models/m", reach=Reach(plain_http=frozenset({registry.host})))
    assert sorted(models.tags()) == [f"1.{number}.0" for number in range(5)]
    with pytest.raises(Refusal, match="NotFound"):
        Models(f"oci://{registry.host}/models/none", reach=Reach(plain_http=frozenset({registry.host}))).tags()


def test_what_a_job_is_pinned_to(registry: Registry) -> None:
    stage = Stage(registry.host)
    old = push(registry.host, "models/m", FILES, version="0.9.0")
    small = push(registry.host, "models/m", OTHER, version="0.9.0_arch-arm64")
    by_tag = Track.model_validate({"repository": old.source, "constraint": "0.9.0"})
    by_digest = Track.model_validate({"repository": old.source, "constraint": small.digest})
    missing = Track.model_validate({"repository": old.source, "constraint": "0.8.0"})
    signed = {"policy": "Require", "keys": [pair().public]}
    unsigned = Track.model_validate({"repository": old.source, "constraint": "0.9.0", "signature": signed})
    stage.pins = [("models", by_tag), ("models", by_digest), ("models", missing), ("other", unsigned)]
    looked = stage.look()
    found = looked[asked_key("models", by_tag)].found
    assert found is not None
    assert (found.version, found.artifact.digest) == ("0.9.0", old.digest)
    assert [one.artifact.digest for one in found.variants] == [small.digest]
    found = looked[asked_key("models", by_digest)].found
    assert found is not None
    assert (found.version, found.artifact.digest, found.variants) == ("0.9.0_arch-arm64", small.digest, ())
    assert looked[asked_key("models", missing)].problem.startswith("NotFound")
    assert looked[asked_key("other", unsigned)].problem.startswith("SignatureMissing")
    # What is found stays what it is; what is not is asked for again.
    push(registry.host, "models/m", OTHER, version="0.9.0")
    late = push(registry.host, "models/m", FILES, version="0.8.0")
    looked = stage.look(later=600.0)
    kept, came = looked[asked_key("models", by_tag)].found, looked[asked_key("models", missing)].found
    assert kept is not None and came is not None
    assert (kept.artifact.digest, came.artifact.digest) == (old.digest, late.digest)
    stage.pins = []
    assert stage.look() == {}
