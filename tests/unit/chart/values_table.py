"""The table of values in the chart's README, made from values.yaml and its `# --` comments.

`python -m tests.unit.chart.values_table` writes it anew.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[3] / "charts" / "edgeward"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
_KEY = re.compile(r"^( *)([A-Za-z0-9]+):")


class Undescribed(Exception):
    """A value without a `# --` line above it, named by its path."""


@dataclass(frozen=True, slots=True)
class Value:
    path: str
    """dotted, as `--set` takes it"""
    default: Any
    description: str


def values(text: str) -> list[Value]:
    """Every described value in the order of the file, which must be every leaf. Raises Undescribed."""
    tree = yaml.safe_load(text)
    found: list[Value] = []
    parents: list[tuple[int, str]] = []
    described_at: int | None = None
    description = ""
    for line in text.splitlines():
        if line.strip().startswith("# -- "):
            description = line.strip().removeprefix("# -- ")
            continue
        key = _KEY.match(line)
        if not key:
            continue
        indent = len(key[1])
        if described_at is not None and indent > described_at:
            continue  # part of a value that is described as a whole
        described_at = None
        parents = [*[parent for parent in parents if parent[0] < indent], (indent, key[2])]
        path = ".".join(name for _, name in parents)
        default = _at(tree, path)
        if description:
            found.append(Value(path=path, default=default, description=description))
            described_at = indent
        elif not isinstance(default, dict) or not default:
            raise Undescribed(path)
        description = ""
    return found


def table(rows: list[Value]) -> str:
    lines = ["| value | default | what it is |", "|---|---|---|"]
    lines += [f"| `{row.path}` | `{json.dumps(row.default)}` | {row.description} |" for row in rows]
    return "\n".join(lines)


def with_table(readme: str, rows: list[Value]) -> str:
    """The README with what lies between the two marks replaced."""
    before, rest = readme.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


def _at(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree[part]
    return tree


def main() -> None:
    readme = CHART / "README.md"
    rows = values((CHART / "values.yaml").read_text(encoding="utf-8"))
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
