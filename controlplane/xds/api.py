"""The control plane's own part of the admin API: what is served, to whom, and the verbs of `causeway apply`.

    GET  /clients            every client: what it has, what it refused, since when
    GET  /snapshot           names and versions of every resource, by type
    GET  /snapshot/{type}    the resources of one type, in full (policy documents and secrets are left out)
    POST /apply              read the manifests now; {"confirm": true} also when that removes a lot; {"canary": "10%",
                             "watch_s": 10} to some Envoys first, to all when those are well, else to none;
                             {"canary": "no"} to all at once; {"wait": true} answers when a canary is over, or with
                             outcome "canary" and the reason when "timeout_s" more than it is watched have passed
    GET  /wait?timeout_s=30  answers when every client serves the present revision and a restart would serve it too,
                             504 with reasons when not
    GET  /canary             the canary that runs, or the last one, and how long canaries are watched
    POST /canary/promote     serve what is on trial to everybody now
    POST /canary/abort       take it back now
    POST /held/confirm       put the held change in service
    POST /held/discard       forget the held change

It must not know manifests: reading them again is a function that is handed in.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from enum import Enum

from aiohttp import web
from google.protobuf import json_format

from controlplane.snapshot import resource as types
from controlplane.snapshot.consistency import message_type
from controlplane.snapshot.resource import Audience, Resource
from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.report import short
from controlplane.xds.rollout import Course, Rollout
from controlplane.xds.waiting import wait_until_live
from serving.admin import Admin

Json = dict[str, object]
DEFAULT_WAIT_S = 30.0
LONGEST_WAIT_S = 600.0
LONGEST_WATCH_S = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What `POST /apply` asks for."""

    confirm: bool = False
    """Also if it removes most of what is served."""
    canary: str = ""
    """How many Envoys get it first; `no`: everybody at once; empty: as for edits that are seen."""
    watch_s: float | None = None
    wait: bool = False
    """Answer when the canary is over."""
    timeout_s: float = DEFAULT_WAIT_S
    """How long that may take, besides the time that it is watched."""


Reread = Callable[[Wish], Awaitable[Json]]
"""Reads the manifests and serves them. Returns what came of it, as JSON. Raises ValueError when the wish is none."""
Keep = Callable[[], Awaitable[str | None]]
"""Returns when a restart would serve what is served now; or why it would not."""


async def _kept() -> str | None:
    return None


def register(
    admin: Admin,
    plane: ControlPlane,
    reread: Reread,
    rollout: Rollout | None = None,
    keep: Keep = _kept,
    *,
    watch_s: float = 0.0,
) -> None:
    """Adds the routes. Before the admin server starts."""
    canaries = rollout or Rollout(plane)

    async def apply(request: web.Request) -> Json | web.Response:
        try:
            return await reread(_wish(await _body(request)))
        except ValueError as problem:
            return web.json_response({"outcome": "refused", "problems": [str(problem)]}, status=400)

    async def wait(request: web.Request) -> web.Response:
        asked = request.query.get("timeout_s", f"{DEFAULT_WAIT_S:g}")
        timeout_s = _number(asked)
        if timeout_s is None or not timeout_s >= 0:
            return web.json_response({"problems": [f"timeout_s: expected seconds, found {asked!r}"]}, status=400)
        waited = await wait_until_live(plane, min(LONGEST_WAIT_S, timeout_s))
        if waited.is_live and (problem := await keep()):
            waited = replace(waited, is_live=False, reasons=(f"a restart would not serve it: {problem}",))
        document = asdict(waited, dict_factory=_plain)
        return web.json_response(document, status=200 if waited.is_live else 504)

    async def promote(_: web.Request) -> web.Response:
        return _decided(canaries.promote())

    async def abort(_: web.Request) -> web.Response:
        return _decided(canaries.abort())

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
    admin.get("/canary", lambda _: {"watch_s": watch_s, "course": canaries.as_json()})
    admin.post("/canary/promote", promote)
    admin.post("/canary/abort", abort)
    admin.post("/held/confirm", confirm)
    admin.post("/held/discard", discard)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _wish(body: Json) -> Wish:
    canary, watch_s, timeout_s = body.get("canary") or "", body.get("watch_s"), body.get("timeout_s", DEFAULT_WAIT_S)
    if not (isinstance(canary, str) and isinstance(watch_s, int | float | None) and isinstance(timeout_s, int | float)):
        raise web.HTTPBadRequest(text='expected {"canary": "10%", "watch_s": 10, "timeout_s": 30}')
    return Wish(
        confirm=body.get("confirm") is True,
        canary=canary,
        watch_s=None if watch_s is None else min(LONGEST_WATCH_S, float(watch_s)),
        wait=body.get("wait") is True,
        timeout_s=min(LONGEST_WAIT_S, float(timeout_s)),
    )


def _decided(course: Course | None) -> web.Response:
    if course is None:
        return web.json_response({"error": "nothing is on trial"}, status=409)
    return web.json_response({"outcome": course.state, "revision": course.revision, "reason": course.reason})


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
