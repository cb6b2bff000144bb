from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from edgeward_runtime.config import Entry
from edgeward_runtime.lifecycle import Progress, Refused, State
from edgeward_runtime.status import ConfigRefused, Serving, document

CONTRACT = Path(__file__).parents[3] / "edge-runtime" / "contract"
SCHEMA = jsonschema.Draft202012Validator(json.loads((CONTRACT / "status.schema.json").read_text()))
VALID = sorted((CONTRACT / "examples" / "status-valid").glob("*.json"))
INVALID = sorted((CONTRACT / "examples" / "status-invalid").glob("*.json"))
OLD = Entry(name="m", version="1", digest="sha256:" + "a" * 64)
NEW = Entry(name="m", version="2", digest="sha256:" + "b" * 64)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_examples(path):
    SCHEMA.validate(json.loads(path.read_text()))


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid_examples(path):
    assert not SCHEMA.is_valid(json.loads(path.read_text()))


@pytest.mark.parametrize("state", list(State))
def test_every_state_fits_the_schema(state):
    refused = Refused(step="Load", reason="NotOnnx", message="m", at=0) if state is State.FAILED else None
    progress = Progress(state=state, since=1.5, size=3, seconds=0.12345, refused=refused)
    serving = {"m": Serving(entry=OLD, progress=Progress(state=State.SERVING, since=0))}
    answer = document(
        revision=3,
        wanted={"m": (NEW, progress)},
        serving=serving,
        config_refused=ConfigRefused(reason="Malformed", message="x", at=0),
    )
    SCHEMA.validate(answer)
    versions = [(model["version"], model["serving"]) for model in answer["models"]]
    assert versions == ([("2", True)] if state is State.SERVING else [("2", False), ("1", True)])
    assert answer["models"][0]["since"] == "1970-01-01T00:00:01Z"


def test_a_model_that_serves_and_is_not_wanted():
    serving = {"m": Serving(entry=OLD, progress=Progress(state=State.SERVING, since=0))}
    answer = document(revision=0, wanted={}, serving=serving, config_refused=None)
    SCHEMA.validate(answer)
    assert [model["version"] for model in answer["models"]] == ["1"]
