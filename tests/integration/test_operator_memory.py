"""A ModelRelease that is deleted and made again after a rollback, on a real API server: the sites remember what it has
forgotten. The nodes are simulated, so what their runtimes would say is written into the Assignments by the test; what the
hub, the agent and the memory make of it is theirs."""

from __future__ import annotations

import time
from typing import Any

from .operator_harness import NAMESPACE, Operator, World, eventually

GROUP = "/apis/edgeward.dev/v1alpha1"
WAVES = {"waves": [{"name": "canary", "sites": {"count": 1}}, {"name": "all"}]}
OLD, NEW = (f"sha256:{number:064x}" for number in (1, 2))


class Town:
    """The model `reader` at two sites."""

    def __init__(self, world: World, namespace: str) -> None:
        self.world, self.namespace = world, namespace
        self.rollout: dict[str, Any] = {"rollout": WAVES}

    def release(self, version: str, digest: int) -> None:
        self.world.release(self.namespace, version=version, digest=digest, **self.rollout)

    @property
    def path(self) -> str:
        return f"{GROUP}/namespaces/{self.namespace}/modelreleases/reader"

    def status(self) -> dict[str, Any]:
        found = self.world.api.get(self.path)
        assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
        return dict(found["status"])

    def ready(self) -> dict[str, Any]:
        return next(one for one in self.status()["conditions"] if one["type"] == "Ready")

    def phase(self) -> str:
        return str((self.status().get("rollout") or {}).get("phase"))

    def told(self) -> dict[str, set[tuple[str, int]]]:
        """By site: version and attempt, what the site only keeps for its way back left out."""
        return {
            one["spec"]["site"]: {
                (model["version"], model.get("attempt", 0))
                for model in one["spec"]["models"]
                if model.get("role") != "Previous"
            }
            for one in self.world.assignments(self.namespace)
        }

    def versions(self) -> set[str]:
        return {version for told in self.told().values() for version, _ in told}

    def serve(self, *, refused: str = "") -> None:
        """What the runtimes of simulated pods would say: they serve what they are told, but for one version."""
        for one in self.world.assignments(self.namespace):
            models: list[dict[str, Any]] = []
            for model in one["spec"]["models"]:
                if model["version"] == refused:
                    word = {"step": "Golden", "reason": "GoldenMismatch", "at": "2027-01-01T00:00:00Z"}
                    models.append({**_about(model), "state": "Failed", "refused": word})
                    models.append({**_about({"digest": OLD, "version": "1.0.0"}), "serving": True, "replicas": 1})
                elif model.get("role") != "Previous":
                    models.append({**_about(model), "serving": True, "state": "Serving", "replicas": 1})
            path = f"{GROUP}/namespaces/{NAMESPACE}/assignments/{one['metadata']['name']}/status"
            self.world.api.patch(path, {"status": {"models": models}})

    def remembered(self) -> list[dict[str, Any]]:
        return [item for one in self.world.assignments(self.namespace) for item in one["status"].get("refused") or []]

    def memories(self) -> list[str]:
        found = self.world.api.get(f"/api/v1/namespaces/{NAMESPACE}/configmaps")["items"]
        key = f"{self.namespace}.reader"
        return [one["data"][key] for one in found if key in (one.get("data") or {})]

    def delete(self) -> None:
        self.world.api.delete(self.path)
        eventually(lambda: "reader" not in str(self.world.api.get(self.path.rpartition("/")[0])["items"]), what="gone")

    def roll_back(self) -> None:
        """Version 1 finished, and version 2 was taken back."""
        self.world.job(self.namespace, "reader", replicaScope="PerSite", placement=_two_sites())
        self.release("1.0.0", 1)
        self.world.await_ready(self.namespace, "reader")
        assert set(self.told()) == {"site-a", "site-b"}

        def finished() -> bool:
            self.serve()
            return [one["version"] for one in self.status().get("history") or []] == ["1.0.0"]

        eventually(finished, what="version 1 finished")
        self.release("2.0.0", 2)
        eventually(lambda: "2.0.0" in self.versions(), what="a canary is told")
        self.serve(refused="2.0.0")
        eventually(lambda: self.ready()["reason"] == "RolledBack", what="rolled back")
        eventually(lambda: len(self.remembered()) == 2, what="both sites remember")
        self.serve()


def _about(model: dict[str, Any]) -> dict[str, Any]:
    return {"name": "reader", "version": model["version"], "digest": model["digest"]}


def _two_sites() -> dict[str, Any]:
    expression = {"key": "edgeward.dev/site", "operator": "In", "values": ["site-a", "site-b"]}
    return {"siteSelector": {"matchExpressions": [expression]}}


def _not_tried(town: Town, *, seconds: float = 4.0) -> None:
    """Neither told now nor while somebody looks on."""
    eventually(lambda: town.ready()["reason"] == "RolledBack", what="it says so")
    said = town.ready()
    assert "Golden" in said["message"] and "1.0.0 serves" in said["message"], said
    assert [one["identity"] for one in town.status()["refused"]] == [NEW]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert town.versions() == {"1.0.0"}
        time.sleep(0.2)


def _retried(town: Town, token: str, *, attempt: int) -> None:
    town.world.api.patch(town.path, {"metadata": {"annotations": {"edgeward.dev/release-command": f"retry@{token}"}}})
    eventually(lambda: ("2.0.0", attempt) in set().union(*town.told().values()), what="it is tried again")
    assert town.status()["rollout"]["token"] == token

    def finished() -> bool:
        town.serve()
        return town.phase() == "Done"

    eventually(finished, seconds=30, what="it finishes")
    assert set(map(frozenset, town.told().values())) == {frozenset({("2.0.0", attempt)})}
    eventually(lambda: not town.remembered() and not town.memories(), what="the sites forget")
    assert not town.status().get("refused")


def test_made_again_after_a_rollback_it_is_not_tried_until_retry(
    world: World, operator: Operator, namespace: str
) -> None:
    town = Town(world, namespace)
    town.roll_back()
    assert {(one["scope"], one["identity"]) for one in town.remembered()} == {("Release", NEW)}
    assert len(town.memories()) == 2 and all("GoldenMismatch" in text for text in town.memories())
    begun = time.time()
    time.sleep(2.5)
    memory = [one for one in world.writes(since=begun) if one.resource == "configmaps" or "assignments" in one.resource]
    assert memory == [], "what is remembered is written once"
    town.delete()
    town.release("2.0.0", 2)
    _not_tried(town)
    _retried(town, "t1", attempt=1)


def test_without_waves_it_is_not_tried_either(world: World, operator: Operator, namespace: str) -> None:
    town = Town(world, namespace)
    town.roll_back()
    town.delete()
    town.rollout = {}
    town.release("2.0.0", 2)
    _not_tried(town)
    _retried(town, "t1", attempt=1)


def test_with_an_operator_that_is_killed_in_between_and_one_that_has_never_seen_it(
    replicas: World, namespace: str
) -> None:
    first = replicas.operator("first").start().await_leading()
    town = Town(replicas, namespace)
    town.roll_back()
    first.kill()
    town.delete()
    town.release("2.0.0", 2)
    second = replicas.operator("second").start().await_leading()
    _not_tried(town)
    # Killed at the command: whoever comes next acts on it, once.
    second.kill()
    replicas.api.patch(town.path, {"metadata": {"annotations": {"edgeward.dev/release-command": "retry@t7"}}})
    third = replicas.operator("third").start()
    eventually(lambda: (town.status().get("rollout") or {}).get("token") == "t7", seconds=40, what="the word is taken")
    third.kill()
    replicas.operator("fourth").start().await_leading()
    _retried(town, "t7", attempt=1)
