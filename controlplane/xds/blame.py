"""From a rejected response to the resource, and the part of it, that the client will not accept.

`refused` takes a rejection in, `tried` says which form of a resource may be offered while it is being looked into. Both
return the verdicts that became certain. They keep their notes in the channel.
"""

from __future__ import annotations

from dataclasses import replace

from controlplane.snapshot.resource import VIRTUAL_HOST, Resource, whole
from controlplane.xds import ondemand
from controlplane.xds.channel import ABSENT, Channel, Elsewhere, Form, Offer
from controlplane.xds.protocol import Verdict
from controlplane.xds.trial import PartTrial

Verdicts = tuple[Verdict, ...]


def refused(channel: Channel, offer: Offer, text: str) -> Verdicts:
    """The client refused this offer, whose forms count as not sent any more."""
    forms = {
        name: form
        for name, form in offer.changes.items()
        if isinstance(form, Resource) and channel.subscription.covers(name)
    }
    if channel.type_url == VIRTUAL_HOST:
        channel.owe(forms)  # a request waits for each
    if forms:  # what is not there was told in vain as well
        channel.owe(name for name, form in offer.changes.items() if form is ABSENT and name not in channel.acked)
    if len({form.name for form in forms.values()}) > 1:
        channel.suspects.rejected(forms, text)
    elif forms:
        return _refused_alone(channel, next(iter(forms.values())), text)
    else:
        for name in offer.changes:  # a removal refused: there is nothing smaller to try
            channel.settle(name)
            channel.sent[name] = ABSENT
    return ()


def tried(channel: Channel, target: Resource) -> tuple[Form, Verdicts]:
    """The target, or as much of it as the client may be offered."""
    name = target.name
    accepted = channel.acked.get(name, ABSENT)
    if name in channel.pinned:
        pinned = channel.pinned[name]
        if pinned.version == target.version:
            form = _in_its_place(pinned) if channel.type_url == VIRTUAL_HOST else accepted
            return form, (pinned,)  # said again: whoever keeps verdicts may have forgotten it
        channel.acquit(name)
    trial = channel.part_trials.get(name)
    if trial is None:
        return target, ()
    if trial.target.version != target.version:
        channel.acquit(name)
        return target, ()
    while True:
        form = trial.form()
        if trial.is_concluded:
            return form, _verdicts(trial)
        if form.version in trial.rejected:
            if not trial.reject():
                return accepted, _pin(channel, target, trial.text)
        elif form.version == accepted.version:
            if trial.is_over:
                return accepted, _conclude(trial)
            trial.accept()
        else:
            return form, ()


def _refused_alone(channel: Channel, form: Resource, text: str) -> Verdicts:
    trial = channel.part_trials.get(form.name)
    if trial is not None and not trial.is_concluded:
        trial.rejected.add(form.version)
        trial.text = text
        return ()
    accepted = channel.acked.get(form.name, ABSENT)
    is_known = isinstance(accepted, Resource) or accepted is ABSENT
    if is_known:
        # Trying parts of a resource whose held content is unknown would put fallbacks in place of what works.
        trial = PartTrial(target=form, accepted=None if isinstance(accepted, Elsewhere) else accepted, text=text)
        if trial.is_possible:
            channel.part_trials[form.name] = trial
            return ()
    return _pin(channel, form, text)


def _in_its_place(verdict: Verdict) -> Form:
    """For a virtual host: a request waits for it, and would go to a more general one."""
    return whole(verdict.type_url, verdict.name, verdict.replacement) if verdict.replacement else ABSENT


def _pin(channel: Channel, form: Resource, text: str) -> Verdicts:
    channel.part_trials.pop(form.name, None)
    earlier = channel.pinned.get(form.name)
    if earlier is not None and earlier.replacement == form.body:  # what stood in for it is refused as well
        channel.pinned[form.name] = replace(earlier, replacement=b"")
        return (channel.pinned[form.name],)
    accepted = channel.accepted_form(form.name)
    otherwise = ondemand.unavailable(form) if form.type_url == VIRTUAL_HOST else b""
    verdict = Verdict(
        type_url=form.type_url,
        name=form.name,
        version=form.version,
        part=None,
        rejected=form.body,
        replacement=accepted.body if isinstance(accepted, Resource) else otherwise,
        text=text,
        origins=form.origins,
    )
    channel.pinned[form.name] = verdict
    return (verdict,)


def _conclude(trial: PartTrial) -> Verdicts:
    trial.is_concluded = True
    return _verdicts(trial)


def _verdicts(trial: PartTrial) -> Verdicts:
    target = trial.target
    return tuple(
        Verdict(
            type_url=target.type_url,
            name=target.name,
            version=target.version,
            part=part.key,
            rejected=part.body,
            replacement=trial.guilty[part.key],
            text=trial.texts[part.key],
            origins=(part.origin,) if part.origin else target.origins,
        )
        for part in trial.guilty_parts()
    )
