"""The only place that imports onnxruntime.

Official Linux wheels from 1.29 on send telemetry unless ORT_DISABLE_TELEMETRY is set before the library is loaded; the
API call that turns it off comes too late. A model server at a customer's site must open no socket of its own, so the
variable is set here, whatever the environment says, and every other module imports the library from here.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from collections.abc import Callable
from typing import Any

import onnxruntime

__all__ = ["bare_run", "onnxruntime"]


def bare_run(session: onnxruntime.InferenceSession) -> Callable[[Any, Any, None], Any]:
    """session.run without the Python around it: for each run it checks again what the protocol has checked, that all inputs
    are there, and what concerns GPUs only. For a tiny model that costs as much as a third of its run."""
    return getattr(session, "_sess", session).run  # type: ignore[no-any-return]
