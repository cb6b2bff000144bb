"""Pods of a job at one site, real servers with a store each: a blob leaves the registry once, whoever dies or lies."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeward_runtime.artifact.build import digest_of
from edgeward_runtime.store import Store
from tests.integration.test_runtime_serving import Server, entry, free_port, row, server
from tests.runtime_artifacts import Pushed, made
from tests.unit.runtime.http_source import Source, serving
from tests.unit.runtime.onnx_models import constant_times

TOKEN = "0123456789abcdef0123456789abcdef"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
FILES = {"model.onnx": constant_times(2.0), "labels.txt": b"one\ntwo\n", "weights.bin": os.urandom(6 * 2**20)}
PACED = 16_000_000  # bit/s: the weights take 3 s


@pytest.fixture
def source() -> Iterator[Source]:
    """A registry of the test's own, that counts what it is asked for and stalls when told to."""
    with serving() as one:
        one.ranges = True
        yield one


def registry_of(source: Source, files: dict[str, bytes]) -> Pushed:
    built = made(files)
    source.files[f"/v2/shop/m/manifests/{built.digest}"] = built.manifest
    for content in (*files.values(), built.config):
        source.files[f"/v2/shop/m/blobs/{digest_of(content)}"] = content
    return Pushed(source=f"oci://{source.address.removeprefix('http://')}/shop/m", digest=built.digest, built=built)


def given(source: Source) -> dict[str, int]:
    """How often each path was asked for."""
    return {path: source.requests.count(path) for path in dict.fromkeys(source.requests)}


@contextlib.contextmanager
def site(tmp_path: Path, source: Source, count: int) -> Iterator[list[Server]]:
    """Servers as on nodes of their own: each at an address of its own, with a store of its own."""
    with contextlib.ExitStack() as stack:
        servers = []
        for number in range(count):
            folder = tmp_path / f"node{number}"
            folder.mkdir()
            settings = {"EDGEWARD_PLAIN_HTTP_REGISTRIES": source.address.removeprefix("http://")}
            servers.append(stack.enter_context(server(folder, EDGEWARD_HOST=address(number), **settings)))
        yield servers


def address(number: int) -> str:
    return f"127.0.1.{number + 1}"


def peers(count: int, port: int) -> dict[str, Any]:
    return {"hosts": [address(number) for number in range(count)], "port": port, "token": TOKEN}


def wanted(pushed: Pushed, **fields: Any) -> dict[str, Any]:
    return {"name": "m", "version": "1", "digest": pushed.digest, "sources": [pushed.source], **fields}


def all_serve(servers: Sequence[Server], version: str = "1") -> None:
    for one in servers:
        one.until(lambda one=one: one.serves(version))


def test_each_blob_leaves_the_registry_once(tmp_path, source):
    pushed = registry_of(source, FILES)
    port = free_port()
    with site(tmp_path, source, 3) as servers:
        for one in servers:
            one.want(wanted(pushed, downloadPace=PACED), peers=peers(3, port))
        all_serve(servers)
        for one in servers:
            assert one.infer(row(1, 2, 3, 4))[1]["outputs"][0]["data"] == [2, 4, 6, 8]
        counts = [one.model("1") for one in servers]
    assert set(given(source).values()) == {1}, given(source)
    size = len(pushed.built.manifest) + sum(map(len, FILES.values()))
    assert sum(one.get("received", 0) for one in counts) == size
    assert sum(one.get("shared", 0) for one in counts) == 2 * size


def test_the_one_that_fetches_is_killed(tmp_path, source):
    """The next one goes on outside, and the third takes all from that one."""
    pushed = registry_of(source, FILES)
    weights = f"/v2/shop/m/blobs/{digest_of(FILES['weights.bin'])}"
    source.stall_at = 2 * 2**20
    port = free_port()
    with site(tmp_path, source, 3) as servers:
        for one in servers:
            one.want(wanted(pushed), peers=peers(3, port))
        name = digest_of(FILES["weights.bin"]).removeprefix("sha256:")

        def stalled() -> Server | None:
            sizes = {one: one.folder / "store" / "partial" / name for one in servers}
            return next((one for one, path in sizes.items() if path.exists() and path.stat().st_size >= 2**20), None)

        seed = servers[0].until(stalled)
        rest = [digest_of(content) for name, content in FILES.items() if name != "weights.bin"]
        before = {one for one in rest if given(source).get(f"/v2/shop/m/blobs/{one}")}
        for one in servers:
            one.until(lambda one=one: all(Store(one.folder / "store").verified(blob) for blob in before))
        seed.stop(signal.SIGKILL)
        source.go_on.set()
        left = [one for one in servers if one is not seed]
        all_serve(left)
        assert sum(one.model("1").get("shared", 0) for one in left) >= len(FILES["weights.bin"])
    asked = given(source)
    assert asked.pop(weights) == 2
    assert set(asked.values()) == {1}


class Liar(http.server.BaseHTTPRequestHandler):
    """Has everything; gives other bytes, or ends in the middle."""

    size, cut = 0, False

    def log_message(self, *_args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Edgeward-Peer", f"liar-{self.cut}")
        self.send_header("Content-Length", str(self.size))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        with contextlib.suppress(OSError):
            self.wfile.write(b"x" * (self.size // 2 if self.cut else self.size))


@pytest.mark.parametrize("cut", [False, True])
def test_a_peer_that_lies_or_breaks_off_stops_nobody(tmp_path, source, cut):
    content = constant_times(2.0)
    source.files["/m.onnx"] = content
    port = free_port()
    handler = type("Lies", (Liar,), {"size": len(content), "cut": cut})
    with http.server.ThreadingHTTPServer((address(7), port), handler) as liar, site(tmp_path, source, 2) as servers:
        threading.Thread(target=liar.serve_forever, args=(0.02,), daemon=True).start()
        told = peers(2, port)
        told["hosts"] += [address(7), address(9)]  # at the last nobody listens
        for one in servers:
            one.want(entry("1", content, source.url("/m.onnx")), peers=told)
        all_serve(servers)
        for one in servers:
            assert one.infer(row(1, 2, 3, 4))[1]["outputs"][0]["data"] == [2, 4, 6, 8]
            assert "refused" not in one.model("1")
        liar.shutdown()
    # Half of a lie is not known for one: gone on with outside, it turns out wrong, and the whole is asked for.
    assert source.requests == ["/m.onnx"] * (2 if cut else 1)


def test_blobs_are_given_to_peers_only(tmp_path, source):
    content = constant_times(2.0)
    source.files["/m.onnx"] = content
    port = free_port()
    path = f"/edgeward/v1/blobs/{digest_of(content)}"
    with site(tmp_path, source, 1) as (one,):
        one.want(entry("1", content, source.url("/m.onnx")), peers=peers(1, port))
        one.until(lambda: one.serves("1"))

        def ask(token: str, **headers: str) -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(one.host, port, timeout=10)
            with contextlib.closing(connection):
                connection.request("GET", path, headers={"Authorization": f"Bearer {token}", **headers})
                answer = connection.getresponse()
                return answer.status, answer.read()

        assert ask(TOKEN) == (200, content)
        assert ask(TOKEN, Range="bytes=5-") == (206, content[5:])
        assert ask(TOKEN, Range="bytes=5-8") == (206, content[5:9])
        assert ask(TOKEN, Range=f"bytes={len(content)}-")[0] == 416
        assert ask("x" * 32) == (401, b"")
        assert one.request("GET", path)[0] == 404, "the port for requests gives none"
        one.want(entry("1", content, source.url("/m.onnx")), revision=2)

        def closed() -> bool:
            try:
                ask(TOKEN)
            except OSError:
                return True
            return False

        one.until(closed)


def test_pods_of_one_node_share_the_store(tmp_path, source):
    """Without any peers: the lock of the store lets one fetch, and the other finds it there."""
    content = FILES["weights.bin"]
    pushed = registry_of(source, FILES)
    folders = [tmp_path / name for name in ("a", "b")]
    settings = {
        "EDGEWARD_PLAIN_HTTP_REGISTRIES": source.address.removeprefix("http://"),
        "EDGEWARD_STORE": str(tmp_path / "store"),
    }
    for folder in folders:
        folder.mkdir()
    with server(folders[0], **settings) as first, server(folders[1], **settings) as second:
        for one in (first, second):
            one.want(wanted(pushed, downloadPace=PACED))
        all_serve((first, second))
    assert set(given(source).values()) == {1}
    assert len(content) == 6 * 2**20
