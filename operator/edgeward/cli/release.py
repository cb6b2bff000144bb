"""`edgeward release`: how far a rollout is, and a word to it. Commands never write spec: Git stays the truth."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import sys
import time

from edgeward.api.assignment import Assignment
from edgeward.api.common import ApiError as InvalidObject
from edgeward.api.common import parse
from edgeward.api.modelrelease import ModelRelease
from edgeward.cluster.client import ApiError, Client
from edgeward.cluster.resources import ASSIGNMENTS, MODEL_RELEASES
from edgeward.fleet.names import ANNOTATION_COMMAND, LABEL_JOB_NAMESPACE
from edgeward.fleet.reading import Reader
from edgeward.fleet.releases import read_release

from . import reach, release_diff
from .errors import CommandError, Exit
from .output import show
from .release_text import history_of, lines_of
from .standing import alike
from .table import page_for
from .transfers import transfers

_LOOK = 1.0  # seconds between two looks of -w
_MANAGER = "kubectl-edgeward"
_PATIENCE = 20.0  # seconds until the operator must have acted on a command


def release(arguments: argparse.Namespace) -> int:
    target = reach.Target.of(arguments)
    namespace, _, name = arguments.release.rpartition("/")
    where = namespace or arguments.namespace or target.namespace
    try:
        return asyncio.run(_run(arguments, target, where, name))
    except KeyboardInterrupt:
        return Exit.DONE


async def _run(arguments: argparse.Namespace, target: reach.Target, namespace: str, name: str) -> int:
    async with reach.connected(target) as client:
        match arguments.verb:
            case "status":
                return await _status(client, namespace, name, watch=arguments.watch, output=arguments.output)
            case "history":
                found = await _get(client, namespace, name)
                sys.stdout.write("\n".join(history_of(found, page_for(sys.stdout))) + "\n")
                return Exit.DONE
            case "diff":
                return await _diff(client, namespace, name, output=arguments.output)
            case verb:
                return await _tell(client, namespace, name, verb)


async def _status(client: Client, namespace: str, name: str, *, watch: bool, output: str) -> int:
    shown = 0
    while True:
        found = await _get(client, namespace, name)
        if output != "table":
            show(found.model_dump(mode="json", by_alias=True, exclude_none=True)["status"], output)
            return Exit.DONE
        moved = transfers(found, await _assignments(client, namespace))
        lines = lines_of(found, page_for(sys.stdout), now=time.time(), moved=moved)
        if shown and sys.stdout.isatty():
            sys.stdout.write(f"\x1b[{shown}A\x1b[J")
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        if not watch:
            return Exit.DONE
        shown = len(lines)
        await asyncio.sleep(_LOOK)


async def _diff(client: Client, namespace: str, name: str, *, output: str) -> int:
    found = await _get(client, namespace, name)
    raw = found.model_dump(mode="json", by_alias=True, exclude_none=True)
    diff = release_diff.diff_of(read_release(raw, await _assignments(client, namespace), Reader()))
    if output != "table":
        show(diff.document(), output)
    else:
        sys.stdout.write("\n".join(release_diff.lines_of(diff, page_for(sys.stdout))) + "\n")
    return Exit.DONE


async def _tell(client: Client, namespace: str, name: str, verb: str) -> int:
    """Sets the annotation and waits until the operator has recorded its token."""
    found = await _get(client, namespace, name)
    if found.spec.rollout is None and verb != "retry":
        raise CommandError(
            f"{namespace}/{name} has no spec.rollout: its versions go everywhere at once",
            remedy="add spec.rollout.waves, or hold it with spec.paused: true",
            code=Exit.INPUT,
        )
    token = secrets.token_hex(4)
    patch = {"metadata": {"annotations": {ANNOTATION_COMMAND: f"{verb}@{token}"}}}
    await client.merge(MODEL_RELEASES, namespace, name, patch, manager=_MANAGER)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        found = await _get(client, namespace, name)
        if found.status.rollout is not None and found.status.rollout.token == token:
            sys.stdout.write("\n".join(lines_of(found, page_for(sys.stdout), now=time.time())) + "\n")
            return Exit.DONE
        await asyncio.sleep(0.2)
    raise CommandError(
        f"{verb} is written, but no operator has acted on it within {_PATIENCE:.0f} s",
        remedy="look whether it runs: kubectl get pods -n edgeward; it acts on the command when it is back",
    )


async def _get(client: Client, namespace: str, name: str) -> ModelRelease:
    try:
        raw = await client.get(MODEL_RELEASES, namespace, name)
    except ApiError as error:
        if error.not_found and "could not find the requested resource" not in error.message:
            raise await _not_found(client, namespace, name) from error
        raise
    try:
        return Reader().read(ModelRelease, raw)
    except InvalidObject as error:
        path, text = error.problems[0]
        raise CommandError(f"{namespace}/{name}: {path}: {text}", remedy="correct the spec", code=Exit.INPUT) from error


async def _assignments(client: Client, namespace: str) -> list[Assignment]:
    """Those of the jobs of a namespace that can be read; none for who may not list them."""
    try:
        raws, _ = await client.list(ASSIGNMENTS, selector=f"{LABEL_JOB_NAMESPACE}={namespace}")
    except ApiError:
        return []
    found = []
    for raw in raws:
        with contextlib.suppress(InvalidObject):
            found.append(parse(Assignment, raw))
    return found


async def _not_found(client: Client, namespace: str, name: str) -> CommandError:
    try:
        found, _ = await client.list(MODEL_RELEASES, namespace=namespace)
    except ApiError:
        found = []
    similar = alike(name, [item["metadata"]["name"] for item in found])
    remedy = f"did you mean {' or '.join(similar)}?" if similar else "kubectl get modelreleases -A lists them all"
    return CommandError(f"no ModelRelease {name} in namespace {namespace}", remedy=remedy, code=Exit.NOT_FOUND)
