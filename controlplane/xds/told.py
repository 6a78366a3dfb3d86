"""What clients refuse, told to people: a line in the log with the place in the manifests, and a count."""

from __future__ import annotations

import structlog

from controlplane.xds import metrics
from controlplane.xds.protocol import Verdict
from controlplane.xds.quarantine import Held

_log = structlog.get_logger("controlplane.xds")


def refused_alone(verdict: Verdict, client: str) -> None:
    """What this client says is about itself, or others of its kind have it."""
    _log.error(
        "refused by one client, which others may have",
        where=[str(origin) for origin in verdict.origins],
        resource=verdict.name,
        type=verdict.type_url.rpartition(".")[2],
        client=client,
        reason=verdict.text,
    )


def kept_back(held: Held) -> None:
    """Clients of this kind get something else in its place from now on."""
    kind = held.type_url.rpartition(".")[2]
    _log.error(
        "rejected by a client and kept back",
        where=[str(origin) for origin in held.origins],
        resource=held.name,
        part=held.part,
        type=kind,
        client=held.client,
        kind=held.kind,
        reason=held.text,
    )
    metrics.KEPT_BACK.labels(type=kind).inc()


def lifted(held: Held, client: str) -> None:
    """Another client of the kind has accepted it: nobody is spared it any more."""
    _log.info("kept back no longer: accepted by another client", resource=held.name, part=held.part, client=client)
