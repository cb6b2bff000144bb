"""What can be said of the chart without Helm: its copies, its values, its schema and its README agree with the code."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from edgeward.cli.settings import OperatorSettings, load
from edgeward.placement.settings import Weights

from .values_table import CHART, Undescribed, values, with_table

ROOT = CHART.parents[1]
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())


def test_crds_are_copies() -> None:
    source = {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")}
    copies = {path.name: path.read_text() for path in (CHART / "files" / "crds").glob("*.yaml")}
    assert source
    assert copies == source, "run `make crds`"


def test_crds_have_one_place_for_annotations() -> None:
    """The template adds to metadata by text; a second line of that form, or annotations of its own, would break it."""
    for path in (CHART / "files" / "crds").glob("*.yaml"):
        text = path.read_text()
        assert len(re.findall(r"^metadata:$", text, re.MULTILINE)) == 1, path.name
        assert set(yaml.safe_load(text)["metadata"]) == {"name"}, path.name


def test_default_config_is_the_default_of_the_operator(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(VALUES["config"]))
    ours, theirs = load(str(file)), OperatorSettings()
    assert ours.hub() == theirs.hub()
    assert ours.agent() == theirs.agent()
    assert ours.lease() == theirs.lease()
    rest = {"placement": {"weights"}}
    assert ours.model_dump(exclude=rest) == theirs.model_dump(exclude=rest)


def test_schema_knows_the_keys_of_the_config_file() -> None:
    wanted = set(_fields(OperatorSettings)) - {"namespace"}  # the release's namespace, which the template fills in
    wanted |= {f"placement.weights.{name}" for name in Weights.__slots__}
    assert set(_properties(SCHEMA["properties"]["config"])) == wanted


def test_schema_refuses_unknown_keys_everywhere() -> None:
    """Except below maps whose keys are the user's own, and fields that are Kubernetes' to check."""
    kubernetes = {"nodeAffinity", "podAffinity", "podAntiAffinity", "global"}
    open_ones = [
        path
        for path, schema in _schemas(SCHEMA, "")
        if schema.get("type") in ("object", ["object", "null"])
        and "additionalProperties" not in schema
        and path.rsplit(".", 1)[-1] not in kubernetes
    ]
    assert open_ones == []
    assert all(schema["additionalProperties"] is False for _, schema in _schemas(SCHEMA, "") if "properties" in schema)


def test_every_value_is_in_the_schema_and_fits() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)
    assert set(SCHEMA["properties"]) - {"global"} == set(VALUES)


@pytest.mark.parametrize(
    ("path", "bad"),
    [
        ("replica", 2),
        ("replicas", "2"),
        ("image.digest", "sha256:abc"),
        ("image.pullPolicy", "Sometimes"),
        ("crds.keep", "yes"),
        ("config.namespace", "elsewhere"),
        ("config.port", 0),
        ("config.logLevel", "LOUD"),
        ("config.metrics.prometheusURL", "http://prometheus:9090"),
        ("config.metrics.prometheusUrl", "prometheus:9090"),
        ("config.metrics.window", "1h"),
        ("config.metrics.queries", {"cpu": {"value": "up", "measuredAt": "up"}}),
        ("config.timing.dwell", -1),
        ("config.timing.dwell", "10m"),
        ("config.placement.gain", 15),
        ("config.placement.weights.luck", 1),
        ("config.store.size", "2 GB"),
    ],
)
def test_bad_values_are_refused(path: str, bad: object) -> None:
    with pytest.raises(jsonschema.ValidationError) as error:
        jsonschema.validate(_with(VALUES, path, bad), SCHEMA)
    last = path.rsplit(".", 1)[-1]
    assert last in error.value.json_path or last in error.value.message


def test_own_queries_reach_the_operator(tmp_path: Path) -> None:
    query = {"value": "a[WINDOW]", "measuredAt": "b"}
    tree = _with(VALUES, "config.metrics.queries", {"nodeLabel": "instance", "cpu": query, "memory": query})
    jsonschema.validate(tree, SCHEMA)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tree["config"]))
    profile = load(str(file)).metrics.profile_in_use()
    assert profile is not None
    assert (profile.name, profile.node_label, profile.memory.measured_at) == ("Custom", "instance", "b")


def test_readme_table_is_that_of_the_values() -> None:
    readme = (CHART / "README.md").read_text()
    rows = values((CHART / "values.yaml").read_text())
    assert readme == with_table(readme, rows), "run `python -m tests.unit.chart.values_table`"
    described = {row.path for row in rows}
    leaves = {f"config.{path}" for path in _properties(SCHEMA["properties"]["config"]) if "queries" not in path}
    assert leaves <= described


def test_a_value_without_description_is_found() -> None:
    with pytest.raises(Undescribed, match=r"a\.c"):
        values("a:\n  # -- said\n  b: 1\n  c: 2\n")


def test_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]
    assert chart["kubeVersion"] == ">=1.30.0-0"


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted camelCase paths of all leaves of a settings model."""
    for field in model.model_fields.values():
        path = f"{prefix}{field.alias}"
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if section is not None:
            yield from _fields(section, f"{path}.")
        elif path != "placement.weights":
            yield path


def _properties(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, inner in schema["properties"].items():
        if "properties" in inner:
            yield from _properties(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _schemas(schema: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(schema, dict):
        return
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from _schemas(inner, f"{path}.{name}")
    yield from _schemas(schema.get("items"), f"{path}[]")
    yield from _schemas(schema.get("additionalProperties"), f"{path}{{}}")


def _with(tree: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of a tree with one value set."""
    name, _, rest = path.partition(".")
    return {**tree, name: _with(tree.get(name) or {}, rest, value) if rest else value}
