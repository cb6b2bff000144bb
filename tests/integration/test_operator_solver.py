"""The solver's process beside a real operator: there while it has work, and missed by nobody when it dies or hangs."""

from __future__ import annotations

import os
import signal

from .operator_harness import Operator, World, eventually

JOBS, REPLICAS = 8, 8
SOLVER = {"idle": 5.0, "patience": 10.0, "deadline": 20.0}
LEASE = {"leaseDuration": 10.0, "leaseRenewDeadline": 6.0, "leaseRetry": 1.5}
"""the defaults: this test is about a machine that has a lot to do"""


def ask_for_many(world: World, namespace: str, batch: str) -> list[str]:
    """Jobs that want a place at the same moment, when the model that they wait for is released: worth a solve."""
    names = [f"{batch}-{number}" for number in range(JOBS)]
    for name in names:
        asked = {"requests": {"cpu": "20m", "memory": "16Mi"}}
        world.job(namespace, name, model={"name": batch}, replicas=REPLICAS, resources=asked)
    for name in names:
        # The pass before may wait for advice as long as it has patience.
        world.await_condition(namespace, name, "Ready", "False", reason="NoRunnableModel", seconds=60)
    world.release(namespace, batch)
    return names


def failures(operator: Operator, kind: str) -> float:
    return operator.metric(f'edgeward_solver_failures_total{{kind="{kind}"}}')


def test_the_solver_dies_hangs_and_goes_and_the_replicas_are_placed(replicas: World, namespace: str) -> None:
    world, operator = replicas, replicas.operator("solving", solver=SOLVER, timing=LEASE).start().await_leading()
    assert operator.children == [] and operator.metric("edgeward_solver_starts_total") == 0
    world.await_ready(namespace, *ask_for_many(world, namespace, "first"), seconds=90)
    assert operator.metric("edgeward_solves_total") >= 1
    assert operator.metric("edgeward_solver_failures_total") == 0

    # Nobody waited for the bound; metric and status tell it when it is there.
    eventually(lambda: 0.5 < operator.metric('edgeward_share_of_bound{priority_tier="3"}') <= 1, what="its share")

    def shares() -> list[int]:
        jobs = [world.get_job(namespace, f"first-{number}") for number in range(JOBS)]
        return [one["status"]["explanation"].get("shareOfBound", 0) for one in jobs]

    eventually(lambda: max(shares()) > 500, what="status tells how near the bound the job's priority tier is")

    # Gone when idle, so that the operator's memory is what it was.
    eventually(lambda: not operator.children, what="the solver's process has ended")
    assert operator.metric("edgeward_solver_running") == 0

    # Stopped, it will never answer: killed at its deadline, and the replicas did not wait for that.
    names = ask_for_many(world, namespace, "second")
    (pid,) = eventually(lambda: operator.children, what="the solver's process", every=0.01)
    os.kill(pid, signal.SIGSTOP)
    names += ask_for_many(world, namespace, "third")
    world.await_ready(namespace, *names, seconds=90)
    eventually(lambda: failures(operator, "Hung") == 1, seconds=60, what="the process that hangs is told")
    assert not os.path.exists(f"/proc/{pid}")

    # Killed in the middle of its work; the next one is another process.
    eventually(lambda: operator.metric("edgeward_solver_starts_total") >= 2, what="it was started again")
    names = ask_for_many(world, namespace, "fourth")
    (pid,) = eventually(lambda: operator.children, what="the solver's process", every=0.01)
    os.kill(pid, signal.SIGKILL)
    world.await_ready(namespace, *names, *ask_for_many(world, namespace, "fifth"), seconds=90)
    assert operator.leads() and operator.metric("edgeward_failures_total") == 0
    assert len(world.pods(namespace)) == 5 * JOBS * REPLICAS
    operator.stop()
    assert "Traceback" not in operator.log
