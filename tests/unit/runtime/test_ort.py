from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import edgeward_runtime

PACKAGE = Path(edgeward_runtime.__file__).parent
# Says at the moment onnxruntime is first looked for whether telemetry is off already; the environment asks for the opposite.
WATCHER = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))
            sys.meta_path.remove(self)
sys.meta_path.insert(0, Watch())
import edgeward_runtime.server
"""


def test_telemetry_is_off_before_the_library_is_loaded():
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run([sys.executable, "-c", WATCHER], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_the_library_is_imported_in_one_place():
    importing = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^\s*(import|from) onnxruntime", path.read_text(), re.M)
    ]
    assert importing == ["ort.py"]
