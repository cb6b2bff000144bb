from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import pytest

from edgeward_runtime import server


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_into_the_loop_has_the_outcome_that_its_caller_gets(monkeypatch, fails):
    """However long the loop is held up: to a caller that gives up, a flip that still comes would be a failed one."""
    waiting, real = threading.Event(), concurrent.futures.Future.result

    def result(self, timeout=None):
        waiting.set()
        if timeout is not None:
            raise TimeoutError  # at once, whatever the limit
        return real(self)

    monkeypatch.setattr(concurrent.futures.Future, "result", result)
    ran, got = [], []

    def flip():
        ran.append("flip")
        if fails:
            raise ValueError("no")
        return "old"

    async def main():
        loop = asyncio.get_running_loop()

        def manager():
            try:
                got.append(server._call_in(loop, flip))
            except Exception as error:
                got.append(type(error))

        thread = threading.Thread(target=manager)
        thread.start()
        assert waiting.wait(10), "the loop is held here"
        while thread.is_alive() or not ran:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert ran == ["flip"] and got == [ValueError if fails else "old"]
