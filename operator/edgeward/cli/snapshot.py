"""`edgeward snapshot` and `edgeward plan`: the fleet as the operator sees it, and its decision made once more."""

from __future__ import annotations

import argparse
import asyncio
import gzip
import sys
from pathlib import Path

from edgeward.placement.record import Record, digest, plan_text, record_text

from . import reach, source
from .errors import CommandError, Exit


def say(text: str) -> None:
    print(f"edgeward: {text}", file=sys.stderr)


def take(arguments: argparse.Namespace) -> int:
    made = asyncio.run(source.from_cluster(reach.Target.of(arguments), say))
    text = record_text(made)
    if arguments.output == "-":
        sys.stdout.write(text)
        return Exit.DONE
    path = Path(arguments.output)
    # The same bytes in each run: no time in the packed file.
    raw = gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode()
    try:
        path.write_bytes(raw)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}", code=Exit.INPUT) from error
    say(f"{path}: {_counts(made)}, {len(raw):,} bytes")
    return Exit.DONE


def _counts(made: Record) -> str:
    fleet = made.fleet
    return f"{len(fleet.jobs)} jobs, {len(fleet.nodes)} nodes, {len(fleet.sites)} sites"


def replay(arguments: argparse.Namespace) -> int:
    recorded = source.from_file(arguments.snapshot)
    text = plan_text(recorded.replay())
    sys.stdout.write(text)
    sys.stdout.flush()
    if not recorded.plan:
        say("nobody planned for this snapshot yet; there is nothing to compare with")
    elif digest(text) == recorded.plan:
        say(f"byte for byte the operator's plan ({recorded.plan[:19]})")
    else:
        say(
            f"NOT the operator's plan: {digest(text)[:19]}, it made {recorded.plan[:19]} with edgeward {recorded.edgeward}"
        )
        return Exit.DIFFERS
    return Exit.DONE
