"""Who signed a model, and what it would open beside itself, with the real server and a real registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cluster.registry import Registry
from tests.integration.test_runtime_serving import server
from tests.runtime_artifacts import external, golden_of, push, sign
from tests.unit.runtime.http_source import serving
from tests.unit.runtime.onnx_models import constant_times, digest
from tests.unit.runtime.signing import pair

MINE, STRANGER = pair("p256"), pair("ed25519", "stranger")
REQUIRE = {"policy": "Require", "keys": [pair().public, MINE.public]}
X = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    folder = tmp_path / "registry"
    folder.mkdir()
    with Registry(folder) as one:
        yield one


def wanted(version: str, digest: str, source: str, **fields: Any) -> dict[str, Any]:
    return {"name": "m", "version": version, "digest": digest, "sources": [source], "signature": REQUIRE, **fields}


def test_an_artifact_is_loaded_only_when_signed_and_a_boot_without_network_verifies_it_again(
    tmp_path: Path, registry: Registry
) -> None:
    good = push(registry.host, "shop/m", {"model.onnx": constant_times(2), **golden_of(2)}, version="1")
    sign(good, STRANGER, MINE)
    bad = push(registry.host, "shop/m", {"model.onnx": constant_times(3), **golden_of(3)}, version="2")
    settings = {"EDGEWARD_PLAIN_HTTP_REGISTRIES": registry.host}
    with server(tmp_path, **settings) as one:
        one.want(wanted("1", good.digest, good.source))
        one.until(lambda: one.serves("1"))
        one.want(wanted("2", bad.digest, bad.source), revision=2)
        refused = one.until(lambda: one.refused("2"))
        assert (refused["step"], refused["reason"]) == ("Signature", "SignatureMissing")
        sign(bad, STRANGER)
        one.want(wanted("2", bad.digest, f"{bad.source}:2"), revision=3)  # another entry: no waiting
        refused = one.until(lambda: (r := one.refused("2")) and r["reason"] == "SignatureInvalid" and r)
        assert "none of 1 signatures is by one of 2 keys" in refused["message"]
        assert one.infer(X)[1]["model_version"] == "1"
        assert one.get("/v2/health/ready")[0] == 200
    registry.stop()
    with server(tmp_path, **settings) as one:
        one.until(lambda: one.serves("1"))
        assert one.infer(X)[1]["outputs"][0]["data"] == [2, 4, 6, 8]
    # Somebody who can write to the disk changes who vouched for it.
    signature = tmp_path / "store" / "signatures" / "sha256" / good.digest.removeprefix("sha256:")
    signature.write_bytes(STRANGER.signs(good.digest))
    with server(tmp_path, **settings) as one:
        one.want(wanted("1", good.digest, good.source), revision=4)
        refused = one.until(lambda: one.refused("1"))
        assert refused["reason"] == "SignatureInvalid"
        assert one.get("/v2/health/ready")[0] != 200


def test_a_plain_file_has_its_signature_beside_it(tmp_path: Path) -> None:
    content = constant_times(2)
    name = digest(content)
    warn = {**REQUIRE, "policy": "Warn"}
    with serving() as source, server(tmp_path) as one:
        source.files["/m.onnx"] = content
        one.want(wanted("1", name, source.url("/m.onnx?token=t"), signature=warn))
        one.until(lambda: one.serves("1"))
        assert one.model("1")["warning"]["reason"] == "SignatureMissing"  # type: ignore[index]
        source.files["/m.onnx.sig"] = b"<html>"
        one.want(wanted("1", name, source.url("/m.onnx?token=t")), revision=2)
        one.until(lambda: any(m.get("refused", {}).get("reason") == "SignatureInvalid" for m in one.status()["models"]))
        assert one.infer(X)[0] == 200
        source.files["/m.onnx.sig"] = MINE.signs(name)
        one.want(wanted("1", name, source.url("/m.onnx?token=u")), revision=3)
        one.until(lambda: one.status()["revision"] == 3 and len(one.status()["models"]) == 1 and one.serves("1"))
        assert "warning" not in one.model("1")  # type: ignore[operator]
        assert "/m.onnx.sig?token=u" in source.requests
    (tmp_path / "m.onnx").write_bytes(content)
    (tmp_path / "m.onnx.sig").write_bytes(MINE.signs(name))
    other = tmp_path / "other"
    other.mkdir()
    with server(other) as one:
        one.want(wanted("1", name, (tmp_path / "m.onnx").as_uri()))
        one.until(lambda: one.serves("1"))


def test_weights_in_other_files_come_with_the_artifact_and_from_nowhere_else(
    tmp_path: Path, registry: Registry
) -> None:
    secret = np.array([9, 9, 9, 9], np.float32).tobytes()
    (tmp_path / "secret").write_bytes(secret)
    weights = np.array([1, 10, 100, 1000], np.float32).tobytes()
    with serving() as source, server(tmp_path, EDGEWARD_PLAIN_HTTP_REGISTRIES=registry.host) as one:

        def want(version: str, files: dict[str, bytes], revision: int) -> None:
            pushed = push(registry.host, "shop/m", files, version=version)
            one.want(wanted(version, pushed.digest, pushed.source, signature={"policy": "Off"}), revision=revision)

        want("1", {"model.onnx": external("data/w.bin"), "data/w.bin": weights}, 1)
        one.until(lambda: one.serves("1"))
        assert one.infer(X)[1]["outputs"][0]["data"] == [1, 20, 300, 4000]
        for number, location in enumerate(
            (str(tmp_path / "secret"), "../../../../secret", "data/../../x", "*/_ORT_MEM_ADDR_/*"), start=2
        ):
            want(str(number), {"model.onnx": external(location), "data/w.bin": weights}, number)
            refused = one.until(lambda version=str(number): one.refused(version))
            assert (refused["step"], refused["reason"]) == ("Load", "UnsafePath")
        # A plain file brings nothing along: other models in the store are none of its business.
        plain = external(digest(secret).removeprefix("sha256:"))
        source.files["/m.onnx"] = plain
        one.want(wanted("9", digest(plain), source.url("/m.onnx"), signature={"policy": "Off"}), revision=9)
        assert one.until(lambda: one.refused("9"))["reason"] == "ExternalDataMissing"
        assert one.infer(X)[1]["model_version"] == "1"
