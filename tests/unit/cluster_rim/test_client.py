"""The client against a real little HTTP server: what goes wrong becomes an ApiError that says what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from edgeward.cluster.client import ApiError, Client, WriteRefused
from edgeward.cluster.resources import LEASES, NODES, PODS, key_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def talk(handle: Handler, act: Callable[[Client], Awaitable[Any]], **limits: float) -> Any:
    async def play() -> Any:
        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        client = Client(Configuration(host=f"http://127.0.0.1:{port}"), **limits)
        try:
            return await act(client)
        finally:
            await client.close()
            await runner.cleanup()

    return asyncio.run(play())


def answering(status: int, body: bytes | str) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        raw = body.encode() if isinstance(body, str) else body
        return web.Response(status=status, body=raw)

    return handle


def status(code: int, reason: str) -> str:
    return json.dumps({"kind": "Status", "code": code, "reason": reason, "message": f"{reason}!"})


@pytest.mark.parametrize(
    ("code", "said"),
    [(400, "invalid"), (403, "invalid"), (404, "not_found"), (409, "conflict"), (422, "invalid"), (500, ""), (503, "")],
)
def test_what_the_api_refuses(code: int, said: str) -> None:
    with pytest.raises(ApiError) as caught:
        talk(answering(code, status(code, "Reason")), lambda client: client.get(PODS, "n", "p"))
    error = caught.value
    assert (error.status, error.message) == (code, "Reason!")
    assert [name for name in ("invalid", "not_found", "conflict") if getattr(error, name)] == ([said] if said else [])


@pytest.mark.parametrize("body", ["<html>", "", b"\xff\xfe", "[1]"])
def test_a_refusal_in_another_form_is_still_an_api_error(body: str | bytes) -> None:
    with pytest.raises(ApiError) as caught:
        talk(answering(502, body), lambda client: client.get(PODS, "n", "p"))
    assert caught.value.status == 502


@pytest.mark.parametrize("body", ["<html>welcome</html>", '{"items": [', b"\xff\xfe"])
def test_a_good_status_with_rubbish_is_an_api_error_too(body: str | bytes) -> None:
    """A captive portal, or a body cut off in the middle: anything else would end the process at the first look."""
    with pytest.raises(ApiError) as caught:
        talk(answering(200, body), lambda client: client.get(PODS, "n", "p"))
    assert caught.value.status == 0


def test_no_answer_in_time() -> None:
    async def handle(_: web.Request) -> web.Response:
        await asyncio.sleep(0.4)
        return web.Response()

    with pytest.raises(ApiError) as caught:
        talk(handle, lambda client: client.get(PODS, "n", "p"), timeout=0.1)
    assert caught.value.status == 0


def test_nobody_there() -> None:
    async def act(_: Client) -> None:
        client = Client(Configuration(host="http://127.0.0.1:1"))
        try:
            await client.get(PODS, "n", "p")
        finally:
            await client.close()

    with pytest.raises(ApiError) as caught:
        talk(answering(200, "{}"), act)
    assert caught.value.status == 0


def test_a_list_is_read_page_by_page() -> None:
    seen: list[dict[str, str]] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(dict(request.query))
        last = "continue" in request.query
        meta = {"resourceVersion": "7"} if last else {"resourceVersion": "7", "continue": "token"}
        return web.json_response({"items": [{"metadata": {"name": "b" if last else "a"}}], "metadata": meta})

    items, version = talk(handle, lambda client: client.list(NODES, selector="x=y"))
    assert ([key_of(item) for item in items], version) == (["a", "b"], "7")
    assert [item.get("continue") for item in seen] == [None, "token"]
    assert all(item["labelSelector"] == "x=y" for item in seen)


def test_every_write_is_counted_and_guarded() -> None:
    asked: list[tuple[str, str]] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append((request.method, request.headers["Content-Type"]))
        return web.json_response({"metadata": {}})

    async def act(client: Client) -> dict[str, int]:
        body = {"metadata": {"name": "x", "namespace": "n"}}
        await client.apply(LEASES, body, manager="m")
        await client.create(LEASES, body, manager="m")
        await client.merge(LEASES, "n", "x", {}, manager="m")
        await client.delete(LEASES, "n", "x")
        await client.get(LEASES, "n", "x")

        def refuse() -> None:
            raise WriteRefused("not leading")

        client.guard = refuse
        with pytest.raises(WriteRefused):
            await client.apply(LEASES, body, manager="m")
        await client.get(LEASES, "n", "x")
        return dict(client.writes)

    writes = talk(handle, act)
    assert writes == {f"{verb} Lease": 1 for verb in ("apply", "create", "patch", "delete")}
    assert [method for method, _ in asked] == ["PATCH", "POST", "PATCH", "DELETE", "GET", "GET"]
    assert asked[0][1] == "application/apply-patch+yaml" and asked[2][1] == "application/merge-patch+json"


@pytest.mark.parametrize("code", [404, 409])
def test_deleting_what_is_gone_or_another_is_fine(code: int) -> None:
    talk(answering(code, status(code, "Gone")), lambda client: client.delete(PODS, "n", "p", uid="u"))


def test_paths() -> None:
    assert NODES.path(name="a") == "/api/v1/nodes/a"
    assert PODS.path() == "/api/v1/pods"
    assert LEASES.path("n", "x", "status") == "/apis/coordination.k8s.io/v1/namespaces/n/leases/x/status"
