"""What every answer of the gateway's own must look like."""

from __future__ import annotations

import re

from tests.support.client import Response

FIELDS = {"error", "message", "status", "request_id", "code"}
EXTRA_FIELDS = {"policy", "limit"}
_REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INSIDE_WORDS = ("envoy", "upstream", "reset reason", "cluster", "local reply", "via_upstream", "delayed connect")


def assert_error(response: Response, status: int, code: str) -> None:
    """The one JSON shape, with this status and code, about this very request, and nothing of Envoy in it."""
    context = f"{response.status} {dict(response.headers)} {response.body[:500]!r}"
    assert response.status == status, context
    assert (response.header("content-type") or "").split(";")[0] == "application/json", context
    body = response.json()
    assert body.keys() - EXTRA_FIELDS == FIELDS, context
    assert (body["code"], body["status"]) == (code, status), context
    assert _REQUEST_ID.fullmatch(body["request_id"]), context
    assert response.values("x-request-id") == [body["request_id"]], context
    assert body["error"], context
    assert body["message"], context
    assert_nothing_of_envoy(response)


def assert_nothing_of_envoy(response: Response) -> None:
    """Neither headers nor text tell what the gateway is made of."""
    shown = [value for name, value in response.headers if name == "server"]
    assert all("envoy" not in value.lower() for value in shown), response.headers
    assert not [name for name, _ in response.headers if name.startswith("x-envoy-")], response.headers
    if (response.header("content-type") or "").startswith("application/json"):
        said = response.json()
        text = f"{said['error']} {said['message']}" if isinstance(said, dict) and "message" in said else ""
    else:
        text = response.body[:2000].decode("latin-1")
    assert not [word for word in _INSIDE_WORDS if word in text.lower()], text
