"""Against a little API server: what is said when it is not there, does not know the kinds, or refuses; and the way to the
operator's own snapshot."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from edgeward.cli.main import main
from edgeward.cluster.lease import HOLDER_HEADER
from edgeward.hub import debug
from edgeward.placement import plan
from edgeward.placement.record import record_text

from .objects import SETTINGS, recorded, shops

JOBS = "/apis/edgeward.dev/v1alpha1/namespaces/shop/inferencejobs"
ALL_JOBS = "/apis/edgeward.dev/v1alpha1/inferencejobs"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/edgeward/leases/edgeward-hub"
PROXY = "/api/v1/namespaces/edgeward/pods/edgeward-7d9-x2/proxy"
IDENTITY = "edgeward-7d9-x2-0123456789abcdef0123456789abcdef"
Answers = dict[str, tuple[int, Any]]


class Server:
    """Answers paths as a test says; anything else is 404 as an API server words it for a name."""

    def __init__(self) -> None:
        self.answers: Answers = {}
        self.headers: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())

    async def _start(self) -> None:
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        self.headers = {**self.headers, request.path: request.headers.get(HOLDER_HEADER, "")}
        name = request.path.rsplit("/", 1)[-1]
        missing = (404, {"kind": "Status", "message": f'inferencejobs.edgeward.dev "{name}" not found'})
        code, body = self.answers.get(request.path, missing)
        return web.Response(status=code, text=body if isinstance(body, str) else json.dumps(body))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()
    file = tmp_path / "kubeconfig"
    file.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "shop"}}],
                "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{made.port}"}}],
                "users": [{"name": "me", "user": {}}],
            }
        )
    )
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    yield made
    made.close()


def job(name: str, namespace: str = "shop") -> dict[str, Any]:
    return {
        "apiVersion": "edgeward.dev/v1alpha1",
        "kind": "InferenceJob",
        "metadata": {"name": name, "namespace": namespace, "generation": 1},
        "spec": {"model": {"name": "m"}},
    }


def listed(*items: dict[str, Any]) -> dict[str, Any]:
    return {"items": list(items), "metadata": {"resourceVersion": "1"}}


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def go(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return go


def test_the_contexts_namespace_is_taken(server: Server, run: Run) -> None:
    server.answers = {f"{JOBS}/reader": (200, job("reader")), ALL_JOBS: (200, listed(job("reader")))}
    code, out, _ = run("explain", "reader")
    assert (code, out.splitlines()[0]) == (0, "shop/reader  not looked at yet")
    assert run("explain", "shop/reader")[0] == 0
    code, _, err = run("explain", "shop/reader", "-n", "other")
    assert (code, "two namespaces" in err) == (2, True)


def test_a_name_that_is_not_there(server: Server, run: Run) -> None:
    server.answers = {ALL_JOBS: (200, listed(job("sign-reader"), job("far", "depot")))}
    code, out, err = run("explain", "sign-raeder")
    assert (code, out) == (5, "")
    assert err == "edgeward: no InferenceJob sign-raeder in namespace shop\n  did you mean sign-reader?\n"
    assert "there is one in namespace depot: add -n" in run("explain", "far")[2]
    assert "kubectl get inferencejobs -A lists them all" in run("explain", "zzzz")[2]


def test_kinds_that_the_cluster_does_not_know(server: Server, run: Run) -> None:
    unknown = (404, {"kind": "Status", "message": "the server could not find the requested resource"})
    server.answers = {f"{JOBS}/x": unknown, ALL_JOBS: unknown}
    code, _, err = run("explain", "x")
    assert code == 4
    assert "does not know the kinds of Edgeward" in err and "helm install edgeward" in err


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ((401, {"message": "Unauthorized"}), 4, "the cluster does not know you"),
        ((403, {"message": 'User "jane" cannot get resource'}), 4, 'not allowed: User "jane" cannot get resource'),
        ((500, {"message": "etcd is on fire"}), 1, "etcd is on fire"),
        ((200, "<html>a proxy's login page</html>"), 4, "NotJson"),
    ],
)
def test_what_the_api_server_refuses(server: Server, run: Run, answer: tuple[int, Any], code: int, said: str) -> None:
    server.answers = {f"{JOBS}/x": answer}
    found = run("explain", "x")
    assert (found[0], found[1]) == (code, "")
    assert said in found[2] or (said == "NotJson" and "not JSON" in found[2]), found[2]


def test_a_spec_that_cannot_be_read(server: Server, run: Run) -> None:
    bad = {**job("x"), "spec": {"model": {"name": "m"}, "replicas": "many"}}
    server.answers = {f"{JOBS}/x": (200, bad)}
    code, _, err = run("explain", "x")
    assert (code, "shop/x: spec.replicas" in err) == (2, True)


def test_no_rights_to_list_the_others(server: Server, run: Run) -> None:
    server.answers = {f"{JOBS}/x": (200, job("x")), ALL_JOBS: (403, {"message": "no"})}
    assert run("explain", "x", "-o", "json")[0] == 0
    assert json.loads(run("explain", "x", "-o", "json")[1])["ahead"] is None


def test_no_kubeconfig(run: Run, tmp_path: Path) -> None:
    code, _, err = run("explain", "x", "--kubeconfig", str(tmp_path / "none"))
    assert code == 4
    assert "no kubeconfig to use" in err and "set KUBECONFIG" in err
    context = run("explain", "x", "--kubeconfig", str(tmp_path / "none"), "--context", "moon")
    assert context[0] == 4


# The operator's own snapshot -----------------------------------------------------------------------------------------


def test_the_snapshot_is_the_operators_own(server: Server, run: Run) -> None:
    text = record_text(recorded())
    server.answers = {
        LEASE: (200, {"spec": {"holderIdentity": IDENTITY}}),
        f"{PROXY}/debug/snapshot": (200, text),
    }
    code, out, err = run("snapshot")
    assert (code, out, err) == (0, text, "")
    assert server.headers[f"{PROXY}/debug/snapshot"] == IDENTITY
    assert run("what-if", "--no-search", "-o", "json")[0] == 0


EMPTY = {
    path: (200, listed())
    for path in (
        *("/api/v1/nodes", "/api/v1/pods", "/api/v1/namespaces", ALL_JOBS),
        *(f"/apis/edgeward.dev/v1alpha1/{kind}" for kind in ("modelreleases", "sites", "assignments")),
        "/apis/policy/v1/poddisruptionbudgets",
    )
}
HELD = {LEASE: (200, {"spec": {"holderIdentity": IDENTITY}})}


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({}, "no operator has run in namespace edgeward"),
        ({LEASE: (403, {"message": "no"})}, "you may not read the Lease edgeward/edgeward-hub"),
        ({LEASE: (200, {"spec": {"holderIdentity": ""}})}, "no operator leads at the moment"),
        (
            {**HELD, f"{PROXY}/debug/snapshot": (403, {"message": "cannot get pods/proxy"})},
            "you may not get pods/proxy",
        ),
        ({**HELD, f"{PROXY}/debug/snapshot": (503, "no plan was made here yet")}, "does not answer: no plan was made"),
        (HELD, "the operator's pod edgeward/edgeward-7d9-x2 does not answer"),
    ],
)
def test_without_the_operator_the_fleet_is_put_together_and_it_says_so(
    server: Server, run: Run, answers: Answers, said: str
) -> None:
    server.answers = {**EMPTY, **answers}
    code, out, err = run("snapshot")
    assert code == 0
    assert said in err and "without live figures" in err
    found = json.loads(out)
    assert (found["live"], found["plan"]) == (False, "")
    assert found["fleet"]["metrics_problem"]


def test_a_snapshot_of_another_version(server: Server, run: Run) -> None:
    server.answers = {**HELD, f"{PROXY}/debug/snapshot": (200, {"format": 7, "edgeward": "9.0.0", "fleet": {}})}
    code, _, err = run("what-if")
    assert code == 1
    assert "format 7, written by edgeward 9.0.0" in err and "of the operator's version" in err


# What the operator answers -------------------------------------------------------------------------------------------


def asked(path: str, *, key: str | None, leading: bool = True, planned: bool = True) -> tuple[int, str]:
    fleet = shops()
    made = (fleet, plan(fleet, SETTINGS)) if planned else None

    async def play() -> tuple[int, str]:
        from aiohttp.test_utils import TestClient, TestServer

        app = web.Application()
        app.router.add_routes(
            debug.routes(identity=IDENTITY, settings=SETTINGS, leading=lambda: leading, last=lambda: made)
        )
        async with TestClient(TestServer(app)) as client:
            answer = await client.get(path, headers={} if key is None else {HOLDER_HEADER: key})
            return answer.status, await answer.text()

    return asyncio.run(play())


def test_the_operator_shows_its_last_pass_to_who_knows_its_identity() -> None:
    assert asked("/debug/snapshot", key=IDENTITY) == (200, record_text(recorded()))
    code, text = asked("/debug/plan", key=IDENTITY)
    assert (code, len(json.loads(text)["jobs"])) == (200, 4)


@pytest.mark.parametrize("key", [None, "", "edgeward-7d9-x2", IDENTITY[:-1], IDENTITY + "0", "é"])
@pytest.mark.parametrize("path", ["/debug/snapshot", "/debug/plan"])
def test_and_to_nobody_else(path: str, key: str | None) -> None:
    code, text = asked(path, key=key)
    assert code == 403
    assert "brake-watch" not in text and IDENTITY not in text


def test_before_the_first_plan_and_on_a_standby_there_is_nothing_to_show() -> None:
    assert asked("/debug/snapshot", key=IDENTITY, planned=False)[0] == 503
    assert asked("/debug/snapshot", key=IDENTITY, leading=False)[0] == 503


def test_explain_does_not_wait_for_what_it_does_not_need() -> None:
    """It reads a status: neither the planner nor the operator is imported for it."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    code = "import sys, edgeward.cli.main, edgeward.cli.explain; print([m for m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    for name in ("numpy", "kopf", "edgeward.placement", "edgeward.hub"):
        assert f"'{name}'" not in found.stdout
