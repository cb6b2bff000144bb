"""What a new version costs a site on a thin link: bytes and seconds, beside a plain download of its model file, which is
what KServe's storage initializer, Sedna and Greengrass do.

The registry is a real one; the site is a network namespace of its own, and what goes to it passes a token bucket of the
kernel (tc tbf). Bytes are those of the network interface, so headers count, on both sides.

bytes_ratio_head_only   an image classifier trained on in its last layer only; the version before is in the store
bytes_ratio_int8        a text reader's int8 form, beside its fp32 form in the store
bytes_ratio_repush      the same file published as another version
bytes_ratio_new         a model that has nothing in common with what is there
..._s, ..._plain_s      seconds of both
two_sources_s           a file over two links at once, 1 and 5 Mbit/s, beside D/(R1 + R2) of the same bytes with headers

The full download is of the model file alone. What a site fetches also has a manifest, golden data and measurements.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgeward_runtime.store import Store
from tests.cluster import Progress
from tests.cluster.paths import cache_root
from tests.cluster.registry import Registry
from tests.demo.models import prepare
from tests.runtime_artifacts import push
from tests.unit.runtime.onnx_models import digest

from . import report

RATE, FAST = 1.0, 5.0  # Mbit/s
_SITE = "edgeward-bytes"

# In the namespace: what the runtime's thread does, and what a downloader without any of it does.
_FETCH = """
import json, sys, time
from pathlib import Path
from edgeward_runtime.config import Entry
from edgeward_runtime.fetch import Access, Limits, fetch
from edgeward_runtime.store import Store

asked = json.loads(sys.argv[1])
entry = Entry(name="m", version="1", digest=asked["digest"], sources=tuple(asked["sources"]))
limits = Limits(max_bytes=1 << 30, timeout_seconds=60, total_seconds=3600)
hosts = frozenset(one.removeprefix("oci://").partition("/")[0] for one in asked["sources"])
begun = time.monotonic()
found = fetch(entry, store=Store(Path(asked["store"])), limits=limits, cancelled=bool, shunned={},
              access=Access(plain_http=hosts))
print(json.dumps({"seconds": time.monotonic() - begun, "received": found.received}))
"""
_PLAIN = """
import json, sys, time, urllib.request
begun = time.monotonic()
size = 0
with urllib.request.urlopen(sys.argv[1], timeout=60) as answer:
    while data := answer.read(1 << 16):
        size += len(data)
print(json.dumps({"seconds": time.monotonic() - begun, "received": size}))
"""


@dataclass(frozen=True, kw_only=True)
class Link:
    """From the registries' side to the site."""

    device: str
    address: str

    @property
    def bytes(self) -> int:
        return int(Path(f"/sys/class/net/{self.device}/statistics/tx_bytes").read_text())


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def site(*rates: float) -> Iterator[list[Link]]:
    """A namespace with a link of so many Mbit/s each. RuntimeError if this machine does not let us."""
    try:
        _ip("netns", "add", _SITE)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"no network namespace can be made here: {getattr(error, 'stderr', error)!r}") from None
    links = []
    try:
        for number, rate in enumerate(rates):
            link = Link(device=f"ewbytes{number}", address=f"10.211.{number}.1")
            _ip("link", "add", link.device, "type", "veth", "peer", "name", f"site{number}", "netns", _SITE)
            _ip("addr", "add", f"{link.address}/24", "dev", link.device)
            _ip("link", "set", link.device, "up")
            _ip("-n", _SITE, "addr", "add", f"10.211.{number}.2/24", "dev", f"site{number}")
            _ip("-n", _SITE, "link", "set", f"site{number}", "up")
            limit = ["rate", f"{rate:g}mbit", "burst", "16kb", "latency", "200ms"]
            subprocess.run(["tc", "qdisc", "add", "dev", link.device, "root", "tbf", *limit], check=True)
            links.append(link)
        yield links
    finally:
        _ip("netns", "del", _SITE)
        for link in links:
            subprocess.run(["ip", "link", "del", link.device], capture_output=True)


def at_site(code: str, argument: str) -> dict[str, float]:
    command = ["ip", "netns", "exec", _SITE, sys.executable, "-c", code, argument]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        raise RuntimeError(done.stderr[-800:])
    return dict(json.loads(done.stdout))


def published(registry: str, model: Path, version: str) -> tuple[str, str]:
    """Its digest, and where its model file alone is."""
    source = f"oci://{registry}/models"
    command = [sys.executable, "-c", "from edgeward_runtime.cli import model; raise SystemExit(model())", "publish"]
    command += [str(model), "--name", "m", "--version", version]
    done = subprocess.run([*command, "--to", source, "--plain-http", "--json"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-800:])
    return json.loads(done.stdout)["digest"], f"http://{registry}/v2/models/m/blobs/{digest(model.read_bytes())}"


def head_trained_on(model: Path, into: Path) -> tuple[Path, Path]:
    """The classifier as this onnx writes it, and once more with other numbers in its last layer's weights and biases."""
    graph = onnx.load(model)
    before, after = into / "before.onnx", into / "after.onnx"
    onnx.save(graph, before)
    known = {one.name: one for one in graph.graph.initializer}
    last = [node for node in graph.graph.node if node.op_type in ("MatMul", "Gemm", "Add")][-2:]
    drawn = np.random.default_rng(7)
    changed = [known[name] for node in last for name in node.input if name in known]
    assert len(changed) == 2, "a weight and a bias"
    for one in changed:
        values = numpy_helper.to_array(one)
        moved = values + drawn.normal(0, 0.05, values.shape).astype(values.dtype)
        one.CopyFrom(numpy_helper.from_array(moved, one.name))
    onnx.save(graph, after)
    return before, after


def measure() -> tuple[dict[str, Any], dict[str, str]]:
    models = prepare(cache_root(), say=Progress())
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="edgeward-bench-") as made, site(RATE, FAST) as (link, other):
        folder = Path(made)
        before, after = head_trained_on(models.page_turner.path, folder)
        reader, small = models.sign_reader.path, models.sign_reader_2.path
        new = models.file_sorter.path
        with ExitStack() as stack:
            for name in ("one", "two"):
                (folder / name).mkdir()
            registry = stack.enter_context(Registry(folder / "one", address=link.address)).host
            print("publishing", flush=True)
            first, _ = published(registry, before, "1.0.0")
            fp32, _ = published(registry, reader, "2.0.0")
            store = folder / "store"
            for model in (first, fp32):
                _fetch_here(registry, model, store)
            for name, path, version in (
                ("head_only", after, "1.1.0"),
                ("repush", before, "1.0.1"),
                ("int8", small, "2.1.0"),
                ("new", new, "3.0.0"),
            ):
                model, plainly = published(registry, path, version)
                asked = {"digest": model, "sources": [f"oci://{registry}/models/m"], "store": str(store)}
                figures |= _against(name, link, asked, plainly, path.stat().st_size)
            figures |= _two(link, other, registry, folder)
    notes = {
        "bytes_ratio_head_only": "a 6.8 MB image classifier with four classes: the last layer is 20 KB of it. Where the "
        "last layer is a third of the model, so is the ratio",
        "bytes_ratio_int8": "int8 has no bytes in common with fp32; what is saved is by packing",
        "bytes_ratio_new": "the site also fetches manifest, golden data and measurements, and saves by packing",
    }
    return figures, notes


def _fetch_here(registry: str, digest: str, store: Path) -> None:
    """Without the link's bound: what the site has from before."""
    asked = {"digest": digest, "sources": [f"oci://{registry}/models/m"], "store": str(store)}
    subprocess.run([sys.executable, "-c", _FETCH, json.dumps(asked)], check=True, capture_output=True)


def _against(name: str, link: Link, asked: dict[str, Any], plainly: str, size: int) -> dict[str, Any]:
    at = link.bytes
    ours = at_site(_FETCH, json.dumps(asked))
    ours_bytes, at = link.bytes - at, link.bytes
    assert Store(Path(asked["store"])).find(asked["digest"]) is not None
    full = at_site(_PLAIN, plainly)
    full_bytes = link.bytes - at
    assert full["received"] == size
    ratio = ours_bytes / full_bytes
    print(f"{name}: {ours_bytes} bytes in {ours['seconds']:.1f} s, {full_bytes} in {full['seconds']:.1f} s", flush=True)
    return {
        f"bytes_ratio_{name}": round(ratio, 3),
        f"bytes_{name}": ours_bytes,
        f"bytes_{name}_plain": full_bytes,
        f"bytes_{name}_s": round(ours["seconds"], 1),
        f"bytes_{name}_plain_s": round(full["seconds"], 1),
    }


def _two(link: Link, other: Link, registry: str, folder: Path) -> dict[str, Any]:
    """The same blobs at two registries, each behind a link of its own. Of noise: only the links count."""
    data = os.urandom(10_000_000)
    with Registry(folder / "two", address=other.address) as second:
        pushed = [push(host, "models/two", {"model.onnx": data}) for host in (registry, second.host)]
        before = link.bytes + other.bytes
        asked = {
            "digest": pushed[0].digest,
            "sources": [one.source for one in pushed],
            "store": str(folder / "store-two"),
        }
        took = at_site(_FETCH, json.dumps(asked))
        came = link.bytes + other.bytes - before
    ideal = came * 8 / (RATE + FAST) / 1e6
    print(f"two sources: {took['seconds']:.2f} s, D/(R1+R2) = {ideal:.2f} s", flush=True)
    return {
        "two_sources_s": round(took["seconds"], 2),
        "two_sources_ideal_s": round(ideal, 2),
        "two_sources_ratio": round(took["seconds"] / ideal, 3),
        "two_sources_bytes_over": came - len(data),
    }


def main() -> int:
    begun = time.monotonic()
    figures, notes = measure()
    path = report.merge("release", versions={}, figures=figures, notes=notes)
    print(path.read_text(), f"{time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
