from __future__ import annotations

import json
from typing import Any

import yaml

from edgeward.api.modelrelease import ModelReleaseSpec
from edgeward_runtime.publish import show
from edgeward_runtime.publish.publish import Result
from tests.unit.runtime.signing import pair

REPORT = {
    **{"golden": "drawn: zeros", "reference": "none", "latencySeconds": 0.0123, "memoryBytes": 3 * 2**20},
    **{"warnings": ["labels.txt has 2 lines"], "inputs": [], "outputs": []},
}


def result(**changes: Any) -> Result:
    usual: dict[str, Any] = {
        **{"uri": "oci://registry.example.com/models/m", "tag": "1.4.0", "digest": f"sha256:{'a' * 64}", "match": {}},
        **{"size": 2**20, "sent": 2048, "present": False, "adopted": (), "report": REPORT},
    }
    return Result(**{**usual, **changes})


INT8 = result(match={"arch": "arm64", "tier": "edge"}, digest=f"sha256:{'b' * 64}", tag="1.4.0_arch-arm64_tier-edge")
KEYS = (pair().public,)


def test_the_lines_to_commit_are_those_of_a_release() -> None:
    text = show.lines_to_commit([result(), INT8], version="1.10", keys=KEYS)
    spec = ModelReleaseSpec.model_validate(yaml.safe_load(text)["spec"])
    assert spec.version == "1.10", "a number to YAML unless it is quoted"
    assert spec.artifact is not None and spec.artifact.digest == result().digest
    assert spec.artifact.signature is not None
    assert (spec.artifact.signature.policy, spec.artifact.signature.keys) == ("Require", KEYS)
    (variant,) = spec.variants
    assert (variant.match.tier, variant.match.arch) == ("edge", "arm64")
    assert variant.artifact.digest == INT8.digest and variant.artifact.signature == spec.artifact.signature


def test_without_a_key_nothing_is_asked_of_a_signature() -> None:
    spec = yaml.safe_load(show.lines_to_commit([result()], version="1", keys=()))["spec"]
    assert spec == {"version": "1", "artifact": {"uri": result().uri, "digest": result().digest}}


def test_the_text_begins_with_the_digest_and_is_yaml_after_it() -> None:
    text = show.as_text([result(present=True, sent=0, adopted=("measured.json",)), INT8], version="1.4.0", keys=KEYS)
    first, _, rest = text.partition("\n")
    assert first == result().digest
    assert yaml.safe_load(rest) == yaml.safe_load(show.lines_to_commit([result(), INT8], version="1.4.0", keys=KEYS))
    for said in ("was there already: 1.0 MiB, 0 bytes sent", "as published before: measured.json", "12.3 ms a row"):
        assert said in text
    assert "look at this: labels.txt has 2 lines" in text and "not signed" not in text
    assert "not signed" in show.as_text([result()], version="1", keys=())


def test_for_programs() -> None:
    document = json.loads(json.dumps(show.as_document([result(), INT8], name="m", version="1.4.0", keys=KEYS)))
    assert document["digest"] == result().digest and document["signed"] is True
    assert [one["match"] for one in document["artifacts"]] == [{}, {"arch": "arm64", "tier": "edge"}]
    assert yaml.safe_load(document["commit"])["spec"]["version"] == "1.4.0"
