"""An Envoy that was started with the file of an earlier release, whose limit on expressions is smaller than ours.

What it refuses is a route's match: kept back, named, and nothing else of the same edit with it.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.support import client
from tests.support.client import Address
from tests.support.gateway import Gateway, causeway
from tests.support.origin import Origin
from tests.support.tokens import AUDIENCE, ISSUER, SECRET, bearer, token
from tests.support.waiting import until

pytestmark = pytest.mark.gateway

HASH, MANY = "[0-9a-f]{128}", "/m/" + "/".join(f":p{number}" for number in range(30))


def manifest(origin: Origin, *more: dict[str, Any], **old: Any) -> dict[str, Any]:
    route = {"service": "a", "auth": "public"}
    return {
        "services": {"a": {"endpoints": [origin.address]}},
        "routes": [
            *({"path": path, **route, **old} for path in ("/b", "/y", "/z")),
            *({**one, **route} for one in more),
            {"path": "/**", **route},
        ],
    }


def start_from_an_earlier_file(gateway: Gateway) -> None:
    where = ("--xds", f"unix:{gateway.folder}/xds.sock", "--admin", f"unix:{gateway.folder}/envoy.sock")
    printed = subprocess.run(causeway("bootstrap", *where, "--format", "json"), capture_output=True, check=True)
    earlier = {key: value for key, value in json.loads(printed.stdout).items() if key != "layered_runtime"}
    (gateway.folder / "bootstrap.json").write_text(json.dumps(earlier))


async def test_a_refused_match_takes_no_other_route_with_it(gateway: Gateway, origin: Origin) -> None:
    start_from_an_earlier_file(gateway)
    await gateway.apply(manifest(origin))

    async def are_kept_back() -> bool:
        written = (gateway.manifests / "00.yaml").read_text().splitlines()
        places = [f"00.yaml:{1 + written.index(line)}:3" for line in written if line.endswith((" /m", MANY))]
        told = [place for one in (await gateway.status())["kept_back"] for place in one["origins"]]
        return len(places) == 2 and sorted(told) == sorted(places)

    async def check() -> None:
        await until("both routes are kept back by file and line", are_kept_back)
        assert [(await gateway.request("GET", path)).status for path in ("/b", "/y", "/z")] == [503, 503, 503]
        assert (await gateway.request("GET", "/new", headers=[("x-hash", "0" * 32)])).status == 200
        refused = await gateway.request("GET", "/m", headers=[("x-hash", "0" * 128)])
        assert (refused.status, refused.json()["code"]) == (503, "route_rejected")
        assert (await gateway.request("GET", "/m")).status == 200
        assert (await gateway.request("GET", "/elsewhere")).status == 200

    gateway.write(
        manifest(
            origin,
            {"path": "/m", "headers": {"x-hash": {"regex": HASH}}},
            {"path": MANY},
            {"path": "/new", "headers": {"x-hash": {"regex": "[0-9a-f]{32}"}}},
            maintenance={},
        )
    )
    await check()
    gateway.envoy.process.stop()
    await gateway.start()
    await gateway.envoy.ready()
    await check()


async def test_a_route_kept_back_keeps_the_policy_that_it_names(gateway: Gateway, origin: Origin) -> None:
    """Envoy goes on with the route as it was, and so does who is let in; over restarts of every process too."""
    start_from_an_earlier_file(gateway)
    issuer = {"issuer": ISSUER, "audiences": [AUDIENCE], "secret": SECRET}

    def edited(role: str, **route: Any) -> dict[str, Any]:
        return {
            "identity": {"issuers": {"idp": issuer}},
            "services": {"a": {"endpoints": [origin.address]}},
            "routes": [{"path": "/old/**", "service": "a", "auth": {"roles": [role]}, **route}],
        }

    async def statuses() -> list[int]:
        asked = [await gateway.request("GET", "/old/x", headers=bearer(token(roles=[role]))) for role in "ab"]
        return [one.status for one in asked]

    async def policies() -> set[str]:
        admin = Address(path=f"{gateway.folder}/extauthz-admin.sock")
        return set((await client.request(admin, "GET", "/status", host="localhost")).json()["policies"])

    async def check() -> None:
        assert await statuses() == [200, 403]

    await gateway.apply(edited("a"))
    await check()
    before = await policies()
    gateway.write(edited("b", rewrite={"regex": {"match": HASH, "replace": "hash"}}))

    async def both_are_known() -> bool:
        return len(await policies() | before) == 2 and await policies() > before

    await until("both policies in the document", both_are_known, within_s=30)
    await check()
    gateway.services["extauthz"].stop()
    gateway.services["extauthz"].start()
    await gateway.connected()
    await check()
    gateway.stop()
    await gateway.start()
    await gateway.connected()
    await gateway.envoy.ready()
    await until("both policies in the document at once", both_are_known, within_s=5)
    await check()

    gateway.write(edited("b"))

    async def only_the_new_one() -> bool:
        return len(await policies()) == 1 and await statuses() == [403, 200]

    await until("the old policy forgotten", only_the_new_one, within_s=30)
