"""The error that a client sees, and the one that a model version is refused with."""

from __future__ import annotations


class ProtocolError(Exception):
    """An answer other than 200: `{"error": text}` with Triton's status map (400 bad argument, 404 not found,
    405 method, 413 too large, 415 encoding, 500 internal, 501 unsupported, 503 unavailable)."""

    def __init__(self, status: int, text: str, extra: bytes = b"") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.extra = extra  # finished header lines


def bad_request(text: str) -> ProtocolError:
    return ProtocolError(400, text)


def not_allowed(text: str, methods: bytes) -> ProtocolError:
    return ProtocolError(405, text, b"allow: %b\r\n" % methods)


class Refusal(Exception):
    """Why a model version does not go live. `step` is one of lifecycle.STEPS; `reason` is a CamelCase code that
    the agent copies into a condition; `permanent` means that trying the same config entry again cannot help; `after`,
    that it does only in so many seconds, where the ordinary back-off would be too eager."""

    def __init__(self, *, step: str, reason: str, message: str, permanent: bool, after: float | None = None) -> None:
        super().__init__(f"{step}: {reason}: {message}")
        self.step = step
        self.reason = reason
        self.message = message
        self.permanent = permanent
        self.after = after


class Cancelled(Exception):
    """The config changed or the server stops while a model was on its way; nothing is wrong with the model."""


def without_values(error: Exception) -> str:
    """What went wrong without any value of a request, for logs and statuses: onnxruntime names the node first, and after
    that what it did not like in the data."""
    head, found, _ = " ".join(str(error).split()).partition("Status Message:")
    return f"{type(error).__name__}: {head.strip()[:300]}" if found else type(error).__name__
