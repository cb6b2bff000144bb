"""/healthz says whether the watches live: by comparing the cache with a LIST, not by whether a connection is open."""

from __future__ import annotations

import time

from tests.cluster.certificates import Authority

from .operator_harness import OPERATORS, World, eventually
from .watch_proxy import WatchProxy


def test_healthz_is_red_when_a_watch_is_open_but_dead(replicas: World, namespace: str) -> None:
    world = replicas
    user = "edgeward-one"
    pair = Authority(world.plane.directory / "pki").issue("edgeward-one", user=user, groups=[OPERATORS])
    with WatchProxy(world.plane, pair) as proxy:
        operator = world.operator(
            "one", kubeconfig=proxy.kubeconfig, timing={"resync": 1.0, "watchDeadAfter": 3.0}
        ).start()
        operator.await_leading()
        # While the watches live, changes all the time are no reason for red.
        end = time.monotonic() + 5
        number = 0
        while time.monotonic() < end:
            number += 1
            world.job(namespace, "busy", replicas=1 + number % 3)
            assert operator.get("/healthz") == (200, "ok")
            time.sleep(0.2)
        world.job(namespace, "busy", replicas=2)
        world.await_ready(namespace, "busy")

        proxy.holding = True
        held = time.monotonic()
        world.job(namespace, "unseen")
        answer = eventually(lambda: (got := operator.get("/healthz"))[0] == 503 and got, seconds=20, what="red")
        assert time.monotonic() - held > 3, "red before the limit is a restart for nothing"
        assert "watch" in answer[1]
        assert proxy.dropped > 0
        assert "status" not in world.get_job(namespace, "unseen"), "it was seen after all: the test proves nothing"
        assert operator.get("/readyz")[0] == 200

        # What the kubelet does then.
        operator.kill()
        proxy.holding = False
        operator.start()
        world.await_ready(namespace, "unseen", seconds=30)
        assert operator.get("/healthz") == (200, "ok")
