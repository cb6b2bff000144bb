"""The real server and a real registry: logins, tokens, TLS, downloads that are cut and gone on with."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.cluster.certificates import Authority
from tests.cluster.registry import PASSWORD, USER, Registry
from tests.integration.test_runtime_serving import Server, row, server
from tests.runtime_artifacts import Pushed, push
from tests.unit.runtime.http_source import serving
from tests.unit.runtime.onnx_models import constant_times

V1 = {"model.onnx": constant_times(2.0), "labels.txt": b"one\ntwo\nthree\nfour\n"}
V2 = {**V1, "model.onnx": constant_times(3.0)}
LARGE = {**V1, "weights.bin": os.urandom(6 * 2**20)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "registry").mkdir()
    return tmp_path / "registry"


@pytest.fixture
def registry(folder: Path) -> Iterator[Registry]:
    with Registry(folder) as one:
        yield one


def wanted(pushed: Pushed, version: str = "1", host: str | None = None, **fields: Any) -> dict[str, Any]:
    source = pushed.source if host is None else f"oci://{host}/{pushed.source.partition('://')[2].partition('/')[2]}"
    return {"name": "m", "version": version, "digest": pushed.digest, "sources": [source], **fields}


def answers(one: Server, factor: float) -> bool:
    status, document, _ = one.infer(row(1, 2, 3, 4))
    return bool(status == 200 and document["outputs"][0]["data"] == [factor * value for value in (1, 2, 3, 4)])


def metric(one: Server, name: str) -> float:
    """The sum over all labels."""
    lines = [line for line in one.get("/metrics")[1].splitlines() if line.partition("{")[0].partition(" ")[0] == name]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def secret(tmp_path: Path, host: str, **login: str) -> Path:
    """As a Secret that kubectl made is mounted: a folder of its own."""
    path = tmp_path / "secrets" / "pull" / ".dockerconfigjson"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {host: login}}))
    return tmp_path / "secrets"


def test_only_what_changed_is_fetched(tmp_path, registry):
    first, second = (push(registry.host, "shop/m", files) for files in (V1, V2))
    with server(tmp_path, EDGEWARD_PLAIN_HTTP_REGISTRIES=registry.host) as one:
        one.want(wanted(first))
        one.until(lambda: one.serves("1"))
        assert answers(one, 2.0)
        before = metric(one, "edgeward_fetched_bytes_total")
        assert before == len(first.built.manifest) + sum(map(len, V1.values()))
        one.want(wanted(second, "2"), revision=2)
        one.until(lambda: one.serves("2"))
        assert answers(one, 3.0)
        fetched = metric(one, "edgeward_fetched_bytes_total") - before
        assert fetched == len(second.built.manifest) + len(V2["model.onnx"]), "the labels were there"
        assert one.model("2")["bytes"] == sum(map(len, V2.values()))
        registry.stop()
        one.want(wanted(first), revision=3)
        one.until(lambda: one.serves("1"))
        assert answers(one, 2.0), "the way back needs no network"


def test_killed_in_the_middle_of_a_download(tmp_path, registry):
    """What had come is not asked for again: the registry gives the rest."""
    pushed = push(registry.host, "shop/m", LARGE)
    partials = tmp_path / "store" / "partial"
    settings = {"EDGEWARD_PLAIN_HTTP_REGISTRIES": registry.host}
    with server(tmp_path, **settings) as one:
        one.want(wanted(pushed, downloadPace=8_000_000))

        def half() -> bool:
            return partials.exists() and any(path.stat().st_size > 2**20 for path in partials.iterdir())

        one.until(half)
        one.stop(signal.SIGKILL)
    there = max(path.stat().st_size for path in partials.iterdir())
    assert 2**20 < there < len(LARGE["weights.bin"])
    with server(tmp_path, **settings) as one:
        one.want(wanted(pushed), revision=2)
        one.until(lambda: one.serves("1"))
        assert metric(one, "edgeward_fetch_resumed_bytes_total") == there
        assert answers(one, 2.0)


def test_a_pace_is_kept(tmp_path, registry):
    """6 MiB at 24 Mbit/s take two seconds; nothing says how much longer on a busy machine, but no shorter."""
    pushed = push(registry.host, "shop/m", LARGE)
    with server(tmp_path, EDGEWARD_PLAIN_HTTP_REGISTRIES=registry.host) as one:
        one.want(wanted(pushed, downloadPace=24_000_000))
        one.until(lambda: one.serves("1"))
        least = 8 * (len(LARGE["weights.bin"]) - 24_000_000 / 8 * 0.25) / 24_000_000
        assert one.model("1")["seconds"] >= 0.95 * least


def test_a_password_that_comes_later(tmp_path, folder):
    with Registry(folder, password=True) as registry:
        pushed = push(registry.host, "shop/m", V1)
        secrets = secret(tmp_path, registry.host, username=USER, password="wrong-one")
        settings = {"EDGEWARD_PLAIN_HTTP_REGISTRIES": registry.host, "EDGEWARD_CREDENTIALS_DIR": str(secrets)}
        with server(tmp_path, **settings) as one:
            one.want(wanted(pushed))
            refused = one.until(lambda: one.refused("1"))
            assert (refused["step"], refused["reason"]) == ("Fetch", "Unauthorized")
            secret(tmp_path, registry.host, username=USER, password=PASSWORD)
            one.until(lambda: one.serves("1"))
            assert answers(one, 2.0)
        log = (tmp_path / "log").read_text()
        assert PASSWORD not in log and "wrong-one" not in log


def test_tls_with_an_authority_of_ones_own(tmp_path, folder):
    authority = Authority(tmp_path / "ca")
    pair = authority.issue("registry", user="registry", ips=["127.0.0.1"])
    with Registry(folder) as plain:
        pushed = push(plain.host, "shop/m", V1)
    with Registry(folder, certificate=pair.certificate, key=pair.key) as registry:
        with server(tmp_path) as one:
            one.want(wanted(pushed, host=registry.host))
            refused = one.until(lambda: one.refused("1"))
            assert refused["reason"] == "Unreachable" and "certificate" in refused["message"]
        with server(tmp_path, EDGEWARD_CA_BUNDLE=str(authority.pair.certificate)) as one:
            one.until(lambda: one.serves("1"))
            assert answers(one, 2.0)


def _jwt(claims: dict[str, Any], key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> str:
    """RFC 7515, ES256, the certificate in its header."""

    def part(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    chain = [base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()]
    head = part(json.dumps({"typ": "JWT", "alg": "ES256", "x5c": chain}).encode())
    text = f"{head}.{part(json.dumps(claims).encode())}"
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@contextmanager
def issuer(folder: Path) -> Iterator[dict[str, str]]:
    """Gives tokens to whoever has the password. -> what a registry has to know of it."""
    pair = Authority(folder / "issuer").pair
    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)

    def token(target: str, headers: dict[str, str], _body: bytes) -> tuple[int, dict[str, str], bytes]:
        if headers.get("authorization") != f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}":
            return 401, {}, b""
        asked = {name: values[0] for name, values in urllib.parse.parse_qs(urllib.parse.urlsplit(target).query).items()}
        kind, name, actions = asked["scope"].split(":")
        now = int(time.time())
        claims = {
            "iss": "issuer", "sub": USER, "aud": asked["service"], "jti": "1",
            "iat": now, "nbf": now - 60, "exp": now + 300,
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }  # fmt: skip
        return 200, {}, json.dumps({"token": _jwt(claims, key, certificate)}).encode()

    with serving() as source:
        source.answers["/token"] = token
        yield {
            "realm": source.url("/token"),
            "service": "models",
            "issuer": "issuer",
            "rootcertbundle": str(pair.certificate),
        }


def test_tokens(tmp_path, folder):
    """The registry believes only tokens that its issuer signed; the issuer gives them to whoever has the password."""
    with Registry(folder) as plain:
        pushed = push(plain.host, "shop/m", V1)
    with issuer(tmp_path) as configuration, Registry(folder, tokens=configuration) as registry:
        secrets = secret(tmp_path, registry.host, username=USER, password="wrong-one")
        settings = {"EDGEWARD_PLAIN_HTTP_REGISTRIES": registry.host, "EDGEWARD_CREDENTIALS_DIR": str(secrets)}
        with server(tmp_path, **settings) as one:
            one.want(wanted(pushed, host=registry.host))
            assert one.until(lambda: one.refused("1"))["reason"] == "Unauthorized"
            secret(tmp_path, registry.host, username=USER, password=PASSWORD)
            one.until(lambda: one.serves("1"))
            assert answers(one, 2.0)
        assert "eyJ" not in (tmp_path / "log").read_text()
