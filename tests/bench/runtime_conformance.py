"""How many cases of the conformance suite a server passes: ours, MLServer and KServe's Python server.

The suite is tests/integration/conformance without what is this project's own choice; each server serves the same models
under the same names, over REST and gRPC.

    python -m tests.bench.runtime_conformance                                  # ours
    python -m tests.bench.runtime_conformance --peers                          # and the other two
    python -m tests.bench.runtime_conformance --rest HOST:PORT --grpc HOST:PORT --version 1    # any
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.bench_runtime_tiny import environment, free_ports, running
from tests.integration.conformance.target import MODELS, VERSION, ours

REPOSITORY = Path(__file__).parents[2]
SUITE = REPOSITORY / "tests" / "integration" / "conformance"


@dataclass(frozen=True, kw_only=True)
class Result:
    passed: int
    total: int
    failed: list[str]


def run(*, rest: str, grpc: str, version: str) -> Result:
    """The suite against the server at these addresses (host:port), whose models have this version."""
    environ = {
        **os.environ,
        "EDGEWARD_CONFORMANCE_REST": rest,
        "EDGEWARD_CONFORMANCE_GRPC": grpc,
        "EDGEWARD_CONFORMANCE_VERSION": version,
    }
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", str(SUITE), "-q", f"--junit-xml={report}", "-n", "0"]
        done = subprocess.run(command, env=environ, cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"the suite did not run: {done.stdout[-1000:]} {done.stderr[-1000:]}")
        cases = list(xml.parse(report).iter("testcase"))
    failed = [
        f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return Result(passed=len(cases) - len(failed), total=len(cases), failed=failed)


# -- the servers ------------------------------------------------------------------------------------------------------

# One class for every model. MLServer's codecs know no FP16 of numpy's and give strings as bytes.
MLSERVER_MODEL = """
import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Onnx(MLModel):
    async def load(self) -> bool:
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feeds = {}
        for one in payload.inputs:
            if one.datatype == "BYTES":
                feeds[one.name] = np.array(StringCodec.decode_input(one), object).reshape(one.shape)
            else:
                feeds[one.name] = NumpyCodec.decode_input(one)
        names = [one.name for one in payload.outputs or []] or [one.name for one in self._session.get_outputs()]
        outputs = []
        for name, tensor in zip(names, self._session.run(names, feeds)):
            if tensor.dtype == object:
                encoded = StringCodec.encode_output(name, tensor.ravel().tolist())
                encoded.shape = list(tensor.shape)
            else:
                encoded = NumpyCodec.encode_output(name, tensor)
            outputs.append(encoded)
        return InferenceResponse(model_name=self.name, model_version=self.version, id=payload.id, outputs=outputs)
"""

KSERVE_SERVER = """
import sys
import uuid
from pathlib import Path

import numpy as np
import onnxruntime
from kserve import InferOutput, InferResponse, Model, ModelServer

ONNX = {
    "tensor(bool)": "BOOL", "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
    "tensor(string)": "BYTES", "tensor(bfloat16)": "BF16",
    **{f"tensor({sign}int{bits})": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class Onnx(Model):
    def __init__(self, path):
        super().__init__(path.stem)
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.ready = True

    async def get_input_types(self):
        return [describe(one) for one in self.session.get_inputs()]

    async def get_output_types(self):
        return [describe(one) for one in self.session.get_outputs()]

    def predict(self, payload, headers=None, response_headers=None):
        feeds = {}
        for one in payload.inputs:
            tensor = one.as_numpy()
            if one.datatype == "BYTES":
                flat = [item.decode() if isinstance(item, bytes) else item for item in tensor.ravel()]
                tensor = np.array(flat, object).reshape(one.shape)
            feeds[one.name] = tensor
        names = [one.name for one in payload.request_outputs or []] or [one.name for one in self.session.get_outputs()]
        types = {one.name: ONNX[one.type] for one in self.session.get_outputs()}
        outputs = []
        for name, tensor in zip(names, self.session.run(names, feeds)):
            output = InferOutput(name=name, shape=list(tensor.shape), datatype=types[name])
            output.set_data_from_numpy(tensor, binary_data=payload.use_binary_outputs)
            outputs.append(output)
        return InferResponse(payload.id or str(uuid.uuid4()), self.name, outputs)


def describe(one):
    shape = [size if isinstance(size, int) else -1 for size in one.shape]
    return {"name": one.name, "datatype": ONNX[one.type], "shape": shape}


models = [Onnx(path) for path in sorted(Path(sys.argv[1]).glob("*.onnx"))]
ModelServer(http_port=int(sys.argv[2]), grpc_port=int(sys.argv[3])).start(models)
"""


# bfloat16 is in neither numpy nor their codecs: the model is there all the same, as a client would find it.
def _write_models(folder: Path) -> Path:
    folder.mkdir()
    for name, content in MODELS.items():
        (folder / f"{name}.onnx").write_bytes(content)
    return folder


@contextlib.contextmanager
def mlserver(folder: Path) -> Iterator[dict[str, str]]:
    python = environment("mlserver")
    models = _write_models(folder / "models")
    home = folder / "mlserver"
    home.mkdir()
    rest, grpc, metrics = free_ports(3)
    settings = {
        "host": "127.0.0.1", "http_port": rest, "grpc_port": grpc, "metrics_port": metrics, "debug": False,
        "parallel_workers": 0,
    }  # fmt: skip
    (home / "settings.json").write_text(json.dumps(settings))
    (home / "onnx_model.py").write_text(MLSERVER_MODEL)
    for name in MODELS:
        (home / name).mkdir()
        document = {
            "name": name,
            "implementation": "onnx_model.Onnx",
            "parameters": {"uri": str(models / f"{name}.onnx"), "version": "1"},
        }
        (home / name / "model-settings.json").write_text(json.dumps(document))
    command = [str(python / "mlserver"), "start", str(home)]
    with running(
        command, port=rest, ready="/v2/models/simple/ready", log=folder / "mlserver.log", cwd=home, PYTHONPATH=str(home)
    ):
        yield {"rest": f"127.0.0.1:{rest}", "grpc": f"127.0.0.1:{grpc}", "version": "1"}


@contextlib.contextmanager
def kserve(folder: Path) -> Iterator[dict[str, str]]:
    python = environment("kserve")
    models = _write_models(folder / "models")
    program = folder / "server.py"
    program.write_text(KSERVE_SERVER)
    rest, grpc = free_ports(2)
    command = [str(python / "python"), str(program), str(models), str(rest), str(grpc)]
    with running(
        command, port=rest, ready="/v2/models/simple/ready", log=folder / "kserve.log", cwd=folder, PYTHONPATH=""
    ):
        # Its models have no version.
        yield {"rest": f"127.0.0.1:{rest}", "grpc": f"127.0.0.1:{grpc}", "version": ""}


@contextlib.contextmanager
def edgeward(folder: Path) -> Iterator[dict[str, str]]:
    with ours(folder) as (target, _server):
        yield {"rest": target.rest, "grpc": target.grpc, "version": VERSION}


def measure(*, peers: bool) -> dict[str, Any]:
    """conformance_passed and _total, and the same for the peers."""
    figures: dict[str, Any] = {}
    servers = {"": edgeward, **({"_mlserver": mlserver, "_kserve": kserve} if peers else {})}
    for suffix, start in servers.items():
        with tempfile.TemporaryDirectory() as folder, start(Path(folder)) as address:
            result = run(**address)
        figures[f"conformance_passed{suffix}"] = result.passed
        figures[f"conformance_total{suffix}"] = result.total
        figures[f"conformance_failed{suffix}"] = result.failed
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", action="store_true", help="MLServer and KServe's server too")
    parser.add_argument("--rest", help="host:port of a server that runs already")
    parser.add_argument("--grpc", default="", help="host:port of its gRPC side")
    parser.add_argument("--version", default="1", help="of its models")
    options = parser.parse_args()
    if options.rest:
        result = run(rest=options.rest, grpc=options.grpc, version=options.version)
        print(json.dumps({"passed": result.passed, "total": result.total, "failed": result.failed}, indent=2))
    else:
        print(json.dumps(measure(peers=options.peers), indent=2))


if __name__ == "__main__":
    main()
