"""What each address but `infer` answers.

GET  /v2, /v2/health/live, /v2/health/ready, /v2/models, /v2/models/N[/versions/V][/ready | /stats], /v2/models/stats
POST /v2/repository/index, /v2/repository/models/N/load, /v2/repository/models/N/unload
GET  /metrics, /edgeward/v1/status, /edgeward/v1/capture
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from edgeward_runtime import __version__, repository
from edgeward_runtime.errors import ProtocolError, not_allowed
from edgeward_runtime.messages import Answer, Request
from edgeward_runtime.metrics import MetricsPage
from edgeward_runtime.model import Model
from edgeward_runtime.registry import Registry

EXTENSIONS = ("binary_tensor_data", "model_repository", "statistics")
_DEAD = "the thread that runs models has ended, the server must be restarted"
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pages:
    """Looked up in the event loop's thread, like the registry."""

    registry: Registry
    metrics: MetricsPage
    status: Callable[[], dict[str, Any]]
    server_name: str
    capture: Callable[[], dict[str, object]] | None = None
    alive: Callable[[], bool] = lambda: True  # False: this process answers no inference any more, whatever comes

    def answer(self, request: Request) -> Answer:
        """ProtocolError for what is not there."""
        if request.refused is not None:
            raise request.refused
        path = request.path
        if path.startswith("/v2/repository/"):
            return self._repository(request)
        if request.method not in (b"GET", b"HEAD"):
            raise not_allowed(f"{request.method.decode('latin-1')} is not possible here, use GET", b"GET, HEAD")
        if path == "/v2/health/live":
            return _json({"live": True}) if self.alive() else Answer(503, orjson.dumps({"error": _DEAD, "live": False}))
        if path == "/v2/health/ready":
            return self._ready()
        if path == "/metrics":
            return Answer(200, self.metrics.render(), _TEXT, packable=True)
        if path == "/edgeward/v1/status":
            return _json(self.status())
        if path == "/edgeward/v1/capture" and self.capture is not None:
            return _json(self.capture())
        if path in ("/v2", "/v2/"):
            return _json(self.server())
        if path == "/v2/models":
            return _json({"models": sorted(self.registry.live)})
        if path.startswith("/v2/models/"):
            return self._model(path.split("/")[3:])
        raise ProtocolError(404, "no such path")

    def _model(self, parts: list[str]) -> Answer:
        if parts == ["stats"] and "stats" not in self.registry.live:
            return _json(self.statistics([]))
        if len(parts) > 1 and parts[-1] == "stats":
            return _json(self.statistics(parts[:-1]))
        if len(parts) > 1 and parts[-1] == "ready":
            return self._model_ready(self.registry.find(parts[:-1]))
        return _json(self.registry.metadata(parts))

    def server(self) -> dict[str, object]:
        return {"name": self.server_name, "version": __version__, "extensions": EXTENSIONS}

    def statistics(self, parts: list[str]) -> dict[str, object]:
        """Of all models for no parts, else of the model that they name as in a path. Replaced versions too: their counts
        are not gone because they serve no more."""
        models = [
            model
            for model, _state in self.registry.versions()
            if not parts or parts in ([model.name], [model.name, "versions", model.version])
        ]
        return repository.statistics(models if models or not parts else [self.registry.find(parts)])

    def index(self, asked: Mapping[str, Any]) -> list[dict[str, str]]:
        return repository.index(self.status()["models"], self.registry.versions(), asked)

    def load(self, name: str, asked: Mapping[str, Any]) -> None:
        repository.load(name, self.status()["models"], asked)

    def _repository(self, request: Request) -> Answer:
        match request.path.split("/")[3:]:
            case ["index"]:
                action, name = "index", ""
            case ["models", name, ("load" | "unload") as action]:
                pass
            case _:
                raise ProtocolError(404, "no such path")
        if request.method != b"POST":
            raise not_allowed(f"{request.method.decode('latin-1')} is not possible here, use POST", b"POST")
        asked = repository.options(request.body)
        if action == "index":
            return _json(self.index(asked))
        if action == "load":
            self.load(name, asked)
        else:
            repository.unload(name)
        return _json({})

    def _model_ready(self, model: Model) -> Answer:
        if not self.registry.takes(model):
            raise ProtocolError(503, f"model '{model.name}' is not ready: a version makes room for the next one")
        return _json({"name": model.name, "ready": True})

    def _ready(self) -> Answer:
        registry = self.registry
        alive = self.alive()
        if registry.ready() and alive:
            # "live" too: the protocol's text names the body's key so, its clients read either.
            return _json({"ready": True, "live": True})
        if not alive:
            text = _DEAD
        elif registry.draining:
            text = "the server is stopping"
        elif not registry.wanted:
            text = "no model is configured yet"
        else:
            text = f"no version serves yet of {registry.missing()}"
        return Answer(503, orjson.dumps({"error": text, "ready": False, "live": alive}), extra=b"retry-after: 1\r\n")


def _json(document: object) -> Answer:
    return Answer(200, orjson.dumps(document))
