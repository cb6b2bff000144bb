"""Where a command gets its fleet from: a snapshot file, the running operator, or, without it, lists of objects."""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Callable
from pathlib import Path

from edgeward.cluster import trim
from edgeward.cluster.client import ApiError, Client
from edgeward.cluster.resources import (
    ASSIGNMENTS,
    INFERENCE_JOBS,
    MODEL_RELEASES,
    NAMESPACES,
    NODES,
    PODS,
    SITES,
    Object,
    Resource,
)
from edgeward.fleet.build import build
from edgeward.fleet.snapshot import SnapshotError
from edgeward.placement.record import Record, read, record
from edgeward.placement.settings import PlanSettings

from .errors import CommandError, Exit
from .reach import NotToBeHad, Target, ask_operator, connected, explained

Say = Callable[[str], None]
"""for what is not the answer itself: it goes to standard error"""


def from_file(path: str) -> Record:
    """`-` is standard input; a file may be gzipped."""
    try:
        raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CommandError(
            f"{path}: {error}", remedy="make one with: edgeward snapshot -o FILE", code=Exit.INPUT
        ) from error
    try:
        return read(text)
    except SnapshotError as error:
        raise CommandError(
            f"{path}: {error}", remedy="make a new one with: edgeward snapshot -o FILE", code=Exit.INPUT
        ) from error


async def from_cluster(target: Target, say: Say) -> Record:
    """The operator's own last pass; put together from lists of the same objects when that is not to be had."""
    async with connected(target) as client:
        try:
            return read(await ask_operator(client, target, "/debug/snapshot"))
        except NotToBeHad as why:
            say(
                f"{why}; the fleet is put together from lists of objects instead, without live figures and with default"
            )
            say("settings, so a plan for it can differ from the operator's")
        except SnapshotError as error:
            raise CommandError(
                f"the operator's snapshot: {error}", remedy="use the edgeward of the operator's version"
            ) from error
        return await _from_lists(client)


async def _from_lists(client: Client) -> Record:
    async def items(resource: Resource) -> list[Object]:
        try:
            found, _ = await client.list(resource)
        except ApiError as error:
            raise explained(error) from error
        return found

    fleet = build(
        now=time.time(),
        nodes=[trim.node(item) for item in await items(NODES)],
        pods=[trim.pod(item) for item in await items(PODS)],
        jobs=await items(INFERENCE_JOBS),
        releases=await items(MODEL_RELEASES),
        sites=await items(SITES),
        assignments=await items(ASSIGNMENTS),
        namespaces=[trim.namespace(item) for item in await items(NAMESPACES)],
        metrics_problem="this snapshot was put together without live figures",
    )
    return record(fleet, PlanSettings(), made=None, live=False)
