"""`edgeward release diff` as text, kept and reviewed by eye: EDGEWARD_UPDATE_GOLDEN=1 rewrites it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgeward.api.assignment import Assignment
from edgeward.api.common import parse
from edgeward.api.modelrelease import ModelRelease
from edgeward.cli.release_diff import Diff, diff_of, lines_of
from edgeward.cli.table import Page
from edgeward.fleet.reading import Reader
from edgeward.fleet.releases import read_release

GOLDEN = Path(__file__).parent / "golden"
NEW, OLD, SMALL, ODD = (
    f"sha256:{number:064x}".replace("sha256:000", f"sha256:{number}{number}{number}") for number in range(1, 5)
)
KEY = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAAAAAAAAAAAAAAAAAAAAA{}=\n-----END PUBLIC KEY-----\n"
SIGNATURE = {"policy": "Require", "keys": [KEY.format("first12")]}
VARIANT = {"match": {"tier": "edge", "arch": "arm64"}, "artifact": {"uri": "oci://r/m", "digest": SMALL}}
HISTORY = {
    "version": "1.3.0",
    "digest": OLD,
    "sources": ["oci://r/m"],
    "parameters": {"threshold": 0.4, "labels": ["a", "b"]},
    "finished": "2026-03-04T09:50:00Z",
}


def release(*, status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "sign-reader", "namespace": "shop", "uid": "u", "resourceVersion": "1"},
        "spec": {
            "version": "1.4.0",
            "artifact": {"uri": "oci://r/m", "digest": NEW, "signature": SIGNATURE},
            "parameters": {"threshold": 0.5, "labels": ["a", "b"]},
            "variants": [VARIANT],
            **spec,
        },
        "status": {"history": [HISTORY]} if status is None else status,
    }


def site(name: str, told: str, *served: dict[str, Any], version: str = "1.4.0", **model: Any) -> Assignment:
    one = {"name": "sign-reader", "version": version, "digest": told, "signature": SIGNATURE, **model}
    one.setdefault("parameters", {"threshold": 0.5, "labels": ["a", "b"]})
    return parse(
        Assignment,
        {
            "metadata": {"name": f"signs-{name}", "namespace": "edgeward"},
            "spec": {"job": {"namespace": "shop", "name": "signs"}, "site": name, "revision": 1, "models": [one]},
            "status": {"models": list(served)},
        },
    )


def serves(digest: str, version: str = "1.4.0", **more: Any) -> dict[str, Any]:
    return {"name": "sign-reader", "digest": digest, "version": version, "serving": True, **more}


def made(raw: dict[str, Any], *sites: Assignment) -> Diff:
    asked = parse(ModelRelease, raw).model_dump(mode="json", by_alias=True, exclude_none=True)  # as the command has it
    return diff_of(read_release(asked, list(sites), Reader()))


OLD_ONE = {"version": "1.3.0", "parameters": {"threshold": 0.4, "labels": ["a", "b"]}, "signature": None}
REFUSED = {"step": "Golden", "reason": "OutputDiffers", "message": "outputs differ by 0.3"}
STORIES = {
    "in-the-middle": made(
        release(),
        site("done", NEW, serves(NEW)),
        site("done-small", SMALL, serves(SMALL)),
        site("before", OLD, serves(OLD, "1.3.0"), **OLD_ONE),
        site("refuses", NEW, serves(OLD, "1.3.0"), {"digest": NEW, "version": "1.4.0", "refused": REFUSED}),
        site("silent", NEW),
        site("settings", NEW, serves(NEW), parameters={"threshold": 0.4, "labels": ["a", "b"]}),
        site("stranger", ODD, serves(ODD, "0.9.0"), version="0.9.0", parameters={}),
    ),
    "finished": made(
        release(status={"history": [{**HISTORY, "version": "1.4.0", "digest": NEW, "variants": [VARIANT],
                                     "signature": SIGNATURE, "parameters": {"threshold": 0.5, "labels": ["a", "b"]}}]}),
        site("done", NEW, serves(NEW)),
    ),
    "first": made(release(status={})),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(STORIES))
def test_as_a_person_reads_it(name: str) -> None:
    text = "\n".join(lines_of(STORIES[name], Page(width=100))) + "\n"
    file = GOLDEN / f"release-diff-{name}.txt"
    if os.environ.get("EDGEWARD_UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()
    assert max(map(len, text.splitlines())) <= 100


def test_a_version_that_is_refused_and_one_that_is_not_known_are_said() -> None:
    raw = release()
    refused = {
        "version": "1.4.0",
        "identity": read_release(raw, [], Reader()).target.identity,
        "reason": "north: Golden",
    }  # type: ignore[union-attr]
    raw["status"]["refused"] = [{**refused, "at": "2026-03-04T09:50:00Z"}]
    raw["metadata"]["resourceVersion"] = "2"
    assert made(raw).remarks == ("1.4.0 is refused until retry: north: Golden",)
    follows = release(status={})
    follows["spec"] = {"track": {"repository": "oci://r/m", "constraint": "1.x"}}
    assert made(follows).remarks[0].startswith("no version is wanted: PendingEvaluation")


def test_the_order_of_variants_and_the_signature_of_one_are_differences_too() -> None:
    other = {"match": {"arch": "arm64"}, "artifact": {"uri": "oci://r/m", "digest": ODD}}
    past = {**HISTORY, "variants": [VARIANT, other]}
    found = made(release(variants=[other, VARIANT], status={"history": [past]}))
    assert ("order of variants", "arch=arm64; tier=edge,arch=arm64") in [(one.what, one.wanted) for one in found.lines]
    own = {**VARIANT, "artifact": {**VARIANT["artifact"], "signature": {"policy": "Off"}}}  # type: ignore[dict-item]
    (at,) = made(release(variants=[own]), site("a", SMALL, serves(SMALL))).sites
    assert at.differs == ("signature Require, 1 key: ...first12= instead of Off",)


def test_for_programs() -> None:
    document = STORIES["in-the-middle"].document()
    assert json.loads(json.dumps(document))["sites"][0]["site"] == "before"
    assert {one["what"] for one in document["lines"]} >= {"version", "digest", "parameter threshold", "signature"}
