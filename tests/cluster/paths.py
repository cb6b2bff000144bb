"""Where everything that outlives a run is kept: outside the work tree, in one folder that may be deleted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TOOLS = Path(__file__).resolve().parent / "tools"


def cache_root(environ: Mapping[str, str] | None = None) -> Path:
    """EDGEWARD_CACHE, else edgeward/ in the user's cache folder (XDG_CACHE_HOME, else ~/.cache)."""
    environ = os.environ if environ is None else environ
    own = environ.get("EDGEWARD_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    base = environ.get("XDG_CACHE_HOME")
    home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    return (Path(base) if base else home / ".cache").absolute() / "edgeward"


def clusters_root(cache: Path) -> Path:
    return cache / "clusters"


def state_directory(cache: Path, name: str) -> Path:
    return clusters_root(cache) / name
