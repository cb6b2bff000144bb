"""Windows as the hub publishes them: when a new version may begin at a site, and what serves there until then."""

from __future__ import annotations

from edgeward.cluster.resources import ASSIGNMENTS, MODEL_RELEASES, SITES
from edgeward.fleet.model import parameters_hash
from tests.unit.fleet.objects import OTHER, Raw, site
from tests.unit.hub.test_gates import FINISHED, NEW, OLD, Desk

NIGHTLY = [{"start": "02:00", "duration": "3h"}]


class TimedDesk(Desk):
    """Both sites serve the old version, and the new one goes out everywhere within windows."""

    def __init__(self, **spec: object) -> None:
        super().__init__(gates=[], stage="Rolling")
        self.release(rollout={"windows": NIGHTLY}, **spec)
        for name in "ab":
            self.serves(name, {**OLD, "parameters": ""})
            self.told(name, OLD)

    def release(self, **spec: object) -> None:
        store = self.api.cache[MODEL_RELEASES]
        raw = store.get("shop/m")
        assert raw is not None
        self.api.version += 1
        meta = {**raw["metadata"], "resourceVersion": str(self.api.version)}
        status = {"history": FINISHED} if "rollout" in spec else raw["status"]
        store.put({**raw, "metadata": meta, "spec": {**raw["spec"], **spec}, "status": status})

    def _put(self, name: str, **parts: Raw) -> None:
        raw = self.api.cache[ASSIGNMENTS].get(f"edgeward/signs-{name}")
        assert raw is not None
        self.api.version += 1
        meta = {**raw["metadata"], "resourceVersion": str(self.api.version)}
        self.api.cache[ASSIGNMENTS].put({**raw, **parts, "metadata": meta})

    def told(self, name: str, *models: Raw) -> None:
        self._put(name, spec={**self.spec(name), "models": list(models)})

    def serves(self, name: str, model: Raw, staged: Raw | None = None) -> None:
        raw = self.api.cache[ASSIGNMENTS].get(f"edgeward/signs-{name}")
        assert raw is not None
        shown = {key: model[key] for key in ("name", "version", "digest", "parameters")}
        models = [{**shown, "serving": True, "replicas": 1, "state": "Serving"}]
        if staged is not None:
            models.append(
                {key: staged[key] for key in ("name", "version", "digest", "parameters")} | {"state": "Staged"}
            )
        self._put(name, status={**raw["status"], "models": models})

    def models(self, name: str) -> list[tuple[str, str, object]]:
        return [(one["version"], one["role"], one.get("activation")) for one in self.spec(name)["models"]]


def test_the_new_version_comes_with_its_moment_and_with_what_serves_until_then() -> None:
    desk = TimedDesk()
    desk.passes(3)
    for name in "ab":
        activation = {"windows": [{"days": [], **NIGHTLY[0]}], "timeZone": ""}
        assert desk.models(name) == [("1.0", "Stable", activation), ("0.9", "Previous", None)]
    assert desk.passes(3) == [], "and then nothing is written"


def test_an_idle_hub_writes_nothing_while_sites_wait_and_after_they_switched() -> None:
    desk = TimedDesk()
    desk.passes(3)
    for name in "ab":
        desk.serves(name, {**OLD, "parameters": ""}, {**NEW, "parameters": ""})
    desk.passes(3)
    desk.now += 3600
    assert not [resource for resource, _ in desk.passes(3) if resource is ASSIGNMENTS]
    for name in "ab":
        desk.serves(name, {**NEW, "parameters": ""})
    desk.passes(3)
    before = desk.spec("a")
    assert desk.passes(3) == [] and desk.spec("a") == before


def test_a_version_that_comes_while_the_one_before_waits_has_what_serves_beside_it() -> None:
    desk = TimedDesk()
    desk.passes(3)
    third = "sha256:" + "c" * 64
    desk.release(version="1.1", artifact={"uri": "https://models/m3", "digest": third})
    desk.passes(3)
    assert [(one[0], one[1]) for one in desk.models("a")] == [("1.1", "Stable"), ("0.9", "Previous")]


def test_one_that_comes_after_the_switch_has_the_switched_one_beside_it() -> None:
    desk = TimedDesk()
    desk.passes(3)
    for name in "ab":
        desk.serves(name, {**NEW, "parameters": ""})
    desk.passes(3)
    third = "sha256:" + "c" * 64
    desk.release(version="1.1", artifact={"uri": "https://models/m3", "digest": third})
    desk.passes(3)
    assert [(one[0], one[1]) for one in desk.models("a")] == [("1.1", "Stable"), ("1.0", "Previous")]


def test_the_way_back_comes_without_a_moment() -> None:
    desk = TimedDesk()
    desk.passes(3)
    raw = desk.api.cache[MODEL_RELEASES].get("shop/m")
    assert raw is not None
    annotated = {
        **raw["metadata"],
        "annotations": {"edgeward.dev/release-command": "abort@1"},
        "resourceVersion": "9999",
    }
    desk.api.cache[MODEL_RELEASES].put({**raw, "metadata": annotated})
    desk.passes(4)
    assert desk.models("a") == [("0.9", "Stable", None)]


def test_other_parameters_alone_have_the_old_ones_beside_them() -> None:
    desk = TimedDesk()
    desk.release(version="0.9", artifact={"uri": "https://models/old", "digest": OTHER}, parameters={"labels": ["a"]})
    desk.passes(3)
    found = desk.spec("a")["models"]
    assert [(one["digest"], one["role"], one.get("parameters") or {}) for one in found] == [
        (OTHER, "Stable", {"labels": ["a"]}),
        (OTHER, "Previous", {}),
    ]
    new = {**OLD, "parameters": parameters_hash({"labels": ["a"]})}
    desk.serves("a", {**OLD, "parameters": ""}, new)
    desk.passes(3)
    assert desk.status()["sites"]["updated"] == 0
    for name in "ab":
        desk.serves(name, new)
    desk.passes(3)
    assert desk.status()["sites"]["updated"] == 2


def test_the_windows_of_a_site_hold_for_a_release_without_spec_rollout() -> None:
    desk = TimedDesk()
    desk.api.cache[SITES].put(site("a", windows=NIGHTLY, timeZone="Europe/Zurich"))
    desk.release(rollout=None)
    desk.passes(3)
    (_, _, activation), before = desk.models("a")
    assert dict(activation)["timeZone"] == "Europe/Zurich" and before[:2] == ("0.9", "Previous")  # type: ignore[call-overload]
    assert desk.models("b") == [("1.0", "Stable", None)]


def test_a_site_that_has_nothing_yet_waits_for_nothing() -> None:
    desk = TimedDesk()
    for name in "ab":
        desk._put(name, status={}, spec={**desk.spec(name), "models": []})
    desk.passes(3)
    assert {(one[1], one[2]) for name in "ab" for one in desk.models(name)} == {("Stable", None)}
