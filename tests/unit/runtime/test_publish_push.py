"""What is pushed and in which order, into a repository in memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest

from edgeward_runtime.artifact import chunks, layout, manifest, packed
from edgeward_runtime.artifact.build import digest_of
from edgeward_runtime.errors import Refusal
from edgeward_runtime.publish.files import Read, pack, read
from edgeward_runtime.publish.push import Labelled, Pushed, push, sign
from edgeward_runtime.publish.registry import Blob
from edgeward_runtime.trust import bundle, keys
from edgeward_runtime.trust.bundle import Signed
from tests.unit.runtime.signing import pair

LABELLED = Labelled(name="m", version="1.4.0", tag="1.4.0")
MADE = frozenset({"measured.json"})


class Memory:
    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.writes: list[str] = []
        self.ends_after: int | None = None  # writes, then it is killed

    def _write(self, what: str) -> None:
        if self.ends_after is not None and len(self.writes) >= self.ends_after:
            raise KeyboardInterrupt
        self.writes.append(what)

    def blob(self, blob: Blob, told: Callable[[int], object] = lambda _done: None) -> None:
        if blob.digest not in self.blobs:
            self._write(blob.digest)
            self.blobs[blob.digest] = blob.part(0, blob.size)
        told(blob.size)

    def content(self, digest: str, *, size: int) -> bytes:
        assert len(self.blobs[digest]) == size
        return self.blobs[digest]

    def tagged(self, tag: str) -> tuple[str, bytes] | None:
        found = self.manifests.get(tag)
        return (digest_of(found), found) if found is not None else None

    def manifest(self, content: bytes, *, reference: str) -> None:
        found = orjson.loads(content)
        for layer in [found["config"], *found["layers"]]:
            assert len(self.blobs[layer["digest"]]) == layer["size"], "a registry refuses a manifest without its blobs"
        self._write(reference)
        self.manifests[reference] = content


def files(folder: Path, **contents: bytes) -> list[Read]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, content in {"model.onnx": b"model", "measured.json": b"{}", **contents}.items():
        paths[name] = folder / name
        paths[name].write_bytes(content)
    return read(paths, told=lambda _done, _of: None)


def pushed(target: Memory, listed: list[Read], *, force: bool = False, key: bytes | None = None) -> Pushed:
    return push(target, listed, LABELLED, made=MADE, key=key, force=force, told=lambda _done, _of: None)


def test_the_tag_comes_last_and_a_second_time_nothing_goes(tmp_path: Path) -> None:
    target = Memory()
    listed = files(tmp_path, **{"labels.txt": b"a"})
    one = pushed(target, listed, key=pair().private)
    assert [what for what in target.writes if what not in target.blobs] == [one.digest, bundle.tag(one.digest), "1.4.0"]
    assert target.writes[-1] == "1.4.0"
    found = manifest.parse(target.manifests["1.4.0"], max_bytes=100)
    assert {layer.path: target.blobs[layer.digest] for layer in found.layers} == {
        "model.onnx": b"model",
        "labels.txt": b"a",
        "measured.json": b"{}",
    }
    assert found.chunks is None, "no file has two chunks"
    before = len(target.writes)
    again = pushed(target, listed, key=pair().private)
    assert again.present and again.digest == one.digest and len(target.writes) == before


@pytest.mark.parametrize("writes", range(7))
def test_killed_between_any_two_writes_the_next_run_finishes_and_no_tag_points_to_half_of_it(
    tmp_path: Path, writes: int
) -> None:
    target = Memory()
    target.ends_after = writes
    with pytest.raises(KeyboardInterrupt):
        pushed(target, files(tmp_path), key=pair().private)
    assert "1.4.0" not in target.manifests
    target.ends_after = None
    # What was measured is other than before.
    one = pushed(target, files(tmp_path, **{"measured.json": b'{"threads": 1}'}), key=pair().private)
    assert one.digest == digest_of(target.manifests["1.4.0"])
    keys.verify(one.digest, signatures(target, one.digest), [pair().public])


def test_what_differs_each_time_stays_as_it_was_published(tmp_path: Path) -> None:
    target = Memory()
    one = pushed(target, files(tmp_path))
    other = files(tmp_path, **{"measured.json": b'{"threads": 2}'})
    before = len(target.writes)
    again = pushed(target, other)
    assert (again.digest, again.present, again.adopted) == (one.digest, True, ("measured.json",))
    assert len(target.writes) == before
    forced = pushed(target, other, force=True)
    assert forced.digest != one.digest and target.tagged("1.4.0") == (forced.digest, target.manifests[forced.digest])


def test_a_tag_of_another_model_is_left_alone_unless_forced(tmp_path: Path) -> None:
    target = Memory()
    one = pushed(target, files(tmp_path / "a"))
    other = files(tmp_path / "b", **{"model.onnx": b"other", "labels.txt": b"a", "measured.json": b"[]"})
    before = dict(target.manifests)
    with pytest.raises(Refusal, match=f"{one.digest}, with another labels.txt, model.onnx") as caught:
        pushed(target, other)
    assert caught.value.reason == "TagTaken" and target.manifests == before
    assert target.tagged("1.4.0") is not None
    assert pushed(target, other, force=True).digest == digest_of(target.manifests["1.4.0"])
    target.manifests["1.4.0"] = b'{"manifests": []}'
    with pytest.raises(Refusal, match="something that is no model"):
        pushed(target, other)


def test_a_large_file_brings_an_index_of_its_chunks(tmp_path: Path) -> None:
    target = Memory()
    content = bytes(range(256)) * 16 * 1024  # 4 MiB
    listed = files(tmp_path, **{"w.bin": content, "copy.bin": content})
    pushed(target, listed)
    found = manifest.parse(target.manifests["1.4.0"], max_bytes=2**24)
    assert layout.CHUNKS not in {layer.path for layer in found.layers}
    assert found.chunks is not None and found.size == len(content) + len(b"model{}")
    index = chunks.loads(target.blobs[found.chunks.digest])
    assert list(index) == [digest_of(content)]
    for one in index[digest_of(content)]:
        assert digest_of(content[one.offset : one.offset + one.length]) == one.digest


def signatures(target: Memory, digest: str) -> list[Signed]:
    found = bundle.pointers(target.manifests[bundle.tag(digest)])
    return [Signed(target.blobs[one.digest], one.signature) for one in found]


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_a_key_signs_once_beside_the_others(tmp_path: Path, kind: str) -> None:
    target = Memory()
    one = pushed(target, files(tmp_path), key=pair(kind).private)
    keys.verify(one.digest, signatures(target, one.digest), [pair(kind).public])
    tag = bundle.tag(one.digest)
    # Somebody else put something of their own there.
    foreign = orjson.loads(target.manifests[tag])
    foreign["layers"][0]["annotations"]["dev.sigstore.cosign/bundle"] = "{}"
    target.manifests[tag] = orjson.dumps(foreign)
    pushed(target, files(tmp_path), key=pair(kind).private)
    assert len(signatures(target, one.digest)) == 1
    sign(target, one.digest, pair("ed25519", "next").private)
    assert orjson.loads(target.manifests[tag])["layers"][0] == foreign["layers"][0]
    for signer in (pair(kind), pair("ed25519", "next")):
        keys.verify(one.digest, signatures(target, one.digest), [signer.public])
    with pytest.raises(Refusal, match="SignatureInvalid"):
        keys.verify(one.digest, signatures(target, one.digest), [pair("ed25519", "stranger").public])


def test_a_file_without_bytes_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"labels.txt has 0 bytes"):
        files(tmp_path, **{"labels.txt": b""})


def weights(seed: int) -> bytes:
    return np.random.default_rng(seed).normal(0, 0.02, 300_000).astype(np.float32).tobytes()


def with_packed(target: Memory, listed: list[Read], into: Path) -> tuple[Pushed, Path | None]:
    into.mkdir()
    found, blob = pack(listed, into, told=lambda _done, _of: None)
    told = push(
        target, found, LABELLED, made=MADE, key=None, force=False, told=lambda _done, _of: None, packed=blob
    )  # fmt: skip
    return told, blob


def test_chunks_are_published_packed_where_that_saves_enough(tmp_path: Path) -> None:
    target = Memory()
    with_packed(target, files(tmp_path, **{"model.onnx": weights(1), "w.bin": weights(2)}), tmp_path / "packed")
    found = manifest.parse(target.manifests["1.4.0"], max_bytes=10**9)
    assert found.packed is not None and found.chunks is not None and found.packed.size < 0.9 * found.size
    blob, index = target.blobs[found.packed.digest], chunks.loads(target.blobs[found.chunks.digest])
    assert {layer.path for layer in found.layers} == {"model.onnx", "w.bin", "measured.json"}
    for layer in (one for one in found.layers if one.size > 1000):
        data = target.blobs[layer.digest]
        for chunk in index[layer.digest]:
            at, size = chunk.packed or (0, 0)
            assert packed.unpack(blob[at : at + size], chunk.length) == data[chunk.offset : chunk.offset + chunk.length]


def test_noise_is_not_packed(tmp_path: Path) -> None:
    target = Memory()
    _, blob = with_packed(
        target, files(tmp_path, **{"model.onnx": random.Random(1).randbytes(3_000_000)}), tmp_path / "packed"
    )
    found = manifest.parse(target.manifests["1.4.0"], max_bytes=10**9)
    assert (
        blob is None and found.packed is None and found.chunks is not None and not list((tmp_path / "packed").iterdir())
    )


def test_what_was_packed_otherwise_stays_as_it_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Memory()
    listed = files(tmp_path, **{"model.onnx": weights(1)})
    one, _ = with_packed(target, listed, tmp_path / "packed")
    before = dict(target.blobs)
    monkeypatch.setattr(packed, "_LEVEL", 1)
    again, _ = with_packed(target, listed, tmp_path / "again")
    assert again.present and again.digest == one.digest and target.blobs == before
