"""Redirects, answers without a service, maintenance, and the headers that every answer carries."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.behaviour import Answer
from tests.support.errors import assert_nothing_of_envoy
from tests.support.expect import Ask, Got, Row, check
from tests.support.gateway import Gateway
from tests.support.origin import Origin

pytestmark = pytest.mark.gateway
SHARES_GATEWAY = True

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _to(at: str, **redirect: Any) -> dict[str, Any]:
    return {"path": at, "auth": "public", "redirect": redirect}


def manifest(origin: Origin) -> dict[str, Any]:
    return {
        "services": {
            "orders": {"endpoints": [origin.address]},
            "closed": {
                "endpoints": [origin.address],
                "maintenance": {"message": "Back at noon", "retry_after": "2m"},
            },
        },
        "routes": [
            {"path": "/orders/**", "service": "orders", "auth": "public"},
            {"path": "/closed/**", "service": "closed", "auth": "public"},
            {
                "path": "/paused",
                "service": "orders",
                "auth": "public",
                "maintenance": {"message": "Not now"},
            },
            _to("/moved", to="https://new.example.com/there"),
            _to("/here", to="/there"),
            _to("/secure/**", scheme="https"),
            _to("/permanent", host="www.example.com", code=301),
            _to("/keeps-method", path="/new", code=308),
            _to("/items/:id", path="/v2/things/{id}"),
            _to("/old/**", prefix="/new", code=307),
            _to("/no-query", path="/plain", keep_query=False),
            {"path": "/robots.txt", "auth": "public", "respond": {"body": "User-agent: *\nDisallow: /\n"}},
            {
                "path": "/json",
                "auth": "public",
                "respond": {"status": 201, "body": '{"a": 1}', "headers": {"x-from": "gateway"}},
            },
            {"path": "/gone", "auth": "public", "respond": {"status": 410}},
        ],
    }


@pytest.fixture
async def served(gateway: Gateway, origin: Origin) -> Gateway:
    await gateway.apply(manifest(origin))
    return gateway


def _row(name: str, path: str, status: int, **got: Any) -> Row:
    return Row(name=name, ask=Ask(path=path), got=Got(status=status, **got), saw=None)


def _location(name: str, path: str, status: int, location: str) -> Row:
    return _row(name, path, status, headers={"location": location})


HOST = "gateway.test"


@pytest.mark.parametrize(
    "row",
    [
        _location("to another site", "/moved", 302, "https://new.example.com/there"),
        _location("to another path", "/here", 302, f"http://{HOST}/there"),
        _location("to another scheme, path and query kept", "/secure/a/b?c=d", 302, f"https://{HOST}/secure/a/b?c=d"),
        _location("to another host, for good", "/permanent?a=1", 301, "http://www.example.com/permanent?a=1"),
        _location("the method is kept", "/keeps-method", 308, f"http://{HOST}/new"),
        _location("a parameter of the path", "/items/42?x=1", 302, f"http://{HOST}/v2/things/42?x=1"),
        _location("a prefix", "/old/a/b?c=d", 307, f"http://{HOST}/new/a/b?c=d"),
        _location("a prefix with nothing after it", "/old", 307, f"http://{HOST}/new"),
        _location("without the query", "/no-query?secret=1", 302, f"http://{HOST}/plain"),
        _row(
            "text is text",
            "/robots.txt",
            200,
            body=b"User-agent: *\nDisallow: /\n",
            headers={"content-type": re.compile(r"text/plain.*")},
        ),
        _row(
            "JSON is JSON",
            "/json",
            201,
            json={"a": 1},
            headers={"content-type": "application/json", "x-from": "gateway"},
        ),
        _row("a status alone", "/gone", 410, body=b""),
    ],
    ids=str,
)
async def test_an_answer_without_a_service(served: Gateway, origin: Origin, row: Row) -> None:
    response = await check(served, row, origin)
    assert_nothing_of_envoy(response)
    assert UUID.fullmatch(response.header("x-request-id") or "")


async def test_maintenance_answers_503_politely(served: Gateway, origin: Origin) -> None:
    closed = await served.request("GET", "/closed/1")
    assert (closed.status, closed.header("retry-after")) == (503, "120")
    assert closed.json()["message"] == "Back at noon"
    assert closed.json()["code"] == "maintenance"
    paused = await served.request("GET", "/paused")
    assert (paused.status, paused.json()["message"]) == (503, "Not now")
    assert origin.requests == []


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("Back soon, 50% done", id="a percentage"),
        pytest.param("%REQ(x-secret)% %X% %%", id="what Envoy would read as commands"),
        pytest.param('"quoted"\\\n{brackets} ü', id="what JSON and forms have other uses for"),
    ],
)
@pytest.mark.parametrize("level", ["route", "service", "gateway"])
async def test_a_maintenance_message_comes_out_as_it_is_written(
    gateway: Gateway, origin: Origin, message: str, level: str
) -> None:
    places: dict[str, dict[str, Any]] = {name: {} for name in ("route", "service", "gateway")}
    places[level]["maintenance"] = {"message": message}
    document = {
        "services": {"orders": {"endpoints": [origin.address], **places["service"]}},
        "routes": [{"path": "/orders", "service": "orders", "auth": "public", **places["route"]}],
    }
    await gateway.apply({**document, "gateway": places["gateway"]} if places["gateway"] else document)
    response = await gateway.request("GET", "/orders", headers=[("x-secret", "whispered")])
    assert (response.status, response.json()["message"]) == (503, message)
    assert origin.requests == []


async def test_a_request_gets_an_id_that_the_service_and_the_client_both_see(served: Gateway, origin: Origin) -> None:
    response = await served.request("GET", "/orders/1")
    request_id = response.header("x-request-id") or ""
    assert UUID.fullmatch(request_id)
    assert origin.last.value("x-request-id") == request_id


async def test_a_clients_own_id_is_replaced(served: Gateway, origin: Origin) -> None:
    response = await served.request("GET", "/orders/1", headers=(("x-request-id", "chosen-by-the-client"),))
    assert origin.last.value("x-request-id") != "chosen-by-the-client"
    assert response.values("x-request-id") == [origin.last.value("x-request-id")]


async def test_a_clients_own_id_is_kept_where_the_manifest_says_so(gateway: Gateway, origin: Origin) -> None:
    await gateway.apply({**manifest(origin), "gateway": {"keep_request_id": True}})
    mine = "5b1f0b3c-7f0e-4a63-9a55-0d7b5d9d3c11"
    response = await gateway.request("GET", "/orders/1", headers=(("x-request-id", mine),))
    assert origin.last.value("x-request-id") == mine
    assert response.values("x-request-id") == [mine]


async def test_every_answer_says_how_long_it_took(served: Gateway, origin: Origin) -> None:
    origin.next(Answer(after_s=0.1))
    slow = await served.request("GET", "/orders/1")
    took = re.fullmatch(r"(\d+)ms", slow.header("x-response-time") or "")
    assert took is not None, slow.headers
    assert 100 <= int(took[1]) < 5000
    for path in ("/nowhere", "/robots.txt", "/moved"):
        response = await served.request("GET", path)
        assert re.fullmatch(r"\d+ms", response.header("x-response-time") or ""), (path, response.headers)


async def test_a_services_own_headers_of_that_name_do_not_pile_up(served: Gateway, origin: Origin) -> None:
    origin.next(Answer(headers=(("x-response-time", "1us"), ("x-request-id", "from-the-service"))))
    response = await served.request("GET", "/orders/1")
    assert len(response.values("x-response-time")) == 1
    assert len(response.values("x-request-id")) == 1


async def test_no_answer_tells_what_the_gateway_is_made_of(served: Gateway, origin: Origin) -> None:
    origin.next(Answer(headers=(("server", "orders/1.2"), ("x-envoy-upstream-service-time", "3"))))
    response = await served.request("GET", "/orders/1")
    assert response.status == 200
    assert not [name for name, _ in response.headers if name.startswith("x-envoy-")]
