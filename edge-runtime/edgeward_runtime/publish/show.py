"""What was published, in words, as the lines to commit, and for programs; pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from edgeward_runtime.check import bytes_text
from edgeward_runtime.publish.publish import Result


def lines_to_commit(results: Sequence[Result], *, version: str, keys: Sequence[str]) -> str:
    """YAML: the part of a ModelRelease's spec that says which model it is."""
    model, *variants = results
    lines = ["spec:", f"  version: {json.dumps(version)}", "  artifact:", *_artifact(model, keys, indent=4)]
    if variants:
        lines.append("  variants:")
    for one in variants:
        match = ", ".join(f"{key}: {value}" for key, value in one.match.items())
        lines += [f"  - match: {{{match}}}", "    artifact:", *_artifact(one, keys, indent=6)]
    return "\n".join(lines) + "\n"


def _artifact(one: Result, keys: Sequence[str], *, indent: int) -> list[str]:
    lines = [f"uri: {one.uri}", f"digest: {one.digest}"]
    if keys:
        lines += ["signature:", "  policy: Require", "  keys:"]
        for key in keys:
            lines += ["  - |", *(f"    {line}" for line in key.strip().splitlines())]
    return [" " * indent + line for line in lines]


def as_text(results: Sequence[Result], *, version: str, keys: Sequence[str]) -> str:
    """The digest on the first line, the YAML last."""
    lines = [results[0].digest]
    for one in results:
        what = "was there already" if one.present else "published"
        lines.append(f"# {one.uri}:{one.tag} {what}: {bytes_text(one.size)}, {bytes_text(one.sent)} sent")
        if one.adopted:
            lines.append(f"#   as published before: {', '.join(one.adopted)}")
        report = one.report
        lines.append(f"#   golden data: {report['golden']}; drift reference: {report['reference']}")
        if report.get("latencySeconds"):
            measured = f"{report['latencySeconds'] * 1000:.3g} ms a row, {bytes_text(report['memoryBytes'])} of memory"
            lines.append(f"#   measured here: {measured}")
        lines += [f"#   look at this: {warning}" for warning in report["warnings"]]
    if not keys:
        lines.append("# not signed: with --key FILE sites can be made to take signed models only")
    lines.append("# commit this to the ModelRelease:")
    return "\n".join(lines) + "\n" + lines_to_commit(results, version=version, keys=keys)


def as_document(results: Sequence[Result], *, name: str, version: str, keys: Sequence[str]) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "digest": results[0].digest,
        "signed": bool(keys),
        "artifacts": [
            {
                "uri": one.uri,
                "tag": one.tag,
                "digest": one.digest,
                "match": dict(one.match),
                "bytes": one.size,
                "sentBytes": one.sent,
                "present": one.present,
                "kept": list(one.adopted),
                **{
                    key: one.report.get(key)
                    for key in ("golden", "reference", "latencySeconds", "memoryBytes", "inputs", "outputs", "warnings")
                },
            }
            for one in results
        ],
        "commit": lines_to_commit(results, version=version, keys=keys),
    }
