"""The only place that imports onnxruntime.

Official Linux wheels from 1.29 on send telemetry unless ORT_DISABLE_TELEMETRY is set before the library is loaded; the
API call that turns it off comes too late. A model server at a customer's site must open no socket of its own, so the
variable is set here, whatever the environment says, and every other module imports the library from here.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

__all__ = ["onnxruntime"]
