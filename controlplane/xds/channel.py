"""One type on one stream: what the client asked for, what it was sent, and what it has said about that.

A channel keeps the books; `stream` decides what is offered. What the client holds is kept as the resources themselves
(shared with every other stream), because taking anything away needs to know what the client's forms refer to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from controlplane.snapshot.resource import VIRTUAL_HOST, Resource
from controlplane.xds.protocol import LEGACY_WILDCARD, Verdict
from controlplane.xds.subscription import Subscription
from controlplane.xds.trial import PartTrial, Suspects

REJECTIONS_REMEMBERED = 256
SUPERSEDED_REMEMBERED = 16
UNANSWERED_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A form whose content is unknown here: the client got it from an earlier life of this server."""

    version: str


ABSENT = Elsewhere("")
"""The client has been told that the name does not exist, or is to forget it."""

Form = Resource | Elsewhere
Content = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A response that is not answered yet."""

    changes: dict[str, Form]
    content: Content
    sent_at: float
    is_trial: bool
    """One of the groups that are tried to find a guilty resource."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nack:
    text: str
    at: float
    names: tuple[str, ...]


@dataclass(slots=True)
class Channel:
    type_url: str
    subscription: Subscription = field(init=False)
    sent: dict[str, Form] = field(default_factory=dict)
    acked: dict[str, Form] = field(default_factory=dict)
    offers: dict[str, Offer] = field(default_factory=dict)
    owed: set[str] = field(default_factory=set)
    """Names that get an answer even if nothing changed."""
    dirty: set[str] = field(default_factory=set)
    """Names that may differ from what the client has. Always holds the owed ones."""
    must_answer: bool = False
    """The client waits for a response even if it is empty: the first one of a wildcard."""
    withdrawn: dict[str, dict[str, Form]] = field(default_factory=dict)
    """By version: what the client would hold had it accepted a response that was superseded before it said so."""
    superseded: dict[str, Content] = field(default_factory=dict)
    """By nonce: responses that were superseded before the client said anything about them."""
    told: dict[str, float] = field(default_factory=dict)
    """When each resource with a time to live was last sent or refreshed."""
    last_nonce: str = ""
    last_version: str = ""
    suspects: Suspects = field(default_factory=Suspects)
    pinned: dict[str, Verdict] = field(default_factory=dict)
    """What the client refused as a whole, by name: that version is not offered again."""
    part_trials: dict[str, PartTrial] = field(default_factory=dict)
    refused: dict[Content, str] = field(default_factory=dict)
    """What was refused, and the client's words."""
    doubtful: dict[str, list[Form]] = field(default_factory=dict)
    """Forms that were sent and neither accepted nor surely dropped: the client may be using them."""
    first_sent: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Of what is not accepted: the version sent last under each name, and when it was sent first."""
    provisional: set[str] = field(default_factory=set)
    """Names under which the client has, or is to have, less than the target for a while: they stay dirty."""
    nack: Nack | None = None
    acked_at: float | None = None
    sent_at: float | None = None
    requests: int = 0
    responses: int = 0

    def __post_init__(self) -> None:
        self.subscription = Subscription(
            legacy_allowed=self.type_url in LEGACY_WILDCARD,
            has_collections=self.type_url != VIRTUAL_HOST,  # their names end with what somebody sent as a Host
        )

    def owe(self, names: Iterable[str]) -> None:
        names = tuple(names)
        self.owed.update(names)
        self.dirty.update(names)

    def settle(self, name: str) -> None:
        self.owed.discard(name)
        self.dirty.discard(name)

    def forget(self, name: str) -> None:
        """The client no longer asks for the name: it holds nothing of it, and must get it again if it asks again."""
        self.settle(name)
        self._drop(name)

    def _drop(self, name: str) -> None:
        self._drop_forms(name)
        self.pinned.pop(name, None)
        self.part_trials.pop(name, None)

    def _drop_forms(self, name: str) -> None:
        """The client has nothing under the name; what it refused of it is not forgotten."""
        self.provisional.discard(name)
        for book in (self.sent, self.acked, self.doubtful, self.told, self.first_sent):
            book.pop(name, None)

    def acquit(self, name: str) -> None:
        """What was refused under the name is wanted no more: nothing is kept back, and the refusal is history."""
        notes = self.pinned.pop(name, None), self.part_trials.pop(name, None)
        if any(notes) and not self.pinned and not self.suspects and not self.offers:
            self.nack = None

    def pardon(self) -> None:
        """What was refused for a reason that may have passed by now is offered again."""
        for name in [name for name, verdict in self.pinned.items() if verdict.may_pass]:
            del self.pinned[name]
            self.refused = {what: text for what, text in self.refused.items() if all(one != name for one, _ in what)}
            self.dirty.add(name)

    def forget_uncovered(self) -> None:
        for name in [name for name in (*self.sent, *self.dirty) if not self.subscription.covers(name)]:
            self.forget(name)

    def offered(self, nonce: str, offer: Offer) -> None:
        self.offers[nonce] = offer
        self.last_nonce = nonce
        self.sent_at = offer.sent_at
        self.responses += 1
        for name, form in offer.changes.items():
            self.sent[name] = form
            self.owed.discard(name)
            if name not in self.provisional:
                self.dirty.discard(name)
            if self.first_sent.get(name, ("", 0.0))[0] != form.version:
                self.first_sent[name] = (form.version, offer.sent_at)
        if len(self.offers) > UNANSWERED_REMEMBERED:
            self._join_oldest()

    def _join_oldest(self) -> None:
        """Too many are unanswered: the two oldest become one. A client reads in order: the later answer is for both."""
        oldest, (nonce, second) = self.offers.pop(next(iter(self.offers))), next(iter(self.offers.items()))
        self._doubt({name: oldest.changes[name] for name in second.changes if name in oldest.changes})
        oldest.changes.update(second.changes)
        self.offers[nonce] = replace(second, changes=oldest.changes)  # stays the first

    def waiting_since(self) -> float:
        """When the offer was made whose answer says how to go on: of what is being tried, else the oldest."""
        oldest = next(iter(self.offers.values())).sent_at
        return max((offer.sent_at for offer in self.offers.values() if offer.is_trial), default=oldest)

    def pass_over(self) -> None:
        """What is being tried stays with the client, and is no suspect any more."""
        for nonce, offer in self.offers.items():
            if offer.is_trial:
                self.offers[nonce] = replace(offer, is_trial=False)
                self.suspects.done()

    def withdraw(self) -> None:
        """Unanswered offers are superseded: what they held counts as never sent, and is part of the next one."""
        self.withdrawn[self.last_version] = dict(self.sent)
        if len(self.withdrawn) > SUPERSEDED_REMEMBERED:
            del self.withdrawn[next(iter(self.withdrawn))]
        for nonce in tuple(self.offers):
            offer = self.offers.pop(nonce)
            self.superseded[nonce] = offer.content
            if len(self.superseded) > SUPERSEDED_REMEMBERED:
                del self.superseded[next(iter(self.superseded))]
            self._doubt(offer.changes)
            self._roll_back(offer)

    def holds_version(self, version: str) -> None:
        """State of the world: a client says with each request what it accepted last; that may be what was withdrawn."""
        state = self.withdrawn.get(version)
        if state is not None:
            self.dirty.update(self.sent.keys() | state.keys())
            self.acked, self.sent = dict(state), dict(state)
            for offer in self.offers.values():
                self.sent.update(offer.changes)
        self.withdrawn.clear()

    def accepted(self, nonce: str, now: float) -> None:
        for earlier, unanswered in self.offers.items():
            if earlier == nonce:
                break
            for name in unanswered.changes.keys() & self.offers[nonce].changes.keys():
                del unanswered.changes[name]  # a late answer to it says nothing about the name any more
        offer = self.offers.pop(nonce)
        self.withdrawn.clear()
        self.superseded.clear()
        self.acked_at = now
        if not self.offers and not self.suspects and not self.pinned:
            self.nack = None
        for name, form in offer.changes.items():
            if not self.subscription.covers(name):
                if form is ABSENT:
                    self.forget(name)
                continue
            self.acked[name] = form
            self.doubtful.pop(name, None)
            if name in self.first_sent and self.first_sent[name][0] == form.version:
                del self.first_sent[name]
            if name in self.part_trials and not self.part_trials[name].is_concluded:
                self.dirty.add(name)
            if form is ABSENT and name not in self.subscription.names and self.sent.get(name) is ABSENT:
                self._drop_forms(name)  # it may be dirty again meanwhile, and stays so
        if offer.is_trial:
            self.suspects.done()

    def refused_offer(self, nonce: str, text: str) -> Offer:
        offer = self.offers.pop(nonce)
        self.refuse(offer, text)
        return offer

    def refuse(self, offer: Offer, text: str) -> None:
        if len(offer.changes) > 1:
            self._doubt(offer.changes)
        else:
            self.believe(offer.changes)
        self._roll_back(offer)
        self._note_refused(offer.content, text)
        if offer.is_trial:
            self.suspects.done()

    def refused_late(self, nonce: str, text: str) -> None:
        """The client refused what was superseded meanwhile: nothing is to be done, but it is not to be sent again."""
        content = self.superseded.pop(nonce, None)
        if content is not None:
            self._note_refused(content, text)

    def _note_refused(self, content: Content, text: str) -> None:
        if not any(version for _, version in content):
            return  # nothing that could be wrong: what is not there may be told again
        self.refused[content] = text
        if len(self.refused) > REJECTIONS_REMEMBERED:
            del self.refused[next(iter(self.refused))]

    def held(self) -> Iterator[Form]:
        """Every form the client may be using: the accepted ones, those on their way, and those it may have kept."""
        yield from self.acked.values()
        for offer in self.offers.values():
            yield from offer.changes.values()
        for forms in self.doubtful.values():
            yield from forms

    def may_lack(self, name: str) -> bool:
        """A removal was sent that was neither accepted nor surely dropped: the client may not have it any more."""
        forms = (offer.changes.get(name) for offer in self.offers.values())
        return any(form is ABSENT for form in (*forms, *self.doubtful.get(name, ())))

    def offered_form(self, name: str) -> Form | None:
        """What the newest unanswered offer says of the name; None where none speaks of it."""
        return next((one.changes[name] for one in reversed(self.offers.values()) if name in one.changes), None)

    def may_differ(self, name: str, version: str) -> bool:
        """Something else was sent, and no answer is expected any more: what is wanted again has to be sent again."""
        return any(form.version != version for form in self.doubtful.get(name, ()))

    def believe(self, names: Iterable[str]) -> None:
        """No more can be found out about these: the client is taken to have what it accepted."""
        for name in names:
            self.doubtful.pop(name, None)

    def accepted_form(self, name: str) -> Form:
        """What the client accepted last of the resource; a virtual host may have been asked for by other names."""
        if name in self.acked:
            return self.acked[name]
        return next((form for form in self.acked.values() if isinstance(form, Resource) and form.name == name), ABSENT)

    def _doubt(self, changes: Mapping[str, Form]) -> None:
        for name, form in changes.items():
            forms = self.doubtful.setdefault(name, [])
            if not any(form is known for known in forms):
                forms.append(form)
            if len(forms) > SUPERSEDED_REMEMBERED:  # who never answers has read the newer ones after it
                del forms[0]

    def _roll_back(self, offer: Offer) -> None:
        for name, form in offer.changes.items():
            if self.sent.get(name) is not form or any(name in later.changes for later in self.offers.values()):
                continue
            if name in self.acked:
                self.sent[name] = self.acked[name]
            else:
                del self.sent[name]
            self.dirty.add(name)
