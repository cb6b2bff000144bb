"""Nodes that renew their Leases and such that do not, on a real API server."""

from __future__ import annotations

import asyncio
import datetime

import pytest

from edgeward.cluster.client import Client
from edgeward.hub.heartbeats import NAMESPACE, Heartbeats
from tests.cluster import ControlPlane
from tests.cluster.api import ApiError


def renew(plane: ControlPlane, node: str) -> None:
    """As a kubelet does it, with a clock that is an hour off."""
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    plane.apply(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": node, "namespace": NAMESPACE},
            "spec": {
                "holderIdentity": node,
                "leaseDurationSeconds": 40,
                "renewTime": then.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }
    )


@pytest.fixture
def leases(control_plane: ControlPlane) -> ControlPlane:
    try:
        control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    except ApiError as error:
        assert error.status == 409
    for node in ("steady", "quiet"):
        renew(control_plane, node)
    return control_plane


def test_a_node_falls_silent_and_is_heard_again(leases: ControlPlane) -> None:
    async def story() -> list[dict[str, bool]]:
        told = asyncio.Event()
        seen: list[dict[str, bool]] = []
        async with Client.connect(kubeconfig=str(leases.kubeconfig)) as client:
            beats = Heartbeats(
                client=client,
                ready=lambda: ("steady", "quiet"),
                changed=told.set,
                silent_after=3.0,
                interval=0.3,
            )
            tasks = [asyncio.create_task(beats.run()), asyncio.create_task(steadily(leases))]
            try:
                await heard(told, seen, beats, {"steady": True, "quiet": True})
                await heard(told, seen, beats, {"steady": True, "quiet": False})
                await asyncio.to_thread(renew, leases, "quiet")
                await heard(told, seen, beats, {"steady": True, "quiet": True})
            finally:
                for task in tasks:
                    task.cancel()
        return seen

    assert len(asyncio.run(story())) == 3


async def steadily(plane: ControlPlane) -> None:
    while True:
        await asyncio.to_thread(renew, plane, "steady")
        await asyncio.sleep(0.5)


async def heard(told: asyncio.Event, seen: list[dict[str, bool]], beats: Heartbeats, wanted: dict[str, bool]) -> None:
    """Waits for a word that says `wanted`."""
    async with asyncio.timeout(40):
        while beats.heard != wanted:
            told.clear()
            await told.wait()
    seen.append(dict(beats.heard))
