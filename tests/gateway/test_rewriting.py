"""What a service sees in place of what the client sent, what the client gets in place of what the service sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.behaviour import Answer
from tests.support.client import Connection
from tests.support.expect import Ask, Row, Saw, check
from tests.support.gateway import Gateway
from tests.support.origin import Origin

pytestmark = pytest.mark.gateway
SHARES_GATEWAY = True


def _rewriting(at: str, **rewrite: Any) -> dict[str, Any]:
    return {"path": at, "service": "orders", "auth": "public", "rewrite": rewrite}


def manifest(origin: Origin) -> dict[str, Any]:
    return {
        "services": {"orders": {"endpoints": [origin.address]}},
        "routes": [
            _rewriting("/fixed", path="/other"),
            _rewriting("/users/:id/orders/{order}", path="/v2/orders/{order}/of/{id}"),
            _rewriting("/rest/**", path="/v2/{**}"),
            _rewriting("/old/**", prefix="/new"),
            _rewriting("/root/**", prefix="/"),
            _rewriting("/api/v1/strip/**", strip_prefix="/api/v1"),
            _rewriting("/all/**", strip_prefix="/all"),
            _rewriting("/regex/**", regex={"match": "^/regex/([a-z]+)-(\\d+)", "replace": "/\\2/\\1"}),
            _rewriting("/host", host="orders.internal"),
            {
                "path": "/headers",
                "service": "orders",
                "auth": "public",
                "request_headers": {
                    "set": {"x-set": "gateway", "x-percent": "100% %REQ(host)%"},
                    "add": {"x-add": "gateway"},
                    "remove": ["x-remove"],
                },
                "response_headers": {
                    "set": {"x-set": "gateway", "x-percent": "50%"},
                    "add": {"x-add": "gateway"},
                    "remove": ["x-remove"],
                },
            },
        ],
    }


@pytest.fixture
async def served(gateway: Gateway, origin: Origin) -> Gateway:
    await gateway.apply(manifest(origin))
    return gateway


def _row(name: str, path: str, seen_as: str) -> Row:
    return Row(name=name, ask=Ask(path=path), saw=Saw(path=seen_as, headers={"host": "gateway.test"}))


@pytest.mark.parametrize(
    "row",
    [
        _row("a whole path", "/fixed", "/other"),
        _row("a whole path, the query kept", "/fixed?a=1", "/other?a=1"),
        _row("parameters change places", "/users/7/orders/9?x=/y", "/v2/orders/9/of/7?x=/y"),
        _row("parameters stay as they were escaped", "/users/a%20b/orders/c+d", "/v2/orders/c+d/of/a%20b"),
        _row("the rest", "/rest/a/b?c=d", "/v2/a/b?c=d"),
        _row("no rest", "/rest", "/v2"),
        _row("a prefix", "/old/a/b", "/new/a/b"),
        _row("a prefix alone", "/old", "/new"),
        _row("a prefix once", "/old/old/x", "/new/old/x"),
        _row("a prefix becomes the root", "/root/a", "/a"),
        _row("a prefix alone becomes the root", "/root", "/"),
        _row("a prefix is stripped", "/api/v1/strip/a?b", "/strip/a?b"),
        _row("the whole prefix is stripped", "/all/a", "/a"),
        _row("nothing is left but the root", "/all", "/"),
        _row("an expression", "/regex/abc-12/rest?x=1", "/12/abc/rest?x=1"),
        _row("an expression that does not match", "/regex/ABC", "/regex/ABC"),
        Row(
            name="another host, the client's kept beside it",
            ask=Ask(path="/host"),
            saw=Saw(path="/host", headers={"host": "orders.internal", "x-forwarded-host": "gateway.test"}),
        ),
    ],
    ids=str,
)
async def test_what_a_service_sees(served: Gateway, origin: Origin, row: Row) -> None:
    await check(served, row, origin)


async def test_headers_of_the_request_are_changed(served: Gateway, origin: Origin) -> None:
    sent = (("x-set", "client"), ("x-add", "client"), ("x-remove", "client"), ("x-keep", "client"))
    assert (await served.request("GET", "/headers", headers=sent)).status == 200
    seen = origin.last
    assert seen.values("x-set") == ["gateway"]
    assert seen.values("x-add") in (["client", "gateway"], ["client,gateway"])
    assert seen.values("x-remove") == []
    assert seen.values("x-keep") == ["client"]
    assert seen.values("x-percent") == ["100% %REQ(host)%"], "text is text: no formats of Envoy's"


async def test_headers_of_the_response_are_changed(served: Gateway, origin: Origin) -> None:
    origin.next(Answer(headers=tuple((f"x-{name}", "service") for name in ("set", "add", "remove", "keep"))))
    response = await served.request("GET", "/headers")
    assert response.values("x-set") == ["gateway"]
    assert response.values("x-add") == ["service", "gateway"]
    assert response.values("x-remove") == []
    assert response.values("x-keep") == ["service"]
    assert response.values("x-percent") == ["50%"]


async def test_headers_of_every_response_are_changed(gateway: Gateway, origin: Origin) -> None:
    changes = {"set": {"x-everywhere": "yes"}, "remove": ["x-powered-by"]}
    await gateway.apply({**manifest(origin), "gateway": {"response_headers": changes}})
    origin.always(Answer(headers=(("x-powered-by", "something"),)))
    for path in ("/fixed", "/nowhere"):
        response = await gateway.request("GET", path)
        assert response.values("x-everywhere") == ["yes"], path
        assert response.values("x-powered-by") == [], path


@pytest.mark.parametrize(("share", "least", "most"), [("100%", 40, 40), ("0%", 0, 0), ("50%", 6, 34)])
async def test_a_mirror_gets_copies_and_its_failures_are_nobodys(
    gateway: Gateway, origins: Callable[..., Origin], share: str, least: int, most: int
) -> None:
    main, shadow = origins("main"), origins("shadow")
    main.forget()
    shadow.forget()
    shadow.always(Answer(status=500))
    # The mirror has a circuit too, and would be left alone after some failures.
    patient = {"consecutive_failures": 1000}
    services = {
        "main": {"endpoints": [main.address]},
        "shadow": {"endpoints": [shadow.address], "circuit_breaker": patient},
    }
    mirror = [{"service": "shadow", "share": share}]
    routes = [{"path": "/**", "service": "main", "auth": "public", "mirror": mirror}]
    await gateway.apply({"services": services, "routes": routes})
    async with Connection(gateway.address) as connection:
        for number in range(40):
            response = await connection.request("GET", f"/{number}?a=b", headers=(("x-mine", "1"),))
            assert (response.status, response.json()["origin"]) == (200, "main")
    if least:
        copies = await shadow.saw(least)
        assert {copy.value("x-mine") for copy in copies} == {"1"}
        assert copies[0].path.endswith("?a=b")
    assert len(main.requests) == 40
    assert least <= len(shadow.requests) <= most
