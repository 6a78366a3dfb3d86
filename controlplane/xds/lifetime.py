"""Time to live: when a client must hear of a resource again, and what it has dropped because it did not.

`told` of a channel says when each resource with a time to live was last sent or refreshed.
"""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.snapshot.resource import Resource
from controlplane.xds.channel import Channel
from controlplane.xds.protocol import FULL_STATE, REPEATED, Response, Variant


def held(channel: Channel) -> Iterator[Resource]:
    """What the client has that it forgets unless it hears of it."""
    return (form for form in channel.sent.values() if isinstance(form, Resource) and form.ttl_s is not None)


def due(channel: Channel, form: Resource) -> float:
    """Twice in a time to live: one heartbeat may be lost."""
    return channel.told.get(form.name, 0.0) + (form.ttl_s or 0.0) / 2


def expired(channel: Channel, now: float) -> tuple[str, ...]:
    """What the client has dropped by now. A heartbeat would find nothing to keep alive: it is needed whole."""
    if not channel.told:
        return ()
    return tuple(form.name for form in held(channel) if now >= channel.told.get(form.name, now) + (form.ttl_s or 0.0))


def heartbeat(variant: Variant, channel: Channel, now: float) -> Response | None:
    """Resources whose time to live runs out, when it is time; the client must answer before the next."""
    held = _refreshed(variant, channel, now) if channel.told and not channel.offers else ()
    if not held:
        return None
    return Response(
        variant=variant,
        type_url=channel.type_url,
        version=channel.last_version,
        nonce="",
        resources=held,
        heartbeat=variant is Variant.DELTA,
    )


def _refreshed(variant: Variant, channel: Channel, now: float) -> tuple[Resource, ...]:
    """What the next heartbeat holds; nothing while there is time.

    Incremental: only names will travel. State of the world: resources go whole, and of some types all of them, because
    Envoy 1.40 does not take a resource without a body for a sign of life there.
    """
    short_lived = tuple(held(channel))
    if not any(now >= due(channel, form) for form in short_lived):
        return ()
    if variant is Variant.SOTW and channel.type_url in FULL_STATE | REPEATED:
        return tuple(form for form in channel.sent.values() if isinstance(form, Resource))
    return short_lived
