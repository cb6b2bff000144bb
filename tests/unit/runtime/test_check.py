import os
import signal
from pathlib import Path
from typing import Any

import pytest

from edgeward_runtime import check
from edgeward_runtime.errors import Refusal

GOLDEN = Path(__file__).parent / "golden"
FULL: dict[str, Any] = {
    "file": "signs",
    "bytes": 10_857_958,
    "digest": f"sha256:{'a' * 64}",
    "threads": 2,
    "runs": True,
    "opsets": {"ai.onnx": 17, "com.microsoft": 1},
    "inputs": [
        {"name": "image", "datatype": "FP32", "shape": [-1, 3, 224, 224]},
        {"name": "scale", "datatype": "FP32", "shape": []},
    ],
    "outputs": [{"name": "class", "datatype": "INT64", "shape": [-1]}],
    "externalData": ["weights.bin"],
    "parts": ["preprocessing", "golden"],
    "signature": {"verified": True},
    "loadSeconds": 0.251,
    "latencySeconds": 0.0123456,
    "memoryBytes": 38_797_312,
    "processBytes": 91_962_675,
}
REPORTS = {
    "full": FULL,
    "open-dimensions": {**FULL, "latencySeconds": None, "threads": 1, "externalData": [], "parts": []},
    "refused": {
        **{key: FULL[key] for key in ("file", "bytes", "digest", "threads", "opsets", "inputs", "outputs")},
        "runs": False,
        "step": "Golden",
        "reason": "GoldenMismatch",
        "message": "golden case 0, output 'class': 1 of 1 elements differ, first at [0]: 3, wanted 4",
        "signature": {"verified": False, "reason": "SignatureMissing", "message": "nobody signed sha256:aaaa"},
    },
    "no-model": {
        **{"file": "notes.txt", "threads": 1, "runs": False, "step": "Load", "reason": "NotOnnx"},
        "message": "not an ONNX file: wire type 7",
    },
}


@pytest.mark.parametrize("name", REPORTS)
def test_the_text(name: str) -> None:
    """Set EDGEWARD_GOLDEN=write to write the files anew, and read the difference before it is committed."""
    text = check.as_text(REPORTS[name]) + "\n"
    path = GOLDEN / f"check-{name}.txt"
    if os.environ.get("EDGEWARD_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


def refuse() -> check.Report:
    raise Refusal(step="Load", reason="NotOnnx", message="no", permanent=True)


def killed() -> check.Report:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def broken() -> check.Report:
    raise ValueError("a bug")


def test_what_a_child_comes_to() -> None:
    assert check.in_child(lambda: {"pid": os.getpid()})["pid"] != os.getpid()
    assert check.in_child(refuse) == {"step": "Load", "reason": "NotOnnx", "message": "no"}
    for work, said in ((killed, "signal SIGKILL"), (broken, "exit status 1")):
        report = check.in_child(work)
        assert report["reason"] == "LoadCrashed"
        assert said in report["message"]
