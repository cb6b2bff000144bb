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
    from edgeward_runtime.publish import command

    parser = argparse.ArgumentParser(prog="edgeward-model", description="Looks at models, signs and publishes them.")
    commands = parser.add_subparsers(dest="command", required=True)
    _check_arguments(commands.add_parser("check", help="says what a model needs, and whether it will run"))
    sign = commands.add_parser("sign", help="makes FILE.sig, which `signature` in a ModelRelease asks for")
    sign.add_argument("file", type=Path, metavar="FILE")
    sign.add_argument("--key", type=Path, required=True, help="private key, Ed25519 or ECDSA P-256, PEM, no password")
    command.add_arguments(commands.add_parser("publish", help="checks a model and pushes it to a registry"))
    options = parser.parse_args(argv)
    if not options.file.exists():
        parser.error(f"{options.file} is not there")
    if options.command == "publish":
        return command.run(parser, options)
    if options.command == "sign":
        return _sign(parser, options)
    return _check(parser, options)


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="an .onnx file, or an artifact's folder")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--threads", type=int, default=0, help="of one run (default: from the CPU quota)")
    parser.add_argument("--key", type=Path, action="append", default=[], help="public key in PEM; may be given again")
    parser.add_argument("--signature", type=Path, help="with --key: the signature file (default: FILE.sig)")


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from edgeward_runtime import check

    trusted = None
    if options.key:
        if options.file.is_dir():
            parser.error(
                "an artifact's signature is over its manifest in the registry: check it there, or the file alone"
            )
        try:
            public = tuple(path.read_text() for path in options.key)
        except (OSError, UnicodeDecodeError) as error:
            parser.error(f"--key cannot be read: {error}")
        trusted = check.Trusted(keys=public, signature=options.signature or signature_of(options.file))
    threads = options.threads if options.threads > 0 else cgroup.default_threads()
    report = check.check(options.file, threads=threads, trusted=trusted)
    print(json.dumps(report, indent=2) if options.json else check.as_text(report))
    good = report["runs"] and report.get("signature", {}).get("verified", True)
    return 0 if good else 1


def signature_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sig")


def _sign(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Adds to the signatures that are there, so that an old and a new key may both have signed."""
    from edgeward_runtime.artifact.reader import Artifact
    from edgeward_runtime.trust import bundle, keys

    if options.file.is_dir():
        parser.error("an artifact is signed in its registry, by its manifest's digest")
    path = signature_of(options.file)
    digest = Artifact.of_local(options.file).digest
    try:
        signed = keys.sign(digest, options.key.read_bytes())
        before = bundle.loads(path.read_bytes()) if path.exists() else ()
    except (OSError, ValueError) as error:
        parser.error(f"--key {options.key}: {error}")
    except Refusal as refusal:
        parser.error(f"{path}: {refusal.message}")
    # What was signed of an earlier content under this name is of no more use.
    kept = [one for one in before if bundle.signed_digest(one.payload) == digest and one != signed]
    path.write_bytes(bundle.dumps([*kept, signed]))
    print(f"{path}: {len(kept) + 1} signature{'s' if kept else ''} of {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(serve())
