"""Events: counted instead of piled up, and never in the way of the work that they tell of."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgeward.cluster.client import ApiError, WriteRefused
from edgeward.cluster.events import Recorder
from edgeward.cluster.resources import INFERENCE_JOBS, SITES
from tests.fakes import FakeClient

JOB = {"metadata": {"name": "signs", "namespace": "shop", "uid": "u"}}


class Desk:
    def __init__(self) -> None:
        self.now = 0.0
        self.client = FakeClient()
        self.recorder = Recorder(self.client, "edgeward-hub", clock=lambda: self.now)

    def tell(
        self, message: str = "moved", *, reason: str = "Moved", obj: Any = JOB, kind: Any = INFERENCE_JOBS, **more: Any
    ) -> None:
        asyncio.run(self.recorder.tell(kind, obj, reason, message, **more))

    @property
    def events(self) -> list[dict[str, Any]]:
        return list(self.client.server.objects.values())


def test_an_event_says_what_kubectl_describe_looks_for() -> None:
    desk = Desk()
    desk.tell(warning=True)
    (event,) = desk.events
    assert event["involvedObject"] == {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "InferenceJob",
        "name": "signs",
        "namespace": "shop",
        "uid": "u",
    }
    assert (event["type"], event["reason"], event["message"], event["count"]) == ("Warning", "Moved", "moved", 1)
    assert event["metadata"]["namespace"] == "shop"


def test_what_has_no_namespace_is_told_in_default() -> None:
    desk = Desk()
    desk.tell(obj={"metadata": {"name": "shop-1", "uid": "s"}}, kind=SITES)
    assert desk.events[0]["metadata"]["namespace"] == "default"


def test_the_same_is_quiet_for_a_while_and_then_counted() -> None:
    desk = Desk()
    for _ in range(5):
        desk.tell()
    assert len(desk.client.server.requests) == 1
    desk.now = 301
    desk.tell()
    (event,) = desk.events
    assert event["count"] == 2 and len(desk.client.server.requests) == 2


def test_another_message_object_or_reason_is_another_event() -> None:
    desk = Desk()
    desk.tell()
    desk.tell("again")
    desk.tell(reason="Placed")
    desk.tell(obj={"metadata": {**JOB["metadata"], "uid": "v"}})
    assert len(desk.events) == 4


@pytest.mark.parametrize("error", [ApiError(403, "Forbidden", "no"), ApiError(0, "TimeoutError", "")])
def test_one_that_could_not_be_written_holds_up_nothing_and_is_tried_again(error: ApiError) -> None:
    desk = Desk()
    desk.client.server.failing = [error]
    desk.tell()
    assert desk.events == []
    desk.tell()
    assert len(desk.events) == 1


def test_one_that_has_expired_is_made_anew() -> None:
    """The API server forgets Events after an hour; what is still so must be told again."""
    desk = Desk()
    desk.tell()
    desk.client.server.objects.clear()
    desk.now = 4000
    desk.tell()
    assert [event["count"] for event in desk.events] == [1]


def test_a_process_that_may_not_write_tells_nothing() -> None:
    desk = Desk()

    def refuse() -> None:
        raise WriteRefused("no lease")

    desk.client.guard = refuse
    desk.tell()
    assert desk.client.server.requests == []


def test_the_longest_names_and_messages_fit() -> None:
    desk = Desk()
    desk.tell("m" * 5000, obj={"metadata": {"name": "n" * 253, "namespace": "shop", "uid": "u"}})
    (event,) = desk.events
    assert len(event["metadata"]["name"]) <= 253 and len(event["message"]) <= 1024


def test_memory_is_bounded() -> None:
    desk = Desk()

    async def many() -> None:
        for number in range(5100):
            await desk.recorder.tell(INFERENCE_JOBS, JOB, "Moved", str(number))

    desk.client.server._store = lambda path, body: body  # type: ignore[method-assign]
    asyncio.run(many())
    assert len(desk.recorder._told) <= 5000


def test_one_is_written_after_the_other() -> None:
    """The news of a burst of 300 jobs took every connection, and the renewal of the Lease came too late."""
    desk, under_way, most = Desk(), 0, 0

    async def create(*_: object, **__: object) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _turn in range(3):
            await asyncio.sleep(0)
        under_way -= 1

    desk.client.create = create  # type: ignore[method-assign,assignment]

    async def burst() -> None:
        await asyncio.gather(
            *(desk.recorder.tell(INFERENCE_JOBS, JOB, "Placed", f"on n{number}") for number in range(20))
        )

    asyncio.run(burst())
    assert most == 1
