"""/debug/snapshot and /debug/plan: the last planner pass, for `edgeward snapshot`, `plan` and `what-if`.

Whoever asks shows the identity under which this process holds the Lease, a random word that stands there and nowhere else
in the API. So the cluster's own rights decide: to read a Lease in the operator's namespace and to get pods/proxy there.
A pod that merely reaches the port learns nothing.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Sequence

from aiohttp import web

from edgeward.cluster.lease import HOLDER_HEADER
from edgeward.fleet.model import Fleet
from edgeward.placement.model import Plan
from edgeward.placement.record import plan_text, record, record_text
from edgeward.placement.settings import PlanSettings

Pass = tuple[Fleet, Plan]


def routes(
    *, identity: str, settings: PlanSettings, leading: Callable[[], bool], last: Callable[[], Pass | None]
) -> Sequence[web.RouteDef]:
    """last: the pass to show, None before the first."""

    async def answer(request: web.Request, write: Callable[[Pass], str]) -> web.Response:
        shown = request.headers.get(HOLDER_HEADER, "")
        if not hmac.compare_digest(shown.encode(), identity.encode()):
            return web.Response(status=403, text=f"{HOLDER_HEADER} must be the holderIdentity of the operator's Lease")
        made = last() if leading() else None
        if made is None:
            return web.Response(status=503, text="no plan was made here yet, or another replica leads")
        # A thousand nodes are megabytes; the loop has other things to do.
        text = await asyncio.to_thread(write, made)
        response = web.Response(text=text, content_type="application/json")
        response.enable_compression()
        return response

    async def snapshot(request: web.Request) -> web.Response:
        return await answer(request, lambda made: record_text(record(made[0], settings, made=made[1])))

    async def plan(request: web.Request) -> web.Response:
        return await answer(request, lambda made: plan_text(made[1]))

    return web.get("/debug/snapshot", snapshot), web.get("/debug/plan", plan)
