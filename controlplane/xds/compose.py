"""Makes a response of changes: what it holds in each variant, and which version it carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from controlplane.snapshot import resource as types
from controlplane.snapshot.resource import Resource
from controlplane.snapshot.snapshot import Snapshot, version_of
from controlplane.xds import ondemand
from controlplane.xds.channel import ABSENT, Channel, Form, Offer
from controlplane.xds.protocol import FULL_STATE, REPEATED, Response, Variant

Visible = Callable[[Channel, Resource], bool]


def compose(
    variant: Variant,
    channel: Channel,
    target: Snapshot,
    changes: Mapping[str, Form],
    *,
    now: float,
    is_trial: bool,
    is_visible: Visible,
) -> tuple[Response | None, Offer]:
    """The response (its nonce still to be set) and the offer to remember. No response where there is nothing to say."""
    gone = tuple(name for name, form in changes.items() if form is ABSENT)
    missing = tuple(name for name in gone if name in channel.subscription.names and name in channel.owed)
    resources = tuple({form.name: form for form in changes.values() if isinstance(form, Resource)}.values())
    removed = gone if variant is Variant.DELTA else ()
    aliases: dict[str, tuple[str, ...]] = {}
    if channel.type_url == types.VIRTUAL_HOST:
        removed = _virtual_hosts_removed(channel, changes)
        aliases = _aliases(changes, (name for name in gone if name not in removed))
    elif variant is Variant.SOTW and (
        channel.type_url in FULL_STATE or (channel.type_url in REPEATED and (resources or missing))
    ):
        state = {**channel.sent, **changes}
        resources = tuple(form for _, form in sorted(state.items()) if isinstance(form, Resource))
    offer = Offer(
        changes=dict(changes),
        content=frozenset([*((one.name, one.version) for one in resources), *((name, "") for name in removed)]),
        sent_at=now,
        is_trial=is_trial,
    )
    if not (resources or removed or missing or channel.must_answer or channel.type_url in FULL_STATE):
        return None, offer
    response = Response(
        variant=variant,
        type_url=channel.type_url,
        version=_version(variant, channel, target, resources, changes, is_visible),
        nonce="",
        resources=resources,
        removed=removed,
        missing=missing,
        aliases=aliases,
    )
    return response, offer


def _aliases(changes: Mapping[str, Form], missing: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """By which names each virtual host was asked for. An unknown host is told as a name without a body."""
    aliases: dict[str, tuple[str, ...]] = {name: (name,) for name in missing}
    for asked, form in changes.items():
        if isinstance(form, Resource):
            aliases[form.name] = (*aliases.get(form.name, ()), asked)
    return aliases


def _virtual_hosts_removed(channel: Channel, changes: Mapping[str, Form]) -> tuple[str, ...]:
    """By their own names, whatever they were asked for by, unless they are still had by another name."""
    still = {form.name for form in {**channel.sent, **changes}.values() if isinstance(form, Resource)}
    removed = dict.fromkeys(name for name in changes if ondemand.is_greeting(name))
    for name, form in changes.items():
        held = channel.sent.get(name, ABSENT)
        if form is ABSENT and held is not ABSENT:
            removed[held.name if isinstance(held, Resource) else name] = None
    return tuple(name for name in removed if name not in still)


def _version(
    variant: Variant,
    channel: Channel,
    target: Snapshot,
    resources: tuple[Resource, ...],
    changes: Mapping[str, Form],
    is_visible: Visible,
) -> str:
    """The type's version in the target, unless the client will have something else: then that has a version too."""
    if variant is Variant.DELTA:
        return target.version_of(channel.type_url)
    wanted = target.of_type(channel.type_url)
    state = {name: form for name, form in {**channel.sent, **changes}.items() if form is not ABSENT}
    is_target = all(name in wanted and wanted[name].version == form.version for name, form in state.items())
    if is_target and channel.subscription.is_wildcard:
        is_target = all(name in state for name, one in wanted.items() if is_visible(channel, one))
    if is_target:
        return target.version_of(channel.type_url)
    return version_of({resource.name: resource for resource in resources})
