"""Tokens and certificates on the serving ports, with the real server and real clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.certificates import Authority
from tests.integration.test_runtime_serving import LIMIT, REPOSITORY, Server, free_port, server
from tests.unit.runtime.onnx_models import constant_times, write

X = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).encode()
INFER = "/v2/models/m/infer"


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write(tmp_path / "m.onnx", constant_times(2)))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_token_is_asked_for_and_may_change(tmp_path: Path, model: str) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    with server(tmp_path, model, EDGEWARD_TOKEN_FILE=str(token), EDGEWARD_OPEN="health,metrics") as one:
        for headers, status in (({}, 401), (bearer("second"), 401), (bearer("first"), 200), (bearer("first"), 200)):
            assert one.request("POST", INFER, X, headers)[0] == status
        for path, status in (("/v2/health/ready", 200), ("/metrics", 200), ("/v2", 401), ("/edgeward/v1/status", 401)):
            answered, headers, body = one.request("GET", path)
            assert answered == status
            if status == 401:
                assert headers["www-authenticate"] == "Bearer"
                assert "token" in json.loads(body)["error"]
        assert 'edgeward_unrouted_errors_total{code="401"} 4.0' in one.get("/metrics")[1]
        # A head that was let in once is no way in for another, nor after the token has changed.
        (tmp_path / "new").write_text("second\n")
        os.replace(tmp_path / "new", token)
        one.until(lambda: one.request("POST", INFER, X, bearer("second"))[0] == 200)
        assert one.request("POST", INFER, X, bearer("first"))[0] == 401
        assert "first" not in (tmp_path / "log").read_text()


def test_a_stranger_is_refused_before_the_body(tmp_path: Path, model: str) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    with server(tmp_path, model, EDGEWARD_TOKEN_FILE=str(token), EDGEWARD_OPEN="health") as one:
        for extra in (b"", b"Expect: 100-continue\r\n", b"Content-Encoding: gzip\r\n"):
            with socket.create_connection(("127.0.0.1", one.port), timeout=LIMIT) as client:
                head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 60000000\r\n".encode()
                client.sendall(head + extra + b"\r\n")
                answer = client.recv(4096)
                assert answer.startswith(b"HTTP/1.1 401 ") and b"connection: close" in answer
        # Pipelined behind one that is let in.
        with socket.create_connection(("127.0.0.1", one.port), timeout=LIMIT) as client:
            good = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
            client.sendall(good + b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n" + good)
            everything = b""
            with contextlib.suppress(TimeoutError):
                while chunk := client.recv(4096):
                    everything += chunk
            assert everything.count(b"HTTP/1.1 200 ") == 1
            assert everything.count(b"HTTP/1.1 401 ") == 1


@pytest.mark.parametrize("broken", ["token", "key"])
def test_a_server_that_cannot_protect_itself_does_not_start(tmp_path: Path, model: str, broken: str) -> None:
    settings = Pki(tmp_path / "pki").broken() if broken == "key" else {"EDGEWARD_TOKEN_FILE": str(tmp_path / "token")}
    (tmp_path / "token").write_text("\n")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "edge-runtime"), "EDGEWARD_PORT": "0", **settings}
    command = [sys.executable, "-m", "edgeward_runtime.cli", model]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 1
    assert "cannot protect the port" in done.stderr


class Secured(Server):
    """Speaks TLS. `context` is the client's side."""

    context: ssl.SSLContext

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=LIMIT, context=self.context)
        try:
            connection.request(method, path, body or None, headers or {})
            answer = connection.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()


class Pki:
    """An authority, the server's files, which are replaced as the kubelet does, and clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        self.folder.mkdir()

    def authority(self) -> Authority:
        self.count += 1
        folder = self.folder / f"ca{self.count}"
        folder.mkdir()
        return Authority(folder)

    def install(self, server: Authority, clients: Authority) -> dict[str, str]:
        pair = server.issue("server", user="server", ips=["127.0.0.1"])
        for name, path in (("cert", pair.certificate), ("key", pair.key), ("clients", clients.pair.certificate)):
            temporary = self.folder / f".{name}"
            temporary.write_bytes(path.read_bytes())
            temporary.rename(self.folder / name)
        return {
            "EDGEWARD_TLS_CERT_FILE": str(self.folder / "cert"),
            "EDGEWARD_TLS_KEY_FILE": str(self.folder / "key"),
            "EDGEWARD_TLS_CLIENT_CA_FILE": str(self.folder / "clients"),
        }

    def broken(self) -> dict[str, str]:
        """A key that is not the certificate's."""
        mine = self.authority()
        settings = self.install(mine, mine)
        Path(settings["EDGEWARD_TLS_KEY_FILE"]).write_bytes(mine.issue("other", user="other").key.read_bytes())
        return settings


def client(server: Authority, mine: Authority | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(server.pair.certificate))
    if mine is not None:
        pair = mine.issue("client", user="client")
        context.load_cert_chain(pair.certificate, pair.key)
    return context


@contextlib.contextmanager
def secured(folder: Path, model: str, context: ssl.SSLContext, **settings: str) -> Iterator[Secured]:
    Secured.context = context
    one = Secured(folder, model, **settings)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.stop()


def refused(ask: Callable[[], Any]) -> bool:
    """Whether TLS itself turned the client away. The server may have closed before it read what the client sent."""
    try:
        ask()
    except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
        return True
    return False


def test_clients_show_certificates_and_those_may_change(tmp_path: Path, model: str) -> None:
    pki = Pki(tmp_path / "pki")
    mine, stranger, next_one = pki.authority(), pki.authority(), pki.authority()
    settings = pki.install(mine, mine)
    with secured(tmp_path, model, client(mine, mine), **settings) as one:
        assert one.request("POST", INFER, X)[0] == 200
        held = http.client.HTTPSConnection("127.0.0.1", one.port, timeout=LIMIT, context=client(mine, mine))
        held.request("GET", "/v2/health/live")
        assert held.getresponse().read()
        for context in (client(mine), client(mine, stranger), client(stranger, mine)):
            one.context = context
            assert refused(lambda: one.request("GET", "/v2/health/live"))
        pki.install(next_one, next_one)
        one.context = client(next_one, next_one)

        def works() -> bool:
            try:
                return one.request("POST", INFER, X)[0] == 200
            except ssl.SSLError:
                return False

        one.until(works)
        one.context = client(next_one, mine)  # an authority that is trusted no more
        assert refused(lambda: one.request("GET", "/v2/health/live"))
        held.request("GET", "/v2/health/live")  # a connection that was there stays
        assert held.getresponse().status == 200
        # In the middle of a change the files do not fit together: the last ones hold.
        (pki.folder / "key").write_bytes(stranger.issue("other", user="other").key.read_bytes())
        one.until(lambda: any("certificate cannot be read" in line["message"] for line in one.lines()))
        one.context = client(next_one, next_one)
        assert one.request("POST", INFER, X)[0] == 200


def test_health_may_stay_open_for_those_without_a_certificate(tmp_path: Path, model: str) -> None:
    pki = Pki(tmp_path / "pki")
    mine, stranger = pki.authority(), pki.authority()
    settings = pki.install(mine, mine)
    with secured(tmp_path, model, client(mine), EDGEWARD_OPEN="health", **settings) as one:
        assert one.request("GET", "/v2/health/ready")[0] == 200
        for path in ("/v2", "/metrics", "/v2/models/m"):
            assert one.request("GET", path)[0] == 401
        assert one.request("POST", INFER, X)[0] == 401
        one.context = client(mine, mine)
        assert one.request("POST", INFER, X)[0] == 200
        # The same head again without the certificate.
        one.context = client(mine)
        assert one.request("POST", INFER, X)[0] == 401
        one.context = client(mine, stranger)
        assert refused(lambda: one.request("GET", "/v2/health/ready"))


def test_grpc_asks_for_the_same(tmp_path: Path, model: str) -> None:
    import grpc
    import tritonclient.grpc as triton

    pki, token = Pki(tmp_path / "pki"), tmp_path / "token"
    token.write_text("first")
    mine, stranger, next_one = pki.authority(), pki.authority(), pki.authority()
    settings = pki.install(mine, mine)
    port = free_port()

    def ready(authority: Authority, client: Authority | None, headers: dict[str, str]) -> str:
        pair = client.issue("client", user="client") if client is not None else None
        credentials = grpc.ssl_channel_credentials(
            authority.pair.certificate.read_bytes(),
            pair.key.read_bytes() if pair else None,
            pair.certificate.read_bytes() if pair else None,
        )
        try:
            with triton.InferenceServerClient(f"127.0.0.1:{port}", ssl=True, creds=credentials) as one:
                return str(one.is_model_ready("m", headers=headers, client_timeout=LIMIT))
        except triton.InferenceServerException as error:
            return str(error.status())

    right = {"authorization": "Bearer first"}
    context = client(mine, mine)
    with secured(
        tmp_path, model, context, EDGEWARD_GRPC_PORT=str(port), EDGEWARD_TOKEN_FILE=str(token),
        EDGEWARD_OPEN="health", **settings,
    ) as one:  # fmt: skip
        assert one.request("GET", "/v2/health/live")[0] == 200
        assert ready(mine, mine, right) == "True"
        assert ready(mine, mine, {"authorization": "Bearer other"}) == "StatusCode.UNAUTHENTICATED"
        assert ready(mine, mine, {}) == "StatusCode.UNAUTHENTICATED"
        for wrong in (None, stranger):
            assert ready(mine, wrong, right) == "StatusCode.UNAVAILABLE"
        pki.install(next_one, next_one)
        assert ready(next_one, next_one, right) == "True"
        assert ready(next_one, mine, right) == "StatusCode.UNAVAILABLE"
