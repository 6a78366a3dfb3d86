"""The ticketing example through a real Envoy: nineteen services, each reached by its own routes and nobody else's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import jwt
import pytest
import yaml

from tests.support.errors import assert_error
from tests.support.gateway import Gateway
from tests.support.origin import Origin

pytestmark = pytest.mark.gateway

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "ticketing"
FILES = sorted(EXAMPLE.glob("*.yaml"))
SERVICES = {
    "auth": "auth", "venue": "venues", "event": "events", "ticket": "tickets", "payment": "payments",
    "marketplace": "marketplace", "analytics": "analytics", "notification": "notifications",
    "integration": "integrations", "compliance": "compliance", "queue": "queue", "search": "search", "file": "files",
    "monitoring": "monitoring", "blockchain": "blockchain", "order": "orders", "minting": "minting",
    "transfer": "transfers", "scanning": "scanning",
}  # fmt: skip
SECRET = "a-secret-for-this-example-and-nowhere-else"


@pytest.fixture(scope="module")
def gateway(run_folder: Path, origins: Callable[..., Origin]) -> Any:
    """A gateway whose manifests find an origin for each service."""
    addresses = {f"{name.upper()}_ADDR": origins(name).address for name in SERVICES}
    one = Gateway(run_folder, env=addresses)
    yield one
    one.stop()


@pytest.fixture
async def served(gateway: Gateway) -> Gateway:
    await gateway.apply(*(path.read_text() for path in FILES))
    return gateway


@pytest.fixture
def seen(origins: Callable[..., Origin]) -> Callable[[], list[tuple[str, str]]]:
    """Which service saw which path since the test began."""
    for name in SERVICES:
        origins(name).forget()
    return lambda: [(name, one.path) for name in SERVICES for one in origins(name).requests]


def _token(**claims: Any) -> tuple[str, str]:
    now = int(time.time())
    standard = {"iss": "tickettoken-api", "aud": "tickettoken", "sub": "alice", "iat": now, "exp": now + 300}
    signed = jwt.encode({**standard, "tenant_id": "venue-1", **claims}, SECRET, algorithm="HS256")
    return "authorization", f"Bearer {signed}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_names_its_schema_and_is_valid_under_it(path: Path) -> None:
    text = path.read_text()
    modeline = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    _schema((EXAMPLE / modeline).resolve()).validate(yaml.safe_load(text))


@cache
def _schema(path: Path) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(path.read_text()))


def test_there_is_a_file_for_every_service() -> None:
    assert {path.stem for path in FILES} == {*SERVICES, "gateway"}


@pytest.mark.parametrize(("service", "path"), SERVICES.items(), ids=SERVICES)
async def test_a_service_is_reached_by_its_own_routes(
    served: Gateway, seen: Callable[[], list[tuple[str, str]]], origins: Callable[..., Origin], service: str, path: str
) -> None:
    prefix = f"/api/v1/{path}"
    assert (await served.request("GET", f"{prefix}/health")).status == 200
    assert (await served.request("GET", f"{prefix}/metrics")).status == 200
    assert seen() == [(service, "/health"), (service, "/metrics")]
    refused = await served.request("GET", f"{prefix}/1")
    assert refused.status == 401
    assert len(seen()) == 2
    assert (await served.request("GET", f"{prefix}/1?a=b", headers=(_token(),))).status == 200
    assert seen()[2:] == [(service, f"{prefix}/1?a=b")]
    told = origins(service).last
    assert (told.value("x-user-id"), told.value("x-tenant-id")) == ("alice", "venue-1")


@pytest.mark.parametrize("path", ["login", "register", "refresh", "forgot-password", "reset-password", "verify-email"])
async def test_signing_in_takes_no_token(served: Gateway, seen: Callable[[], list[tuple[str, str]]], path: str) -> None:
    assert (await served.request("POST", f"/api/v1/auth/{path}", body=b"{}")).status == 200
    assert seen() == [("auth", f"/api/v1/auth/{path}")]


async def test_a_path_of_no_service_is_404(served: Gateway, seen: Callable[[], list[tuple[str, str]]]) -> None:
    assert_error(await served.request("GET", "/api/v1/nothing"), 404, "route_not_found")
    assert seen() == []


async def test_time_outs_and_circuits_are_those_of_the_platform(served: Gateway) -> None:
    """Read from Envoy itself: nobody waits two minutes for a test."""
    dump = await served.envoy.config_dump()
    timeouts = _timeouts(dump)
    assert timeouts["service/payment"] == {"45s"}
    assert timeouts["service/minting"] == {"120s"}
    assert timeouts["service/ticket"] == {"10s", "30s"}
    assert timeouts["service/notification"] == {"10s", "0s"}
    others = SERVICES.keys() - {"payment", "minting", "ticket", "notification"}
    assert {value for name in others for value in timeouts[f"service/{name}"]} == {"10s"}
    for cluster in _found(dump, "dynamic_active_clusters"):
        if cluster["cluster"]["name"].startswith("service/"):
            outliers = cluster["cluster"]["outlier_detection"]
            assert outliers["failure_percentage_threshold"] == 50
            assert outliers["failure_percentage_request_volume"] == 10
            assert outliers["base_ejection_time"] == "30s"


def _found(dump: Any, key: str) -> list[Any]:
    return [entry for section in dump["configs"] for entry in section.get(key, [])]


def _timeouts(dump: Any) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for table in _found(dump, "dynamic_route_configs"):
        for host in table["route_config"]["virtual_hosts"]:
            for route in host["routes"]:
                if "cluster" in (action := route.get("route", {})):
                    found.setdefault(action["cluster"], set()).add(action["timeout"])
    return found
