"""The committed CRDs are the generated ones, and keep the apiserver's rules about structural schemas."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeward.api import crdgen, reference
from edgeward.api.objects import MODELS

ROOT = Path(__file__).parents[3]
GENERATED = crdgen.render()


def nodes(schema: Any, path: str, *, in_list: bool = False) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Every schema node with its path and whether it is below a list."""
    yield path, schema, in_list
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}", in_list=in_list)
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]", in_list=True)
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}[*]", in_list=in_list)


ALL = [
    (f"{model.info.kind}{path}", node, in_list)
    for model in MODELS
    for path, node, in_list in nodes(crdgen.schema_of(model), "")
]


def test_committed_files_are_the_generated_ones() -> None:
    committed = {path.name: path.read_text("utf-8") for path in (ROOT / "crds").glob("*.yaml")}
    assert committed == GENERATED
    assert (ROOT / "docs" / "api.md").read_text("utf-8") == reference.render()


def test_output_is_the_same_every_time() -> None:
    assert crdgen.render() == GENERATED


def test_check_notices_every_kind_of_drift(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "api.md"
    assert crdgen.main([str(tmp_path), "--reference", str(page)]) == 0
    assert crdgen.main([str(tmp_path), "--reference", str(page), "--check"]) == 0
    edited, missing, stray = (tmp_path / name for name in (*sorted(GENERATED)[:2], "stray.yaml"))
    edited.write_text(edited.read_text() + "#\n")
    missing.unlink()
    stray.write_text("")
    page.write_text("")
    assert crdgen.main([str(tmp_path), "--reference", str(page), "--check"]) == 1
    complaint = capsys.readouterr().err
    for path in (edited, missing, stray, page):
        assert f"{path} differs" in complaint


@pytest.mark.parametrize("name", GENERATED)
def test_small_enough_for_plain_apply(name: str) -> None:
    assert len(GENERATED[name].encode()) < 60_000


@pytest.mark.parametrize("name", GENERATED)
def test_plain_yaml(name: str) -> None:
    text = GENERATED[name]
    assert "$ref" not in text
    loaded = yaml.safe_load(text)
    assert loaded["metadata"]["name"] == f"{loaded['spec']['names']['plural']}.edgeward.dev"
    assert loaded["spec"]["names"]["categories"] == ["edgeward"]


def test_every_field_is_described() -> None:
    described_by_kubernetes = {".metadata"}
    missing = [
        path
        for path, node, _ in ALL
        if not node.get("description")
        and not path.endswith(("[]", "[*]"))
        and path[path.find(".") :] not in (described_by_kubernetes)
    ]
    assert missing == []


def test_structural() -> None:
    forbidden = {
        "$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "const", "title", "uniqueItems", "exclusiveMinimum",
        "exclusiveMaximum", "prefixItems",
    }  # fmt: skip
    for path, node, _ in ALL:
        assert not forbidden & node.keys(), path
        assert node.get("additionalProperties") is not False, path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not (node.get("x-kubernetes-preserve-unknown-fields") and "properties" in node), path


def test_no_floats_in_any_field() -> None:
    assert [path for path, node, _ in ALL if node.get("type") == "number"] == []


def test_defaults_are_shallow_and_never_in_a_status() -> None:
    for path, node, in_list in ALL:
        if "default" in node:
            assert isinstance(node["default"], bool | int | str), path
            assert not in_list, path
            assert ".status" not in path, path


def test_everything_is_bounded() -> None:
    """Unbounded texts and lists make rules unaffordable for the apiserver, and objects unbounded for etcd."""
    for path, node, _ in ALL:
        if path.endswith((".apiVersion", ".kind")) and path.count(".") == 1:
            continue
        if node.get("type") == "string" and "enum" not in node:
            assert "maxLength" in node, path
        if node.get("type") == "array":
            assert "maxItems" in node, path
            assert "x-kubernetes-list-type" in node or node["items"].get("type") == "string", path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path
        if node.get("type") == "integer":
            assert "minimum" in node or path.endswith(".tolerationSeconds"), path


def test_keyed_lists_have_required_keys() -> None:
    for path, node, _ in ALL:
        for key in node.get("x-kubernetes-list-map-keys", []):
            assert key in node["items"]["required"], path


def test_enums_are_camel_case() -> None:
    for path, node, _ in ALL:
        for word in node.get("enum", []):
            # Tiers are label values of nodes; a status of a condition is Kubernetes' own.
            assert word[0].isupper() or word in ("edge", "fog", "cloud"), f"{path}: {word}"


def test_every_rule_names_a_field_and_says_what_to_do() -> None:
    found = 0
    for path, node, _ in ALL:
        for rule in node.get("x-kubernetes-validations", []):
            found += 1
            first, _, remedy = rule["message"].partition(": ")
            assert remedy, f"{path}: the message has no remedy: {rule['message']}"
            names = [path.rsplit(".", 1)[-1].rstrip("[]"), *node.get("properties", {})]
            assert any(name in first for name in names), f"{path}: the message names no field: {first}"
    assert found >= 20


def test_secondary_columns_are_wide_only() -> None:
    for model in MODELS:
        columns = model.info.columns
        assert len([column for column in columns if column.priority == 0]) <= 8
        assert "Age" in [column.name for column in columns]


def test_scale_paths_exist() -> None:
    job = crdgen.crd_of(MODELS[0])["spec"]["versions"][0]
    properties = job["schema"]["openAPIV3Schema"]["properties"]
    scale = job["subresources"]["scale"]
    assert len(scale) == 3
    for path in scale.values():
        _, part, name = path.split(".")
        assert name in properties[part]["properties"]
