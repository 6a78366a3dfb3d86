"""Attacks on identity headers, as the bytes a stranger would send.

Every attack tries to make the service believe `evil`. A row is a name, and what it adds to a request; the runner sends
it to a protected route with a valid token of the tenant `acme`, and to routes where nothing is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from extauthz.policy import RESERVED_HEADERS, RESERVED_PREFIXES

TENANT = b"x-tenant-id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """Header lines before and after the honest ones; `raw` lines go out as they are, line ends included."""

    name: str
    before: tuple[bytes, ...] = ()
    after: tuple[bytes, ...] = ()
    target: str = ""
    method: str = "GET"
    host: str = ""
    http2: tuple[tuple[str, str], ...] = ()
    trailers: tuple[tuple[str, str], ...] = ()


def spellings() -> Iterator[Attack]:
    """Rows 1, 5 to 11: plain, duplicated, listed, spelled otherwise, empty, with odd white space and bytes."""
    yield Attack(name="plain", after=(b"x-tenant-id: evil",))
    yield Attack(name="before the credential", before=(b"x-tenant-id: evil",))
    for count in (2, 3, 10, 60):
        yield Attack(name=f"{count} times", after=(b"x-tenant-id: evil",) * count)
    yield Attack(name="around the credential", before=(b"x-tenant-id: evil",), after=(b"x-tenant-id: evil",))
    yield Attack(name="the right one and another", after=(b"x-tenant-id: acme", b"x-tenant-id: evil"))
    yield Attack(name="another and the right one", after=(b"x-tenant-id: evil", b"x-tenant-id: acme"))
    for value in (b"acme, evil", b"evil,acme", b"acme,evil", b",evil", b"evil,", b"acme;evil", b'"acme","evil"'):
        yield Attack(name=f"a list {value!r}", after=(b"x-tenant-id: " + value,))
    for name in (b"X-TENANT-ID", b"X-Tenant-Id", b"x-Tenant-iD"):
        yield Attack(name=f"written {name!r}", after=(name + b": evil",))
        yield Attack(name=f"written {name!r} and small", after=(name + b": evil", b"x-tenant-id: evil"))
    for name in (b"x_tenant_id", b"x-tenant_id", b"X_Tenant-Id", b"X_TENANT_ID"):
        yield Attack(name=f"with underscores {name!r}", after=(name + b": evil",))
    for line in (
        b"x-tenant-id : evil",
        b"x-tenant-id\t: evil",
        b" x-tenant-id: evil",
        b"\tx-tenant-id: evil",
        b"x-tenant-id:\tevil",
        b"x-tenant-id:evil",
        b"x-tenant-id:  evil  ",
        b"x-tenant-id:\t evil\t",
        b"x-a: b\r\n x-tenant-id: evil",
        b"x-a: b\r\n\tx-tenant-id: evil",
        b"x-tenant-id:\r\n evil",
        b"x-a: b\rx-tenant-id: evil",
        b"x-a: b\nx-tenant-id: evil",
        b"x-a: b\n\rx-tenant-id: evil",
        b"x-a: b\x00\r\nx-tenant-id: evil",
        b"x-tenant-id\x00: evil",
        b"x-tenant-id: evil\x00",
        b"\x00x-tenant-id: evil",
        b"x-tenant-id\xa0: evil",
        b"x-tenant-id\xc2\xa0: evil",
        b"x-tenant-\xefd: evil",
        b"x-tenant-id\x0b: evil",
        b"x-tenant-id\x7f: evil",
        b"x-tenant-id;: evil",
        b"x-tenant-id\\: evil",
        b"(x-tenant-id): evil",
        b"x-tenant-id",
        b"x-tenant-id: evil\r\nx-tenant-id",
        b": evil",
        b"x-tenant-id=evil",
        b"x-tenant-id:",
        b"x-tenant-id: ",
        b"x-tenant-id:\r\nx-tenant-id: evil",
        b"x-tenant-id: evil\x01",
        b"x-tenant-id: \x7fevil",
        b"x-tenant-id: =?utf-8?q?evil?=",
        b"x-tenant-id: %65vil",
        b"x-tenant-id*: utf-8''evil",
        b"x-a: b\x85x-tenant-id: evil",
        b"x-a: b\xe5\x98\x8a\xe5\x98\x8dx-tenant-id: evil",
        b"x-a: b%0d%0ax-tenant-id: evil",
        b"x-a: b\\r\\nx-tenant-id: evil",
    ):
        yield Attack(name=f"the line {line!r}", after=(line,))


def bytes_above_ascii() -> Iterator[Attack]:
    """Row 10: each of them."""
    for byte in range(0x80, 0x100):
        yield Attack(name=f"the byte {byte:#x}", after=(b"x-tenant-id: evil" + bytes([byte]),))


def names() -> Iterator[Attack]:
    """Rows 29 to 32: every name that somebody might believe, and Envoy's own."""
    for name in RESERVED_HEADERS:
        yield Attack(name=f"the name {name}", after=(f"{name}: evil".encode(), f"{name.upper()}: evil".encode()))
    for prefix in RESERVED_PREFIXES:
        yield Attack(name=f"the family {prefix}*", after=(f"{prefix}anything: evil".encode(),))
        yield Attack(name=f"the family {prefix.title()}*", after=(f"{prefix.title()}Id: evil".encode(),))
    for line in (
        b"x-envoy-original-path: /admin/evil",
        b"x-envoy-auth-headers-to-remove: x-tenant-id,evil",
        b"x-envoy-auth-failure-mode-allowed: evil",
        b"x-envoy-auth-partial-body: evil",
        b"x-envoy-internal: evil",
        b"x-forwarded-client-cert: By=evil;Hash=evil;Subject=evil",
        b"x-envoy-decorator-operation: evil",
        b"x-envoy-external-address: evil",
        b"x-envoy-upstream-rq-timeout-ms: 1",
        b"x-envoy-retry-on: 5xx",
    ):
        yield Attack(name=f"Envoy's own {line!r}", after=(line,))


def hop_by_hop() -> Iterator[Attack]:
    """Row 14: headers nominated for removal by the next hop."""
    for value in (
        b"x-tenant-id",
        b"X-Tenant-Id",
        b"close, x-tenant-id",
        b"x-tenant-id, keep-alive",
        b"keep-alive,x-tenant-id,x-user-id",
        b"TE, x-tenant-id",
        b"x-gateway-proof",
        b" x-tenant-id ,",
        b"upgrade, x-tenant-id",
    ):
        yield Attack(name=f"Connection: {value!r}", after=(b"connection: " + value, b"x-tenant-id: evil"))
        yield Attack(name=f"Connection: {value!r} alone", after=(b"connection: " + value,))
    yield Attack(name="Proxy-Connection", after=(b"proxy-connection: x-tenant-id", b"x-tenant-id: evil"))
    yield Attack(name="Keep-Alive", after=(b"keep-alive: x-tenant-id", b"x-tenant-id: evil"))
    yield Attack(name="TE trailers", after=(b"te: trailers", b"trailer: x-tenant-id", b"x-tenant-id: evil"))


def methods_and_targets() -> Iterator[Attack]:
    """Rows 22 to 27, 34: absolute form, Host games, other methods, upgrades, preflights, tokens in the query."""
    evil = (b"x-tenant-id: evil",)
    yield Attack(name="absolute form", target="http://gateway.test{path}", after=evil)
    yield Attack(name="absolute form of another host", target="http://evil.test{path}", after=evil)
    yield Attack(name="absolute form with a user", target="http://evil@gateway.test{path}", after=evil)
    yield Attack(name="two Host headers", after=(b"host: evil.test", *evil))
    yield Attack(name="a Host with a port", host="gateway.test:8080", after=evil)
    yield Attack(name="a Host with a dot", host="gateway.test.", after=evil)
    yield Attack(name="a Host with a comma", host="gateway.test,evil.test", after=evil)
    for method in ("HEAD", "OPTIONS", "TRACE", "PUT", "get", "PATCH", "PROPFIND"):
        yield Attack(name=f"the method {method}", method=method, after=(b"content-length: 0", *evil))
    yield Attack(name="CONNECT", method="CONNECT", after=evil)
    yield Attack(name="CONNECT to a port", method="CONNECT", target="gateway.test:443", after=evil)
    for header in (b"x-http-method-override", b"x-http-method", b"x-method-override"):
        yield Attack(name=f"{header!r}", method="POST", after=(header + b": evil", b"content-length: 0", *evil))
    yield Attack(
        name="a preflight",
        method="OPTIONS",
        after=(b"origin: http://evil.test", b"access-control-request-method: GET", *evil),
    )
    yield Attack(
        name="a preflight that asks for the header",
        method="OPTIONS",
        after=(
            b"origin: http://evil.test",
            b"access-control-request-method: GET",
            b"access-control-request-headers: x-tenant-id",
            *evil,
        ),
    )
    upgrade = (
        b"connection: upgrade",
        b"upgrade: websocket",
        b"sec-websocket-version: 13",
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    yield Attack(name="an upgrade", after=(*upgrade, *evil))
    yield Attack(
        name="an upgrade to h2c",
        after=(b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAAP__", *evil),
    )
    yield Attack(name="a token in the query", target="{path}?access_token=evil", after=evil)
    yield Attack(name="Expect", after=(b"expect: 100-continue", *evil))
    yield Attack(
        name="chunked trailers",
        method="POST",
        after=(
            b"transfer-encoding: chunked",
            b"trailer: x-tenant-id",
            b"\r\n0\r\nx-tenant-id: evil\r\nx-user-id: evil",
        ),
    )


def http2() -> Iterator[Attack]:
    """The same over HTTP/2: duplicates, capitals, pseudo-headers, trailers."""
    rows: dict[str, tuple[tuple[str, str], ...]] = {
        "plain": (("x-tenant-id", "evil"),),
        "twice": (("x-tenant-id", "evil"), ("x-tenant-id", "evil2")),
        "in capitals": (("X-Tenant-Id", "evil"),),
        "with an underscore": (("x_tenant_id", "evil"),),
        "a line break in a value": (("x-a", "b\r\nx-tenant-id: evil"),),
        "a line break in a name": (("x-a: b\r\nx-tenant-id", "evil"),),
        "a zero byte in a value": (("x-tenant-id", "evil\0"),),
        "a colon in a name": (("x-tenant-id:", "evil"),),
        "a pseudo-header of its own": ((":x-tenant-id", "evil"),),
        "a second path": ((":path", "/admin/evil"),),
        "a second authority": ((":authority", "evil.test"),),
        "a host header": (("host", "evil.test"),),
        "a connection header": (("connection", "x-tenant-id"), ("x-tenant-id", "evil")),
        "a transfer-encoding header": (("transfer-encoding", "chunked"), ("x-tenant-id", "evil")),
        "a space in front": ((" x-tenant-id", "evil"),),
        "bytes above ASCII": (("x-tenant-id", "evil\xe9\xff"),),
        "a cookie beside it": (("cookie", "x-tenant-id=evil"), ("x-tenant-id", "evil")),
    }
    for name, headers in rows.items():
        yield Attack(name=f"HTTP/2: {name}", http2=headers)
    for trailer in ("x-tenant-id", "x-user-id", "x-internal-user", "x-gateway-proof"):
        yield Attack(
            name=f"HTTP/2: the trailer {trailer}", method="POST", http2=(("x-a", "b"),), trailers=((trailer, "evil"),)
        )


def all_attacks() -> tuple[Attack, ...]:
    """Every row; the bytes above ASCII, which are many and alike, come last."""
    return (*spellings(), *names(), *hop_by_hop(), *methods_and_targets(), *http2(), *bytes_above_ascii())
