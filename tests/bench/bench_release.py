"""`make bench-release`: bytes and seconds of a new version, from commit to all sites and back, and many sites that come
and go; into results/release.json.

    python -m tests.bench.bench_release                  # all parts
    python -m tests.bench.bench_release bytes converge   # some; what is known of the others stays
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

from . import report

PARTS = ("bytes", "live", "converge")
"""each a program of its own, tests/bench/release_PART.py"""


def main(arguments: list[str]) -> int:
    unknown = set(arguments) - set(PARTS)
    if unknown:
        print(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    versions = {name: version(name) for name in ("kopf", "kubernetes", "onnxruntime", "numpy")}
    report.merge("release", versions=versions, figures={})
    failed = [
        name
        for name in arguments or PARTS
        if subprocess.run([sys.executable, "-m", f"tests.bench.release_{name}"]).returncode
    ]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
