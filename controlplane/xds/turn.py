"""Whose turn it is: which names may be in the next response of a type.

A client is given time to answer. While it is being found out what it refuses, only what is tried is sent. But Envoy
says nothing of clusters before all of them are warm: for one whose name server is silent, what is tried would be waited
for for long. So after the patience the others are tried. Silence proves nothing, and nobody is blamed for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.xds.channel import Channel
from controlplane.xds.protocol import Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Names that may be sent now."""

    names: tuple[str, ...]
    is_trial: bool = False
    """A group of what was refused together."""
    is_narrow: bool = False
    """Nothing else may be beside them, or the answer would say less."""


def next_turn(channel: Channel, variant: Variant, now: float, patience_s: float) -> Turn | None:
    """None when the client has to answer the last response first."""
    in_parts = next((name for name, trial in channel.part_trials.items() if not trial.is_concluded), None)
    if channel.offers:
        if now - channel.waiting_since() < patience_s:
            if variant is Variant.SOTW:
                return None
            return Turn(names=tuple(channel.owed - channel.suspects.names - {in_parts}))
        if variant is Variant.DELTA:
            channel.pass_over()
        elif channel.suspects and not channel.suspects.postpone():
            # State of the world: what is tried next takes the place of what was tried before. One of them is left.
            if not channel.suspects.is_overtaken:
                return None
            channel.suspects.clear()
    if in_parts is not None and in_parts in channel.dirty - channel.provisional:
        return Turn(names=(in_parts,), is_narrow=True)
    while channel.suspects:
        suspects = tuple(name for name in channel.suspects.current if name in channel.dirty)
        if suspects:
            return Turn(names=suspects, is_trial=True, is_narrow=True)
        channel.suspects.done()
    return Turn(names=tuple(channel.dirty))
