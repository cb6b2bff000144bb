"""Edgeward's edge runtime: one process that serves ONNX models over the Open Inference Protocol."""

__version__ = "0.1.0"
