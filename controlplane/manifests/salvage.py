"""What of a document can still be read when something in it was refused, so that references are checked all the same.

Nothing that comes of this is ever served. It only lets one run tell every problem: a refused service keeps its name, so
that routes to it are not blamed; a refused route is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from controlplane.manifests.models.document import Document
from controlplane.manifests.problem import Steps
from controlplane.manifests.values import Value

_STAND_INS: dict[str, Value] = {
    "services": {"endpoints": ["127.0.0.1:1"]},
    "limits": {"rate": "1/s", "by": "ip"},
}


@dataclass(frozen=True, slots=True)
class Salvaged:
    """A document without what was refused, and the numbers that its routes had."""

    document: Document
    routes: tuple[int, ...]


def salvage(value: dict[str, Value], refused: Iterable[Steps]) -> Salvaged | None:
    """The rest of a document, or None where what was refused leaves too much unknown to go on."""
    routes = value.get("routes", [])
    lost: set[int] = set()
    rest = dict(value)
    for path in refused:
        match path:
            case ("routes", int(number), *_):
                lost.add(number)
            case ("services" | "limits" as section, str(name), *_):
                entries = rest[section]
                if not isinstance(entries, dict):
                    return None
                rest[section] = {**entries, name: _STAND_INS[section]}
            case _:
                return None
    if not isinstance(routes, list):
        return None
    kept = tuple(number for number in range(len(routes)) if number not in lost)
    rest["routes"] = [routes[number] for number in kept]
    try:
        return Salvaged(Document.model_validate(rest), kept)
    except ValidationError:
        return None
