"""Headers that only the gateway sets: what looks at one that never gets there is a problem with a place and a fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.resolve.test_routes import SERVICES, gateway, problems

IDENTITY = """
identity:
  headers: {x-shop-user: sub}
  issuers: {main: {issuer: i, audiences: [x], secret: 01234567890123456789012345678901}}
"""
REFUSED = {
    "a route's condition on a name that services believe": (
        "routes: [{path: /a, service: a, headers: {X-User-Id: u1}}]",
        '2.yaml:1:33: route "/a": nothing matches on "x-user-id": the gateway takes it from requests before it looks '
        "for a route (let `auth` decide who may (roles, claims, tenant), or match on another name)",
    ),
    "a route's condition that it is not there": (
        "routes: [{path: /a, service: a, headers: {x-user-id: {present: false}}}]",
        '2.yaml:1:43: route "/a": nothing matches on "x-user-id"',
    ),
    "a route's condition on a name of a reserved family": (
        "routes: [{path: /a, service: a, headers: {x-internal-flag: on}}]",
        '2.yaml:1:60: route "/a": nothing matches on "x-internal-flag"',
    ),
    "a route's condition on a name that authentication sets": (
        "routes: [{path: /a, service: a, headers: {x-shop-user: u1}}]",
        '2.yaml:1:56: route "/a": nothing matches on "x-shop-user"',
    ),
    "a hash of one that nobody sets": (
        'services: {c: {endpoints: ["127.0.0.1:3"], load_balancing: {policy: hash, by: header.X-User-Id}}}',
        '2.yaml:1:79: service "c": "x-user-id" never gets here',
    ),
    "a limit by one that nobody sets": (
        "limits: {l: {rate: 5/min, by: header.x-tenant-id}}",
        '2.yaml:1:31: limit "l": "x-tenant-id" is not there when this limit looks',
    ),
    "a limit by one that is set only afterwards": (
        "limits: {l: {rate: 5/min, by: header.x-shop-user}}",
        '2.yaml:1:31: limit "l": "x-shop-user" is not there when this limit looks',
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_never_be_there_is_refused(case: str, tmp_path: Path) -> None:
    text, expected = REFUSED[case]
    (found,) = problems(tmp_path, SERVICES, IDENTITY, text)
    assert found.startswith(expected)


SERVED = {
    "a condition on any other name": "routes: [{path: /a, service: a, headers: {x-version: v2}}]",
    "a hash of one that authentication sets": (
        'services: {c: {endpoints: ["127.0.0.1:3"], load_balancing: {policy: hash, by: header.x-shop-user}}}'
    ),
    "a limit by one that has been set when it looks": "limits: {l: {rate: 5/min, by: [user, header.x-shop-user]}}",
}


@pytest.mark.parametrize("case", SERVED)
def test_what_is_there_is_served(case: str, tmp_path: Path) -> None:
    assert gateway(tmp_path, SERVICES, IDENTITY, SERVED[case])
