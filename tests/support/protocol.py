"""Which of the two xDS protocols a test's Envoy speaks."""

from __future__ import annotations

import json
from typing import Any

from controlplane.cli.bootstrap import BootstrapSettings, bootstrap
from serving.address import UnixAddress
from tests.support.gateway import Gateway

PROTOCOLS = ("DELTA_GRPC", "GRPC")


def speaks(gateway: Gateway, protocol: str) -> None:
    """The bootstrap of the gateway's Envoy as we print it, but for the protocol. Before Envoy starts."""
    folder = gateway.folder
    settings = BootstrapSettings(
        xds=UnixAddress(folder / "xds.sock"), admin=UnixAddress(folder / "envoy.sock"), node_id="envoy-under-test"
    )
    document: dict[str, Any] = dict(bootstrap(settings))
    document["dynamic_resources"]["ads_config"]["api_type"] = protocol
    (folder / "bootstrap.json").write_text(json.dumps(document))
