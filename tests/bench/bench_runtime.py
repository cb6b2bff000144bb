"""`make bench-runtime`: the runtime's figures, into tests/bench/results/runtime.json, in less than half an hour. Run it
alone; the machine has to be quiet. The server is pinned to one core and the load to the other.

    python -m tests.bench.bench_runtime [--quick] [--only GROUP ...]

--quick runs every group for seconds only and writes nothing: to see that all of it works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench import (
    bench_runtime_tiny,
    report,
    runtime_batching,
    runtime_conformance,
    runtime_fuzz,
    runtime_images,
    runtime_swaps,
    runtime_wire,
)
from tests.cluster.paths import cache_root
from tests.demo import models

FIGURES = {
    "tiny": ("cpu_us_added_tiny", "cpu_us_mlserver", "cpu_us_kserve", "pss_mb_idle"),
    "magika": ("throughput_share_magika",),
    "mid": ("batching_gain_mid", "idle_added_ms"),
    "wire": ("json_over_binary_224",),
    "grpc": ("grpc_over_rest_cpu",),
    "swaps": ("swaps", "swap_failed", "swap_misrouted", "swap_p99_ratio"),
    "memory": ("pss_ratio_after_200_swaps",),
    "image": ("image_mb_compressed", "image_mb_unpacked"),
    "conformance": ("conformance_passed", "conformance_total"),
    "conformance_mlserver": ("conformance_passed_mlserver", "conformance_total_mlserver"),
    "conformance_kserve": ("conformance_passed_kserve", "conformance_total_kserve"),
    "fuzz": ("fuzz_bodies", "fuzz_crashes"),
}
"""by group; null, with the reason in the notes, where the group could not be run"""


class Run:
    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.begin = time.monotonic()
        self.notes: dict[str, str] = {}
        self.versions: dict[str, Any] = {name: version(name) for name in ("onnxruntime", "numpy", "uvloop", "grpcio")}

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.begin:5.0f} s] {text}", flush=True)

    def groups(self) -> dict[str, Callable[[Path], dict[str, Any]]]:
        quick = self.quick
        return {
            "tiny": self._tiny,
            "magika": lambda folder: runtime_batching.magika(folder, self._magika(), seconds=3 if quick else 20),
            "mid": lambda folder: runtime_batching.mid(
                folder, seconds=1 if quick else 4, rounds=2 if quick else 5, say=self.say
            ),
            "wire": lambda folder: runtime_wire.json_over_binary(
                folder, requests=10 if quick else 100, rounds=2 if quick else 3
            ),
            "grpc": lambda folder: runtime_wire.grpc_over_rest(
                folder, requests=300 if quick else 5000, rounds=2 if quick else 3
            ),
            "swaps": lambda folder: runtime_swaps.under_load(
                folder / "swaps", swaps=5 if quick else 50, steady=2 if quick else 20, say=self.say
            ),
            "memory": lambda folder: runtime_swaps.memory(folder / "memory", swaps=10 if quick else 200, say=self.say),
            "image": lambda folder: runtime_images.measure(runtime_images.build()),
            "conformance": lambda folder: self._conformance(""),
            "conformance_mlserver": lambda folder: self._conformance("_mlserver"),
            "conformance_kserve": lambda folder: self._conformance("_kserve"),
            "fuzz": lambda folder: runtime_fuzz.measure(folder / "fuzz", seconds=5 if quick else 600, say=self.say),
        }

    def measure(self, only: list[str]) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for name, group in self.groups().items():
            if only and name not in only:
                continue
            self.say(name)
            found: dict[str, Any] = dict.fromkeys(FIGURES[name])
            with tempfile.TemporaryDirectory(prefix="edgeward-bench-") as folder:
                try:
                    found |= group(Path(folder))
                except Exception as error:
                    output = getattr(error, "stderr", None) or ""
                    reason = f"{type(error).__name__}: {error} {str(output)[-300:]}".strip()[:600]
                    self.notes |= dict.fromkeys(FIGURES[name], f"could not be run: {reason}")
                    self.say(f"  could not be run: {reason}")
            figures |= found
        return figures

    def _tiny(self, folder: Path) -> dict[str, Any]:
        result = bench_runtime_tiny.measure_ours(folder, requests=1000 if self.quick else 20_000)
        result["pss_mb_idle"] = result.pop("pss_mb_runtime")
        peers = {"mlserver": bench_runtime_tiny.measure_mlserver, "kserve": bench_runtime_tiny.measure_kserve}
        for peer, measure in peers.items():
            self.say(f"  {peer}")
            result[f"cpu_us_{peer}"] = None
            try:
                details = measure(folder, folder / "tiny.onnx", requests=200 if self.quick else 2000)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                output = getattr(error, "stderr", None) or b""
                self.notes[f"cpu_us_{peer}"] = f"could not be run: {error} {output[-300:]!r}"[:600]
                continue
            result[f"cpu_us_{peer}"] = round(details["cpu_us_request"] - result["cpu_us_session_run"], 1)
            result[f"pss_mb_{peer}"] = details["pss_mb"]
            self.notes[f"cpu_us_{peer}"] = f"{details['command']}; {details['encoding']}"
            self.versions[peer] = details["version"]
        return result

    def _magika(self) -> Path:
        return models.prepare(cache_root(), say=self.say).file_sorter.path

    def _conformance(self, suffix: str) -> dict[str, Any]:
        server = {"": "edgeward", "_mlserver": "mlserver", "_kserve": "kserve"}[suffix]
        with (
            tempfile.TemporaryDirectory(prefix="edgeward-bench-") as folder,
            getattr(runtime_conformance, server)(Path(folder)) as address,
        ):
            result = runtime_conformance.run(**address)
        if result.failed:
            self.notes[f"conformance_passed{suffix}"] = f"not passed: {', '.join(result.failed)}"[:600]
        return {f"conformance_passed{suffix}": result.passed, f"conformance_total{suffix}": result.total}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds for each group; nothing is written")
    parser.add_argument(
        "--only", nargs="*", default=[], choices=list(FIGURES), metavar="GROUP", help=", ".join(FIGURES)
    )
    options = parser.parse_args()
    run = Run(quick=options.quick)
    load = os.getloadavg()[0]
    figures = run.measure(options.only)
    figures["load_average"] = round(load, 2)
    run.notes["load_average"] = "of the machine, before the run"
    if options.quick or options.only:
        print(json.dumps({"figures": figures, "notes": run.notes, "versions": run.versions}, indent=2))
    else:
        path = report.write("runtime", versions=run.versions, figures=figures, notes=run.notes)
        print(path.read_text())
    run.say("done")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
