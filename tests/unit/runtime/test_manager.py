"""The manager with a fake clock, network and models, but its real store: what it does when, and what it leaves alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest

from edgeward_runtime.attempt import Tools
from edgeward_runtime.config import parse
from edgeward_runtime.errors import Cancelled, Refusal
from edgeward_runtime.fetch.bring import Fetched
from edgeward_runtime.manager import Manager
from edgeward_runtime.metrics import ServerStats
from edgeward_runtime.model import Model
from edgeward_runtime.registry import Registry
from edgeward_runtime.store import Store
from edgeward_runtime.tensors import TensorSpec
from tests.unit.runtime.onnx_models import digest

SCHEMA = jsonschema.Draft202012Validator(
    json.loads((Path(__file__).parents[3] / "edge-runtime" / "contract" / "status.schema.json").read_text())
)
V1, V2, V3 = b"version one", b"version two", b"version three"


class World:
    """Everything around a manager. `restart` is a new process over the same disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 1000.0
        self.config: bytes | None = None
        self.offline = False
        self.fetch_error: Refusal | None = None
        self.load_errors: dict[str, Refusal] = {}
        self.signature_error: Refusal | None = None
        self.golden_error: Refusal | None = None
        self.warm_error: Refusal | None = None
        self.warmed: list[tuple[int, ...]] = []
        self.memory: float | None = None
        self.call = lambda function: function()
        self.clock = lambda: self.now
        self.host = "pod-1"
        self.widths: dict[str, int] = {}
        self.contents = {digest(content): content for content in (V1, V2, V3)}
        self.calls: list[str] = []
        self.during_fetch = lambda: None
        self.restart()

    def restart(self, build: str = "1") -> None:
        self.registry, self.stats = Registry(), ServerStats()
        self.store = Store(self.root)
        tools = Tools(
            changed_config=self.take_config,
            fetch=self.fetch,
            signature=self.signature,
            load=lambda *args: self.load(*args),
            golden=self.golden,
            warm=self.warm,
            memory=lambda: self.memory,
            trim=lambda: None,
            call=lambda function: self.call(function),
            clock=lambda: self.clock(),
            wall=lambda: self.now,
            jitter=lambda: 0.5,
            host=self.host,
            build=build,
        )
        self.manager = Manager(
            store=self.store, registry=self.registry, stats=self.stats, tools=tools, poll_seconds=0.5
        )

    def take_config(self) -> bytes | None:
        config, self.config = self.config, None
        return config

    def fetch(self, entry, *, cancelled, shunned, tally):
        self.calls.append(f"fetch {entry.version}")
        self.during_fetch()
        if cancelled():
            raise Cancelled
        if self.offline:
            raise Refusal(step="Fetch", reason="Unreachable", message="offline", permanent=False)
        if self.fetch_error:
            raise self.fetch_error
        content = self.contents[entry.digest]
        with self.store.locked(entry.digest, cancelled=bool), self.store.partial(entry.digest) as file:
            file.write(content)
            self.store.commit(entry.digest, file)
        return Fetched(path=self.store.blob_path(entry.digest), received=len(content))

    def signature(self, entry, *, offline=False, cancelled=bool):
        self.cancelled = cancelled
        if entry.signature.mode != "Off" or self.signature_error is not None:
            self.calls.append(f"signature {entry.version}{' offline' if offline else ''}")
        if entry.signature.mode == "Require" and self.signature_error is not None:
            raise self.signature_error
        return self.signature_error if entry.signature.mode == "Warn" else None

    def load(self, artifact, entry):
        self.calls.append(f"load {entry.version}")
        if entry.version in self.load_errors:
            raise self.load_errors[entry.version]
        width = self.widths.get(entry.version, 4)
        spec = {"x": TensorSpec(name="x", datatype="FP32", shape=(-1, width))}
        return Model(
            name=entry.name,
            version=entry.version,
            digest=entry.digest,
            session=SimpleNamespace(run=list),
            inputs=spec,
            outputs={},
            parameters=entry.parameters,
        )

    def golden(self, model):
        if self.golden_error:
            raise self.golden_error

    def warm(self, model, rows):
        self.warmed.append(rows)
        if self.warm_error:
            raise self.warm_error
        return 0.001

    def want(
        self, version: str, content: bytes, revision: int = 1, contract: int = 1, top: dict | None = None, **fields
    ) -> None:
        model = {
            "name": "m",
            "version": version,
            "digest": digest(content),
            "sources": ["https://models.example.com/m"],
            **fields,
        }
        job = {"namespace": "shop", "name": "job"}
        document = {"contract": contract, "revision": revision, "job": job, "models": [model], **(top or {})}
        self.config = json.dumps(document).encode()
        self.step()

    def step(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.manager.step()
        SCHEMA.validate(self.manager.status())

    def live(self) -> str | None:
        model = self.registry.live.get("m")
        return model.version if model else None

    def entry(self, version: str) -> dict:
        (found,) = [model for model in self.manager.status()["models"] if model["version"] == version]
        return found


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def refusal(reason: str, step: str, permanent: bool = True, after: float | None = None) -> Refusal:
    return Refusal(step=step, reason=reason, message="because", permanent=permanent, after=after)


def test_nothing_wanted_yet(world):
    world.step()
    said = world.manager.status()
    assert said == {"contract": 1, "revision": 0, "models": [], "started": said["started"]}
    assert not world.registry.ready()


def test_the_first_version(world):
    world.want("1", V1, revision=7)
    assert world.live() == "1" and world.registry.ready()
    assert world.manager.status()["revision"] == 7
    entry = world.entry("1")
    assert entry["state"] == "Serving" and entry["serving"] and entry["bytes"] == len(V1)
    world.step(100)
    assert world.calls == ["fetch 1", "load 1"], "an idle manager does nothing"


def test_a_swap_frees_the_old_only_when_drained(world):
    world.want("1", V1)
    old = world.registry.live["m"]
    old.inflight = 1
    world.want("2", V2, revision=2)
    assert world.live() == "2" and old.session is not None
    assert [model["version"] for model in world.manager.status()["models"]] == ["2"]
    old.inflight = 0
    world.step()
    assert old.session is None
    assert world.registry.live["m"].session is not None


FAILURES = [
    ("fetch_error", refusal("DigestMismatch", "Verify", permanent=False, after=60)),
    ("fetch_error", refusal("Empty", "Verify", permanent=False, after=60)),
    ("fetch_error", refusal("NotFound", "Fetch", permanent=False)),
    ("fetch_error", refusal("DiskFull", "Fetch", permanent=False)),
    ("load_error", refusal("NotOnnx", "Load")),
    ("load_error", refusal("LoadFailed", "Load")),
    ("golden_error", refusal("GoldenMismatch", "Golden")),
    ("warm_error", refusal("WarmupFailed", "Warm")),
    ("width", refusal("SchemaChanged", "Schema")),
]


def break_with(world: World, where: str, error: Refusal) -> None:
    if where == "load_error":
        world.load_errors["2"] = error
    elif where == "width":
        world.widths["2"] = 5
    else:
        setattr(world, where, error)


@pytest.mark.parametrize(("where", "error"), FAILURES, ids=lambda value: getattr(value, "reason", value))
def test_a_failure_leaves_the_old_serving(world, where, error):
    world.want("1", V1)
    old = world.registry.live["m"]
    break_with(world, where, error)
    world.want("2", V2, revision=2)
    assert world.registry.live["m"] is old and old.session is not None and world.registry.ready()
    new, kept = world.entry("2"), world.entry("1")
    assert (new["state"], new["serving"]) == ("Failed", False)
    assert (new["refused"]["step"], new["refused"]["reason"]) == (error.step, error.reason)
    assert (kept["state"], kept["serving"]) == ("Serving", True) and "refused" not in kept
    before, status = len(world.calls), world.manager.status()
    world.step(0.9)
    assert len(world.calls) == before
    world.step(10_000)
    assert (len(world.calls) > before) == (not error.permanent)
    assert world.manager.status() == status, "trying again changes nothing in the status"


@pytest.mark.parametrize(("where", "error"), FAILURES, ids=lambda value: getattr(value, "reason", value))
def test_a_first_version_that_fails_is_not_ready(world, where, error):
    if where == "width":
        return
    break_with(world, where, error)
    world.want("2", V2)
    assert world.live() is None and not world.registry.ready()
    assert world.entry("2")["state"] == "Failed"


def test_backoff_then_success(world):
    world.offline = True
    world.want("1", V1)
    for seconds, tries in ((0.9, 1), (0.1, 2), (1.9, 2), (0.1, 3), (4, 4)):
        world.step(seconds)
        assert len(world.calls) == tries
    world.offline = False
    world.step(8)
    assert world.live() == "1" and "refused" not in world.entry("1")


def test_a_schema_change_that_is_allowed(world):
    world.want("1", V1)
    world.widths["2"] = 5
    world.want("2", V2, parameters={"allowSchemaChange": True})
    assert world.live() == "2"


def test_a_changed_entry_is_tried_again(world):
    world.want("1", V1)
    world.load_errors["2"] = refusal("LoadFailed", "Load")
    world.want("2", V2, revision=2)
    world.load_errors.clear()
    world.want("2", V2, revision=3)
    assert world.live() == "1", "another revision of the same entry is no reason"
    world.want("2", V2, revision=4, sources=["https://elsewhere.example.com/m"])
    assert world.live() == "2"


def test_a_refusal_is_remembered_over_a_restart_but_not_over_an_upgrade(world):
    world.load_errors["1"] = refusal("LoadFailed", "Load")
    world.want("1", V1)
    world.load_errors.clear()
    world.restart()
    world.calls.clear()
    world.want("1", V1)
    assert world.calls == [] and world.entry("1")["refused"]["reason"] == "LoadFailed"
    world.restart(build="2")
    world.want("1", V1)
    assert world.live() == "1"


def test_a_rollback_to_what_serves_loads_nothing(world):
    world.want("1", V1)
    world.load_errors["2"] = refusal("LoadFailed", "Load")
    world.want("2", V2, revision=2)
    world.calls.clear()
    world.want("1", V1, revision=3)
    assert world.calls == [] and world.entry("1")["state"] == "Serving"
    assert len(world.manager.status()["models"]) == 1


def test_a_rollback_during_a_slow_fetch(world):
    world.want("1", V1)

    def change_of_mind() -> None:
        world.during_fetch = lambda: None
        world.now += 1
        world.config = json.dumps(
            {"contract": 1, "revision": 3, "job": {"namespace": "shop", "name": "job"},
             "models": [{"name": "m", "version": "3", "digest": digest(V3), "sources": ["https://a/b"]}]}
        ).encode()  # fmt: skip

    world.during_fetch = change_of_mind
    world.want("2", V2, revision=2)
    world.step()
    assert world.live() == "3" and "load 2" not in world.calls
    assert [model["version"] for model in world.manager.status()["models"]] == ["3"]


def test_an_entry_replaced_while_another_is_fetched_is_not_worked_on(world):
    def config(revision: int, other: str) -> bytes:
        models = [
            {"name": "a", "version": "1", "digest": digest(V1), "sources": ["https://a/b"]},
            {"name": "b", "version": other, "digest": digest(V2), "sources": ["https://a/b"]},
        ]
        job = {"namespace": "shop", "name": "job"}
        return json.dumps({"contract": 1, "revision": revision, "job": job, "models": models}).encode()

    def change_of_mind() -> None:
        world.during_fetch = lambda: None
        world.now += 1
        world.config = config(2, "3")

    world.during_fetch = change_of_mind
    world.config = config(1, "2")
    world.step()
    world.step()
    assert world.calls == ["fetch 1", "load 1", "fetch 3", "load 3"]


def test_a_name_that_is_no_longer_wanted_goes(world):
    world.want("1", V1)
    old = world.registry.live["m"]
    world.want("1", V1, revision=2, name="n")
    assert sorted(world.registry.live) == ["n"] and old.session is None
    assert [model["name"] for model in world.manager.status()["models"]] == ["n"]


@pytest.mark.parametrize("text", [b"{", b"{}", b'{"contract": 2}'])
def test_a_refused_config_changes_nothing(world, text):
    world.want("1", V1, revision=4)
    world.config = text
    world.step()
    status = world.manager.status()
    assert world.live() == "1" and world.registry.ready() and status["revision"] == 4
    assert status["configRefused"]["message"]
    world.want("1", V1, revision=5)
    assert "configRefused" not in world.manager.status()


def test_restart_offline(world):
    world.want("1", V1)
    world.offline = True
    world.restart()
    world.calls.clear()
    world.want("1", V1)
    assert world.live() == "1" and world.calls == ["load 1"]


def test_restart_with_a_version_that_fails(world):
    world.want("1", V1)
    world.load_errors["2"] = refusal("NotOnnx", "Load")
    world.restart()
    world.want("2", V2, revision=2)
    assert world.live() == "1" and world.registry.ready()
    assert world.entry("1")["serving"] and world.entry("2")["refused"]["reason"] == "NotOnnx"


def test_restart_offline_in_the_middle_of_a_rollout(world):
    world.want("1", V1)
    world.offline = True
    world.restart()
    world.want("2", V2, revision=2)
    assert world.live() == "1"
    world.offline = False
    world.step(5)
    assert world.live() == "2"


def test_restart_with_a_config_of_a_newer_contract(world):
    world.want("1", V1)
    world.restart()
    world.want("9", V2, contract=2)
    assert world.live() == "1" and world.registry.ready()
    assert world.manager.status()["configRefused"]["reason"] == "UnsupportedContract"
    world.want("2", V2, revision=2)
    assert world.live() == "2"


def damage(world, content: bytes) -> None:
    path = world.store.blob_path(digest(content))
    path.chmod(0o644)
    path.write_bytes(b"damaged")


def test_the_version_before_stands_in_for_a_damaged_one(world):
    world.want("1", V1)
    world.want("2", V2, revision=2)
    damage(world, V2)
    world.offline = True
    world.restart()
    world.want("2", V2, revision=2)
    assert world.live() == "1" and world.registry.ready()
    assert world.entry("2")["refused"]["reason"] == "Unreachable" and world.entry("1")["serving"]
    world.offline = False
    world.step(5)
    assert world.live() == "2" and len(world.manager.status()["models"]) == 1
    world.restart()
    world.want("2", V2, revision=2)
    assert world.live() == "2", "what stood in is not what served last"


def test_a_version_that_was_given_up_does_not_stand_in(world):
    world.want("1", V1)
    world.want("2", V2, revision=2)
    world.want("1", V1, revision=3)
    damage(world, V1)
    world.offline = True
    world.restart()
    world.want("1", V1, revision=3)
    assert world.live() is None
    world.offline = False
    world.step(5)
    assert world.live() == "1"


def test_other_pods_keep_what_is_wanted_or_serves_here(world):
    world.want("1", V1)
    other = Store(world.root)
    world.fetch_error = refusal("Unreachable", "Fetch", permanent=False)
    world.want("2", V2, revision=2)
    for name in ("last-good", "previous"):
        world.store.write_record("shop", "job", name, {})
    assert other.free(1) == 0 and world.store.find(digest(V1)) is not None
    world.fetch_error = None
    world.step(5)
    world.want("3", V3, revision=3)
    for name in ("last-good", "previous"):
        world.store.write_record("shop", "job", name, {})
    assert other.free(10**6) == len(V1) + len(V2) and world.store.find(digest(V3)) is not None


def test_restart_with_a_damaged_blob(world):
    world.want("1", V1)
    path = world.store.blob_path(digest(V1))
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    world.restart()
    world.calls.clear()
    world.want("1", V1)
    assert world.calls == ["fetch 1", "load 1"] and world.live() == "1"
    assert world.store.corrupted == 1


@pytest.mark.parametrize(
    "record", [b"{", b'{"m": 1}', b'{"m": {"version": "1", "digest": "../../x", "parameters": {}, "sources": []}}']
)
def test_restart_with_a_damaged_record(world, record):
    world.want("1", V1)
    (world.root / "jobs" / "shop" / "job" / "last-good.json").write_bytes(record)
    world.restart()
    world.want("2", V2)
    assert world.live() == "2"


def test_an_unforeseen_error_is_shown_and_tried_again(world):
    def bug() -> None:
        raise RuntimeError("bug")

    world.during_fetch = bug
    world.want("1", V1)
    assert world.entry("1")["refused"]["reason"] == "InternalError"
    world.during_fetch = lambda: None
    world.step(5)
    assert world.live() == "1"


def test_wrong_bytes_wait_long_but_not_over_a_restart_or_a_changed_entry(world):
    world.fetch_error = refusal("DigestMismatch", "Verify", permanent=False, after=60)
    world.want("1", V1)
    world.step(59)
    assert world.calls == ["fetch 1"]
    world.want("1", V1, revision=2, sources=["https://elsewhere.example.com/m"])
    assert world.calls == ["fetch 1"] * 2
    status = world.manager.status()
    world.step(75)
    assert world.calls == ["fetch 1"] * 3 and world.manager.status() == status
    world.fetch_error = None
    world.restart()
    world.want("1", V1)
    assert world.live() == "1"


def test_a_config_that_could_not_be_adopted_is_tried_again(world):
    world.want("1", V1)

    def stuck(_function):
        raise TimeoutError

    world.call, call = stuck, world.call
    with pytest.raises(TimeoutError):
        world.want("2", V2, revision=2)
    assert world.manager.status()["revision"] == 1 and world.live() == "1"
    world.call = call
    world.step()
    assert world.manager.status()["revision"] == 2 and world.live() == "2"


def config_of(version: str, content: bytes, revision: int) -> bytes:
    model = {"name": "m", "version": version, "digest": digest(content), "sources": ["https://models.example.com/m"]}
    job = {"namespace": "shop", "name": "job"}
    return json.dumps({"contract": 1, "revision": revision, "job": job, "models": [model]}).encode()


def crash(world, bad):
    """A process ends while it loads what `bad` wants, and another one begins with that."""
    child = os.fork()
    if child == 0:
        world.load = lambda artifact, entry: os._exit(9)
        world.config = bad
        world.manager.step()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    world.restart()
    world.config = bad
    world.step()


def test_a_load_that_ends_the_process(world):
    world.want("1", V1)
    world.calls.clear()
    bad = config_of("2", V2, 2)
    crash(world, bad)
    assert world.live() == "1" and world.calls == ["load 1"]
    refused = world.entry("2")["refused"]
    assert (refused["step"], refused["reason"]) == ("Load", "LoadCrashed")
    world.step(59)
    assert world.calls == ["load 1"]
    world.step(1)
    assert world.live() == "2"
    world.restart()
    world.config = bad
    world.step()
    assert world.live() == "2", "what loaded since is not held against it"


def test_another_pods_load_is_no_crash(world):
    world.want("1", V1)
    entry = parse(config_of("2", V2, 2)).entries[0]
    world.manager._records.load_begins(entry, tries=1, wanted=[entry])
    world.host = "pod-2"
    world.restart()
    world.want("2", V2, revision=2)
    assert world.live() == "2"


def test_what_served_before_stays_on_disk(world):
    for revision, (version, content) in enumerate((("1", V1), ("2", V2), ("3", V3)), 1):
        world.want(version, content, revision=revision)
    world.store.free(2**40)
    assert [world.store.has(digest(content)) for content in (V1, V2, V3)] == [False, True, True]
    world.calls.clear()
    world.offline = True
    world.want("2", V2, revision=4)
    assert world.live() == "2" and world.calls == ["load 2"], "the way back needs no network"


# -- two versions that do not fit in memory together ------------------------------------------------------------------

# Bytes that are free: too few beside what serves, enough without it. A load is reckoned to take 16 MiB and a bit.
SCARCE = 2.0**24 + 10
GAP = {"modelSwap": {"whenTooBig": "OffloadInGap"}}


def test_a_version_that_does_not_fit_is_refused(world):
    world.want("1", V1)
    world.memory = SCARCE
    world.want("2", V2, revision=2)
    assert world.live() == "1" and world.registry.ready() and "load 2" not in world.calls
    refused = world.entry("2")["refused"]
    assert (refused["step"], refused["reason"]) == ("Load", "NotEnoughMemory")
    world.step(59)
    assert world.entry("2")["refused"]["reason"] == "NotEnoughMemory"
    world.memory = None
    world.step(20)
    assert world.live() == "2", "tried again when there is room"


def test_a_first_version_is_tried_whatever_is_free(world):
    world.memory = 0.0
    world.want("1", V1)
    assert world.live() == "1"


def test_a_version_that_fits_nowhere_opens_no_gap(world):
    world.want("1", V1)
    old = world.registry.live["m"]
    world.memory = 0.0
    world.want("2", V2, revision=2, top=GAP)
    assert world.registry.live["m"] is old and old.session is not None
    assert world.entry("2")["refused"]["reason"] == "NotEnoughMemory"


def test_a_gap(world):
    world.want("1", V1)
    old = world.registry.live["m"]
    world.memory = SCARCE
    seen = []

    def load(artifact, entry):
        seen.append((old.session, world.registry.live["m"].away, world.registry.ready(), world.manager.status()))
        return World.load(world, artifact, entry)

    world.load = load
    world.want("2", V2, revision=2, top=GAP)
    ((session, away, ready, status),) = seen
    assert session is None and away and not ready, "the old one was unloaded, and readiness says so"
    SCHEMA.validate(status)
    assert [(model["version"], model["serving"], model.get("gap")) for model in status["models"]] == [
        ("2", False, True)
    ]
    assert world.live() == "2" and world.registry.ready()
    assert not any("gap" in model for model in world.manager.status()["models"])


def test_a_gap_in_which_the_new_version_fails_brings_the_old_one_back(world):
    world.want("1", V1)
    world.memory = SCARCE
    world.golden_error = refusal("GoldenMismatch", "Golden")
    world.want("2", V2, revision=2, top=GAP)
    assert world.live() == "1" and world.registry.ready() and not world.registry.live["m"].away
    assert world.calls[-2:] == ["load 2", "load 1"]
    assert world.entry("2")["refused"]["step"] == "Golden" and world.entry("1")["serving"]


def test_a_gap_that_cannot_be_closed_is_tried_until_it_is(world):
    world.want("1", V1)
    world.memory = SCARCE
    world.load_errors = {"1": refusal("OutOfMemory", "Load", False), "2": refusal("OutOfMemory", "Load", False)}
    world.want("2", V2, revision=2, top=GAP)
    assert world.registry.live["m"].away and not world.registry.ready()
    world.load_errors.pop("1")
    world.step(2)
    assert world.live() == "1" and world.registry.ready()
    tries = world.calls.count("load 2")
    world.step(50)
    assert world.calls.count("load 2") == tries, "each try is a gap: not as often as others"


def test_a_version_that_does_not_get_free_makes_no_room(world):
    world.want("1", V1)
    old = world.registry.live["m"]
    old.inflight = 1
    world.memory = SCARCE

    def tick() -> float:
        world.now += 1
        return world.now

    world.clock = tick
    world.want("2", V2, revision=2, top=GAP)
    assert world.registry.live["m"] is old and old.session is not None and world.registry.ready()
    assert world.entry("2")["refused"]["reason"] == "NotEnoughMemory"


def test_a_name_that_is_dropped_in_its_gap_is_gone(world):
    world.want("1", V1)
    world.memory = SCARCE
    world.load_errors = {"1": refusal("OutOfMemory", "Load", False), "2": refusal("OutOfMemory", "Load", False)}
    world.want("2", V2, revision=2, top=GAP)
    world.load_errors = {}
    world.want("3", V3, revision=3, name="n", top=GAP)
    assert sorted(world.registry.live) == ["n"]
    world.step(100)
    assert sorted(world.registry.live) == ["n"]


# -- canaries and copies ----------------------------------------------------------------------------------------------


def both(world: World, revision: int = 1, **fields) -> None:
    stable = {"name": "m", "version": "1", "digest": digest(V1), "sources": ["https://a/1"]}
    canary = {"name": "m", "version": "2", "digest": digest(V2), "sources": ["https://a/2"], "role": "Canary", **fields}
    job = {"namespace": "shop", "name": "job"}
    world.config = json.dumps({"contract": 1, "revision": revision, "job": job, "models": [canary, stable]}).encode()
    world.step()


def test_a_canary_comes_after_its_stable_and_takes_its_share(world):
    both(world, traffic="25%")
    assert world.calls == ["fetch 1", "load 1", "fetch 2", "load 2"]
    live = world.registry.live["m"]
    assert live.version == "1" and live.split.canary is world.registry.canaries["m"] and live.split.percent == 25
    shown = world.entry("2")
    assert (shown["state"], shown["serving"], shown["role"], shown["traffic"]) == ("Serving", True, "Canary", "25%")
    assert world.store.read_record("shop", "job", "last-good")["m"]["version"] == "1"
    both(world, revision=2, traffic="50%")
    assert live.split.percent == 50 and world.calls.count("load 2") == 1, "another share is no other version"
    both(world, revision=3)
    assert live.split is None


def test_a_canary_waits_for_a_stable_version(world):
    world.load_errors["1"] = refusal("LoadFailed", "Load")
    both(world)
    assert world.calls == ["fetch 1", "load 1"] and world.entry("2")["state"] == "Pending"


def test_a_canary_with_other_inputs_is_refused_whatever_the_parameters(world):
    world.widths["2"] = 5
    both(world, traffic="25%", parameters={"allowSchemaChange": True})
    assert world.entry("2")["refused"]["step"] == "Schema" and world.registry.live["m"].split is None


def test_a_canary_is_promoted_without_a_load(world):
    both(world, traffic="25%")
    canary, old = world.registry.canaries["m"], world.registry.live["m"]
    world.want("2", V2, revision=2, sources=["https://a/2"])
    assert world.registry.live["m"] is canary and canary.session is not None and canary.split is None
    assert not world.registry.canaries and old.session is None and world.calls.count("load 2") == 1
    assert [(model["version"], model.get("role")) for model in world.manager.status()["models"]] == [("2", None)]


def test_a_process_that_ends_under_a_canary_starts_without_it(world):
    both(world, traffic="25%")
    world.restart()
    world.calls.clear()
    both(world, traffic="25%")
    assert world.live() == "1" and world.calls == ["load 1"] and world.registry.live["m"].split is None
    assert world.entry("2")["refused"]["reason"] == "LoadCrashed"
    world.step(60)
    assert world.registry.live["m"].split is not None
    world.restart()
    both(world, traffic="25%")
    world.step(100)
    assert world.registry.live["m"].split is None, "the second wait is longer"
    world.step(20)
    assert world.registry.live["m"].split is not None
    world.manager.start()
    world.manager.stop()
    world.restart()
    both(world, traffic="25%")
    assert world.registry.live["m"].split is not None, "nothing is held against it when the end was asked for"


def test_a_canary_taken_back_before_the_end_is_not_held_responsible(world):
    both(world, traffic="25%")
    world.want("1", V1, revision=2, sources=["https://a/1"])
    world.restart()
    both(world, traffic="25%")
    assert world.registry.live["m"].split is not None


def test_a_process_that_ends_under_copies_starts_without_them(world):
    world.want("1", V1)
    world.want("2", V2, revision=2, mirrorRequests=3)
    world.restart()
    world.want("2", V2, revision=2, mirrorRequests=3)
    assert world.live() == "1" and world.entry("2")["refused"]["reason"] == "LoadCrashed"
    world.step(60)
    assert world.entry("2")["state"] == "Mirroring"


def test_a_canary_that_is_taken_back_is_freed(world):
    both(world, traffic="25%")
    canary = world.registry.canaries["m"]
    world.want("1", V1, revision=2, sources=["https://a/1"])
    assert canary.session is None and world.registry.live["m"].split is None and world.live() == "1"
    assert world.registry.find(["m"]) is world.registry.live["m"]


def test_a_stable_version_that_the_canary_cannot_stand_in_for_keeps_its_requests(world):
    both(world, traffic="100%")
    world.widths["3"] = 5
    stable = {"name": "m", "version": "3", "digest": digest(V3), "sources": ["https://a/3"]}
    stable["parameters"] = {"allowSchemaChange": True}
    canary = {"name": "m", "version": "2", "digest": digest(V2), "sources": ["https://a/2"], "role": "Canary"}
    canary["traffic"] = "100%"
    job = {"namespace": "shop", "name": "job"}
    world.config = json.dumps({"contract": 1, "revision": 2, "job": job, "models": [stable, canary]}).encode()
    world.step()
    assert world.live() == "3" and world.registry.live["m"].split is None


def test_a_version_answers_copies_before_it_takes_traffic(world):
    world.want("1", V1)
    old = world.registry.live["m"]
    world.want("2", V2, revision=2, mirrorRequests=3)
    assert world.live() == "1" and world.entry("2")["state"] == "Mirroring" and not world.entry("2")["serving"]
    (target,) = old.mirrors
    assert target.percent == 100
    for share in (1.0, 0.5, 1.0):
        world.step(1000)
        assert world.live() == "1", "never on too few"
        target.model.copies.compared(share)
    world.step()
    assert world.registry.live["m"] is target.model and old.mirrors == ()
    mirror = world.entry("2")["counters"]["mirror"]
    assert (mirror["requests"], mirror["agreed"], mirror["agreement"]["sum"]) == (3, 2, 2.5)


def test_a_version_that_fails_on_a_copy_is_refused(world):
    world.want("1", V1)
    old = world.registry.live["m"]
    world.want("2", V2, revision=2, mirrorRequests=3)
    (target,) = old.mirrors
    target.model.copies.raised(ValueError("index out of range"))
    world.step()
    assert world.live() == "1" and old.mirrors == () and target.model.session is None
    refused = world.entry("2")["refused"]
    assert (refused["step"], refused["reason"]) == ("Mirror", "MirrorFailed") and "ValueError" in refused["message"]


def test_a_version_on_probation_is_given_up_for_another(world):
    world.want("1", V1)
    world.want("2", V2, revision=2, mirrorRequests=3)
    (target,) = world.registry.live["m"].mirrors
    world.want("3", V3, revision=3)
    assert world.live() == "3" and target.model.session is None and world.registry.candidates == {}


def test_a_new_version_is_warm_for_the_batches_that_came_before(world):
    world.want("1", V1)
    stats = world.registry.live["m"].stats
    for rows, runs in ((1, 500), (8, 300), (3, 20)):
        for _ in range(runs):
            stats.success(rows, 1, 1, 1, 1, 1, rows)
    world.want("2", V2, revision=2)
    assert world.warmed == [(), (3, 8)]


def test_a_version_that_was_refused_for_good_is_not_tried_again_when_it_is_wanted_again(world):
    world.want("1", V1)
    world.warm_error = refusal("WarmupFailed", "Warm")
    world.want("2", V2, revision=2)
    world.want("1", V1, revision=3)
    world.warm_error = None
    world.calls.clear()
    world.want("2", V2, revision=4)
    assert world.calls == [] and world.entry("2")["refused"]["reason"] == "WarmupFailed"
    world.want("2", V2, revision=5, parameters={"again": True})
    assert world.live() == "2"


def test_what_serves_is_no_longer_noted_as_being_loaded(world):
    """A process killed right after the flip would else take its own good version for one that crashes."""
    noted = []

    def call(function):
        noted.append(world.store.read_record("shop", "job", f"attempting-{world.host}"))
        return function()

    world.call = call
    world.want("1", V1)
    assert world.live() == "1" and not any(noted)


def test_a_later_attempt_forgets_what_was_refused_for_good_here_and_on_disk(world):
    """`retry`: a refused version is really tried again, once."""
    world.load_errors["1"] = Refusal(step="Load", reason="LoadFailed", message="odd", permanent=True)
    world.want("1", V1)
    assert world.entry("1")["refused"]["reason"] == "LoadFailed"
    world.calls.clear()
    world.want("1", V1, revision=2, attempt=1)
    assert world.calls == ["load 1"]
    world.want("1", V1, revision=3, attempt=1)
    assert world.calls == ["load 1"], "the same attempt is no new word"
    world.restart()
    world.want("1", V1, revision=3, attempt=1)
    assert world.calls == ["load 1"] and world.entry("1")["refused"]["reason"] == "LoadFailed"
    world.load_errors.clear()
    world.restart()
    world.want("1", V1, revision=4, attempt=2)
    assert world.entry("1")["serving"]


def test_a_later_attempt_leaves_what_serves_alone(world):
    world.want("1", V1)
    world.calls.clear()
    world.want("1", V1, revision=2, attempt=4)
    assert world.calls == [] and world.entry("1")["serving"]


def test_a_later_attempt_does_not_wait_for_the_end_of_a_crashed_loads_back_off(world):
    world.want("1", V1)
    bad = config_of("2", V2, 2)
    crash(world, bad)
    assert world.entry("2")["refused"]["reason"] == "LoadCrashed" and world.live() == "1"
    world.want("2", V2, revision=3, attempt=1)
    assert world.live() == "2"


def test_the_way_back_comes_before_what_served_last_and_needs_no_network(world):
    """What served last may have ended the process, and would again before the version before is there."""
    world.want("1", V1)
    world.want("2", V2, revision=2)
    world.offline = True
    world.restart()
    world.calls.clear()
    world.want("1", V1, revision=3)
    assert world.calls == ["load 1"] and world.live() == "1"


def test_a_way_back_that_does_not_load_leaves_what_served_last(world):
    world.want("1", V1)
    world.want("2", V2, revision=2)
    world.load_errors["1"] = Refusal(step="Load", reason="LoadFailed", message="odd", permanent=True)
    world.restart()
    world.want("1", V1, revision=3)
    assert world.live() == "2"


def test_bytes_that_are_to_be_kept_stay_on_disk(world):
    """Two versions ago finished last: it is what the site goes back to, and no record of what served names it."""
    for revision, (version, content) in enumerate((("1", V1), ("2", V2), ("3", V3)), start=1):
        world.want(version, content, revision=revision, top={"keep": [digest(V1)]})
        world.step(60)
    other = Store(world.root)
    other.free(10**6)
    assert world.store.has(digest(V1)), "kept"
    world.want("3", V3, revision=9)
    other.free(10**6)
    assert not world.store.has(digest(V1)) and world.store.has(digest(V2)), "no longer asked for"
