"""What some clients do costs the others nothing: a thousand that reconnect at once, and some that are stuck."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.snapshot import resource as types
from tests.support.gateway import Gateway, Manifest
from tests.support.waiting import until
from tests.xds.crowd import AGENT, Crowd, crowd

pytestmark = pytest.mark.gateway
SERVICES = 50


@pytest.fixture(scope="module")
def gateway(run_folder: Path) -> Iterator[Gateway]:
    one = Gateway(run_folder, flags={"serve": ("--watch", "no")})
    yield one
    one.stop()


def many_services(answer: str, *, connect_timeout: str = "1s") -> dict[str, Any]:
    names = [f"s{number}" for number in range(SERVICES)]
    services: dict[str, Any] = {name: {"endpoints": ["127.0.0.1:9"]} for name in names}
    services["s0"]["connect_timeout"] = connect_timeout
    routes = [{"path": f"/{name}", "service": name, "auth": "public"} for name in names]
    return {"services": services, "routes": [live(answer), *routes]}


def live(answer: str) -> dict[str, Any]:
    return {"path": "/live", "respond": {"body": answer}, "auth": "public"}


async def push(gateway: Gateway, answer: str, *manifests: Manifest) -> None:
    """An edit, from the saved file to Envoy's answer by it."""
    gateway.write(*manifests)
    outcome = await gateway.tell("POST", "/apply", {"confirm": True})
    assert outcome["outcome"] == "served", outcome

    async def is_live() -> bool:
        return (await gateway.request("GET", "/live")).body == answer.encode()

    await until(f"the answer {answer}", is_live)


async def of_crowd(gateway: Gateway) -> list[dict[str, Any]]:
    """The crowd as the control plane sees it."""
    return [one for one in (await gateway.tell("GET", "/clients"))["clients"] if one["agent"] == AGENT]


async def test_a_thousand_clients_that_reconnect_at_once_are_served_while_edits_go_live(gateway: Gateway) -> None:
    await gateway.apply(many_services("before"))
    async with crowd(f"unix:{gateway.folder}/xds.sock", 1_000, types.CLUSTER) as clients:
        await clients.all_served()
        assert {len(versions) for (versions,) in clients.answers.values()} == {SERVICES + 2}  # and our own two services
        await clients.reconnect()
        edits = 0
        while clients.served < clients.size:
            await push(gateway, f"{edits}", many_services(f"{edits}"))
            edits += clients.served < clients.size
        assert edits >= 3, "edits that went live while clients still waited"
        await gateway.live(within_s=60)
        assert sent(clients) == {(): 1_000}, "nothing is sent again to those who have it"
        assert Counter(one["responses"] for one in await of_crowd(gateway)) == {1: 1_000}
        await gateway.apply(many_services("after", connect_timeout="2s"), within_s=60)
        assert sent(clients) == {("service/s0",): 1_000}, "one change is one resource to each"
        assert Counter(one["responses"] for one in await of_crowd(gateway)) == {2: 1_000}


def sent(clients: Crowd) -> Counter[tuple[str, ...]]:
    """The names of what each was sent since it last connected, all responses together."""
    return Counter(tuple(name for one in answers for name in one) for answers in clients.answers.values())


async def test_clients_that_are_stuck_hold_up_nobody_and_get_the_newest_state_when_they_go_on(gateway: Gateway) -> None:
    """Thirty edits of a route table of a megabyte, to clients that read none of it: the last one is what they get."""
    edits, stuck = 30, 10
    table = "routes:\n" + "".join(
        f"- {{path: /big/{number}, respond: {{body: {'x' * 4_000}}}, auth: public}}\n" for number in range(250)
    )
    await gateway.apply({"routes": [live("before")]}, table)
    (name,) = await route_tables(gateway)
    async with crowd(f"unix:{gateway.folder}/xds.sock", stuck, types.ROUTE, name) as clients:
        await clients.all_served()
        for number in range(edits):  # what is kept of the past is kept by now
            await push(gateway, f"read {number}", {"routes": [live(f"read {number}")]}, table)
        await gateway.live()
        before, heard = memory_bytes(gateway), Counter({n: len(answers) for n, answers in clients.answers.items()})
        clients.freeze()
        for number in range(edits):
            await push(gateway, f"unread {number}", {"routes": [live(f"unread {number}")]}, table)
        queued = (
            Counter({int(one["id"].rpartition("-")[2]): one["responses"] for one in await of_crowd(gateway)}) - heard
        )
        assert len(queued) == stuck
        assert max(queued.values()) <= 3, "what was overtaken was never sent"
        assert memory_bytes(gateway) - before < edits * stuck * len(table) / 5
        clients.thaw()
        await gateway.live()
        newest = (await route_tables(gateway))[name]
        await until("the newest", lambda: all(one[-1] == {name: newest} for one in clients.answers.values()))
        assert max((Counter({n: len(answers) for n, answers in clients.answers.items()}) - heard).values()) <= 4


async def route_tables(gateway: Gateway) -> dict[str, str]:
    rows = (await gateway.tell("GET", "/snapshot"))["types"]["RouteConfiguration"]["resources"]
    return {row["name"]: row["version"] for row in rows}


def memory_bytes(gateway: Gateway) -> int:
    """What the control plane has in memory."""
    pages = int(Path(f"/proc/{gateway.control_plane.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
