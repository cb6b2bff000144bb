"""Any order of configs, failures at any step, kills, and memory that comes and goes: what serves goes on serving, and a
version that was refused for good is not tried again."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgeward_runtime.config import parse
from edgeward_runtime.errors import Refusal
from edgeward_runtime.lifecycle import REMEMBERED
from tests.unit.runtime.onnx_models import digest
from tests.unit.runtime.test_manager import SCARCE, SCHEMA, V1, V2, V3, World

CONTENTS = {"1": V1, "2": V2, "3": V3}
VERSIONS = st.sampled_from(sorted(CONTENTS))
FAILURES = st.sampled_from(
    [
        ("Fetch", "Unreachable", False),
        ("Verify", "DigestMismatch", False),
        ("Load", "OutOfMemory", False),
        ("Load", "NotOnnx", True),
        ("Golden", "GoldenMismatch", True),
        ("Warm", "WarmupFailed", True),
        ("Mirror", "MirrorFailed", True),
        ("Bug", "InternalError", False),
    ]
)


class Broken(World):
    """Versions fail at the step that `broken` says. Notes what is loaded again though it was refused for good."""

    def __init__(self, root: Path) -> None:
        self.broken: dict[str, tuple[str, str, bool]] = {}
        self.refused: dict[str, str] = {}  # key of the entry -> reason
        self.wrong: list[str] = []
        self.kill_at = ""  # a step at which the process ends
        super().__init__(root)

    def at(self, step: str, version: str) -> None:
        if self.kill_at == step:
            os._exit(9)
        where, reason, permanent = self.broken.get(version, ("", "", False))
        if where == "Bug" and step == "Load":
            raise RuntimeError("bug")
        if where == step:
            after = 60 if reason == "DigestMismatch" else None
            raise Refusal(step=step, reason=reason, message="because", permanent=permanent, after=after)

    def fetch(self, entry, *, cancelled, shunned, tally):
        self.at("Fetch", entry.version)
        self.at("Verify", entry.version)
        return super().fetch(entry, cancelled=cancelled, shunned=shunned, tally=tally)

    def load(self, artifact, entry):
        if entry.key in self.refused:
            self.wrong.append(f"{entry.version} was refused: {self.refused[entry.key]}")
        self.at("Load", entry.version)
        return super().load(artifact, entry)

    def golden(self, model):
        self.at("Golden", model.version)

    def warm(self, model, rows):
        self.at("Warm", model.version)
        return 0.001

    def restart(self, build: str = "1") -> None:
        self.refused = {key: reason for key, reason in self.refused.items() if reason in REMEMBERED}
        super().restart(build)


class Swapping(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = Broken(Path(self.folder.name))
        self.revision = 0
        self.config = b""

    def teardown(self) -> None:
        self.folder.cleanup()

    @initialize()
    def something_serves(self) -> None:
        self.want("1", None, None, 0, gap=False)
        assert self.world.live() == "1"

    # -- what may happen ------------------------------------------------------------------------------------------

    @rule(
        version=VERSIONS,
        source=st.sampled_from([None, "https://b/c"]),
        canary=st.none() | VERSIONS,
        mirror=st.sampled_from([0, 0, 2]),
        gap=st.booleans(),
    )
    def want(self, version, source, canary, mirror, gap):
        def entry(one: str, **fields: object) -> dict[str, object]:
            found = {"name": "m", "version": one, "digest": digest(CONTENTS[one])}
            return {**found, "sources": [source or "https://a/b"], "mirrorRequests": mirror, **fields}

        models = [entry(version)]
        if canary is not None and canary != version:
            models.append(entry(canary, role="Canary", traffic="20%"))
        self.revision += 1
        document = {
            "contract": 1,
            "revision": self.revision,
            "job": {"namespace": "shop", "name": "job"},
            "models": models,
            "modelSwap": {"whenTooBig": "OffloadInGap" if gap else "Refuse"},
        }
        self.config = json.dumps(document).encode()
        self.world.config = self.config
        self.step(0)

    @rule(version=VERSIONS, failure=FAILURES)
    def breaks(self, version, failure):
        good = self.world.store.read_record("shop", "job", "last-good").get("m", {}).get("version")
        if version not in (good, self.world.live()):  # what has served loads again
            self.world.broken[version] = failure

    @rule(version=VERSIONS)
    def mends(self, version):
        self.world.broken.pop(version, None)

    @rule(scarce=st.booleans())
    def memory(self, scarce):
        self.world.memory = SCARCE if scarce else None

    @rule(seconds=st.sampled_from([0.5, 5, 100, 2000]))
    def step(self, seconds):
        self.world.now += seconds
        self.world.manager.step()
        self.note()

    @rule()
    def requests_come(self):
        """Copies of requests reach the versions that wait for some."""
        for candidate in list(self.world.registry.candidates.values()):
            if self.world.broken.get(candidate.version, ("",))[0] == "Mirror":
                candidate.copies.raised(ValueError("bad"))
            else:
                candidate.copies.compared(1.0)
        self.step(0)

    @rule(step=st.sampled_from(["Fetch", "Load", "Golden", "Warm", ""]))
    def kill(self, step):
        """The process ends at the next such step, or where it stands; the next one starts on what is on the disk."""
        child = os.fork()
        if child == 0:
            self.world.kill_at = step
            self.world.now += 1000
            self.world.manager.step()
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        self.world.restart()
        self.world.config = self.config
        self.step(0)

    # -- what must hold -------------------------------------------------------------------------------------------

    def note(self) -> None:
        for model in self.world.manager.status()["models"]:
            if model.get("refused", {}).get("step") in (None, "Schema", "Signature"):
                continue
            reason = model["refused"]["reason"]
            if any(reason == one and permanent for _step, one, permanent in self.world.broken.values()):
                for entry in parse(self.config).entries:
                    if entry.version == model["version"]:
                        self.world.refused[entry.key] = reason

    @invariant()
    def a_version_serves(self):
        if not self.config:
            return
        live = self.world.registry.live.get("m")
        assert live is not None and not live.away and live.session is not None
        assert self.world.registry.ready()

    @invariant()
    def what_takes_requests_is_loaded(self):
        registry = self.world.registry
        for live in registry.live.values():
            assert live.split is None or live.split.canary.session is not None
            assert all(target.model.session is not None for target in live.mirrors)
            assert live.split is None or live.split.canary is registry.canaries.get("m")
        loaded = [*registry.live.values(), *registry.canaries.values(), *registry.candidates.values()]
        assert len({id(model) for model in loaded}) == len(loaded)

    @invariant()
    def what_was_refused_is_not_tried_again(self):
        assert self.world.wrong == []

    @invariant()
    def the_status_fits_the_contract(self):
        status = self.world.manager.status()
        SCHEMA.validate(status)
        serving = {(model["version"], model["digest"]) for model in status["models"] if model["serving"]}
        registry = self.world.registry
        assert serving == {
            (model.version, model.digest) for model in (*registry.live.values(), *registry.canaries.values())
        }


TestSwapping = Swapping.TestCase
TestSwapping.settings = settings(stateful_step_count=25)
