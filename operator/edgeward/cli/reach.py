"""From a person's machine to the cluster: the kubeconfig, and the operator that leads, through the API server.

Every request is made with the rights of whoever runs the command.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from edgeward.cluster.client import ApiError, Client, namespace_of
from edgeward.cluster.lease import HOLDER_HEADER
from edgeward.cluster.resources import LEASES, PODS

from .commands import OPERATOR_NAMESPACE
from .errors import CommandError, Exit

LEASE = "edgeward-hub"
PATIENCE = 60.0
"""seconds for the snapshot of a large fleet"""


@dataclass(frozen=True, slots=True)
class Target:
    """Which cluster, and where in it."""

    kubeconfig: str | None = None
    context: str | None = None
    operator_namespace: str = OPERATOR_NAMESPACE

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Target:
        return cls(arguments.kubeconfig, arguments.context, arguments.operator_namespace)

    @property
    def namespace(self) -> str:
        """What kubectl would take when none is named."""
        return namespace_of(kubeconfig=self.kubeconfig, context=self.context)


@contextlib.asynccontextmanager
async def connected(target: Target) -> AsyncIterator[Client]:
    """A client; what the API server or the way to it says against us ends as a CommandError."""
    try:
        async with Client.connect(kubeconfig=target.kubeconfig, context=target.context, call_limit=PATIENCE) as client:
            yield client
    except ApiError as error:
        raise explained(error) from error


def explained(error: ApiError) -> CommandError:
    """With what to do next."""
    if error.reason == "NoKubeconfig":
        return CommandError(
            f"no kubeconfig to use: {error.message}",
            remedy="set KUBECONFIG, or name one with --kubeconfig, and look with: kubectl cluster-info",
            code=Exit.UNREACHABLE,
        )
    if error.status == 0:
        return CommandError(
            f"the cluster does not answer: {error.message}",
            remedy="look with: kubectl cluster-info; another cluster is chosen by --context or --kubeconfig",
            code=Exit.UNREACHABLE,
        )
    if error.status == 401:
        return CommandError(
            "the cluster does not know you",
            remedy="log in to it anew, then: kubectl auth whoami",
            code=Exit.UNREACHABLE,
        )
    if error.status == 403:
        return CommandError(
            f"not allowed: {error.message}", remedy="docs/what-if.md lists the rights", code=Exit.UNREACHABLE
        )
    if error.not_found and "could not find the requested resource" in error.message:
        return no_edgeward()
    return CommandError(str(error))


def no_edgeward() -> CommandError:
    return CommandError(
        "this cluster does not know the kinds of Edgeward",
        remedy="install it: helm install edgeward charts/edgeward -n edgeward --create-namespace; "
        "another cluster is chosen by --context",
        code=Exit.UNREACHABLE,
    )


class NotToBeHad(Exception):
    """The operator's own snapshot is out of reach; the message says why."""


async def ask_operator(client: Client, target: Target, path: str) -> str:
    """What the leading operator answers at a path below /debug, as canonical JSON. Raises NotToBeHad."""
    namespace = target.operator_namespace
    try:
        lease = await client.get(LEASES, namespace, LEASE)
    except ApiError as error:
        if error.not_found:
            raise NotToBeHad(f"no operator has run in namespace {namespace} (no Lease {LEASE})") from error
        if error.status == 403:
            raise NotToBeHad(f"you may not read the Lease {namespace}/{LEASE}") from error
        raise
    holder = str((lease.get("spec") or {}).get("holderIdentity") or "")
    pod, _, _ = holder.rpartition("-")
    if not pod:
        raise NotToBeHad("no operator leads at the moment")
    try:
        # Without a port the API server takes the first one of the first container: the operator's http port.
        answer = await client.request(
            "GET", PODS.path(namespace, pod, "proxy") + path, headers={HOLDER_HEADER: holder}, limit=PATIENCE
        )
    except ApiError as error:
        if error.status == 403 and "pods" in error.message:
            raise NotToBeHad(f"you may not get pods/proxy in namespace {namespace}") from error
        raise NotToBeHad(f"the operator's pod {namespace}/{pod} does not answer: {error.message or error}") from error
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False) + "\n"
