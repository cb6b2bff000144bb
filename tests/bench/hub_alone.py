"""The operator as a process without its agent: what the Assignments ask for is somebody else's business here.

python -m tests.bench.hub_alone --config FILE --kubeconfig FILE
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from edgeward.cli import main as cli
from edgeward.cli import operator


class NoAgent:
    """What the operator asks of an agent, and nothing done."""

    queue: tuple[()] = ()
    behind: tuple[()] = ()

    def __init__(self, **_: Any) -> None:
        pass

    def notice(self, *_: Any) -> None:
        pass

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass


if __name__ == "__main__":
    operator.Agent = NoAgent  # type: ignore[assignment,misc]
    sys.argv = [sys.argv[0], "operator", *sys.argv[1:]]
    sys.exit(cli.main())
