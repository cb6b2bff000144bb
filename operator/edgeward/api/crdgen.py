"""Writes crds/ from the models: `python -m edgeward.api.crdgen crds/` (with --check it only compares).

A CRD wants a *structural* schema (apiextensions "Specifying a structural schema"), which is stricter than what
pydantic emits: no $ref, no anyOf with null, no const, no titles. The shaping below is small because the models keep to
what can be expressed. Defaults are written only where they are scalar and outside lists: a default inside a list item
makes a GitOps tool see a difference that nobody wrote, and an object's default would hide that nothing was set.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from edgeward.api.common import GROUP, VERSION, KindInfo, KubeObject
from edgeward.api.objects import MODELS

CATEGORY = "edgeward"


def _inline(node: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema with every $ref replaced; what stands beside a reference (the field's own words) wins."""
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return {key: _inline(value, definitions) for key, value in node.items() if key != "$defs"}


def _without_null(node: dict[str, Any]) -> dict[str, Any]:
    """`X | None` becomes X: in Kubernetes a field that is not set is absent, not null."""
    choices = node.get("anyOf")
    if choices is None:
        return node
    kept = [choice for choice in choices if choice.get("type") != "null"]
    if len(kept) != 1:
        raise ValueError(f"a union cannot be written as a structural schema: {node}")
    return {**kept[0], **{key: value for key, value in node.items() if key != "anyOf"}}


def _shape(node: dict[str, Any], *, in_list: bool) -> dict[str, Any]:
    """One schema node as the apiserver wants it, and all below it."""
    node = _without_null(node)
    result: dict[str, Any] = {}
    if "description" in node:
        result["description"] = node["description"]
    if "const" in node:
        node = {**node, "enum": [node["const"]], "type": "string"}
    for key, value in node.items():
        if key in ("title", "description", "const", "properties", "items", "additionalProperties", "default"):
            continue
        result[key] = value
    default = node.get("default")
    if isinstance(default, bool | int | str) and default != "" and not in_list:
        result["default"] = default
    if "properties" in node:
        result["properties"] = {
            name: _shape(child, in_list=in_list) for name, child in sorted(node["properties"].items())
        }
    if "items" in node:
        result["items"] = _shape(node["items"], in_list=True)
    more = node.get("additionalProperties")
    if isinstance(more, dict) and not result.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = _shape(more, in_list=in_list)
    return result


def _part(model: type[KubeObject], name: str) -> dict[str, Any]:
    """Schema of spec or status, with the words of the field that holds it."""
    field = model.model_fields[name]
    annotation: Any = field.annotation
    raw = TypeAdapter(annotation).json_schema(by_alias=True, mode="validation")
    schema = _shape(_inline(raw, raw.get("$defs", {})), in_list=False)
    if name == "status":
        schema = _without_defaults(schema)
    return {**schema, "description": field.description}


def _without_defaults(node: Any) -> Any:
    """Nobody may default a status: what was not observed must stay absent, not become zero."""
    if isinstance(node, dict):
        return {
            key: {name: _without_defaults(child) for name, child in value.items()}
            if key == "properties"
            else _without_defaults(value)
            for key, value in node.items()
            if key != "default"
        }
    return node


def schema_of(model: type[KubeObject]) -> dict[str, Any]:
    """openAPIV3Schema of a kind."""
    info = model.info
    properties: dict[str, Any] = {
        "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
        "kind": {"type": "string", "description": "Kind of this object."},
        # Kubernetes allows a schema for metadata.name only; without it a rule could not point there.
        "metadata": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 253, "description": "Name of the object."}},
        },
        "spec": _part(model, "spec"),
    }
    if info.status:
        properties["status"] = _part(model, "status")
    schema: dict[str, Any] = {"description": info.description, "type": "object", "properties": properties}
    if model.model_fields["spec"].is_required():
        schema["required"] = ["spec"]
    if info.rules:
        schema["x-kubernetes-validations"] = [dict(rule) for rule in info.rules]
    return schema


def _columns(info: KindInfo) -> list[dict[str, Any]]:
    return [
        {
            "name": column.name,
            "type": column.type,
            "jsonPath": column.path,
            **({"description": column.description} if column.description else {}),
            **({"priority": column.priority} if column.priority else {}),
        }
        for column in info.columns
    ]


def crd_of(model: type[KubeObject]) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind."""
    info = model.info
    subresources: dict[str, Any] = {}
    if info.status:
        subresources["status"] = {}
    if info.scale:
        subresources["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    names: dict[str, Any] = {
        "kind": info.kind,
        "listKind": f"{info.kind}List",
        "plural": info.plural,
        "singular": info.singular,
        "categories": [CATEGORY],
    }
    if info.short_names:
        names["shortNames"] = list(info.short_names)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": info.crd_name},
        "spec": {
            "group": GROUP,
            "names": names,
            "scope": "Namespaced" if info.namespaced else "Cluster",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    **({"subresources": subresources} if subresources else {}),
                    "additionalPrinterColumns": _columns(info),
                    "schema": {"openAPIV3Schema": schema_of(model)},
                }
            ],
        },
    }


class _Dumper(yaml.SafeDumper):
    """Writes repeated parts in full, because half of the tools around CRDs cannot read anchors, and lists of words on
    one line, because at this depth the indentation would be a tenth of the file."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        words = all(isinstance(item, str) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=True if words else flow_style)


def render() -> dict[str, str]:
    """File name -> text, for every kind."""
    files: dict[str, str] = {}
    for model in MODELS:
        body = yaml.dump(crd_of(model), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
        files[f"{GROUP}_{model.info.plural}.yaml"] = (
            f"# Generated from operator/edgeward/api by `make crds`; edit the models, not this file.\n{body}"
        )
    return files


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edgeward.api.crdgen", description="Write the CRDs from the models."
    )
    parser.add_argument("directory", type=Path, help="where the files go, such as crds/")
    parser.add_argument("--reference", type=Path, help="also write the reference page, such as docs/api.md")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file differs")
    arguments = parser.parse_args(argv)
    pages: dict[Path, str] = {arguments.directory / name: text for name, text in render().items()}
    if arguments.reference:
        # Imported here because the page is made from this module's schemas.
        from edgeward.api import reference

        pages[arguments.reference] = reference.render()
    if arguments.check:
        strays = set(arguments.directory.glob("*.yaml")) - pages.keys()
        different = [path for path, text in pages.items() if not path.exists() or path.read_text("utf-8") != text]
        for path in sorted({*different, *strays}):
            print(f"{path} differs from the models: run `make crds`", file=sys.stderr)
        return 1 if different or strays else 0
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
