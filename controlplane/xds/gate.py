"""Policy documents reach the services before the routes that name them reach Envoy.

While the gate is closed, routes and listeners wait. It opens when every connected service has accepted the documents it
asked for, or when the patience ends: a service that never accepts holds back its own documents, not the gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from controlplane.snapshot import resource as types
from controlplane.snapshot.resource import Audience
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.channel import ABSENT
from controlplane.xds.stream import Stream

_log = structlog.get_logger("controlplane.xds")
ROUTES_WAIT = frozenset({types.LISTENER, types.ROUTE, types.VIRTUAL_HOST})


class PolicyGate:
    """Closed from a change of policies to their acceptance. Calls `opened` when it opens."""

    def __init__(self, patience_s: float, opened: Callable[[], None]) -> None:
        self._patience_s = patience_s
        self._opened = opened
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_closed(self) -> bool:
        return self._timer is not None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._give_up)

    def check(self, services: Iterable[Stream]) -> None:
        """Opens when all of these have what they asked for."""
        if self._timer is not None and all(map(has_policies, services)):
            self._open()

    def _give_up(self) -> None:
        _log.warning("routes go live before every service accepted its policies", waited_s=self._patience_s)
        self._open()

    def _open(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._opened()


def policies_changed(before: Snapshot, after: Snapshot) -> bool:
    """A document is there that was not, or is another one now."""
    for resource in after.of_type(types.EXTENSION).values():
        was = before.get(resource.type_url, resource.name)
        if resource.audience is Audience.SERVICE and (was is None or was.version != resource.version):
            return True
    return False


def has_policies(stream: Stream) -> bool:
    """The service has accepted the documents it asked for, as they are now."""
    channel, target = stream.channels.get(types.EXTENSION), stream.target
    return (
        channel is None
        or target is None
        or all(
            channel.acked.get(name, ABSENT).version == wanted.version
            for name in channel.subscription.names
            if (wanted := target.get(types.EXTENSION, name)) is not None
        )
    )
