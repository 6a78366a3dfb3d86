"""One spelling of every path, host and header before anything is decided by them; what has no good spelling is refused.

The corpus: slashes, dots, escapes, backslashes, hosts, underscores, and messages that two parsers could read in two
ways. Every row goes over a raw socket. Two services stand behind two prefixes: no spelling may reach the wrong one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.client import Response, StreamResetError, http2_exchange
from tests.support.errors import assert_nothing_of_envoy
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.wire import ClosedError

pytestmark = pytest.mark.gateway
SHARES_GATEWAY = True


@pytest.fixture
def services(origins: Callable[..., Origin]) -> tuple[Origin, Origin]:
    public, admin = origins("public"), origins("admin")
    public.forget()
    admin.forget()
    return public, admin


def manifest(services: tuple[Origin, Origin], **normalization: str) -> dict[str, Any]:
    public, admin = services
    return {
        "gateway": {"normalization": normalization} if normalization else {},
        "services": {"public": {"endpoints": [public.address]}, "admin": {"endpoints": [admin.address]}},
        "routes": [
            {"path": "/public/**", "service": "public", "auth": "public"},
            {"path": "/admin/**", "service": "admin", "auth": "public"},
            {"path": "/hosted", "hosts": "api.example.com", "service": "public", "auth": "public"},
        ],
    }


@pytest.fixture
async def served(gateway: Gateway, services: tuple[Origin, Origin]) -> Gateway:
    await gateway.apply(manifest(services))
    return gateway


@dataclass(frozen=True)
class Spelling:
    """A request target and where it must come out: a service and the path it sees, a redirect, or a refusal."""

    target: str
    service: str | None = None
    path: str = ""
    status: int = 200
    location: str = ""

    def __str__(self) -> str:
        return self.target


def public(target: str, path: str) -> Spelling:
    return Spelling(target, "public", path)


def admin(target: str, path: str) -> Spelling:
    return Spelling(target, "admin", path)


def elsewhere(target: str, location: str) -> Spelling:
    return Spelling(target, status=307, location=location)


def refused(target: str, status: int = 400) -> Spelling:
    return Spelling(target, status=status)


SPELLINGS = [
    # slashes
    public("//public/x", "/public/x"),
    public("/public//x", "/public/x"),
    public("///public///x//", "/public/x/"),
    public("/public/", "/public/"),
    public("/public", "/public"),
    # dots
    public("/./public/./x", "/public/x"),
    admin("/public/../admin/x", "/admin/x"),
    admin("/public/x/../../admin", "/admin"),
    admin("/../../admin", "/admin"),
    admin("/public/..//admin", "/admin"),
    public("/public//../admin", "/public/admin"),  # dots go before slashes are merged: here they take the empty segment
    public("/public/...", "/public/..."),
    public("/public/..x", "/public/..x"),
    # escaped dots and letters
    admin("/public/%2e%2e/admin", "/admin"),
    admin("/public/%2E./admin", "/admin"),
    admin("/public/.%2e/admin", "/admin"),
    admin("/%61dmin", "/admin"),
    public("/public/%7euser", "/public/~user"),
    public("/public/a%20b", "/public/a%20b"),
    # escaped slashes: the client is sent to the plain spelling
    elsewhere("/public%2fx", "/public/x"),
    elsewhere("/public%2F..%2Fadmin", "/admin"),
    elsewhere("/public/..%2fadmin", "/admin"),
    elsewhere("/public%5c..%5cadmin", "/admin"),
    elsewhere("/public/%2e%2e%2fadmin", "/admin"),
    elsewhere("/public/a%2fb?next=%2fadmin", "/public/a/b?next=%2fadmin"),
    # backslashes are slashes
    admin("/public\\..\\admin", "/admin"),
    public("/public\\x", "/public/x"),
    # twice escaped stays as it is: nobody unescapes twice
    public("/public/%252e%252e/admin", "/public/%252e%252e/admin"),
    public("/public/%252fadmin", "/public/%252fadmin"),
    # what only looks like an escape is text
    public("/public/%zz", "/public/%zz"),
    public("/public/%2", "/public/%2"),
    # parameters in a segment are part of the segment, but for dots: some services take `..;` for `..`
    admin("/public/..;/admin", "/admin"),
    admin("/public/..;x=y/admin", "/admin"),
    public("/public/x;y=/../admin", "/public/admin"),
    refused("/;/admin", 404),
    refused("/admin;x=1", 404),
    # case counts
    refused("/Admin", 404),
    refused("/PUBLIC/x", 404),
    # the query is no path
    public("/public?x=/../admin", "/public?x=/../admin"),
    public("/public?//x", "/public?//x"),
    admin("/admin?x=.css", "/admin?x=.css"),
    public("/public?", "/public?"),
    # what is no path at all
    refused("/public/%00"),
    refused("/public#/admin"),
    refused("public/x"),
    refused("*"),
    refused(""),
    # absolute form: the path is the path, the authority the host
    admin("http://gateway.test/admin", "/admin"),
    admin("http://gateway.test/public/../admin", "/admin"),
    public("http://api.example.com/hosted", "/hosted"),
    refused("http://gateway.test", 404),
]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
async def test_a_spelling_of_a_path(served: Gateway, services: tuple[Origin, Origin], spelling: Spelling) -> None:
    message = f"GET {spelling.target} HTTP/1.1\r\nhost: gateway.test\r\n\r\n".encode()
    response = await _answer(served, message)
    seen = [(origin.name, request.path) for origin in services for request in origin.requests]
    if spelling.service is not None:
        assert response is not None
        assert (response.status, seen) == (200, [(spelling.service, spelling.path)])
        return
    assert seen == [], "nobody may see this request"
    if spelling.location:
        assert response is not None
        assert (response.status, response.header("location")) == (307, spelling.location)
    else:
        assert response is None or response.status == spelling.status
        assert response is None or response.status >= 400


async def _answer(gateway: Gateway, message: bytes) -> Response | None:
    """The response, or None where the connection was closed without one: a refusal too."""
    try:
        response = await gateway.raw(message)
    except ClosedError:
        return None
    assert_nothing_of_envoy(response)
    return response


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        pytest.param("api.example.com", True, id="the host"),
        pytest.param("API.EXAMPLE.COM", True, id="in capitals"),
        pytest.param("api.example.com:80", True, id="with a port"),
        pytest.param("api.example.com:9999", True, id="with any port"),
        pytest.param("api.example.com.", True, id="with the root's dot"),
        pytest.param("api.example.com.:80", True, id="with the root's dot and a port"),
        pytest.param("api.example.com.evil.test", False, id="as another's beginning"),
        pytest.param("evil-api.example.com", False, id="as another's end"),
        pytest.param("", False, id="empty"),
    ],
)
async def test_a_spelling_of_a_host(served: Gateway, services: tuple[Origin, Origin], host: str, is_it: bool) -> None:
    response = await _answer(served, f"GET /hosted HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    assert (response is not None and response.status == 200) is is_it
    assert len(services[0].requests) == int(is_it)


TWO_READINGS = {
    "no host": b"GET /public HTTP/1.1\r\n\r\n",
    "a length and chunks": b"POST /public HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /public HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
    "a length that is no number": b"POST /public HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx",
    "a negative length": b"POST /public HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
    "chunks under another name": b"POST /public HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a chunk size that is no number": b"POST /public HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    b"0x1\r\nx\r\n0\r\n\r\n",
    "a space before the colon": b"GET /public HTTP/1.1\r\nhost: a\r\nx-a : b\r\n\r\n",
    "a header without a name": b"GET /public HTTP/1.1\r\nhost: a\r\n: b\r\n\r\n",
    "a header without a colon": b"GET /public HTTP/1.1\r\nhost: a\r\nx-a\r\n\r\n",
    "a NUL in a value": b"GET /public HTTP/1.1\r\nhost: a\r\nx-a: b\0c\r\n\r\n",
    "a carriage return in a host": b"GET /public HTTP/1.1\r\nhost: a\rx-b: c\r\n\r\n",
    "a space in the path": b"GET /public /x HTTP/1.1\r\nhost: a\r\n\r\n",
    "another version": b"GET /public HTTP/2.7\r\nhost: a\r\n\r\n",
    "no version": b"GET /public\r\nhost: a\r\n\r\n",
    "a method that is none": b"GE(T /public HTTP/1.1\r\nhost: a\r\n\r\n",
    "an underscore in a header's name": b"GET /public HTTP/1.1\r\nhost: a\r\nx_user_id: evil\r\n\r\n",
    "CONNECT": b"CONNECT gateway.test:443 HTTP/1.1\r\nhost: gateway.test:443\r\n\r\n",
}


@pytest.mark.parametrize("message", TWO_READINGS.values(), ids=TWO_READINGS.keys())
async def test_a_message_with_two_readings_is_refused(
    served: Gateway, services: tuple[Origin, Origin], message: bytes
) -> None:
    response = await _answer(served, message)
    assert response is None or 400 <= response.status < 500 or response.status == 501, response
    assert [request for origin in services for request in origin.requests] == []
    assert (await served.request("GET", "/public")).status == 200, "the gateway goes on"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        pytest.param(b"x-a: b\r\n x-tenant-id: evil", "b x-tenant-id: evil", id="folded"),
        pytest.param(b"x-a: b\rx-tenant-id: evil", "bx-tenant-id: evil", id="with a carriage return in it"),
    ],
)
async def test_a_header_line_reaches_a_service_as_one_line(
    served: Gateway, services: tuple[Origin, Origin], line: bytes, value: str
) -> None:
    await _answer(served, b"GET /public HTTP/1.1\r\nhost: a\r\n" + line + b"\r\n\r\n")
    for request in services[0].requests:
        assert request.value("x-a") == value
        assert request.values("x-tenant-id") == []
        assert b"\r" not in b"".join(request.header_lines)


async def test_of_two_hosts_neither_counts(served: Gateway, services: tuple[Origin, Origin]) -> None:
    """RFC 9112 asks for a 400; Envoy joins the two, and what it makes is no host that any route is for."""
    for hosts in ("api.example.com", "other.test"), ("other.test", "api.example.com"):
        lines = "".join(f"host: {host}\r\n" for host in hosts)
        response = await _answer(served, f"GET /hosted HTTP/1.1\r\n{lines}\r\n".encode())
        assert response is None or response.status in {400, 404}
    assert services[0].requests == []


HTTP2_ODDITIES: dict[str, tuple[tuple[str, str], ...]] = {
    "an underscore in a header's name": (("x_user_id", "evil"),),
    "capitals in a header's name": (("X-User-Id", "evil"),),
    "a connection header": (("connection", "x-user-id"),),
    "a transfer encoding": (("transfer-encoding", "chunked"),),
    "a line end in a value": (("x-a", "b\r\nx-tenant-id: evil"),),
    "a NUL in a value": (("x-a", "b\0c"),),
}


@pytest.mark.parametrize("headers", HTTP2_ODDITIES.values(), ids=HTTP2_ODDITIES.keys())
async def test_an_http2_request_that_http1_could_not_say_is_refused(
    served: Gateway, services: tuple[Origin, Origin], headers: tuple[tuple[str, str], ...]
) -> None:
    pseudo = ((":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/public"))
    try:
        response = await http2_exchange(served.address, (*pseudo, *headers))
        assert 400 <= response.status < 500
    except (StreamResetError, ClosedError):
        pass
    assert services[0].requests == []


@pytest.mark.parametrize("path", ["", "public", "/public\0", "/public x", "/public\r\nx: y", "http://a/public"])
async def test_an_http2_path_that_is_none_is_refused(
    served: Gateway, services: tuple[Origin, Origin], path: str
) -> None:
    pseudo = ((":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", path))
    try:
        response = await http2_exchange(served.address, pseudo)
        assert 400 <= response.status < 500
    except (StreamResetError, ClosedError):
        pass
    assert services[0].requests == []


@pytest.mark.parametrize(
    ("choice", "target", "status", "path"),
    [
        ("reject", "/public%2fx", 400, None),
        ("forward", "/public%2fx", 200, "/public/x"),
        ("keep", "/public/a%2Fb", 200, "/public/a%2Fb"),
        ("redirect", "/public%2fx", 307, None),
    ],
)
async def test_escaped_slashes_as_the_manifest_says(
    gateway: Gateway, services: tuple[Origin, Origin], choice: str, target: str, status: int, path: str | None
) -> None:
    await gateway.apply(manifest(services, escaped_slashes=choice))
    response = await gateway.request("GET", target)
    assert response.status == status
    assert [request.path for request in services[0].requests] == ([path] if path else [])


@pytest.mark.parametrize(
    ("choice", "status", "seen"),
    [("reject", 400, None), ("drop", 200, []), ("allow", 200, ["v"])],
)
async def test_underscores_in_header_names_as_the_manifest_says(
    gateway: Gateway, services: tuple[Origin, Origin], choice: str, status: int, seen: list[str] | None
) -> None:
    await gateway.apply(manifest(services, headers_with_underscores=choice))
    response = await gateway.request("GET", "/public", headers=(("x_odd", "v"),))
    assert response.status == status
    assert [request.values("x_odd") for request in services[0].requests] == ([] if seen is None else [seen])
