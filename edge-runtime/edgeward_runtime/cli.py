"""The commands `edgeward-serve` and `edgeward-model`."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

from edgeward_runtime import __version__, cgroup, logs
from edgeward_runtime.config import MODEL_NAME, VERSION
from edgeward_runtime.errors import Refusal
from edgeward_runtime.settings import SettingsError, from_environment


def serve(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="edgeward-serve",
        description="Serves ONNX models over the Open Inference Protocol. Without FILE it follows models.json in "
        "EDGEWARD_CONFIG_DIR; settings come from EDGEWARD_... variables (docs/runtime.md).",
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="serve this .onnx file, or this artifact folder",
    )
    parser.add_argument("--name", help="the model's name (default: the file's)")
    parser.add_argument("--model-version", default="1", help="the version that answers name (default: 1)")
    parser.add_argument("--host", help="address to listen on (default: EDGEWARD_HOST or 0.0.0.0)")
    parser.add_argument("--port", type=int, help="port to listen on (default: EDGEWARD_PORT or 8080)")
    parser.add_argument("--grpc-port", type=int, help="port for gRPC, 0 for none (default: EDGEWARD_GRPC_PORT or 0)")
    parser.add_argument("--version", action="version", version=__version__)
    options = parser.parse_args(argv)
    try:
        settings = from_environment(os.environ)
    except SettingsError as error:
        parser.error(str(error))
    for option, number in (("port", options.port), ("grpc_port", options.grpc_port)):
        if number is not None:
            if not 0 <= number <= 65535:
                parser.error(f"--{option.replace('_', '-')} {number} is not between 0 and 65535")
            settings = dataclasses.replace(settings, **{option: number})
    if settings.grpc_port and importlib.util.find_spec("grpc") is None:
        parser.error("gRPC needs grpcio and protobuf: pip install edgeward-runtime[grpc]")
    if options.host:
        settings = dataclasses.replace(settings, host=options.host)
    logs.configure(settings.log_level)

    from edgeward_runtime.server import SingleFile, run

    single = None
    if options.file is not None:
        name = options.name or re.sub(r"[^A-Za-z0-9._-]", "-", options.file.stem)
        if not MODEL_NAME.fullmatch(name) or not VERSION.fullmatch(options.model_version):
            parser.error(
                "name and version must begin with a letter or digit and hold only letters, digits, '.', '_', '-'"
            )
        if not options.file.exists():
            parser.error(f"{options.file} is not there")
        single = SingleFile(path=options.file, name=name, version=options.model_version)
    try:
        return run(settings, single)
    except Refusal as refusal:
        print(f"edgeward-serve: {options.file} does not load: {refusal.reason}: {refusal.message}", file=sys.stderr)
        return 1


def model(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="edgeward-model", description="Looks at ONNX model files.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="says inputs, outputs, size, digest, latency, and whether it loads")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(argv)
    if not options.file.is_file():
        parser.error(f"{options.file} is not a file")
    report = _check(options.file)
    print(json.dumps(report, indent=2) if options.json else _as_text(report))
    return 0 if report["loads"] else 1


def _check(path: Path) -> dict[str, object]:
    from edgeward_runtime.model import load, warm_up
    from edgeward_runtime.server import file_digest

    threads = cgroup.default_threads()
    report: dict[str, object] = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "digest": file_digest(path),
        "threads": threads,
    }
    try:
        loaded = load(path, name="check", version="1", digest=str(report["digest"]), threads=threads)
        report["inputs"] = [spec.metadata() for spec in loaded.inputs.values()]
        report["outputs"] = [spec.metadata() for spec in loaded.outputs.values()]
        seconds = warm_up(loaded)
    except Refusal as refusal:
        return {**report, "loads": False, "step": refusal.step, "reason": refusal.reason, "message": refusal.message}
    report["loads"] = True
    report["latencyMs"] = None if seconds is None else round(seconds * 1000, 3)
    return report


def _as_text(report: dict[str, object]) -> str:
    lines = [f"{report['file']}: {report['bytes']} bytes, {report['digest']}"]
    for kind in ("inputs", "outputs"):
        tensors = report.get(kind)
        lines += [
            f"  {kind[:-1]} {tensor['name']}: {tensor['datatype']} {tensor['shape']}"
            for tensor in (tensors if isinstance(tensors, list) else [])
        ]
    if not report["loads"]:
        lines.append(f"  does not load: {report['step']}: {report['reason']}: {report['message']}")
    elif report["latencyMs"] is None:
        lines.append("  loads; no size tried for its dynamic dimensions ran, so latency is unknown")
    else:
        lines.append(
            f"  loads; fastest of 3 runs on zeros, one row: {report['latencyMs']} ms with {report['threads']} threads"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(serve())
