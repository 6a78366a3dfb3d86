"""A behaviour as one row: what is asked, what the client gets, what the service sees, what it must never see."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.support.client import Response
from tests.support.origin import Origin
from tests.support.seen import Seen
from tests.support.wire import Headers

Pattern = re.Pattern[str]
Wanted = Mapping[str, str | Pattern]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request. `raw` replaces everything else: these very bytes are sent."""

    method: str = "GET"
    path: str = "/"
    headers: Headers = ()
    body: bytes = b""
    host: str = "gateway.test"
    http2: bool = False
    trailers: Headers = ()
    raw: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """The answer. Headers and JSON fields named here must be equal or match; others are free."""

    status: int = 200
    headers: Wanted = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    json: Mapping[str, Any] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Saw:
    """The request as one origin saw it, exactly once."""

    by: str | None = None
    method: str | None = None
    path: str | None = None
    headers: Wanted = field(default_factory=dict)
    never: tuple[str, ...] = ()
    body: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`saw` is None where no service may see the request at all."""

    name: str
    ask: Ask
    got: Got = field(default_factory=Got)
    saw: Saw | None = field(default_factory=Saw)

    def __str__(self) -> str:
        return self.name


class Requesting(Protocol):
    async def request(self, method: str, path: str, **how: Any) -> Response: ...

    async def raw(self, message: bytes, **how: Any) -> Response: ...


async def check(gateway: Requesting, row: Row, *origins: Origin) -> Response:
    """Send the row's request and hold the answer, and what each origin saw of it, against the row."""
    before = {origin.name: len(origin.requests) for origin in origins}
    response = await _send(gateway, row.ask)
    _check_answer(response, row.got)
    new = {origin.name: origin.requests[before[origin.name] :] for origin in origins}
    _check_seen(new, row.saw)
    return response


async def _send(gateway: Requesting, ask: Ask) -> Response:
    if ask.raw is not None:
        return await gateway.raw(ask.raw)
    return await gateway.request(
        ask.method,
        ask.path,
        headers=ask.headers,
        body=ask.body,
        host=ask.host,
        http2=ask.http2,
        trailers=ask.trailers,
    )


def _check_answer(response: Response, got: Got) -> None:
    context = f"{response.status} {dict(response.headers)} {response.body[:1000]!r}"
    assert response.status == got.status, f"wanted {got.status}, got {context}"
    for name, wanted in got.headers.items():
        assert _is(response.header(name), wanted), f"header {name}: wanted {wanted!r} in {context}"
    for name in got.absent:
        assert response.header(name) is None, f"header {name} must not be in {context}"
    if got.json:
        answer = response.json()
        for key, wanted in got.json.items():
            assert key in answer, f"no {key!r} in {context}"
            assert _is(answer[key], wanted), f"{key}: wanted {wanted!r} in {context}"
    if got.body is not None:
        assert response.body == got.body


def _check_seen(new: Mapping[str, list[Seen]], saw: Saw | None) -> None:
    seen = [(name, request) for name, requests in new.items() for request in requests]
    if saw is None:
        assert not seen, f"nobody may see this request, but {seen}"
        return
    assert len(seen) == 1, f"one origin must see the request once, but {seen}"
    [(name, request)] = seen
    assert saw.by in (None, name), f"seen by {name}, not {saw.by}"
    assert saw.method in (None, request.method)
    assert saw.path in (None, request.path), f"seen as {request.path}, not {saw.path}"
    assert saw.body in (None, request.body)
    for header, wanted in saw.headers.items():
        assert _is(request.value(header), wanted), f"{header} seen as {request.values(header)}, not {wanted!r}"
    for header in saw.never:
        assert not request.values(header), f"{header} must never reach a service, but {request.values(header)} did"


def _is(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, re.Pattern):
        return found is not None and wanted.fullmatch(str(found)) is not None
    return bool(found == wanted)
