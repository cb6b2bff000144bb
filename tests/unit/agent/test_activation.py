"""What the pods are told while a new version waits for its moment, which the site's own agent decides."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from edgeward.agent import activation
from edgeward.agent.document import told_models
from tests.unit.agent.test_render import kinds, render, told

AT = datetime(2026, 6, 10, 2, tzinfo=UTC).timestamp()
NIGHTLY = {"windows": [{"start": "02:00", "duration": "3h"}]}


def model(version: str, role: str = "Stable", **more: Any) -> dict[str, Any]:
    digest = "sha256:" + version.replace(".", "") * 32
    return {
        "name": "m",
        "version": version,
        "digest": digest,
        "sources": ["https://models.example/m"],
        "role": role,
        **more,
    }


OLD, NEW = model("1.1"), model("1.2", activation=NIGHTLY)
WAITS = (NEW, model("1.1", "Previous"))


def document(*models: dict[str, Any], present: Any = None, now: float) -> dict[str, Any]:
    """The ConfigMap's content, given the one before."""
    config = {"data": {"models.json": json.dumps(present)}} if present else None
    (body,) = kinds(render(told(models=list(models)), config=config, now=now), "ConfigMap")
    return json.loads(body["data"]["models.json"])


def roles(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["version"], one["role"]) for one in found["models"]]


def test_until_its_moment_the_version_before_serves_and_the_new_one_is_staged():
    assert roles(document(*WAITS, now=AT - 1)) == [("1.1", "Stable"), ("1.2", "Staged")]
    assert roles(document(*WAITS, now=AT)) == [("1.2", "Stable")]


def test_it_says_when_to_look_again():
    assert activation.parts(told(models=list(WAITS)), told=(), now=AT - 1).next == AT
    assert activation.parts(told(models=list(WAITS)), told=(), now=AT).next is None
    assert activation.parts(told(models=list(WAITS)), told=(), now=AT + 4 * 3600).next == AT + 86400


def test_what_has_begun_goes_on_when_the_window_closes():
    begun = document(*WAITS, present=document(*WAITS, now=AT - 1), now=AT)
    assert document(*WAITS, present=begun, now=AT + 4 * 3600) == begun


def test_an_agent_that_slept_through_the_window_waits_for_the_next_one():
    waits = document(*WAITS, now=AT - 1)
    assert document(*WAITS, present=waits, now=AT + 4 * 3600) == waits


def test_the_way_back_waits_for_nothing():
    waits = document(*WAITS, now=AT - 1)
    assert roles(document(OLD, present=waits, now=AT - 1)) == [("1.1", "Stable")]
    begun = document(*WAITS, now=AT)
    assert roles(document(OLD, present=begun, now=AT + 4 * 3600)) == [("1.1", "Stable")]


def test_where_nothing_serves_there_is_nothing_to_wait_with():
    assert roles(document(NEW, now=AT - 1)) == [("1.2", "Stable")]


def test_a_canary_waits_on_the_disk_beside_what_serves():
    canary = model("1.2", "Canary", traffic="10%", activation=NIGHTLY)
    waits = document(OLD, canary, now=AT - 1)
    assert roles(waits) == [("1.1", "Stable"), ("1.2", "Staged")]
    begun = document(OLD, canary, present=waits, now=AT)
    assert roles(begun) == [("1.1", "Stable"), ("1.2", "Canary")]
    assert document(OLD, canary, present=begun, now=AT + 4 * 3600) == begun


def test_a_canary_that_is_to_have_all_requests_keeps_its_share_until_then():
    begun = document(OLD, model("1.2", "Canary", traffic="10%", mirror=5, activation=NIGHTLY), now=AT)
    waits = document(*WAITS, present=begun, now=AT + 4 * 3600)
    assert roles(waits) == [("1.1", "Stable"), ("1.2", "Canary")]
    assert (waits["models"][1]["traffic"], waits["models"][1]["mirror"]) == ("10%", 5)
    assert roles(document(*WAITS, present=waits, now=AT + 86400)) == [("1.2", "Stable")]


def test_other_parameters_alone_wait_as_well():
    new = model("1.1", parameters={"capture": {"lowConfidence": 0.5}}, activation=NIGHTLY)
    waits = document(new, model("1.1", "Previous"), now=AT - 1)
    assert [(one["role"], one["parameters"]) for one in waits["models"]] == [
        ("Stable", {}),
        ("Staged", {"capture": {"lowConfidence": 0.5}}),
    ]


def test_what_waits_has_done_nothing_that_it_could_be_judged_by():
    assignment = told(models=list(WAITS))
    assert activation.waiting(assignment, told=document(OLD, now=AT - 1)["models"]) == {NEW["digest"]}
    assert activation.waiting(assignment, told=document(*WAITS, now=AT - 1)["models"]) == {NEW["digest"]}
    assert not activation.waiting(assignment, told=document(*WAITS, now=AT)["models"])
    assert not activation.waiting(told(models=[OLD]), told=document(OLD, now=AT)["models"])


def test_without_its_config_map_a_site_goes_by_what_its_pods_serve():
    assignment = told(models=list(WAITS))
    served = {"name": "m", "version": "1.2", "digest": NEW["digest"], "serving": True, "parameters": ""}
    status = assignment.status.model_validate({"models": [served]})
    found = activation.parts(assignment.model_copy(update={"status": status}), told=told_models(None), now=AT - 1)
    assert [(part.model.version, part.role) for part in found.parts] == [("1.2", "Stable")]


def test_a_retry_of_what_was_refused_waits_for_its_moment_as_the_first_try_did():
    """It had begun, but nothing serves it: a retry at noon switched a site whose window is at night."""
    refused = {"step": "Golden", "reason": "GoldenMismatch", "at": "2026-06-10T02:00:05Z"}
    said = {"name": "m", "version": "1.2", "digest": NEW["digest"], "state": "Failed", "refused": refused}

    def roles_of_retry(serving: bool, *models: dict[str, Any]) -> list[tuple[str, str]]:
        begun = document(*models, now=AT)
        again = told(models=[{**one, "attempt": 1} if one["version"] == "1.2" else one for one in models])
        models_said = [{**said, "serving": True} if serving else said]
        again = again.model_copy(update={"status": again.status.model_validate({"models": models_said})})
        found = activation.parts(again, told=begun["models"], now=AT + 10 * 3600)
        return sorted((part.model.version, part.role) for part in found.parts)

    canary = model("1.2", "Canary", traffic="10%", activation=NIGHTLY)
    assert roles_of_retry(False, *WAITS) == [("1.1", "Stable"), ("1.2", "Staged")]
    assert roles_of_retry(False, OLD, canary) == [("1.1", "Stable"), ("1.2", "Staged")]
    assert roles_of_retry(True, *WAITS) == [("1.2", "Stable")], "some of its pods serve it"


def test_in_a_time_zone_that_nobody_knows_nothing_switches():
    new = model("1.2", activation={**NIGHTLY, "timeZone": "Mars/Olympus"})
    found = activation.parts(told(models=[new, model("1.1", "Previous")]), told=(), now=AT)
    assert [part.role for part in found.parts] == ["Stable", "Staged"] and found.next is None
