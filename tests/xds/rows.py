"""The rows of the conformance table: each is a test, for every variant of the protocol that it applies to.

`@row` names a row and makes its test; `docs/xds-conformance.md` is printed from what was named (`tests.xds.table`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import pytest

from controlplane.snapshot import resource as types
from controlplane.xds.protocol import Variant as Protocol

F = TypeVar("F", bound=Callable[..., object])


class Variant(Enum):
    """How a client may speak: state of the world or incremental, all types on one stream or a stream for each."""

    SOTW_EACH = "SotW, per type"
    SOTW_ADS = "SotW, aggregated"
    DELTA_EACH = "delta, per type"
    DELTA_ADS = "delta, aggregated"

    @property
    def protocol(self) -> Protocol:
        return Protocol.SOTW if self.value.startswith("SotW") else Protocol.DELTA

    @property
    def is_aggregated(self) -> bool:
        return self.value.endswith("aggregated")


SOTW = (Variant.SOTW_EACH, Variant.SOTW_ADS)
DELTA = (Variant.DELTA_EACH, Variant.DELTA_ADS)
ADS = (Variant.SOTW_ADS, Variant.DELTA_ADS)
ALL = (*SOTW, *DELTA)

TYPES = {
    "CDS": types.CLUSTER,
    "EDS": types.ENDPOINT,
    "LDS": types.LISTENER,
    "RDS": types.ROUTE,
    "SDS": types.SECRET,
    "ECDS": types.EXTENSION,
    "VHDS": types.VIRTUAL_HOST,
    "RLS": types.RATE_LIMIT_CONFIG,
}


@dataclass(frozen=True, kw_only=True)
class Row:
    section: str
    number: str
    title: str
    variants: tuple[Variant, ...]
    kinds: tuple[str, ...]
    """Types the row was run for, where it is run for each."""
    test: str
    module: str
    behaviour: str
    """The number that it has among the reference implementation's behaviours too, if it has one."""


ROWS: list[Row] = []
BEHAVIOURS = "Behaviours of the reference implementation"


def row(
    section: str,
    number: str,
    title: str,
    variants: tuple[Variant, ...],
    kinds: tuple[str, ...] = (),
    *,
    behaviour: str = "",
) -> Callable[[F], F]:
    """Makes a test of each variant (and each type), and a line of the table of all of them."""

    def decorate(test: F) -> F:
        ROWS.append(
            Row(
                section=section,
                number=number,
                title=title,
                variants=variants,
                kinds=kinds,
                test=test.__name__,
                module=test.__module__.rpartition(".")[2],
                behaviour=behaviour,
            )
        )
        marked = pytest.mark.parametrize("variant", variants, ids=lambda one: one.value)(test)
        if kinds:
            marked = pytest.mark.parametrize("kind", kinds)(marked)
        return marked

    return decorate
