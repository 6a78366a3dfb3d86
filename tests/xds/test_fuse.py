"""How much an edit takes away, counted as somebody would who wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.reconcile import Built, build
from controlplane.resolve.resolve import Deployment
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.fuse import mass_deletion

HEAD = "gateway: {{listeners: [{ports}]}}\nservices: {{a: {{endpoints: [127.0.0.1:9]}}}}\nroutes:\n"


def snapshot(folder: Path, *routes: str, ports: str = "8080") -> Snapshot:
    lines = "".join(f"- {{{route}, service: a, auth: public}}\n" for route in routes)
    (folder / "all.yaml").write_text(HEAD.format(ports=ports) + lines)
    built = build(folder, {}, Deployment())
    assert isinstance(built, Built), [str(problem) for problem in built.problems]
    return built.snapshot


GENERAL = [f"path: /general/{number}" for number in range(8)]
ONE_HOST = [f"path: /own/{number}, hosts: [one.test]" for number in range(4)]


@pytest.mark.parametrize("ports", ["8080", "8080, 8081"], ids=["one listener", "two listeners"])
def test_a_route_in_several_places_is_one(tmp_path: Path, ports: str) -> None:
    """General routes stand in every virtual host, and every table: taking five of twelve away is no half."""
    before = snapshot(tmp_path, *GENERAL, *ONE_HOST, ports=ports)
    assert mass_deletion(before, snapshot(tmp_path, *GENERAL[5:], *ONE_HOST, ports=ports), 0.5) == ()
    gone = mass_deletion(before, snapshot(tmp_path, *GENERAL[7:], ports=ports), 0.5)
    assert gone == tuple(sorted(f"route all.yaml:{line}:3" for line in (*range(4, 11), *range(12, 16))))


def test_a_virtual_host_that_goes_takes_no_general_route_with_it(tmp_path: Path) -> None:
    before = snapshot(tmp_path, *GENERAL, *ONE_HOST)
    gone = mass_deletion(before, snapshot(tmp_path, *GENERAL), 0.3)
    assert gone == tuple(sorted(f"route all.yaml:{line}:3" for line in range(12, 16)))


def test_few_are_never_held(tmp_path: Path) -> None:
    before = snapshot(tmp_path, *GENERAL[:3])
    assert mass_deletion(before, snapshot(tmp_path, "path: /other"), 0.0) == ()
