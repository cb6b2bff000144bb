"""kubectl, and what the story reads through it."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

Object = dict[str, Any]
Answer = TypeVar("Answer")


class StoryError(Exception):
    """A step of the story did not come out; the message says which and where to look."""


@dataclass(frozen=True, kw_only=True)
class Kubectl:
    """kubeconfig None: whatever kubectl itself would use."""

    program: str = "kubectl"
    kubeconfig: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        own = {"KUBECONFIG": str(self.kubeconfig)} if self.kubeconfig else {}
        return {**os.environ, **own}

    def run(self, *arguments: str, stdin: str | None = None, check: bool = True, timeout: float = 60) -> str:
        """Standard output; StoryError with kubectl's own words when it fails."""
        try:
            done = subprocess.run(
                [self.program, *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                env=self.environment,
            )
        except FileNotFoundError as error:
            raise StoryError(f"there is no {self.program} on PATH") from error
        except subprocess.TimeoutExpired as error:
            raise StoryError(f"kubectl {' '.join(arguments)[:200]} took longer than {timeout:.0f} s") from error
        if check and done.returncode != 0:
            raise StoryError(f"kubectl {' '.join(arguments)[:200]}: {done.stderr.strip()[:1000]}")
        return done.stdout

    def get(self, *arguments: str) -> Object:
        found: Object = json.loads(self.run("get", *arguments, "-o", "json"))
        return found

    def items(self, kind: str, *arguments: str) -> list[Object]:
        items: list[Object] = self.get(kind, *arguments)["items"]
        return items

    def apply(self, text: str, *, namespace: str) -> float:
        """Unix time at which kubectl was told."""
        at = time.time()
        self.run("apply", "-n", namespace, "-f", "-", stdin=text)
        return at

    @contextmanager
    def forward(self, namespace: str, service: str, port: int) -> Iterator[str]:
        """A URL on this machine that leads to a Service, for as long as the context lasts."""
        command = [self.program, "-n", namespace, "port-forward", f"service/{service}", f":{port}"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment
        )
        assert process.stdout is not None
        lines, said = iter(process.stdout), ""
        # It writes a line for every connection, and would stand still if nobody read them.
        rest = threading.Thread(target=deque, args=(lines, 0), daemon=True)
        try:
            for line in lines:
                if "->" in line:  # Forwarding from 127.0.0.1:40417 -> 8080
                    break
                said += line
            else:
                raise StoryError(f"kubectl port-forward to {service}: {said.strip()[:500]}")
            rest.start()
            yield f"http://127.0.0.1:{line.split('->')[0].strip().rsplit(':', 1)[1]}"
        finally:
            process.terminate()
            process.wait()
            if rest.ident is not None:
                rest.join()
            process.stdout.close()


def condition(obj: Object, kind: str) -> Object:
    """The condition of this type; an empty one when there is none."""
    found = (obj.get("status") or {}).get("conditions") or []
    return next((item for item in found if item["type"] == kind), {})


def settled(obj: Object) -> bool:
    """Ready, as of the spec that is there now."""
    ready = condition(obj, "Ready")
    same = (obj.get("status") or {}).get("observedGeneration") == obj["metadata"]["generation"]
    return bool(same and ready.get("status") == "True")


def unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def wait(
    what: str,
    look: Callable[[], Answer],
    *,
    seconds: float,
    why: Callable[[], str] | None = None,
    every: float = 0.5,
) -> Answer:
    """What look() says, once that is true. StoryError with what why() says, else with the last look, otherwise."""
    started = time.monotonic()
    while not (found := look()):
        if time.monotonic() - started > seconds:
            raise StoryError(f"{what} did not come within {seconds:g} s: {why() if why else f'last {found!r}'}")
        time.sleep(every)
    return found
