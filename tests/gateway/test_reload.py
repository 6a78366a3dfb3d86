"""Edits go live by themselves and cost no request; what is wrong changes nothing."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import websockets

from controlplane.manifests.watch import QUIET_S
from tests.support.behaviour import Answer, Hold
from tests.support.gateway import Gateway
from tests.support.load import Load
from tests.support.origin import Origin
from tests.support.waiting import free_port, until

pytestmark = pytest.mark.gateway


def manifest(answer: str, **gateway: Any) -> dict[str, Any]:
    """Routes whose answers tell which edit is live."""
    return {
        "gateway": gateway,
        "routes": [{"path": "/live", "respond": {"body": answer}, "auth": "public"}],
    }


async def _answers(gateway: Gateway, body: str) -> None:
    async def is_live() -> bool:
        return (await gateway.request("GET", "/live")).body == body.encode()

    await until(f"the answer {body}", is_live)


async def _problems(gateway: Gateway) -> list[str]:
    """Wait until an edit was refused."""

    async def refused() -> list[str]:
        return [str(problem) for problem in (await gateway.status())["problems"]]

    return await until("problems of the edit", refused)


# Under load


def _service(*origins: Origin, **service: Any) -> dict[str, Any]:
    return {"endpoints": [origin.address for origin in origins], **service}


def _edits(one: Origin, other: Origin) -> dict[str, list[dict[str, Any]]]:
    """Pairs of manifests between which the edits go back and forth."""
    route = {"path": "/api/**", "auth": "public"}
    many = [{"path": f"/other/{number}", "service": "a", "auth": "public"} for number in range(200)]

    def with_a(service: dict[str, Any], **gateway: Any) -> dict[str, Any]:
        return {"gateway": gateway, "services": {"a": service}, "routes": [{**route, "service": "a"}]}

    return {
        "the service is another": [
            with_a(_service(one)),
            {"services": {"b": _service(other)}, "routes": [{**route, "service": "b"}]},
        ],
        "its endpoints change": [with_a(_service(one)), with_a(_service(other)), with_a(_service(one, other))],
        "its settings change": [
            with_a(_service(one, connect_timeout="1s")),
            with_a(_service(one, load_balancing="random", connect_timeout="2s")),
        ],
        "it has a name in place of an address": [
            with_a(_service(one)),
            with_a({"endpoints": [f"localhost:{one.port}"]}),
        ],
        "routes come and go": [
            with_a(_service(one)),
            {"services": {"a": _service(one)}, "routes": [{**route, "service": "a"}, *many]},
        ],
        "the path is written otherwise": [
            with_a(_service(one)),
            {"services": {"a": _service(one)}, "routes": [{**route, "path": "/:any/**", "service": "a"}]},
        ],
        "what holds for every request changes": [
            with_a(_service(one)),
            with_a(_service(one), response_headers={"set": {"x-edit": "1"}}),
        ],
    }


KINDS = list(_edits(Origin(port=1), Origin(port=2)))


@pytest.mark.parametrize("kind", KINDS)
async def test_an_edit_under_load_costs_no_request(gateway: Gateway, origins: Callable[..., Origin], kind: str) -> None:
    one, other = origins("one"), origins("other")
    for origin in (one, other):
        origin.forget()
        origin.always(Answer(body=b"{}"))
    edits = _edits(one, other)[kind]
    await gateway.apply(edits[0])
    async with Load(gateway.address, ["/api/x", "/api/y?z=1"]) as load:
        await load.more(100)
        for number in range(1, 9):
            await gateway.apply(edits[number % len(edits)])
            await load.more(50)
    assert load.failures == {}, load.first_failures
    assert load.total > 500


async def test_edits_in_a_row_end_with_the_last(gateway: Gateway) -> None:
    await gateway.apply(manifest("0"))
    for number in range(1, 30):
        gateway.write(manifest(str(number)))
    await _answers(gateway, "29")


@pytest.mark.parametrize(
    "kind", ["the service goes", "the route goes", "the port goes", "what holds for the whole port changes"]
)
async def test_a_request_in_flight_is_answered_though_its_way_is_gone(
    gateway: Gateway, origin: Origin, kind: str
) -> None:
    before = {"services": {"a": _service(origin)}, "routes": [{"path": "/api", "service": "a", "auth": "public"}]}
    after: dict[str, dict[str, Any]] = {
        "the service goes": manifest("after"),
        "the route goes": {**before, "routes": manifest("after")["routes"]},
        "the port goes": {
            **manifest("after"),
            "gateway": {"listeners": [{"port": free_port(), "address": "127.0.0.1"}]},
        },
        "what holds for the whole port changes": {**before, "gateway": {"clients": {"max_headers": 50}}},
    }
    await gateway.apply(before)
    hold = Hold(then=Answer(body=b"in time"))
    origin.next(hold)
    waiting = asyncio.create_task(gateway.request("GET", "/api"))
    await origin.saw(1)
    await gateway.apply(after[kind])
    hold.release()
    assert (await waiting).body == b"in time"


async def test_a_websocket_stays_open_through_edits(gateway: Gateway, origin: Origin) -> None:
    def edit(number: int) -> dict[str, Any]:
        live = {"path": "/socket", "service": "a", "auth": "public", "websocket": True}
        return {"services": {"a": _service(origin)}, "routes": [live, *manifest(str(number))["routes"]]}

    await gateway.apply(edit(0))
    async with websockets.connect(f"ws://127.0.0.1:{gateway.port}/socket") as socket:
        for number in range(1, 4):
            await gateway.apply(edit(number))
            await socket.send(str(number))
            assert await socket.recv() == str(number)


# By the watch alone: nobody tells the control plane


async def test_an_edit_goes_live_by_itself(gateway: Gateway) -> None:
    await gateway.apply(manifest("before"))
    gateway.write(manifest("after"))
    await _answers(gateway, "after")


async def test_a_file_written_in_place_goes_live(gateway: Gateway) -> None:
    await gateway.apply(manifest("before"))
    path = gateway.manifests / "00.yaml"
    path.write_text(path.read_text().replace("before", "in place"))
    await _answers(gateway, "in place")


async def test_a_file_that_is_written_piece_by_piece_is_served_when_it_is_complete(gateway: Gateway) -> None:
    """As a shell does with `generate > routes.yaml`."""
    await gateway.apply(manifest("before"))
    path = gateway.manifests / "routes.yaml"
    first = "routes:\n- {path: /first, respond: {body: x}, auth: public}\n"
    last = "- {path: /last, respond: {body: x}, auth: public}\n"
    path.write_text(first + last)
    await until("the last route", lambda: _is_there(gateway, "/last"))
    async with Load(gateway.address, ["/first", "/last"], connections=2) as load:
        with path.open("w") as generated:
            generated.write(first)
            generated.flush()
            await asyncio.sleep(4 * QUIET_S)
            await load.more(50)
            generated.write(last + last.replace("last", "more"))
        await until("a route more", lambda: _is_there(gateway, "/more"))
    assert load.failures == {}, load.first_failures


async def _is_there(gateway: Gateway, path: str) -> bool:
    return (await gateway.request("GET", path)).status == 200


async def test_another_teams_file_joins_and_leaves(gateway: Gateway) -> None:
    await gateway.apply(manifest("x"))
    team = gateway.manifests / "team.yaml"
    team.write_text("routes:\n- {path: /team, respond: {body: ours}, auth: public}\n")

    async def status() -> int:
        return (await gateway.request("GET", "/team")).status

    async def is_there() -> bool:
        return await status() == 200

    async def is_gone() -> bool:
        return await status() == 404

    await until("the team's route", is_there)
    team.unlink()
    await until("the team's route gone", is_gone)


async def test_a_mounted_config_map_is_swapped(gateway: Gateway) -> None:
    """As Kubernetes does: files are links into a hidden folder, whose name is a link that is renamed over."""
    await gateway.apply(manifest("first"))
    text = (gateway.manifests / "00.yaml").read_text()
    _swap(gateway.manifests, "..1", text.replace("first", "linked"))
    (gateway.manifests / "00.yaml").unlink()
    (gateway.manifests / "00.yaml").symlink_to("..data/00.yaml")
    await _answers(gateway, "linked")
    _swap(gateway.manifests, "..2", text.replace("first", "swapped"))
    await _answers(gateway, "swapped")


def _swap(folder: Path, version: str, text: str) -> None:
    (folder / version).mkdir()
    (folder / version / "00.yaml").write_text(text)
    (folder / "..data_new").symlink_to(version)
    (folder / "..data_new").rename(folder / "..data")


@pytest.fixture(autouse=True)
def plain_folder(gateway: Gateway) -> None:
    """Nothing of an earlier test's folder stays."""
    if gateway.manifests.exists():
        for path in gateway.manifests.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


BAD_EDITS = {
    "a word that is none": "routes:\n- {path: /live, respnd: {body: x}, auth: public}\n",
    "a service that is not there": "routes:\n- {path: /live, service: nowhere, auth: public}\n",
    "no YAML": "routes: [\n",
    "a file that is no text": "routes: \x00\n",
    "two routes that cannot be told apart": (
        "routes:\n"
        "- {path: '/a/:x', respond: {body: x}, auth: public}\n"
        "- {path: '/a/:y', respond: {body: y}, auth: public}\n"
    ),
}


@pytest.mark.parametrize("text", BAD_EDITS.values(), ids=BAD_EDITS.keys())
async def test_a_bad_edit_changes_nothing_and_is_reported_with_its_place(gateway: Gateway, text: str) -> None:
    await gateway.apply(manifest("good"))
    async with Load(gateway.address, ["/live"], connections=2) as load:
        (gateway.manifests / "bad.yaml").write_text(text)
        problems = await _problems(gateway)
        await load.more(100)
    assert any(problem.startswith("bad.yaml:") for problem in problems), problems
    assert load.failures == {}, load.first_failures
    assert (await gateway.request("GET", "/live")).body == b"good"

    (gateway.manifests / "bad.yaml").unlink()
    gateway.write(manifest("fixed"))
    await _answers(gateway, "fixed")
    await until("no problems", lambda: _is_without_problems(gateway))


async def _is_without_problems(gateway: Gateway) -> bool:
    return (await gateway.status())["problems"] == []


async def test_a_folder_that_goes_away_changes_nothing(gateway: Gateway) -> None:
    await gateway.apply(manifest("good"))
    aside = gateway.manifests.with_name("aside")
    gateway.manifests.rename(aside)
    try:
        assert await _problems(gateway)
        assert (await gateway.request("GET", "/live")).body == b"good"
    finally:
        aside.rename(gateway.manifests)
    gateway.write(manifest("back"))
    await _answers(gateway, "back")


async def test_an_empty_folder_changes_nothing(gateway: Gateway) -> None:
    await gateway.apply(manifest("good"))
    for path in gateway.manifests.iterdir():
        path.unlink()
    await _problems(gateway)
    assert (await gateway.request("GET", "/live")).body == b"good"


# Without the control plane


async def test_envoy_serves_on_while_the_control_plane_restarts(gateway: Gateway) -> None:
    await gateway.apply(manifest("before"))
    async with Load(gateway.address, ["/live"]) as load:
        await load.more(100)
        gateway.control_plane.stop()
        await load.more(300)
        gateway.control_plane.start()
        await gateway.connected()
        await load.more(100)
        await gateway.apply(manifest("after"))
    assert load.failures == {}, load.first_failures
    assert (await gateway.request("GET", "/live")).body == b"after"


async def test_a_crash_and_broken_manifests_leave_the_last_good_ones_served(gateway: Gateway) -> None:
    """Also to an Envoy that starts from nothing."""
    await gateway.apply(manifest("good"))
    revision = (await gateway.status())["revision"].encode()
    await until("the state on disk", lambda: any(revision in content for content in _contents(gateway)))
    gateway.control_plane.kill()
    (gateway.manifests / "bad.yaml").write_text("routes: [\n")
    gateway.envoy.stop()
    await gateway.start()
    await gateway.connected()
    await gateway.live()
    assert (await gateway.request("GET", "/live")).body == b"good"
    status = await gateway.status()
    assert status["problems"]
    (gateway.manifests / "bad.yaml").unlink()
    gateway.write(manifest("fixed"))
    await _answers(gateway, "fixed")


def _contents(gateway: Gateway) -> list[bytes]:
    return [path.read_bytes() for path in (gateway.folder / "serve-state").rglob("*") if path.is_file()]
