"""Every type reaches a real Envoy, in every variant of the protocol: first, changed, and refused."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from controlplane.snapshot import resource as types
from controlplane.snapshot.resource import Resource
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.controlplane import ControlPlane
from tests.serving.certificates import Authority
from tests.support.client import Address, Response, request
from tests.support.origin import Origin
from tests.support.waiting import free_port, until
from tests.xds import made, made_types
from tests.xds.made_types import Source
from tests.xds.rows import ADS, ALL, Variant, row
from tests.xds.served import Following, following, serve_under_load, serving

pytestmark = pytest.mark.gateway
SECTION = "Through a real Envoy"
TLS = ssl.create_default_context()
TLS.check_hostname, TLS.verify_mode = False, ssl.CERT_NONE

TYPES_OF_ENVOY = {types.LISTENER, types.ROUTE, types.CLUSTER, types.ENDPOINT, types.SECRET, types.EXTENSION}


def how(variant: Variant, **more: object) -> Following:
    protocol = "GRPC" if variant.protocol.value == "sotw" else "DELTA_GRPC"
    # Envoys of one run live in one folder, and log under their names.
    return Following(protocol=protocol, node=f"types-{free_port()}", is_aggregated=variant.is_aggregated, **more)  # type: ignore[arg-type]


def source(variant: Variant, xds: int) -> Source:
    return made.ADS if variant.is_aggregated else made_types.by_type(how(variant).protocol, xds)


class Gateway:
    """Two listeners with TLS, two secrets, two extensions in front of two clusters: `with_` says what is different."""

    def __init__(self, variant: Variant, xds: int, origins: tuple[Origin, Origin], authority: Authority) -> None:
        self.ports = free_port(), free_port()
        self._source = source(variant, xds)
        self._origins = origins
        self._files = {name: authority.issue(name, f"{name}.test") for name in ("a", "b", "new")}

    def with_(
        self, *, secret: str = "a", extension: str = "1", to: int = 0, timeout_ms: int = 1000, bad: bool = False
    ) -> Snapshot:
        first = made_types.bad_extension("x-a") if bad else made_types.extension("x-a", extension)
        resources: list[Resource] = [
            made_types.secret("s-a", self._files[secret]),
            made_types.secret("s-b", self._files["b"]),
            first,
            made_types.extension("x-b", "2" if bad else "1"),
        ]
        for number, (name, port) in enumerate(zip("ab", self.ports, strict=True)):
            resources += [
                made_types.cluster(f"c-{name}", self._source, timeout_ms=timeout_ms if number == 0 else 1000),
                made.endpoints(f"c-{name}", self._origins[to if number == 0 else 1].port),
                made.routes(f"r-{name}", {"/": made.route("/", f"c-{name}", timeout_s=timeout_ms / 100)}),
                made_types.listener(
                    f"l-{name}",
                    port,
                    f"r-{name}",
                    self._source,
                    certificate=f"s-{name}",
                    extensions=(f"x-{name}",),
                ),
            ]
        return Snapshot.of(resources)

    async def ask(self, number: int) -> Response:
        return await request(Address(port=self.ports[number]), "GET", "/", tls=TLS, timeout_s=5)

    async def seen(self, number: int) -> tuple[str, str | None, str]:
        """Which certificate, which extension, which origin."""
        pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", self.ports[number]))
        name = x509.load_pem_x509_certificate(pem.encode()).subject.rfc4514_string()
        answer = await self.ask(number)
        origin = answer.json()["origin"] if answer.status == 200 else str(answer.status)
        return name.removeprefix("CN="), answer.header("x-extension"), origin


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture
def two(origins: Callable[..., Origin]) -> tuple[Origin, Origin]:
    return origins("one"), origins("two")


async def live(plane: ControlPlane) -> None:
    await until("every stream has everything", lambda: _is_live(plane))


def _is_live(plane: ControlPlane) -> bool:
    asked = {url for session in plane.sessions for url in session.stream.channels}
    return asked >= TYPES_OF_ENVOY and all(session.revision == plane.revision for session in plane.sessions)


async def changes(plane: ControlPlane, gateway: Gateway) -> None:
    """One thing of each type is exchanged; the other one of the type stays in use all along."""
    other = ("b.test", "1", "two")
    assert await gateway.seen(0) == ("a.test", "1", "one")
    assert await gateway.seen(1) == other
    for revision, (change, seen) in enumerate(
        (
            ({"secret": "new"}, ("new.test", "1", "one")),
            ({"secret": "new", "extension": "7"}, ("new.test", "7", "one")),
            ({"secret": "new", "extension": "7", "to": 1}, ("new.test", "7", "two")),
            ({"secret": "new", "extension": "7", "to": 1, "timeout_ms": 900}, ("new.test", "7", "two")),
        ),
        start=2,
    ):
        await plane.set_snapshot(gateway.with_(**change), revision=str(revision))  # type: ignore[arg-type]
        await live(plane)

        async def is_seen(seen: tuple[str, str, str] = seen) -> bool:
            return await gateway.seen(0) == seen

        await until(f"{seen} in use", is_seen, within_s=5)  # workers get secrets and endpoints after the answer
        assert await gateway.seen(1) == other


@row(SECTION, "N1", "Listeners, routes, clusters, endpoints, secrets, extensions: got, and changed in service", ALL)
async def test_every_type(variant: Variant, two: tuple[Origin, Origin], authority: Authority, run_folder: Path) -> None:
    plane, xds = ControlPlane(), free_port()
    gateway = Gateway(variant, xds, two, authority)
    await plane.set_snapshot(gateway.with_(), revision="1")
    async with serving(plane, port=xds), following(xds, run_folder, how=how(variant)) as envoy:
        await envoy.ready()
        await live(plane)
        methods = {session.stream.type_url for session in plane.sessions}
        assert methods == ({None} if variant.is_aggregated else TYPES_OF_ENVOY)
        await changes(plane, gateway)
        stats = await envoy.stats("(update_rejected|init_fetch_timeout|config_fail)$")
        assert sum(stats.values()) == 0, stats
        dump = await envoy.config_dump()
        assert {"SecretsConfigDump", "EcdsConfigDump", "RoutesConfigDump", "EndpointsConfigDump"} <= {
            one["@type"].rpartition(".")[2] for one in dump["configs"]
        }


@row(SECTION, "N2", "So it is with the mux that Envoy will use for both protocols one day", ADS)
async def test_unified_mux(
    variant: Variant, two: tuple[Origin, Origin], authority: Authority, run_folder: Path
) -> None:
    """It reads a response with fewer secrets or extensions than it has as their end, and refuses that."""
    plane, xds = ControlPlane(), free_port()
    gateway = Gateway(variant, xds, two, authority)
    await plane.set_snapshot(gateway.with_(), revision="1")
    unified = how(variant, runtime={"envoy.reloadable_features.unified_mux": True})
    async with serving(plane, port=xds), following(xds, run_folder, how=unified) as envoy:
        await envoy.ready()
        await live(plane)
        await changes(plane, gateway)
        stats = await envoy.stats("(update_rejected|init_fetch_timeout)$")
        assert sum(stats.values()) == 0, stats


@row(SECTION, "N3", "A refused extension stays at its last form and is named; the others change", ALL)
async def test_refused_extension(
    variant: Variant, two: tuple[Origin, Origin], authority: Authority, run_folder: Path
) -> None:
    plane, xds = ControlPlane(), free_port()
    gateway = Gateway(variant, xds, two, authority)
    await plane.set_snapshot(gateway.with_(), revision="1")
    async with serving(plane, port=xds), following(xds, run_folder, how=how(variant)) as envoy:
        await envoy.ready()
        await live(plane)
        await plane.set_snapshot(gateway.with_(bad=True), revision="2")
        kept = await until("a verdict", lambda: plane.status().kept_back)
        assert [(one.type, one.resource) for one in kept] == [("TypedExtensionConfig", "x-a")]
        await live(plane)
        assert await gateway.seen(0) == ("a.test", "1", "one")
        assert await gateway.seen(1) == ("b.test", "2", "two")
        await plane.set_snapshot(gateway.with_(extension="3"), revision="3")
        await live(plane)
        assert plane.status().kept_back == ()
        assert await gateway.seen(0) == ("a.test", "3", "one")


@row(SECTION, "N3b", "An extension is exchanged for another under load without losing a request", ADS)
async def test_exchanged_extension(variant: Variant, two: tuple[Origin, Origin], run_folder: Path) -> None:
    """Envoy answers 500 as soon as an extension is gone that a listener in use names."""
    plane, xds, port = ControlPlane(), free_port(), free_port()

    def through(extension: str) -> Snapshot:
        return Snapshot.of(
            [
                made.cluster("c"),
                made.endpoints("c", two[0].port),
                made.routes("rc", {"/": "c"}),
                made_types.extension(extension, extension),
                made_types.listener("l", port, "rc", extensions=(extension,)),
            ]
        )

    await plane.set_snapshot(through("x"))
    async with serving(plane, port=xds), following(xds, run_folder, how=how(variant)) as envoy:
        await envoy.ready()
        await serve_under_load(plane, Address(port=port), (through(f"x{number}") for number in range(20)))
        assert (await request(Address(port=port), "GET", "/")).header("x-extension") == "x19"
