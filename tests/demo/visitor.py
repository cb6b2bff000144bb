"""The clients of the story: a pod inside the cluster that asks through Services, and this machine, which is outside."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from tests.cluster.paths import REPOSITORY

from .ask import Reply, pack
from .kube import StoryError, wait
from .models import Models
from .signs import pages, road_signs
from .stage import Stage, pod

NAME = "visitor"
_HERE = Path(__file__).resolve().parent
_MODULES = ("oip.py", "tasks.py", "ask.py")
_FILES = {
    "tests/demo/signs.py": "python",
    "pyproject.toml": "toml",
    "Makefile": "makefile",
    "crds/edgeward.dev_sites.yaml": "yaml",
    "edge-runtime/Dockerfile": "dockerfile",
    "edge-runtime/contract/config.schema.json": "json",
    "docs/api.md": "markdown",
    "tests/cluster/tools/pause/main.go": "go",
    "/bin/sh": "elf",
}
"""files of the machine, and of what kind they are"""
_ENDS = 4096  # the sorter looks at no more than this many bytes at either end


Questions = dict[str, dict[str, np.ndarray]]


def questions() -> Questions:
    """Per model what is asked, by the answer's key in expected()."""
    signs = {sign.text: sign.pixels for sign in road_signs()}
    files = {}
    for name in _FILES:
        data = (REPOSITORY / name).read_bytes()
        short = data if len(data) <= 2 * _ENDS else data[:_ENDS] + data[-_ENDS:]
        files[name] = np.frombuffer(short, np.uint8)
    turned = {f"page turned by {page.degrees}": page.pixels for page in pages()}
    return {"sign-reader": signs, "file-sorter": files, "page-turner": turned}


def expected() -> dict[str, dict[str, str]]:
    """Per model the right answer to each question."""
    return {
        "sign-reader": {sign.text: sign.text for sign in road_signs()},
        "file-sorter": dict(_FILES),
        "page-turner": {f"page turned by {page.degrees}": str(page.degrees) for page in pages()},
    }


def names(models: Models) -> dict[str, tuple[str, ...]]:
    return {"sign-reader": models.characters, "file-sorter": models.file_types, "page-turner": models.sides}


def program() -> bytes:
    """The client as one zip file that python runs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("demo/__init__.py", "")
        for module in _MODULES:
            archive.writestr(f"demo/{module}", (_HERE / module).read_text(encoding="utf-8"))
        archive.writestr("__main__.py", "import sys\n\nfrom demo.ask import main\n\nsys.exit(main(sys.argv[1:]))\n")
    return buffer.getvalue()


def inputs(asked: Mapping[str, np.ndarray], answers: Sequence[str]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **pack(asked, answers))
    return buffer.getvalue()


def send_in(stage: Stage, node: str) -> None:
    """Start the client pod on this node, and wait until it runs."""
    known = names(stage.models)
    data = {f"{model}.npz": inputs(asked, known[model]) for model, asked in questions().items()}
    data["client.zip"] = program()
    files = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME},
        "binaryData": {name: base64.b64encode(raw).decode() for name, raw in data.items()},
    }
    body = pod(
        NAME,
        image=stage.runtime_image,
        command=["python3", "-c", "import time; time.sleep(86400)"],
        node=node,
        files=NAME,
    )
    stage.kubectl.run("delete", "pod", NAME, "-n", stage.namespace, "--ignore-not-found", "--grace-period=1")
    stage.kubectl.run(
        "apply", "--server-side", "--force-conflicts", "-n", stage.namespace, "-f", "-",
        stdin=yaml.safe_dump_all([files, body]),
    )  # fmt: skip

    def state() -> str:
        return stage.kubectl.run(
            "get", "pod", NAME, "-n", stage.namespace, "-o", "jsonpath={.status.phase}", check=False
        )

    wait(f"pod {NAME}", lambda: state() == "Running", seconds=60, why=lambda: describe(stage))


def describe(stage: Stage) -> str:
    return stage.kubectl.run("describe", "pod", NAME, "-n", stage.namespace, check=False)[-1500:]


def ask_inside(stage: Stage, model: str) -> list[Reply]:
    """The pod's questions to the model's Service, by its DNS name."""
    url = f"http://{model}.{stage.namespace}.svc"
    text = stage.kubectl.run(
        "exec", "-n", stage.namespace, NAME, "--",
        "python3", "/files/client.zip", model, url, f"/files/{model}.npz", timeout=120,
    )  # fmt: skip
    replies = [Reply(**json.loads(line)) for line in text.splitlines()]
    if not replies:
        raise StoryError(f"the client pod asked {model} nothing")
    return replies
