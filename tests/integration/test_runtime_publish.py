"""`edgeward-model publish` as a process, into a real registry, and a real server that follows what it printed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml

from edgeward_runtime.trust import bundle
from tests.cluster.certificates import Authority
from tests.cluster.registry import PASSWORD, USER, Registry
from tests.integration.test_runtime_registry import issuer
from tests.integration.test_runtime_serving import REPOSITORY, row, server
from tests.runtime_artifacts import external, push
from tests.unit.runtime.onnx_models import constant_times, mlp
from tests.unit.runtime.signing import pair

LIMIT = 120.0  # seconds for one run on a busy machine
RUN = "import sys; from edgeward_runtime.cli import model; sys.exit(model())"
CHAIN = {
    "record": {"kind": "Table", "channels": ["a", "b", "c", "d"]},
    "steps": [{"step": "Normalise", "scale": 2}],
    "output": {"input": "x", "layout": "Rows"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "registry").mkdir()
    return tmp_path / "registry"


@pytest.fixture
def registry(folder: Path) -> Iterator[Registry]:
    with Registry(folder) as one:
        yield one


def start(host: str, model: Path, *arguments: str, version: str = "1.4.0", plain: bool = True) -> subprocess.Popen[str]:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("EDGEWARD_", "DOCKER_"))},
        "PYTHONPATH": str(REPOSITORY / "edge-runtime"),
        "HOME": str(model.parent),
    }
    command = [sys.executable, "-c", RUN, "publish", str(model), "--name", "m", "--version", version]
    command += ["--to", f"oci://{host}/models", *(["--plain-http"] if plain else []), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def publish(host: str, model: Path, *arguments: str, **options: Any) -> tuple[int, str, str]:
    process = start(host, model, *arguments, **options)
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


def published(host: str, model: Path, *arguments: str, **options: Any) -> dict[str, Any]:
    status, out, err = publish(host, model, "--json", *arguments, **options)
    assert status == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_server_follows_what_was_printed(tmp_path: Path, registry: Registry) -> None:
    """Signed, with golden data, preprocessing, labels and a reference, down to the request."""
    rows = np.random.default_rng(1).normal(size=(600, 4)).astype(np.float32)
    with (tmp_path / "data.npz").open("wb") as file:
        np.savez(file, x=rows)
    arguments = [
        *("--key", str(write(tmp_path / "release.key", pair("p256").private))),
        *("--preprocessing", str(write(tmp_path / "chain.json", json.dumps(CHAIN).encode()))),
        *("--labels", str(write(tmp_path / "names.txt", b"a\nb\nc\nd\n"))),
        *("--data", str(tmp_path / "data.npz")),
    ]
    model = write(tmp_path / "signs.onnx", constant_times(2.0))
    status, out, err = publish(registry.host, model, *arguments)
    assert status == 0, err
    printed = yaml.safe_load(out.partition("\n")[2])["spec"]
    artifact = printed["artifact"]
    assert (printed["version"], out.partition("\n")[0]) == ("1.4.0", artifact["digest"])
    followed = {
        **{"name": "m", "version": printed["version"], "digest": artifact["digest"], "sources": [artifact["uri"]]},
        "signature": artifact["signature"],
    }
    with server(tmp_path, EDGEWARD_PLAIN_HTTP_REGISTRIES=registry.host) as one:
        one.want(followed)
        one.until(lambda: one.serves("1.4.0"))
        assert one.infer(row(1, 2, 3, 4))[1]["outputs"][0]["data"] == [2, 4, 6, 8]
        record = b"a,b,c,d\n1,2,3,4\n"
        status, _, answer = one.request("POST", "/v2/models/m/infer", record, {"Content-Type": "text/csv"})
        assert status == 200 and json.loads(answer)["outputs"][0]["data"] == [4, 8, 12, 16], "twice as much goes in"
        (release,) = (tmp_path / "store" / "releases" / "sha256").iterdir()
        files = {path.name: path.read_bytes() for path in release.iterdir()}
        assert set(files) == {
            *("model.onnx", "preprocessing.json", "labels.txt"),
            *("golden.json", "golden.bin", "reference.json", "measured.json"),
        }
        # The golden data is this model's and no other's.
        other = push(registry.host, "models/m", {**files, "model.onnx": constant_times(3.0)}, version="9")
        one.want({**followed, "version": "9", "digest": other.digest, "signature": {"policy": "Off"}}, revision=2)
        refused = one.until(lambda: one.refused("9"))
        assert (refused["step"], refused["reason"]) == ("Golden", "GoldenMismatch")
        # Another key than that of the signature.
        strangers = {"policy": "Require", "keys": [pair("ed25519", "stranger").public]}
        one.want({**followed, "version": "1.4.1", "signature": strangers}, revision=3)
        assert one.until(lambda: one.refused("1.4.1"))["reason"] == "SignatureInvalid"


def test_again_sends_nothing_and_another_model_under_the_tag_is_refused(tmp_path: Path, registry: Registry) -> None:
    key = str(write(tmp_path / "release.key", pair("p256").private))
    weights = os.urandom(3 * 2**20)
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "w.bin", np.zeros(4, np.float32).tobytes() + weights)
    model = write(tmp_path / "m.onnx", external("data/w.bin"))
    small = write(tmp_path / "small.onnx", mlp((4, 4)))
    arguments = ["--key", key, "--variant", f"tier=edge,arch=arm64:{small}"]
    first = published(registry.host, model, *arguments)
    assert [one["tag"] for one in first["artifacts"]] == ["1.4.0", "1.4.0_arch-arm64_tier-edge"]
    assert first["artifacts"][0]["sentBytes"] > first["artifacts"][0]["bytes"] > len(weights)
    again = published(registry.host, model, *arguments)
    assert [one["sentBytes"] for one in again["artifacts"]] == [0, 0]
    assert [one["digest"] for one in again["artifacts"]] == [one["digest"] for one in first["artifacts"]]
    tags = registry.data / "docker/registry/v2/repositories/models/m/_manifests/tags"
    signatures = {bundle.tag(one["digest"]) for one in first["artifacts"]}
    assert {path.name for path in tags.iterdir()} == {"1.4.0", "1.4.0_arch-arm64_tier-edge", *signatures}

    # A head that changed: the weights are there.
    model.write_bytes(external("./data/w.bin"))
    status, _, err = publish(registry.host, model)
    assert status == 1 and f"the tag 1.4.0 is {first['digest']}, with another model.onnx" in err
    assert "another --version" in err
    assert published(registry.host, model, version="1.5.0")["artifacts"][0]["sentBytes"] < 20_000
    forced = published(registry.host, model, "--force")
    assert forced["digest"] != first["digest"]
    assert (tags / "1.4.0" / "current" / "link").read_text() == forced["digest"]


def test_what_a_site_would_refuse_is_not_published(tmp_path: Path, registry: Registry) -> None:
    good = write(tmp_path / "m.onnx", mlp((4, 4)))
    broken = write(tmp_path / "broken.onnx", b"no model")
    escaping = write(tmp_path / "escaping.onnx", external("../../secret"))
    chain = write(tmp_path / "chain.json", b"{}")
    for model, arguments, said in (
        (broken, [], "NotOnnx"),
        (escaping, [], "UnsafePath"),
        (good, ["--variant", f"tier=edge:{broken}"], "NotOnnx: broken.onnx"),
        (good, ["--preprocessing", str(chain)], "PreprocessingInvalid"),
    ):
        status, out, err = publish(registry.host, model, *arguments)
        assert (status, out) == (1, "") and said in err, err
    assert not (registry.data / "docker").exists(), "not a byte of any went out"


def test_a_private_registry_with_an_authority_of_its_own(tmp_path: Path, folder: Path) -> None:
    authority = Authority(tmp_path / "ca")
    own = authority.issue("registry", user="registry", ips=["127.0.0.1"])
    model = write(tmp_path / "m.onnx", mlp((4, 4)))
    with Registry(folder, password=True, certificate=own.certificate, key=own.key) as registry:
        status, _, err = publish(registry.host, model, plain=False)
        assert status == 1 and "certificate" in err and "--ca-bundle" in err
        trusted = ["--ca-bundle", str(authority.pair.certificate)]
        status, _, err = publish(registry.host, model, *trusted, plain=False)
        assert status == 1 and "Unauthorized" in err and "docker login" in err
        logins(tmp_path / ".docker", registry.host)  # where `docker login` writes
        assert published(registry.host, model, *trusted, plain=False)["artifacts"][0]["sentBytes"] > 0


def test_a_registry_that_asks_for_tokens(tmp_path: Path, folder: Path) -> None:
    """One to read with, and then one to write with."""
    model = write(tmp_path / "m.onnx", mlp((4, 4)))
    with issuer(tmp_path) as configuration, Registry(folder, tokens=configuration) as registry:
        credentials = str(logins(tmp_path / "pull", registry.host))
        found = published(registry.host, model, "--credentials", credentials)
        assert published(registry.host, model, "--credentials", credentials)["digest"] == found["digest"]
        logins(tmp_path / "pull", registry.host, password="wrong-one")
        status, out, err = publish(registry.host, model, "--credentials", credentials)
        assert status == 1 and "Unauthorized" in err
        assert "wrong-one" not in out + err and "eyJ" not in out + err


def logins(path: Path, host: str, *, password: str = PASSWORD) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"auths": {host: {"username": USER, "password": password}}}))
    return path


class Link:
    """What lies between the publisher and the registry. Of the bytes to the registry it passes `limit`, then it breaks
    the connection if it `cuts`, else it holds them, and sets `stalled`. The `part`-th PATCH never gets to the registry."""

    def __init__(self, host: str, *, limit: int | None = None, cuts: bool = False, part: int = 0) -> None:
        address, _, port = host.partition(":")
        self._target = (address, int(port))
        self.limit = limit
        self._cuts = cuts
        self._part = part
        self._sent = 0
        self.stalled = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            registry = socket.create_connection(self._target)
            threading.Thread(target=self._forward, args=(client, registry), daemon=True).start()
            threading.Thread(target=self._backward, args=(registry, client), daemon=True).start()

    def _forward(self, client: socket.socket, registry: socket.socket) -> None:
        while True:
            try:
                data = client.recv(65536)
            except OSError:
                break
            if data.startswith(b"PATCH "):
                self._part -= 1
                if self._part == 0:
                    self.stalled.set()
                    break
            if self.limit is not None and self._sent + len(data) > self.limit:
                self.stalled.set()
                if not self._cuts:
                    client.recv(1)  # until it is killed: nothing is read on, so its buffers fill
                    break
                self.limit = None
                break
            if not data:
                break
            self._sent += len(data)
            registry.sendall(data)
        for one in (client, registry):
            one.close()

    @staticmethod
    def _backward(registry: socket.socket, client: socket.socket) -> None:
        try:
            while data := registry.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()


def large(tmp_path: Path) -> tuple[Path, int, int]:
    """A model of 3 MiB, pushed first, with 10 MiB in a file of its own: their bytes."""
    weights = np.zeros(4, np.float32).tobytes() + os.urandom(10 * 2**20)
    write(tmp_path / "w.bin", weights)
    model = onnx.ModelProto.FromString(external("w.bin"))
    model.doc_string = os.urandom(3 * 2**19).hex()
    head = model.SerializeToString()
    return write(tmp_path / "m.onnx", head), len(head), len(weights)


@pytest.mark.parametrize("within", [False, True])
def test_a_connection_that_breaks(tmp_path: Path, registry: Registry, within: bool) -> None:
    """Between two parts, the rest goes. Within one, this registry forgets the blob, and it begins anew."""
    model, _, size = large(tmp_path)
    link = Link(registry.host, limit=9 * 2**20, cuts=True) if within else Link(registry.host, part=2)
    try:
        found = published(link.host, model)["artifacts"][0]
    finally:
        link.close()
    assert link.stalled.is_set()
    part = 4 * 2**20
    assert size < found["sentBytes"] <= found["bytes"] + (2 if within else 1) * part + 20_000
    assert published(registry.host, model)["artifacts"][0]["sentBytes"] == 0


def test_killed_in_the_middle_and_run_again(tmp_path: Path, registry: Registry) -> None:
    model, head, size = large(tmp_path)
    labels = ["--labels", str(write(tmp_path / "names.txt", b"a\nb\nc\nd\n"))]
    link = Link(registry.host, limit=9 * 2**20)
    try:
        process = start(link.host, model, *labels)
        assert link.stalled.wait(LIMIT)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=LIMIT)
    finally:
        link.close()
    repository = registry.data / "docker/registry/v2/repositories/models/m"
    assert not (repository / "_manifests").exists(), "no tag of half a model"
    found = published(registry.host, model, *labels)["artifacts"][0]
    # The model's own file was there; that of the weights was not whole.
    assert size < found["sentBytes"] < found["bytes"] - head + 20_000
    assert (repository / "_manifests/tags/1.4.0/current/link").read_text() == found["digest"]
    with server(tmp_path, EDGEWARD_PLAIN_HTTP_REGISTRIES=registry.host) as one:
        one.want({"name": "m", "version": "1.4.0", "digest": found["digest"], "sources": [found["uri"]]})
        one.until(lambda: one.serves("1.4.0"))
