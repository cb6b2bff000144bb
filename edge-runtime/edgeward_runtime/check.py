"""What a model needs and whether it will run, for `edgeward-model check`.

The model is loaded and run in a child process: so its memory is measured alone, and a model that ends the process that
loads it is found out here and not on a site.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from edgeward_runtime.artifact.reader import Artifact
from edgeward_runtime.config import Entry
from edgeward_runtime.errors import Refusal
from edgeward_runtime.trust import bundle, keys, onnx_file

if TYPE_CHECKING:
    from edgeward_runtime.model import Model

_RUNS = 20
_RUN_SECONDS = 2.0  # no more runs are begun after that
_MAX_REPORT = 16 * 2**20  # bytes that the child may say
Report = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trusted:
    """Public keys in PEM, and where the model's signature is."""

    keys: tuple[str, ...]
    signature: Path


def check(path: Path, *, threads: int, trusted: Trusted | None = None) -> Report:
    """`path` is a model's file or an artifact's folder. The report's `runs` says whether it will; if not, `step`,
    `reason` and `message` say why, as a site's status would. `signature` is there if keys were given."""
    report: Report = {"file": str(path), "threads": threads, "runs": False}
    try:
        artifact = Artifact.of_local(path)
        report["bytes"] = size_of(path, artifact)
        report["digest"] = artifact.digest
        if trusted is not None:
            report["signature"] = _signature(artifact.digest, trusted)
        found = onnx_file.scan(artifact.model)
        report["irVersion"] = found.ir_version
        report["opsets"] = {domain or "ai.onnx": version for domain, version in sorted(found.opsets.items())}
        report["externalData"] = sorted(found.external)
        report["parts"] = [
            name for name in ("preprocessing", "golden", "reference", "labels") if getattr(artifact, name)
        ]
        report |= in_child(lambda: measure(artifact, threads=threads))
    except Refusal as refusal:
        report |= {"step": refusal.step, "reason": refusal.reason, "message": refusal.message}
    return report


def size_of(path: Path, artifact: Artifact) -> int:
    """Bytes that have to be on a site's disk."""
    if path.is_dir():
        return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
    beside = {artifact.model.parent / location for location in onnx_file.scan(artifact.model).external}
    return sum(one.stat().st_size for one in (artifact.model, *beside) if one.is_file())


def measure(artifact: Artifact, *, threads: int) -> Report:
    """Loads, checks and runs the model as a site would. Refusal if a site would refuse it."""
    return loaded(artifact, threads=threads)[1]


def loaded(artifact: Artifact, *, threads: int) -> tuple[Model, Report]:
    """The model too, for who goes on with it. Of a model that does not run, the report says why."""
    from edgeward_runtime import loading
    from edgeward_runtime.model import warm_up

    before = _memory("VmRSS")
    entry = Entry(name="check", version="1", digest=artifact.digest)
    start = time.perf_counter()
    model = loading.load(artifact, entry, threads=threads)
    report: Report = {
        "inputs": [spec.metadata() for spec in model.inputs.values()],
        "outputs": [spec.metadata() for spec in model.outputs.values()],
        "loadSeconds": round(time.perf_counter() - start, 3),
    }
    try:
        loading.check_golden(model)
        # batch_rows: one row at a time, since that is what is measured here.
        seconds = warm_up(model, batch_rows=1)
        until = time.perf_counter() + _RUN_SECONDS
        for _ in range(_RUNS):
            if seconds is None or time.perf_counter() > until:
                break
            seconds = min(seconds, warm_up(model, batch_rows=1) or seconds)
    except Refusal as refusal:
        return model, {**report, "step": refusal.step, "reason": refusal.reason, "message": refusal.message}
    report["runs"] = True
    report["latencySeconds"] = None if seconds is None else round(seconds, 7)
    report["memoryBytes"] = max(0, _memory("VmHWM") - before)
    report["processBytes"] = _memory("VmHWM")
    return model, report


def in_child(work: Any) -> Report:
    """What `work` answers, run in a fork of this process, which must not have threads yet. A Refusal that it raises comes
    out as the report of one; a child that ends otherwise is one too."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(work, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read(_MAX_REPORT)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) == 0 and said:
        report: Report = orjson.loads(said)
        return report
    code = os.waitstatus_to_exitcode(status)
    ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    message = f"the process ended while it loaded or ran the model ({ended}): out of memory, or a crash in native code"
    return {"step": "Load", "reason": "LoadCrashed", "message": message}


def _work(work: Any, writer: int) -> None:
    """The child's whole life: nothing of the parent's must run in it."""
    status = 1
    try:
        try:
            report = work()
        except Refusal as refusal:
            report = {"step": refusal.step, "reason": refusal.reason, "message": refusal.message}
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(orjson.dumps(report))
        status = 0
    finally:
        os._exit(status)


def _memory(key: str) -> int:
    """Bytes, from Linux's own account of this process; 0 where there is none."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


def _signature(digest: str, trusted: Trusted) -> Report:
    try:
        text = trusted.signature.read_bytes() if trusted.signature.is_file() else None
        keys.verify(digest, bundle.loads(text) if text is not None else (), trusted.keys)
    except Refusal as refusal:
        return {"verified": False, "reason": refusal.reason, "message": refusal.message}
    return {"verified": True}


# -- text -------------------------------------------------------------------------------------------------------------


def as_text(report: Mapping[str, Any]) -> str:
    lines = [f"{report['file']}"]
    if "bytes" in report:
        lines[0] += f": {bytes_text(report['bytes'])}, {report['digest']}"
    if "opsets" in report:
        opsets = ", ".join(f"{domain} {version}" for domain, version in report["opsets"].items())
        lines.append(f"  operator sets    {opsets or 'none named'}")
    for kind in ("inputs", "outputs"):
        for index, tensor in enumerate(report.get(kind, ())):
            label = kind if index == 0 else ""
            lines.append(f"  {label:<16} {tensor['name']}: {tensor['datatype']} {_shape(tensor['shape'])}")
    if report.get("externalData"):
        lines.append(f"  external data    {', '.join(report['externalData'])}")
    if report.get("parts"):
        lines.append(f"  brings along     {', '.join(report['parts'])}")
    if "signature" in report:
        signature = report["signature"]
        said = "verified" if signature["verified"] else f"{signature['reason']}: {signature['message']}"
        lines.append(f"  signature        {said}")
    lines += _outcome(report)
    return "\n".join(lines)


def _outcome(report: Mapping[str, Any]) -> list[str]:
    if not report["runs"]:
        return [f"  will not run     {report['step']}: {report['reason']}: {report['message']}"]
    seconds = report["latencySeconds"]
    threads = f"{report['threads']} thread{'s' if report['threads'] != 1 else ''}"
    latency = (
        f"{seconds * 1000:.3g} ms a row with {threads}, the fastest run on zeros"
        if seconds is not None
        else "unknown: it runs with none of the sizes tried for its open dimensions"
    )
    return [
        f"  memory           {bytes_text(report['memoryBytes'])} for the model at its peak, {bytes_text(report['processBytes'])} "
        "with the process around it",
        f"  latency          {latency}",
        f"  runs             loads in {report['loadSeconds']:g} s",
    ]


def _shape(shape: Sequence[int]) -> str:
    return "[" + ", ".join("any" if dim < 0 else str(dim) for dim in shape) + "]"


def bytes_text(size: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
