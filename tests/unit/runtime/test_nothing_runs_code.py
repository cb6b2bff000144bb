"""A model is data: nothing in the runtime turns bytes into code or hands them to a shell."""

import ast
from pathlib import Path

import pytest

import edgeward_runtime

SOURCES = sorted(Path(edgeward_runtime.__file__).parent.rglob("*.py"))
MODULES = {
    *("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "copyreg", "_pickle"),
    *("subprocess", "pty", "popen2", "commands", "multiprocessing", "code", "codeop", "runpy", "imp"),
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
OF_OS = {"system", "popen", "startfile", "posix_spawn", "posix_spawnp"}
ALLOWED = {"ctypes": {"bfloat16.py", "memory.py"}}  # reads a tensor's memory; asks libc to give memory back


def problems(source: str, name: str = "module.py") -> list[str]:
    """What in a module could run code that came as data, as `line: what`."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        here = getattr(node, "lineno", 0)
        for module in _imported(node):
            top = module.partition(".")[0]
            if top in MODULES or (top in ALLOWED and name not in ALLOWED[top]):
                found.append(f"{here}: imports {module}")
        if isinstance(node, ast.Name) and node.id in BUILTINS:
            found.append(f"{here}: {node.id}")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            whole = f"{node.value.id}.{node.attr}"
            if node.value.id == "os" and (node.attr in OF_OS or node.attr.startswith(("exec", "spawn"))):
                found.append(f"{here}: {whole}")
            if whole in (
                "asyncio.create_subprocess_shell",
                "asyncio.create_subprocess_exec",
                "importlib.import_module",
            ):
                found.append(f"{here}: {whole}")
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "importlib", "asyncio.subprocess"):
            # By their bare names nobody would see them any more.
            found.append(f"{here}: from {node.module}")
        # numpy.load and savez would use pickle for objects.
        asked = node.keywords if isinstance(node, ast.Call) else []
        found += [
            f"{here}: {one.arg}" for one in asked if one.arg in ("allow_pickle", "shell") and not _is_false(one.value)
        ]
    return found


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return []


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_module_runs_code_that_came_as_data(path: Path) -> None:
    assert problems(path.read_text(), path.name) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import subprocess as s",
        "import multiprocessing.pool",
        "import os\nos.system('x')",
        "from os import system",
        "import os\nos.execvp('x', [])",
        "eval('1')",
        "f = exec",
        "import numpy\nnumpy.load('x', allow_pickle=True)",
        "import importlib\nimportlib.import_module('x')",
        "import ctypes",
    ],
)
def test_the_test_sees_it(source: str) -> None:
    assert problems(source)
