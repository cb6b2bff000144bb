"""Only what a site lacks, from real registries: chunks, two sources at once, kills in the middle."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgeward_runtime.artifact import chunks, manifest
from edgeward_runtime.artifact.build import digest_of
from edgeward_runtime.config import Entry
from edgeward_runtime.fetch import Access, FetchStats, Limits, fetch
from edgeward_runtime.publish.files import pack, read
from edgeward_runtime.publish.push import Labelled, push
from edgeward_runtime.store import Store
from tests.cluster.registry import Registry
from tests.integration.test_runtime_registry import answers, metric
from tests.integration.test_runtime_serving import server
from tests.integration.test_runtime_store import start, until
from tests.runtime_artifacts import _uploads
from tests.runtime_artifacts import push as push_plain
from tests.unit.runtime.http_source import Source, serving
from tests.unit.runtime.onnx_models import constant_times

LIMITS = Limits(max_bytes=1 << 30, timeout_seconds=20, total_seconds=120)
WEIGHTS = np.random.default_rng(3).normal(0, 0.02, 1_500_000).astype(np.float32).tobytes()
NOISE = random.Random(1).randbytes(6_000_000)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    (tmp_path / "registry").mkdir()
    with Registry(tmp_path / "registry") as one:
        yield one


def publish(tmp_path: Path, host: str, files: dict[str, bytes], version: str, target: object = None) -> tuple[str, str]:
    """With index and packed chunks. -> the artifact's digest and its source."""
    folder = tmp_path / "published" / f"{host.replace(':', '-')}-{version}"
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    source = f"oci://{host}/shop/m"
    packed = tmp_path / "published" / f"{folder.name}.packed"
    packed.mkdir()
    listed, blob = pack(
        read({name: folder / name for name in files}, told=lambda _done, _of: None),
        packed,
        told=lambda _done, _of: None,
    )
    pushed = push(
        target or _uploads(source),  # type: ignore[arg-type]
        listed,
        Labelled(name="m", version=version, tag=version),
        made=frozenset(),
        key=None,
        force=False,
        told=lambda _done, _of: None,
        packed=blob,
    )
    return pushed.digest, source


def changed(data: bytes, at: int = 2_000_000) -> bytes:
    return data[:at] + b"trained on" + data[at + 10 :]


def test_a_new_version_costs_what_is_new_in_it(tmp_path, registry):
    first = {"model.onnx": constant_times(2.0), "weights.bin": WEIGHTS}
    second = {"model.onnx": constant_times(3.0), "weights.bin": changed(WEIGHTS)}
    digests = [publish(tmp_path, registry.host, files, str(n)) for n, files in enumerate((first, second), start=1)]
    with server(tmp_path, EDGEWARD_PLAIN_HTTP_REGISTRIES=registry.host) as one:
        for version, (digest, source) in enumerate(digests, start=1):
            before = metric(one, "edgeward_fetched_bytes_total")
            reused = metric(one, "edgeward_fetch_reused_bytes_total")
            # On a link as fast as this machine's own, packed chunks would not pay.
            pace = {"downloadPace": 20_000_000}
            wanted = {"name": "m", "version": str(version), "digest": digest, "sources": [source], **pace}
            one.want(wanted, revision=version)
            one.until(lambda version=version: one.serves(str(version)))
            assert answers(one, version + 1.0)
            came = metric(one, "edgeward_fetched_bytes_total") - before
            told = one.model(str(version))["received"]
            assert told == came
            if version == 1:
                assert came < 0.9 * len(WEIGHTS), "it came packed"
            else:
                assert came < 1_100_000
                assert metric(one, "edgeward_fetch_reused_bytes_total") - reused > len(WEIGHTS) - 1_100_000


@pytest.fixture
def source() -> Iterator[Source]:
    with serving() as one:
        one.ranges = True
        yield one


class _Shelf:
    """What is pushed lies as a registry would give it, at a server that stops where it is told to."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def blob(self, blob: object, told: object = None) -> None:
        self._source.files[f"/v2/shop/m/blobs/{blob.digest}"] = blob.part(0, blob.size)  # type: ignore[attr-defined]

    def tagged(self, tag: str) -> None:
        return None

    def manifest(self, content: bytes, *, reference: str) -> None:
        self._source.files[f"/v2/shop/m/manifests/{reference}"] = content


def test_killed_anywhere_in_a_download_of_chunks(tmp_path, source):
    """At each kind of place: before, within and between chunks that are here and such that are not."""
    host = source.address.removeprefix("http://")
    old = {"model.onnx": NOISE}
    new = {"model.onnx": NOISE[:1_000_000] + os.urandom(1_500_000) + NOISE[2_000_000:4_500_000] + os.urandom(900_000)}
    shelf = _Shelf(source)
    first, at = publish(tmp_path, host, old, "1", shelf)
    second, _ = publish(tmp_path, host, new, "2", shelf)
    asked = {"root": str(tmp_path / "store"), "source": at, "plain": [host]}
    process = start(**asked, digest=first)
    assert process.wait(60) == 0, process.communicate()
    data = new["model.onnx"]
    index = next(
        chunks.loads(content)[digest_of(data)]
        for content in source.files.values()
        if content.startswith(b"EDGEWARDCHUNKS") and digest_of(data).removeprefix("sha256:") in content.hex()
    )
    known = {one.digest for one in chunks.split(NOISE)}
    missing = [one for one in index if one.digest not in known]
    total = sum(one.length for one in missing)
    assert total < 3_500_000
    places = sorted(
        place
        for one in (missing[0], missing[1], missing[len(missing) // 2], missing[-1])
        for place in (one.offset, one.offset + 1, one.offset + one.length // 2, one.offset + one.length - 1)
    )
    partial = tmp_path / "store" / "partial" / digest_of(data).removeprefix("sha256:")
    for place in places:
        source.stall_at = place
        process = start(**asked, digest=second)
        until(lambda place=place: partial.exists() and partial.stat().st_size == place)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert Store(tmp_path / "store").find(second) is None
    source.go_on.set()
    process = start(**asked, digest=second)
    assert process.wait(60) == 0, process.communicate()
    found = Store(tmp_path / "store").find(second)
    assert found is not None and (found / "model.onnx").read_bytes() == data
    assert not list((tmp_path / "store" / "partial").iterdir())
    # No byte that had come was asked for again: each request for the blob begins where the one before had ended.
    begins = [
        int(headers["range"].removeprefix("bytes=").partition("-")[0])
        for path, headers in zip(source.requests, source.headers, strict=True)
        if path.endswith(digest_of(data))
    ]
    assert begins == sorted(begins) and set(places) <= set(begins)


def test_two_registries_at_once_and_one_dies(tmp_path):
    """No byte comes twice, whichever dies; what both gave is the file."""
    data = os.urandom(8_000_000)
    for dies in (0, 1):
        folders = [tmp_path / f"{dies}-{name}" for name in ("one", "two")]
        for folder in folders:
            folder.mkdir()
        with Registry(folders[0]) as one, Registry(folders[1]) as two:
            pushed = [push_plain(registry.host, "shop/m", {"model.onnx": data}) for registry in (one, two)]
            sources = tuple(each.source for each in pushed)
            store, stats = Store(tmp_path / f"store-{dies}"), FetchStats()
            entry = Entry(name="m", version="1", digest=pushed[0].digest, sources=sources, pace=24_000_000)
            partials = store.root / "partial"

            def half(partials: Path = partials) -> bool:
                return partials.exists() and sum(path.stat().st_size for path in partials.iterdir()) > 3_000_000

            def kill(half: object = half, victim: Registry = (one, two)[dies]) -> None:
                until(half)  # type: ignore[arg-type]
                victim.stop()

            killer = threading.Thread(target=kill)
            killer.start()
            access = Access(plain_http=frozenset({one.host, two.host}))
            fetched = fetch(
                entry, store=store, limits=LIMITS, cancelled=bool, shunned={}, access=access, stats=stats
            )  # fmt: skip
            killer.join()
            assert (fetched.path / "model.onnx").read_bytes() == data
            assert fetched.received == len(data) + len(pushed[0].built.manifest)
            parts = sorted(stats.received.values())
            assert sum(parts) == fetched.received and parts[0] > 500_000, "both gave a good part"


def test_plain_files_come_from_two_servers_at_once(tmp_path, source):
    data = os.urandom(5_000_000)
    with serving() as other:
        other.ranges = True
        for one in (source, other):
            one.files["/m.onnx"] = data
            one.seconds_per_chunk = 0.01
        store = Store(tmp_path / "store")
        sources = (source.url("/m.onnx"), other.url("/m.onnx"))
        entry = Entry(name="m", version="1", digest=digest_of(data), sources=sources)
        fetched = fetch(entry, store=store, limits=LIMITS, cancelled=bool, shunned={})
        assert fetched.path.read_bytes() == data and fetched.received == len(data)
        assert source.requests and other.requests


def test_a_registry_without_the_packed_blob_gives_the_files(tmp_path, registry):
    """It was cleaned up wrongly: everything that is needed is there."""
    digest, source = publish(tmp_path, registry.host, {"model.onnx": WEIGHTS}, "1")
    content = next(
        path.read_bytes()
        for path in (registry.data / "docker/registry/v2/blobs").rglob("data")
        if digest_of(path.read_bytes()) == digest
    )
    packed = manifest.parse(content, max_bytes=1 << 30).packed
    assert packed is not None
    name = packed.digest.removeprefix("sha256:")
    (registry.data / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data").unlink()
    entry = Entry(name="m", version="1", digest=digest, sources=(source,))
    fetched = fetch(
        entry,
        store=Store(tmp_path / "store"),
        limits=LIMITS,
        cancelled=bool,
        shunned={},
        access=Access(plain_http=frozenset({registry.host})),
    )
    assert (fetched.path / "model.onnx").read_bytes() == WEIGHTS
