"""The control plane's own part of the admin API: what is served, to whom, and the verbs of `causeway apply`.

    GET  /clients            every client: what it has, what it refused, since when
    GET  /snapshot           names and versions of every resource, by type
    GET  /snapshot/{type}    the resources of one type, in full (policy documents and secrets are left out)
    POST /apply              read the manifests now; {"confirm": true} also when that removes a lot; {"canary": "10%",
                             "watch_s": 10} to some Envoys first, to all when those are well, else to none
    GET  /wait?timeout_s=30  answers when every client serves the present revision, 504 with reasons when not
    POST /held/confirm       put the held change in service
    POST /held/discard       forget the held change

It must not know manifests: reading them again is a function that is handed in.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from enum import Enum

from aiohttp import web
from google.protobuf import json_format

from controlplane.snapshot import resource as types
from controlplane.snapshot.consistency import message_type
from controlplane.snapshot.resource import Audience, Resource
from controlplane.xds.canary import Ask, Counters, judge
from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.report import short
from controlplane.xds.waiting import wait_until_live
from serving.admin import Admin

Json = dict[str, object]
Reread = Callable[[bool, str], Awaitable[Json]]
"""Reads the manifests and serves them. The arguments confirm a mass deletion and say how many get it first (all: "").
Returns what came of it, as JSON. Raises ValueError when the canary's size is none."""

LONGEST_WAIT_S = 600.0


def register(admin: Admin, plane: ControlPlane, reread: Reread, ask: Ask | None = None) -> None:
    """Adds the routes. Before the admin server starts. `ask` reads Envoys' counters, for canaries."""
    ask = ask or _nobody

    async def apply(request: web.Request) -> Json | web.Response:
        wish = await _body(request)
        canary, watch_s = wish.get("canary", ""), wish.get("watch_s", 10.0)
        if not isinstance(canary, str) or not isinstance(watch_s, int | float):
            return web.json_response({"error": 'expected {"canary": "10%", "watch_s": 10}'}, status=400)
        try:
            outcome = await reread(wish.get("confirm") is True, canary)
        except ValueError as problem:
            return web.json_response({"outcome": "refused", "problems": [str(problem)]}, status=400)
        if plane.trial is None or outcome.get("outcome") != "canary":
            return outcome
        return {**outcome, **await _judged(plane, ask, min(LONGEST_WAIT_S, float(watch_s)))}

    async def wait(request: web.Request) -> web.Response:
        timeout_s = min(LONGEST_WAIT_S, max(0.0, float(request.query.get("timeout_s", "30"))))
        waited = await wait_until_live(plane, timeout_s)
        document = asdict(waited, dict_factory=_plain)
        return web.json_response(document, status=200 if waited.is_live else 504)

    async def confirm(_: web.Request) -> web.Response:
        revision = await plane.confirm()
        return _done(revision, "nothing is held")

    def discard(_: web.Request) -> web.Response:
        return _done(plane.discard(), "nothing is held")

    admin.get("/clients", lambda _: {"clients": plane.status().as_json()["clients"]})
    admin.get("/snapshot", lambda _: _overview(plane))
    admin.get("/snapshot/{type}", lambda request: _of_type(plane, request.match_info["type"]))
    admin.post("/apply", apply)
    admin.get("/wait", wait)
    admin.post("/held/confirm", confirm)
    admin.post("/held/discard", discard)


async def _nobody() -> Mapping[str, Counters]:
    return {}


async def _judged(plane: ControlPlane, ask: Ask, watch_s: float) -> Json:
    """Watches the canary to its end."""
    trial = plane.trial
    if trial is None:
        return {}
    judgement = await judge(
        trial.cohort, plane.cohort_has_accepted, lambda: plane.refusals(trial.snapshot), ask, watch_s=watch_s
    )
    if plane.trial is not trial:
        return {"outcome": "overtaken", "reason": "another change came meanwhile", "revision": plane.revision}
    plane.end_trial(is_good=judgement.is_good)
    outcome = "served" if judgement.is_good else "taken back"
    problems = [] if judgement.is_good else [judgement.reason]
    return {"outcome": outcome, "reason": judgement.reason, "problems": problems, "revision": plane.revision}


async def _body(request: web.Request) -> Json:
    text = await request.text()
    try:
        wish = json.loads(text) if text else {}
    except ValueError:
        raise web.HTTPBadRequest(text="the body is not JSON") from None
    if not isinstance(wish, dict):
        raise web.HTTPBadRequest(text="the body is not a JSON object")
    return wish


def _done(revision: str | None, otherwise: str) -> web.Response:
    if revision is None:
        return web.json_response({"error": otherwise}, status=409)
    return web.json_response({"revision": revision})


def _overview(plane: ControlPlane) -> Json:
    if plane.snapshot is None:
        return {"revision": "", "types": {}}
    return {
        "revision": plane.revision,
        "version": plane.snapshot.version,
        "types": {
            short(type_url): {
                "version": plane.snapshot.version_of(type_url),
                "resources": list(map(_row, named.values())),
            }
            for type_url, named in plane.snapshot.by_type.items()
        },
    }


def _row(resource: Resource) -> Json:
    return {
        "name": resource.name,
        "version": resource.version,
        "bytes": len(resource.body),
        "audience": resource.audience.value,
        "from": [str(origin) for origin in resource.origins],
    }


def _of_type(plane: ControlPlane, kind: str) -> web.Response:
    snapshot = plane.snapshot
    known = {short(type_url): type_url for type_url in snapshot.by_type} if snapshot is not None else {}
    if snapshot is None or kind not in known:
        return web.json_response({"error": f'no resources of type "{kind}"', "types": sorted(known)}, status=404)
    rows = [{**_row(one), "resource": _content(one)} for one in snapshot.of_type(known[kind]).values()]
    return web.json_response({"type": known[kind], "resources": rows})


def _content(resource: Resource) -> object:
    if resource.audience is Audience.SERVICE or resource.type_url == types.SECRET:
        return "[redacted]"
    message = message_type(resource.type_url)
    if message is None:
        return None
    return json_format.MessageToDict(message.FromString(resource.body), preserving_proto_field_name=True)


def _plain(pairs: list[tuple[str, object]]) -> Json:
    return {key: value.value if isinstance(value, Enum) else value for key, value in pairs}
