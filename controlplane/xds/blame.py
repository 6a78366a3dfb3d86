"""From a rejected response to the resource, and the part of it, that the client will not accept.

`refused` takes a rejection in, `tried` says which form of a resource may be offered while it is being looked into. Both
return the verdicts that became certain. They keep their notes in the channel.
"""

from __future__ import annotations

from controlplane.snapshot.resource import Resource
from controlplane.xds.channel import ABSENT, Channel, Elsewhere, Form, Offer
from controlplane.xds.protocol import Verdict
from controlplane.xds.trial import PartTrial

Verdicts = tuple[Verdict, ...]


def refused(channel: Channel, offer: Offer, text: str) -> Verdicts:
    """The client refused this offer, whose forms count as not sent any more."""
    forms = [
        form for name, form in offer.changes.items() if isinstance(form, Resource) and channel.subscription.covers(name)
    ]
    if len(forms) > 1:
        channel.suspects.rejected((form.name for form in forms), text)
    elif forms:
        return _refused_alone(channel, forms[0], text)
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
        if channel.pinned[name].version == target.version:
            return accepted, (channel.pinned[name],)  # said again: whoever keeps verdicts may have forgotten it
        del channel.pinned[name]
    trial = channel.part_trials.get(name)
    if trial is None:
        return target, ()
    if trial.target.version != target.version:
        del channel.part_trials[name]
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


def _pin(channel: Channel, form: Resource, text: str) -> Verdicts:
    channel.part_trials.pop(form.name, None)
    accepted = channel.acked.get(form.name)
    verdict = Verdict(
        type_url=form.type_url,
        name=form.name,
        version=form.version,
        part=None,
        rejected=form.body,
        replacement=accepted.body if isinstance(accepted, Resource) else b"",
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
