"""A proxy in front of the API server that can hold watches open and drop their bytes, as a bad link does, or be cut."""

from __future__ import annotations

import asyncio
import ssl
import threading
from pathlib import Path

from tests.cluster.certificates import Authority, Pair, write_kubeconfig
from tests.cluster.controlplane import ControlPlane, free_port


class WatchProxy:
    """Ends the client's TLS and speaks to the server as `pair`. While `holding`, what the server sends on a connection
    that carries a watch is read and thrown away; everything else goes through, new connections too."""

    def __init__(self, plane: ControlPlane, pair: Pair) -> None:
        authority = Authority(plane.directory / "pki")
        own = authority.issue("watch-proxy", user="watch-proxy", dns=["localhost"], ips=["127.0.0.1"])
        self._inward = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._inward.load_cert_chain(own.certificate, own.key)
        self._outward = ssl.create_default_context(cafile=str(authority.pair.certificate))
        self._outward.load_cert_chain(pair.certificate, pair.key)
        host, _, port = plane.server.removeprefix("https://").partition(":")
        self._target = (host, int(port))
        self.holding = False
        self._cut = False
        self._pumps: set[asyncio.Future[None]] = set()
        self.dropped = 0
        """bytes thrown away so far"""
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self.kubeconfig: Path = write_kubeconfig(
            plane.directory / "watch-proxy.kubeconfig",
            name="watch-proxy",
            server=f"https://127.0.0.1:{self.port}",
            authority=authority.pair.certificate,
            pair=pair,
        )

    def __enter__(self) -> WatchProxy:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def cut(self) -> None:
        """Ends every connection, and lets none begin."""
        self._cut = True
        self._loop.call_soon_threadsafe(lambda: [pump.cancel() for pump in self._pumps])

    def mend(self) -> None:
        self._cut = False

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        serving = asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._inward)
        self._loop.run_until_complete(serving)
        self._started.set()
        self._loop.run_forever()
        while tasks := asyncio.all_tasks(self._loop):
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.close()
            return
        try:
            there, back = await asyncio.open_connection(*self._target, ssl=self._outward)
        except OSError:
            writer.close()
            return
        watching = asyncio.Event()

        async def ask() -> None:
            while data := await reader.read(65536):
                if b" HTTP/1.1\r\n" in data:
                    line = data.split(b"\r\n", 1)[0]
                    (watching.set if b"watch=true" in line else watching.clear)()
                back.write(data)
                await back.drain()

        async def answer() -> None:
            while data := await there.read(65536):
                if self.holding and watching.is_set():
                    self.dropped += len(data)
                    continue
                writer.write(data)
                await writer.drain()

        pumps = [asyncio.ensure_future(ask()), asyncio.ensure_future(answer())]
        self._pumps |= {*pumps}
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pumps -= {*pumps}
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for side in (writer, back):
                side.close()
