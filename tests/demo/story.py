"""The story, step by step: each function does one thing on a Stage and returns what it saw, as plain data.

show.py prints the facts for a person; tests/e2e/test_story.py asserts on them. Nothing here decides what is good.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import yaml

from .ask import Reply, ask
from .kube import Object, condition, settled, wait
from .models import ModelFile
from .rollout import Load, Seen, Tally
from .stage import OURS, WINDOW_S, Stage, make_namespace, pod
from .visitor import expected, names, questions

READY_S = 120
STEADY_S = 4
"""how long clients ask before a change and go on after it"""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One InferenceJob as it came to be. seconds: from kubectl apply to Ready."""

    job: str
    tier: int
    nodes: tuple[str, ...]
    sites: tuple[str, ...]
    version: str
    seconds: float
    status: Object


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What was asked where, and what came back."""

    model: str
    where: str
    replies: tuple[Reply, ...]


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A node under real CPU load that Edgeward knows nothing about.

    idle_cores, busy_cores   what Prometheus said before and after
    seconds                  from the start of the load until Prometheus showed it
    """

    node: str
    idle_cores: float
    busy_cores: float
    cores: float
    seconds: float
    at: float


@dataclass(frozen=True, kw_only=True)
class Avoided:
    """A job that was placed while a node was loaded. pods and nodes: the API's objects right after the decision."""

    placed: Placed
    loaded: Loaded
    pods: tuple[Object, ...]
    nodes: tuple[Object, ...]

    @property
    def explanation(self) -> Object:
        found: Object = self.placed.status["explanation"]
        return found


@dataclass(frozen=True, kw_only=True)
class Rolled:
    """Version 2 under load. seconds: from kubectl apply until status said that every site serves it.

    before, after   the pods (uid, restarts, node) that served
    """

    seconds: float
    seen: Seen
    told_at: float
    done_at: float
    before: tuple[tuple[str, int, str], ...]
    after: tuple[tuple[str, int, str], ...]
    release: Object


@dataclass(frozen=True, kw_only=True)
class FellBack:
    """A version that reads wrongly, under load. seconds: from kubectl apply until status said that it is taken back.

    gate            what found it out, of the release's status
    before, after   the pods (uid, restarts, node) that served
    """

    seconds: float
    seen: Seen
    gate: Object
    before: tuple[tuple[str, int, str], ...]
    after: tuple[tuple[str, int, str], ...]
    release: Object

    @property
    def said(self) -> str:
        return str(condition(self.release, "Ready").get("message", ""))


# Placing -----------------------------------------------------------------------------------------------------------


def place(stage: Stage, *jobs: tuple[str, ModelFile]) -> list[Placed]:
    """Apply the manifests of these jobs at once and wait until each is Ready."""
    at = time.time()
    for name, model in jobs:
        stage.kubectl.apply(stage.manifest(name, model), namespace=stage.namespace)
    return [_placed(stage, name, at) for name, _ in jobs]


def _placed(stage: Stage, name: str, at: float) -> Placed:
    found: Object = {}

    def ready() -> bool:
        nonlocal found
        found = stage.kubectl.get("inferencejob", name, "-n", stage.namespace)
        return settled(found)

    wait(f"InferenceJob {name}", ready, seconds=READY_S, why=lambda: _why_not(stage, found))
    status = found["status"]
    return Placed(
        job=name,
        tier=status["priority"]["tier"],
        nodes=tuple(sorted(node for item in status["decisions"] for node in item["nodes"])),
        sites=tuple(sorted(item["site"] for item in status["decisions"])),
        version=status["modelVersion"],
        seconds=time.time() - at,
        status=status,
    )


def _why_not(stage: Stage, job: Object) -> str:
    ready = condition(job, "Ready")
    pods = stage.kubectl.run("get", "pods", "-n", stage.namespace, "-o", "wide", check=False)
    return f"Ready is {ready.get('status')} {ready.get('reason')}: {ready.get('message')}\n{pods}"


def table(stage: Stage) -> str:
    """What kubectl prints of all that Edgeward keeps."""
    mine = stage.kubectl.run("get", "ij,mr", "-n", stage.namespace)
    inner = stage.kubectl.run("get", "assignments", "-n", stage.operator_namespace)
    return f"{mine.rstrip()}\n\n{inner.rstrip()}"


# Asking ------------------------------------------------------------------------------------------------------------


def outside_urls(stage: Stage, job: str) -> list[str]:
    """The job's NodePort on each edge node, as seen from this machine, which is no part of the cluster."""
    assert stage.cluster is not None
    service = stage.kubectl.get("service", job, "-n", stage.namespace)
    port = service["spec"]["ports"][0]["nodePort"]
    return [f"http://{stage.cluster.plan.node(name).address}:{port}" for name in edge_nodes(stage)]


def ask_outside(stage: Stage, model: str, url: str) -> Answers:
    replies = tuple(ask(model, url, questions()[model], names(stage.models)[model]))
    return Answers(model=model, where=url, replies=replies)


def edge_nodes(stage: Stage) -> list[str]:
    return [item["metadata"]["name"] for item in stage.kubectl.items("nodes", "-l", "edgeward.dev/tier=edge")]


# Load on one node --------------------------------------------------------------------------------------------------

_BURN = "while True: pass"
BUSY = 0.6
"""part of a node's cores in use from which on the demo calls it loaded"""


def live_cores(stage: Stage) -> dict[str, float]:
    """Cores in use by all pods of each node, from the kubelet's own cgroup."""
    assert stage.cluster is not None
    rows = stage.cluster.query(
        f'max by (node) (rate(container_cpu_usage_seconds_total{{id=~"/.*kubepods"}}[{WINDOW_S}s]))'
    )
    return {row["metric"]["node"]: float(row["value"][1]) for row in rows}


def pick(candidates: list[str], *, seed: int) -> str:
    return random.Random(seed).choice(sorted(candidates))


def load_node(stage: Stage, node: str) -> Loaded:
    """Keep one node busy with a pod that requests nothing, and wait until Prometheus shows it."""
    make_namespace(stage, stage.elsewhere)
    idle = live_cores(stage).get(node, 0.0)
    cores = _cores(stage.kubectl.get("node", node))
    burner = pod("busy", image=stage.runtime_image, command=["python3", "-c", _BURN], node=node)
    at = stage.kubectl.apply(yaml.safe_dump(burner), namespace=stage.elsewhere)
    busy = 0.0

    def shown() -> bool:
        nonlocal busy
        busy = live_cores(stage).get(node, 0.0)
        return busy > BUSY * cores

    def why() -> str:
        pods = stage.kubectl.run("get", "pods", "-n", stage.elsewhere, "-o", "wide", check=False)
        return f"{busy:.2f} of {cores:g} cores\n{pods}"

    started = time.monotonic()
    wait(f"load on {node}", shown, seconds=3 * WINDOW_S, why=why)
    seconds = time.monotonic() - started
    return Loaded(node=node, idle_cores=idle, busy_cores=busy, cores=cores, seconds=seconds, at=at)


def relieve(stage: Stage) -> None:
    stage.kubectl.run("delete", "pods", "-n", stage.elsewhere, "-l", OURS, "--ignore-not-found", "--grace-period=1")


def place_beside(stage: Stage, loaded: Loaded, job: str, model: ModelFile) -> Avoided:
    """Place a new job while the node is loaded."""
    placed = place(stage, (job, model))[0]
    return Avoided(
        placed=placed,
        loaded=loaded,
        pods=tuple(stage.kubectl.items("pods", "--all-namespaces")),
        nodes=tuple(stage.kubectl.items("nodes")),
    )


def _cores(node: Object) -> float:
    text = str(node["status"]["allocatable"]["cpu"])
    return int(text[:-1]) / 1000 if text.endswith("m") else float(text)


# A new version under load ------------------------------------------------------------------------------------------


def roll_out(
    stage: Stage,
    job: str,
    old: ModelFile,
    new: ModelFile,
    *,
    urls: list[str],
    threads: int = 4,
    tally: Tally | None = None,
) -> Rolled:
    """Edit the release while clients keep asking; every answer is held against what that version answers here."""
    before = serving_pods(stage, job)
    load = _load(stage, job, (old, new), urls=urls, threads=threads, tally=tally)
    found: Object = {}
    with load:
        load.go_on(seconds=STEADY_S, answers=2 * threads)
        told = stage.kubectl.apply(_release_only(stage.manifest(job, new)), namespace=stage.namespace)

        def everywhere() -> bool:
            nonlocal found
            found = stage.kubectl.get("modelrelease", job, "-n", stage.namespace)
            status = found.get("status") or {}
            sites = status.get("sites") or {}
            served = status.get("currentVersion") == new.version and sites.get("updated") == sites.get("total")
            return bool(served and settled(found))

        def why() -> str:
            return f"{found.get('status')}"

        wait(f"{job} {new.version} everywhere", everywhere, seconds=READY_S, why=why, every=0.2)
        done = time.time()
        load.go_on(seconds=STEADY_S, answers=4 * threads)
    return Rolled(
        seconds=done - told,
        seen=load.seen(),
        told_at=told,
        done_at=done,
        before=before,
        after=serving_pods(stage, job),
        release=found,
    )


def _load(
    stage: Stage,
    job: str,
    versions: tuple[ModelFile, ModelFile],
    *,
    urls: list[str],
    threads: int,
    tally: Tally | None,
) -> Load:
    """Clients that ask the job's own questions, and know what either version answers."""
    return Load(
        job,
        urls,
        questions()[job],
        names(stage.models)[job],
        expected=expected()[job],
        versions=versions,
        threads=threads,
        tally=tally,
    )


# A bad version under load ------------------------------------------------------------------------------------------


def fall_back(
    stage: Stage,
    job: str,
    good: ModelFile,
    bad: ModelFile,
    *,
    urls: list[str],
    threads: int = 2,
    tally: Tally | None = None,
) -> FellBack:
    """Release a version that no check of its file finds anything wrong with; a gate has to, out of copies of what the
    clients ask meanwhile. An answer by it would count as failed."""
    before = serving_pods(stage, job)
    load = _load(stage, job, (good, bad), urls=urls, threads=threads, tally=tally)
    found: Object = {}
    with load:
        told = stage.kubectl.apply(stage.manifest(f"{job}-gated", bad), namespace=stage.namespace)

        def back() -> bool:
            nonlocal found
            found = stage.kubectl.get("modelrelease", job, "-n", stage.namespace)
            ready = condition(found, "Ready")
            return (ready.get("reason"), ready.get("observedGeneration")) == (
                "RolledBack",
                found["metadata"]["generation"],
            )

        def why() -> str:
            return f"{found.get('status')}"

        wait(f"{job} {bad.version} taken back", back, seconds=READY_S, why=why, every=0.2)
        done = time.time()
        load.go_on(seconds=0, answers=4 * threads)
    gates = [item for item in found["status"].get("gates", ()) if item["outcome"] == "Failed"]
    return FellBack(
        seconds=done - told,
        seen=load.seen(),
        gate=gates[0] if gates else {},
        before=before,
        after=serving_pods(stage, job),
        release=found,
    )


def _release_only(manifest: str) -> str:
    return yaml.safe_dump(next(item for item in yaml.safe_load_all(manifest) if item["kind"] == "ModelRelease"))


def serving_pods(stage: Stage, job: str) -> tuple[tuple[str, int, str], ...]:
    """(uid, restarts, node) of the job's pods."""
    return tuple(
        sorted(
            (
                item["metadata"]["uid"],
                sum(status["restartCount"] for status in item["status"].get("containerStatuses", ())),
                item["spec"].get("nodeName", ""),
            )
            for item in stage.kubectl.items("pods", "-n", stage.namespace, "-l", f"edgeward.dev/job={job}")
        )
    )
