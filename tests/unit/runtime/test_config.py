"""The config's code and its schema have to agree, or agent and runtime would."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward_runtime.config import ConfigError, job_of, parse

CONTRACT = Path(__file__).parents[3] / "edge-runtime" / "contract"
SCHEMA = jsonschema.Draft202012Validator(json.loads((CONTRACT / "config.schema.json").read_text()))
VALID = sorted((CONTRACT / "examples" / "config-valid").glob("*.json"))
INVALID = sorted((CONTRACT / "examples" / "config-invalid").glob("*.json"))
FULL = json.loads((CONTRACT / "examples" / "config-valid" / "full.json").read_text())


def accepts(document: object) -> bool:
    try:
        parse(json.dumps(document).encode())
    except ConfigError:
        return False
    return True


def test_there_are_examples():
    assert len(VALID) >= 5 and len(INVALID) >= 20
    SCHEMA.check_schema(SCHEMA.schema)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_examples(path):
    SCHEMA.validate(json.loads(path.read_text()))
    assert parse(path.read_bytes()).entries


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid_examples(path):
    assert not SCHEMA.is_valid(json.loads(path.read_text()))
    with pytest.raises(ConfigError):
        parse(path.read_bytes())


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(-2, 2).filter(lambda number: not number.is_integer())
    | st.sampled_from(
        [
            "",
            "a",
            "A",
            "-a",
            "a-",
            "a.b",
            "a/b",
            "1.0",
            "sha256:" + "0" * 64,
            "file:///x",
            "x:y",
            "Stable",
            "Canary",
            "x" * 300,
            "10%",
            "100%",
            "101%",
        ]
    )
    | st.just([])
    | st.just({})
    | st.lists(st.sampled_from(["file:///x", "x", "https://a/b"]), max_size=3)
    | st.sampled_from(
        [{"allowSchemaChange": True}, {"allowSchemaChange": 1}, {"namespace": "a", "name": "b"}, {"name": "b"}]
    )
)


@given(st.sampled_from(["contract", "revision", "job", "models", "modelSwap"]), VALUES, st.booleans())
def test_code_and_schema_agree_on_the_top(field, value, remove):
    document = {key: content for key, content in FULL.items() if not (remove and key == field)}
    if not remove:
        document[field] = value
    assert accepts(document) == SCHEMA.is_valid(document)


@given(st.sampled_from([*FULL["models"][0], "other", "traffic", "mirror", "mirrorRequests"]), VALUES, st.booleans())
def test_code_and_schema_agree_on_a_model(field, value, remove):
    model = {key: content for key, content in FULL["models"][0].items() if not (remove and key == field)}
    if not remove:
        model[field] = value
    document = {**FULL, "models": [model]}
    assert accepts(document) == SCHEMA.is_valid(document)


@given(st.sampled_from(["namespace", "name"]), VALUES)
def test_code_and_schema_agree_on_the_job(field, value):
    document = {**FULL, "job": {**FULL["job"], field: value}}
    assert accepts(document) == SCHEMA.is_valid(document)


def test_unknown_fields_are_named_in_a_warning():
    config = parse((CONTRACT / "examples" / "config-valid" / "unknown-fields.json").read_bytes())
    assert [warning.split(":")[0] for warning in config.warnings] == [
        "trustRoot",
        "models[0].provenance",
        "models[0].retries",
    ]


def test_a_canary_beside_its_stable():
    document = json.loads((CONTRACT / "examples" / "config-valid" / "canary-with-mirror.json").read_text())
    document["models"].reverse()
    config = parse(json.dumps(document).encode())
    assert config.warnings == ()
    assert [(entry.version, entry.role, entry.traffic, entry.mirror, entry.mirror_requests) for entry in config.entries] == [
        ("1.4.0", "Stable", 0, 0, 0),
        ("1.5.0", "Canary", 10, 20, 100),
    ]  # fmt: skip


def test_another_role_is_left_out_with_a_warning():
    document = json.loads((CONTRACT / "examples" / "config-valid" / "canary-beside-stable.json").read_text())
    document["models"][1]["role"] = "Later"
    config = parse(json.dumps(document).encode())
    assert [entry.version for entry in config.entries] == ["1.4.0"]
    assert any("Later" in warning for warning in config.warnings)


@pytest.mark.parametrize(
    ("fields", "said"), [({"version": "1.4.0"}, "as Stable and as Canary"), ({"name": "n"}, "no Stable")]
)
def test_a_canary_needs_another_version_of_the_same_name(fields, said):
    # A schema cannot say this; the code does.
    document = json.loads((CONTRACT / "examples" / "config-valid" / "canary-beside-stable.json").read_text())
    document["models"][1] |= fields
    with pytest.raises(ConfigError, match=said):
        parse(json.dumps(document).encode())


def test_what_to_do_when_too_big():
    assert parse(json.dumps(FULL).encode()).when_too_big == "Refuse"
    swap = {"modelSwap": {"whenTooBig": "OffloadInGap"}}
    assert parse(json.dumps({**FULL, **swap}).encode()).when_too_big == "OffloadInGap"


def test_the_same_name_twice():
    # A schema cannot say this; the code does.
    with pytest.raises(ConfigError, match="wanted twice"):
        parse(json.dumps({**FULL, "models": FULL["models"] * 2}).encode())


@pytest.mark.parametrize(
    ("text", "reason"), [(b"{", "Malformed"), (b"", "Malformed"), (b"[]", "Malformed"), (b"\xff", "Malformed")]
)
def test_rubbish(text, reason):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.reason == reason and job_of(text) is None


def test_a_newer_contract_is_refused_but_its_job_is_known():
    text = json.dumps({**FULL, "contract": 2, "models": "whatever"}).encode()
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.reason == "UnsupportedContract"
    assert job_of(text) == ("shop", "sign-reader")


def test_what_makes_an_entry_another_one():
    entry = parse(json.dumps(FULL).encode()).entries[0]
    moved = parse(
        json.dumps({**FULL, "models": [{**FULL["models"][0], "sources": ["file:///other"]}]}).encode()
    ).entries[0]
    tuned = parse(
        json.dumps({**FULL, "models": [{**FULL["models"][0], "parameters": {"threshold": 0.6}}]}).encode()
    ).entries[0]
    assert moved.identity == entry.identity and moved.key != entry.key
    assert tuned.identity != entry.identity and tuned.key != entry.key
