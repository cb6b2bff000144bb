"""`edgeward explain JOB`: why here, why not there, and what would change it, read off the job's status."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from edgeward.api.common import ApiError as InvalidObject
from edgeward.api.inferencejob import InferenceJob
from edgeward.cluster.client import ApiError, Client
from edgeward.cluster.resources import INFERENCE_JOBS, Object
from edgeward.fleet.reading import Reader

from . import reach
from .errors import CommandError, Exit
from .explain_text import lines_of
from .output import show
from .standing import Standing, ahead_of, alike
from .table import page_for


def explain(arguments: argparse.Namespace) -> int:
    target = reach.Target.of(arguments)
    namespace, _, name = arguments.job.rpartition("/")
    if namespace and arguments.namespace and namespace != arguments.namespace:
        raise CommandError(
            f"{arguments.job} and -n {arguments.namespace} are two namespaces", remedy="name one", code=Exit.INPUT
        )
    one = asyncio.run(_look(target, namespace or arguments.namespace or target.namespace, name))
    if arguments.output == "table":
        sys.stdout.write("\n".join(lines_of(one, page_for(sys.stdout))) + "\n")
    else:
        show(one.document(), arguments.output)
    return Exit.DONE


async def _look(target: reach.Target, namespace: str, name: str) -> Standing:
    async with reach.connected(target) as client:
        try:
            raw = await client.get(INFERENCE_JOBS, namespace, name)
        except ApiError as error:
            if error.not_found and "could not find the requested resource" not in error.message:
                raise await _not_found(client, namespace, name) from error
            raise
        try:
            job = Reader().read(InferenceJob, raw)
        except InvalidObject as error:
            path, text = error.problems[0]
            raise CommandError(
                f"{namespace}/{name}: {path}: {text}",
                remedy="correct the spec; nothing is placed before",
                code=Exit.INPUT,
            ) from error
        others = await _all_jobs(client)
        return Standing(job=job, ahead=None if others is None else ahead_of(job, others), now=time.time())


async def _all_jobs(client: Client) -> list[Object] | None:
    """None when they may not be listed: then the order in the job's own status has to do."""
    try:
        found, _ = await client.list(INFERENCE_JOBS)
    except ApiError as error:
        if error.status != 403:
            raise
        return None
    return found


async def _not_found(client: Client, namespace: str, name: str) -> CommandError:
    try:
        found, _ = await client.list(INFERENCE_JOBS)
    except ApiError:
        try:
            found, _ = await client.list(INFERENCE_JOBS, namespace=namespace)
        except ApiError:
            found = []
    here = [item["metadata"]["name"] for item in found if item["metadata"]["namespace"] == namespace]
    elsewhere = [item["metadata"]["namespace"] for item in found if item["metadata"]["name"] == name]
    similar = alike(name, here)
    if elsewhere:
        remedy = f"there is one in namespace {', '.join(sorted(elsewhere)[:3])}: add -n"
    elif similar:
        remedy = f"did you mean {' or '.join(similar)}?"
    else:
        remedy = "kubectl get inferencejobs -A lists them all"
    return CommandError(f"no InferenceJob {name} in namespace {namespace}", remedy=remedy, code=Exit.NOT_FOUND)
