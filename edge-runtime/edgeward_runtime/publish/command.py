"""`edgeward-model publish`: arguments, progress, what to do about a refusal."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edgeward_runtime import cgroup
from edgeward_runtime.check import bytes_text
from edgeward_runtime.errors import Refusal
from edgeward_runtime.publish import names
from edgeward_runtime.settings import Settings, SettingsError, from_environment

if TYPE_CHECKING:
    from edgeward_runtime.fetch import Access
    from edgeward_runtime.publish.publish import Wanted

_EVERY = 2.0  # seconds between two lines about the same work
_TIMEOUT = 60.0  # seconds for a connect, or for a part to be taken
_HINTS = {
    "Unauthorized": "log in with `docker login {host}` or name a folder with a config.json by --credentials; credential "
    "helpers (credsStore) are not run",
    "Unreachable": "is {host} right, does it speak TLS (--plain-http if not), and does this machine trust its certificate "
    "(--ca-bundle)? What was uploaded stays, run it again to go on",
    "TagTaken": "give another --version; --force moves the tag, and releases that name the digest keep the old model",
    "NoInputs": "give inputs that it runs with by --golden FILE.npz, or do without by --no-golden",
    "GoldenMismatch": "a site would refuse it: mend the data, widen --atol and --rtol, or do without by --no-golden",
    "PreprocessingInvalid": "docs/records.md says what preprocessing.json holds",
    "ExternalDataMissing": "keep the weights beside the model, where the model names them",
    "UnsafePath": "save the model with its weights under plain names beside it (onnx.save, location=...)",
    "DigestMismatch": "a file changed while it was read; run it again",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="an .onnx file, or an artifact's folder")
    parser.add_argument("--name", required=True, help="of the model; the last part of the repository")
    parser.add_argument("--version", required=True, help="also the tag, such as 1.4.0")
    parser.add_argument("--to", required=True, metavar="oci://REGISTRY/PATH", help="where to; --name is added")
    parser.add_argument("--key", type=Path, help="signs: private key, Ed25519 or ECDSA P-256, PEM, no password")
    parser.add_argument("--preprocessing", type=Path, metavar="FILE", help="preprocessing.json, see docs/records.md")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes, one a line")
    parser.add_argument("--data", type=Path, metavar="PATH", help="what it was made with, for drift: .npz or a folder")
    parser.add_argument(
        "--golden", type=Path, metavar="FILE.npz", help="inputs, and outputs they must give (default: drawn)"
    )
    parser.add_argument("--no-golden", action="store_true", help="publish without golden data")
    parser.add_argument("--atol", type=float, help="how far a site's outputs may be off: absolute (default: 0.0001)")
    parser.add_argument("--rtol", type=float, help="and relative (default: 0.001)")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="MATCH:FILE",
        help="another model for some nodes, such as tier=edge,arch=arm64:model.int8.onnx; may be given again",
    )
    parser.add_argument("--force", action="store_true", help="move the tag if it is there with another model")
    parser.add_argument("--threads", type=int, default=0, help="of one run (default: from the CPU quota)")
    parser.add_argument("--credentials", type=Path, metavar="FOLDER", help="with config.json (default: ~/.docker)")
    parser.add_argument("--ca-bundle", type=Path, metavar="FILE", help="PEM, trusted beside the system's")
    parser.add_argument("--plain-http", action="store_true", help="speak to the registry without TLS")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Exit status 0: it is there, whole and signed if a key was given. 1: it is not, stderr says why and what to do."""
    from edgeward_runtime.fetch import http, oci
    from edgeward_runtime.publish import show
    from edgeward_runtime.publish.publish import public_keys, publish
    from edgeward_runtime.publish.registry import Uploads

    try:
        uri = names.repository(options.to, names.check_name(options.name))
        wanted = _wanted(parser, options)
        host = uri.removeprefix("oci://").partition("/")[0]
        access = _access(options, from_environment(os.environ), host)
        public = public_keys(wanted.key)
    except (names.NameProblem, SettingsError) as error:
        parser.error(str(error))
    except (OSError, ValueError) as error:
        parser.error(f"--key {options.key}: {error}")
    try:
        client = http.Client(timeout=_TIMEOUT, ca_bundle=access.ca_bundle)
        uploads = Uploads(oci.Repository(uri, digest=None, client=client, access=access))
        told = Progress(sys.stderr, clock=time.monotonic)
        results = publish(wanted, uploads, uri=uri, counts=uploads.counts, told=told)
    except Refusal as refusal:
        return _refused(refusal, host, for_programs=options.json)
    except OSError as error:  # a file that cannot be read, a full disk
        print(f"edgeward-model: not published: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("edgeward-model: not published: stopped. Run it again to go on", file=sys.stderr)
        return 130
    if options.json:
        document = show.as_document(results, name=options.name, version=options.version, keys=public)
        print(json.dumps(document, indent=2))
    else:
        print(show.as_text(results, version=options.version, keys=public), end="")
    return 0


def _wanted(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Wanted:
    from edgeward_runtime.artifact import golden
    from edgeward_runtime.publish.prepare import Asked
    from edgeward_runtime.publish.publish import Wanted

    names.check_version(options.version)
    variants = [names.variant(text) for text in options.variant]
    for match, path in variants:
        names.tag(options.version, match)
        if not path.exists():
            parser.error(f"--variant: {path} is not there")
    if len({tuple(match.items()) for match, _ in variants}) < len(variants):
        parser.error("--variant: two variants are for the same nodes")
    if options.golden is not None and options.no_golden:
        parser.error("--golden and --no-golden exclude each other")
    for path in (options.preprocessing, options.labels, options.data, options.golden, options.key):
        if path is not None and not path.exists():
            parser.error(f"{path} is not there")
    for name in ("atol", "rtol"):
        value = getattr(options, name)
        if value is not None and not 0 <= value < math.inf:
            parser.error(f"--{name} {value} must be a number of 0 or more")
    return Wanted(
        name=options.name,
        version=options.version,
        model=options.file,
        asked=Asked(
            golden=options.golden,
            golden_outputs=True,
            with_golden=not options.no_golden,
            data=options.data,
            atol=golden.DEFAULT_ATOL if options.atol is None else options.atol,
            rtol=golden.DEFAULT_RTOL if options.rtol is None else options.rtol,
            threads=options.threads if options.threads > 0 else cgroup.default_threads(),
        ),
        variants=variants,
        preprocessing=options.preprocessing,
        labels=options.labels,
        key=options.key.read_bytes() if options.key is not None else None,
        force=options.force,
    )


def _access(options: argparse.Namespace, settings: Settings, host: str) -> Access:
    """What the settings say, unless the options say otherwise."""
    from edgeward_runtime.fetch import Credentials, access_of

    if options.credentials is not None and not options.credentials.is_dir():
        raise SettingsError(f"--credentials {options.credentials} is not a folder")
    access = access_of(settings)
    folder = options.credentials or settings.credentials_dir or _docker_folder()
    return replace(
        access,
        credentials=Credentials(folder=folder),
        ca_bundle=options.ca_bundle or access.ca_bundle,
        plain_http=access.plain_http | ({host} if options.plain_http else set()),
    )


def _refused(refusal: Refusal, host: str, *, for_programs: bool) -> int:
    hint = _HINTS.get(refusal.reason, "").format(host=host)
    if for_programs:
        problem = {"reason": refusal.reason, "step": refusal.step, "message": refusal.message, "hint": hint}
        print(json.dumps({"error": problem}, indent=2))
    print(f"edgeward-model: not published: {refusal.reason}: {refusal.message}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)
    return 1


def _docker_folder() -> Path | None:
    """Where `docker login` writes."""
    folder = os.environ.get("DOCKER_CONFIG")
    if folder:
        return Path(folder)
    home = os.environ.get("HOME")
    return Path(home) / ".docker" if home else None


class Progress:
    """On stderr, a line when something new begins, and one every two seconds while it lasts."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._next = 0.0

    def says(self, text: str) -> None:
        self._next = self._clock() + _EVERY
        print(text, file=self._stream, flush=True)

    def bytes(self, text: str, done: int, total: int) -> None:
        now = self._clock()
        if now < self._next or not total:
            return
        self._next = now + _EVERY
        shown = f"  {bytes_text(done)} of {bytes_text(total)} {text} ({100 * done // total}%)"
        print(shown, file=self._stream, flush=True)
