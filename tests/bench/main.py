"""`make bench-main`: the figures of the main job. Run it alone; the machine has to be quiet."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import Binaries, ControlPlane, Progress
from tests.cluster.simulated import priority_classes

from . import apply_to_bound, bench_runtime_tiny, report

ROOT = Path(__file__).parents[2]
DEMO_FIGURES = ROOT / "build" / "demo.json"
"""what the last `make demo` of this tree measured"""


@contextmanager
def control_plane() -> Iterator[ControlPlane]:
    binaries = Binaries(say=Progress())
    binaries.ensure("control-plane")
    binaries.ensure("kwok")
    folder = Path(tempfile.mkdtemp(prefix="edgeward-bench-"))
    try:
        with ControlPlane(folder, binaries=binaries, name="bench", controllers=True, scheduler=True) as plane:
            plane.kubectl("apply", "-f", str(ROOT / "crds"))
            plane.start_kwok()
            plane.add_nodes(4, prefix="edge", labels={"edgeward.dev/tier": "edge"}, cpu="32", memory="64Gi", pods=500)
            names = ("edgeward", apply_to_bound.NAMESPACE)
            spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names]
            plane.apply(*spaces, *priority_classes())
            yield plane
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def operator(plane: ControlPlane) -> Iterator[int]:
    """The operator as a process with its default time limits; its pid."""
    config = plane.directory / "operator.yaml"
    config.write_text(yaml.safe_dump({"namespace": "edgeward", "port": 18091}))
    log = (plane.directory / "operator.log").open("w")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "edgeward.cli.main",
            "operator",
            f"--config={config}",
            f"--kubeconfig={plane.kubeconfig}",
        ],
        stdout=log,
        stderr=log,
    )
    try:
        time.sleep(5)
        if process.poll() is not None:
            raise RuntimeError((plane.directory / "operator.log").read_text()[-2000:])
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


def main(rounds: int = 100) -> int:
    figures: dict[str, Any] = {}
    notes: dict[str, str] = {}
    versions: dict[str, Any] = {name: version(name) for name in ("kopf", "kubernetes", "onnxruntime", "numpy")}
    print("apply to bound: InferenceJob and bare Deployment in turns", flush=True)
    with control_plane() as plane, operator(plane) as pid:
        versions["kubernetes_server"] = json.loads(plane.kubectl("version", "-o", "json").stdout)["serverVersion"][
            "gitVersion"
        ]
        taken = apply_to_bound.measure(plane.api, rounds=rounds)
        figures["pss_mb_operator"] = report.pss_mb([pid])
        notes["pss_mb_operator"] = f"one process with {rounds + 5} jobs and as many assignments"
    for share in ("p50", "p99"):
        figures[f"apply_to_bound_{share}_ratio"] = round(taken["job"][share] / taken["deployment"][share], 2)
        figures[f"apply_to_bound_{share}_ms"] = round(taken["job"][share] * 1000, 1)
        figures[f"bare_deployment_{share}_ms"] = round(taken["deployment"][share] * 1000, 1)
    print("one small request: ours, MLServer, KServe", flush=True)
    tiny = bench_runtime_tiny.measure()
    for peer, details in tiny.pop("peers").items():
        versions[peer] = details.get("version")
        notes[f"cpu_us_{peer}"] = details.get("reason") or f"{details['command']}; {details['encoding']}"
        figures[f"pss_mb_{peer}"] = details.get("pss_mb")
    figures |= tiny
    demo = json.loads(DEMO_FIGURES.read_text()) if DEMO_FIGURES.exists() else {}
    for name in ("demo_cold_s", "demo_warm_s", "demo_failed_requests"):
        figures[name] = demo.get(name)
        if figures[name] is None:
            notes[name] = "no make demo of this kind was run in this tree"
    path = report.write("main", versions=versions, figures=figures, notes=notes)
    print(path.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
