"""What pods are told when a wave's canary, a moment that has not come, versions that the site went back from, retries and
ways back come together, in any order, and the agent begins anew in between: never something that a runtime would not read
or that leaves it with nothing to serve."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeward.agent.document import told_models
from edgeward.agent.wanted import identity, without
from edgeward.api.assignment import AssignedModel, Assignment
from edgeward_runtime.config import parse as read_by_runtime
from tests.unit.agent.test_render import kinds, render, told

SCHEMA = jsonschema.Draft202012Validator(
    json.loads((Path(__file__).parents[3] / "edge-runtime/contract/config.schema.json").read_text())
)
AT = datetime(2026, 6, 10, 2, tzinfo=UTC).timestamp()
NIGHTLY = {"windows": [{"start": "02:00", "duration": "3h"}]}
# The last one is other parameters of the bytes and under the version of the one before it.
VERSIONS: tuple[dict[str, Any], ...] = (
    {"version": "1", "digest": "sha256:" + "1" * 64},
    {"version": "2", "digest": "sha256:" + "2" * 64},
    {"version": "3", "digest": "sha256:" + "3" * 64},
    {"version": "3", "digest": "sha256:" + "3" * 64, "parameters": {"threshold": 0.5}},
)


def model(which: int, role: str, **more: Any) -> dict[str, Any]:
    return {"name": "m", "sources": ["https://models.example/m"], "role": role, **VERSIONS[which], **more}


def identity_of(which: int) -> str:
    return identity(AssignedModel.model_validate(model(which, "Stable")))


def config_after(assignment: Assignment, gone: frozenset[str], config: Any, now: float) -> Any:
    """As the agent puts it together from what it knows."""
    models = without(assignment.spec.models, gone, present=told_models(config))
    spec = assignment.spec.model_copy(update={"models": models})
    (body,) = kinds(render(assignment.model_copy(update={"spec": spec}), config=config, now=now), "ConfigMap")
    return body


@st.composite
def words(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What a hub may say: a version; with its way back; or beside a canary."""
    one, two, three = draw(st.permutations(range(len(VERSIONS))))[:3]
    moment: dict[str, Any] = draw(st.sampled_from([{}, {"activation": NIGHTLY}]))
    attempt = draw(st.integers(0, 1))
    if draw(st.booleans()) and VERSIONS[one]["version"] != VERSIONS[two]["version"]:
        found = [model(one, "Stable"), model(two, "Canary", traffic="10%", attempt=attempt, **moment)]
    else:
        found = [model(one, "Stable", attempt=attempt, **moment)]
    if draw(st.booleans()):
        found.append(model(three, "Previous"))
    return found


steps = st.lists(
    st.tuples(
        words(),
        st.frozensets(st.integers(0, len(VERSIONS) - 1)),
        st.sampled_from([AT - 60, AT + 60, AT + 4 * 3600]),
        st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_pods_are_always_told_something_that_they_can_serve(
    story: list[tuple[list[dict[str, Any]], frozenset[int], float, bool]],
) -> None:
    config: Any = None
    for models, refused, now, lost in story:
        gone = frozenset(map(identity_of, refused))
        config = None if lost else config
        assignment = told(models=models)
        body = config_after(assignment, gone, config, now)
        text = body["data"]["models.json"]
        document = json.loads(text)
        SCHEMA.validate(document)
        assert not read_by_runtime(text.encode()).warnings
        entries = [AssignedModel.model_validate({**one, "role": "Stable"}) for one in _plain(document)]
        roles = dict(zip([one["role"] for one in document["models"]], entries, strict=True))
        named = {identity(one) for one in assignment.spec.models}
        before_stable = {
            identity(AssignedModel.model_validate(one))
            for one in _plain({"models": [one for one in told_models(config) if one["role"] == "Stable"]})
        }
        trusted = {
            identity(one)
            for one in assignment.spec.models
            if one.role != "Canary" and (one.activation is None or now == AT + 60)
        }
        assert identity(roles["Stable"]) not in gone or not (trusted | before_stable) - gone
        assert identity(roles["Stable"]) in named | before_stable
        for role in roles.keys() - {"Stable"}:
            assert identity(roles[role]) != identity(roles["Stable"])
            assert identity(roles[role]) not in gone, "what the site went back from takes no part"
        again = config_after(assignment, gone, body, now)
        assert json.loads(again["data"]["models.json"])["models"] == document["models"]
        assert config_after(assignment, gone, again, now) == again, "nothing new, nothing written"
        config = body


def _plain(document: Any) -> list[dict[str, Any]]:
    kept = ("name", "version", "digest", "sources", "parameters")
    return [{key: one[key] for key in kept if key in one} for one in document["models"]]


def test_a_stable_version_that_the_site_went_back_from_is_not_told_beside_a_newer_canary() -> None:
    """Only the canary was looked at: the site got back what it had gone back from with the next wave."""
    assignment = told(models=[model(1, "Stable"), model(2, "Canary", traffic="10%"), model(0, "Previous")])
    body = config_after(assignment, frozenset({identity_of(1)}), None, AT)
    entries = json.loads(body["data"]["models.json"])["models"]
    assert sorted((one["version"], one["role"]) for one in entries) == [("1", "Stable"), ("3", "Canary")]
