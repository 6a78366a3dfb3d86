"""Virtual hosts and single clusters on demand, row by row."""

from __future__ import annotations

import time

import pytest
from envoy.config.route.v3 import route_components_pb2
from envoy.service.discovery.v3 import discovery_pb2

from controlplane.snapshot import resource as types
from controlplane.snapshot.resource import Resource
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds import ondemand
from controlplane.xds.codec import NAME_CHARACTERS, Encoder
from controlplane.xds.controlplane import ControlPlane
from controlplane.xds.protocol import Response
from tests.xds import made_types
from tests.xds.playbook import Play, line, state
from tests.xds.rows import Variant, row
from tests.xds.served import serving
from tests.xds.wire_client import connected

ON_DEMAND = (Variant.DELTA_EACH, Variant.DELTA_ADS)


@row("On demand", "H1", "A virtual host is found by its host, and told with the name it was asked for by", ON_DEMAND)
def test_virtual_host_by_alias(variant: Variant) -> None:
    play = Play(variant, "VHDS")
    play.serve(VHDS={"rc/one.test": 1, "rc/*.two.test": 1, "other/one.test": 1})
    play.ask("rc/one.test", "rc/x.two.test")
    (response,) = play.hear()
    assert line(response) == "VHDS rc/one.test@1 rc/*.two.test@1"
    assert response.aliases == {"rc/one.test": ("rc/one.test",), "rc/*.two.test": ("rc/x.two.test",)}


@row("On demand", "H2", "An unknown host is told as a name with its alias and no body", ON_DEMAND)
def test_unknown_virtual_host(variant: Variant) -> None:
    play = Play(variant, "VHDS")
    play.serve(VHDS={"rc/one.test": 1})
    play.ask("rc/nobody.test")
    (response,) = play.hear()
    (one,) = discovery_pb2.DeltaDiscoveryResponse.FromString(Encoder("test").encode(response)).resources
    assert (one.name, list(one.aliases), one.HasField("resource")) == ("rc/nobody.test", ["rc/nobody.test"], False)
    assert response.removed == ()


@row("On demand", "H3", "A changed route configuration has its known virtual hosts sent again", (Variant.DELTA_ADS,))
def test_virtual_hosts_after_routes(variant: Variant) -> None:
    play = Play(variant)
    play.serve(VHDS={"rc/one.test": 1}, RDS={"rc": 1})
    play.ask("rc", kind="RDS")
    play.ask("rc/one.test", kind="VHDS")
    play.talk()
    play.serve(VHDS={"rc/one.test": 1}, RDS={"rc": 2})
    assert play.talk() == ["RDS rc@2", "VHDS rc/one.test@1"]


@row("On demand", "H3b", "Routes that wait to hear of virtual hosts hear at once that there are none yet", ON_DEMAND)
def test_routes_wait_for_virtual_hosts(variant: Variant) -> None:
    """Envoy's first request names nothing, and its listener waits 15 s for a word about its route configuration."""
    play = Play(variant, "VHDS")
    play.serve(VHDS={"rc/one.test": 1}, RDS={"rc": 1})
    if variant.is_aggregated:
        play.ask("rc", kind="RDS")
    play.ask(kind="VHDS")
    assert play.talk()[-1] == "VHDS -rc/"
    play.serve(VHDS={"rc/one.test": 1}, RDS={"rc": 1, "added": 1})
    if variant.is_aggregated:
        play.ask("added", kind="RDS")
        assert play.talk() == ["RDS added@1", "VHDS -added/"]


@row(
    "On demand",
    "H3c",
    "After a reconnect known virtual hosts are renewed, deleted ones removed, no others sent",
    ON_DEMAND,
)
def test_virtual_hosts_after_reconnect(variant: Variant) -> None:
    """Envoy says "*" then, and means what it has."""
    play = Play(variant, "VHDS")
    play.serve(VHDS={"rc/one.test": 2, "rc/never.test": 1})
    held = {"rc/one.test": "old", "rc/gone": "old", "rc/nobody.test": ""}
    play.ask("*", "rc/one.test", "rc/www.gone.test", "rc/nobody.test", held=held)
    (response,) = play.hear()
    assert [one.name for one in response.resources] == ["rc/one.test"]
    assert response.removed == ("rc/gone",)
    assert response.aliases["rc/www.gone.test"] == ("rc/www.gone.test",)
    play.ack(response)
    play.serve(VHDS={"rc/one.test": 2, "rc/never.test": 1, "rc/nobody.test": 1})
    assert play.talk() == ["VHDS rc/nobody.test@1"]


@row("On demand", "H3d", "A host that goes while its routes change is removed, its aliases told", (Variant.DELTA_ADS,))
def test_virtual_host_gone_with_its_routes(variant: Variant) -> None:
    play = Play(variant)
    play.serve(VHDS={"rc/*.test": 1}, RDS={"rc": 1})
    play.ask("rc", kind="RDS")
    play.ask("rc/one.test", kind="VHDS")
    play.talk()
    play.serve(RDS={"rc": 2})
    table, hosts = play.hear()
    assert line(table) == "RDS rc@2"
    assert hosts.removed == ("rc/*.test",)
    assert hosts.aliases == {"rc/one.test": ("rc/one.test",)}


@row("On demand", "H4", "A single cluster is answered by name, its absence as removal", ON_DEMAND)
def test_cluster_on_demand(variant: Variant) -> None:
    play = Play(variant, "CDS")
    play.serve(CDS={"A": 1, "B": 1})
    play.ask("A")
    assert play.talk() == ["CDS A@1"]
    play.ask("Z")
    assert play.talk() == ["CDS -Z ?Z"]


@row("On demand", "H3e", "A host that loses a name keeps the others; the name is told to be gone", ON_DEMAND)
def test_virtual_host_loses_a_name(variant: Variant) -> None:
    play = Play(variant, "VHDS")
    play.serve(state(VHDS=[made_types.virtual_host("rc", "a", "a.test", "www.a.test")]))
    play.ask("rc/a.test", "rc/www.a.test")
    play.talk()
    play.serve(state(VHDS=[made_types.virtual_host("rc", "a", "a.test")]))
    (response,) = play.hear()
    assert response.removed == ()
    assert response.aliases == {"rc/a": ("rc/a.test",), "rc/www.a.test": ("rc/www.a.test",)}
    play.ack(response)
    play.serve(state(VHDS=[made_types.virtual_host("rc", "a", "other.test")]))
    (response,) = play.hear()
    assert response.removed == ("rc/a",), "by no name that it was asked for"


def hosts(*bad: str) -> list[Resource]:
    """Two hosts and one for the rest; the bad ones differ by what they say."""
    return [
        *(made_types.virtual_host("rc", name, f"{name}.test", says=f"bad {name in bad}") for name in ("a", "b")),
        made_types.virtual_host("rc", "rest", "*", says="the rest"),
    ]


def statuses(response: Response) -> dict[str, list[int]]:
    parsed = (route_components_pb2.VirtualHost.FromString(one.body) for one in response.resources)
    return {host.name: [route.direct_response.status for route in host.routes] for host in parsed}


@row("On demand", "H3f", "A refused host answers 503, or as before; it is never left to a more general one", ON_DEMAND)
def test_refused_virtual_host(variant: Variant) -> None:
    play = Play(variant, "VHDS")
    play.serve(state(VHDS=hosts("b")))
    play.ask("rc/a.test")
    play.talk()
    play.ask("rc/b.test")
    (response,) = play.hear()
    play.nack(response)
    (instead,) = play.hear()
    assert (statuses(instead), instead.aliases) == ({"rc/b": [503]}, {"rc/b": ("rc/b.test",)})
    play.ack(instead)
    (verdict,) = play.stream.verdicts()
    assert (verdict.name, verdict.replacement) == ("rc/b", instead.resources[0].body)

    play.serve(state(VHDS=hosts("a")))
    (response,) = play.hear()
    assert statuses(response) == {"rc/a": [200], "rc/b": [200]}
    play.nack(response, "rc/a is bad")
    (tried,) = play.hear()
    assert statuses(tried) == {"rc/a": [200]}
    play.nack(tried)
    tried, instead = play.hear()  # whoever waits is answered with what was accepted last, while the other is tried
    assert (statuses(tried), statuses(instead)) == ({"rc/b": [200]}, {"rc/a": [200]})
    play.ack(tried)
    play.ack(instead)
    play.talk()
    held = {name: form.version for name, form in play.stream.channels[types.VIRTUAL_HOST].acked.items()}
    accepted = {one.name: one.version for one in hosts()}
    assert held == {"rc/a.test": accepted["rc/a"], "rc/b.test": accepted["rc/b"]}
    assert play.stream.is_settled


@row("On demand", "H3g", "When what stands in for a refused host is refused too, it is told to be unknown", ON_DEMAND)
def test_refused_for_good(variant: Variant) -> None:
    play = Play(variant, "VHDS")
    play.serve(state(VHDS=hosts()))
    play.ask("rc/a.test")
    for _ in range(2):
        (response,) = play.hear()
        play.nack(response)
    (response,) = play.hear()
    assert (response.resources, response.missing) == ((), ("rc/a.test",))
    play.ack(response)
    assert play.talk() == []
    assert play.stream.is_settled


DOMAINS = {
    "exact": ("one.test", "Mixed.Test"),
    "suffix": ("*.test",),
    "longer": ("*.one.test", "*-x.one.test"),
    "prefix": ("one.*",),
    "longer-prefix": ("one.two.*",),
}


@pytest.mark.parametrize(
    ("host", "serves"),
    [
        ("one.test", "exact"),
        ("ONE.test", "exact"),
        ("mixed.test", "exact"),
        ("www.one.test", "longer"),
        ("www-x.one.test", "longer"),
        ("two.test", "suffix"),
        (".test", None),
        ("one.example", "prefix"),
        ("one.two.example", "longer-prefix"),
        ("one.", None),
        ("else.example", None),
        ("", None),
    ],
)
def test_domains(host: str, serves: str | None) -> None:
    """As Envoy matches them: exact, the longest suffix, the longest prefix; an asterisk is at least one letter."""
    snapshot = Snapshot.of(made_types.virtual_host("rc", name, *domains) for name, domains in DOMAINS.items())
    found = ondemand.find(snapshot, f"rc/{host}")
    assert (found.name if found else None) == (f"rc/{serves}" if serves else None)
    assert ondemand.find(snapshot, f"other/{host}") is None


def test_a_host_for_everything_comes_last() -> None:
    hosts = {"all": ("*",), "some": ("*.test",)}
    snapshot = Snapshot.of(made_types.virtual_host("rc", name, *domains) for name, domains in hosts.items())
    assert [getattr(ondemand.find(snapshot, f"rc/{host}"), "name", None) for host in ("a.test", "b.example", "")] == [
        "rc/some",
        "rc/all",
        None,
    ]


def test_many_hosts_are_found_quickly() -> None:
    """One change asks about every name that every client knows."""
    snapshot = Snapshot.of(made_types.virtual_host("rc", str(n), f"h{n}.test", f"*.h{n}.test") for n in range(2_000))
    ondemand.find(snapshot, "rc/h1.test")
    began = time.process_time()
    assert all(ondemand.find(snapshot, f"rc/www.h{number}.test") for number in range(2_000))
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize("variant", ON_DEMAND)
async def test_whatever_somebody_sends_as_a_host_ends_no_stream_and_asks_for_nothing_else(variant: Variant) -> None:
    """Envoy asks for any Host that it does not know: `*` is one like the others, and one may be very long."""
    plane = ControlPlane()
    await plane.set_snapshot(state(VHDS={"rc/one.test": 1, "rc/two.test": 1}))
    async with serving(plane) as port, connected(port, variant, "VHDS") as client:
        await client.ask("VHDS", "rc/" + "x" * (NAME_CHARACTERS + 1), "rc/*", "rc/one.test")
        told = {one.name: one.HasField("resource") for one in (await client.hear()).resources}
        assert told == {"rc/*": False, "rc/one.test": True}
        assert await client.is_quiet()
