"""/healthz, /readyz and /metrics of the operator, and what the caller adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

Check = Callable[[], str]
"""empty when all is well, else what is wrong"""


async def serve(
    *, port: int, healthy: Check, ready: Check, metrics: CollectorRegistry, routes: Iterable[web.RouteDef] = ()
) -> web.AppRunner:
    """Start serving on all addresses. The caller cleans the runner up."""

    def answer(check: Check) -> Callable[[web.Request], object]:
        async def handle(_: web.Request) -> web.Response:
            problem = check()
            return web.Response(text=problem or "ok", status=503 if problem else 200)

        return handle

    async def expose(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", answer(healthy))  # type: ignore[arg-type]
    app.router.add_get("/readyz", answer(ready))  # type: ignore[arg-type]
    app.router.add_get("/metrics", expose)
    app.router.add_routes(routes)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host="0.0.0.0", port=port).start()  # noqa: S104  (probes come from the node)
    return runner
