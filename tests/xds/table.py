"""Prints the conformance table from the tests' rows: `python -m tests.xds.table > docs/xds-conformance.md`."""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import groupby
from pathlib import Path

from tests.xds.rows import ROWS, Variant

MODULES = (
    "test_checklist",
    "test_lifetime",
    "test_on_demand",
    "test_behaviours",
    "test_harness",
    "test_refusals",
    "test_wire",
)
PEERS = ("test_xds_types", "test_xds_on_demand", "test_xds_lifetime", "test_xds_rate_limits")
PAGE = Path(__file__).parents[2] / "docs" / "xds-conformance.md"

_HEAD = """# xDS conformance

What the control plane does in each variant of the xDS protocol. Every filled cell is a test that runs in `make check`
or `make test`; the page is printed from them (`python -m tests.xds.table`), and a test fails when it is out of date.
A dash: the row does not apply to the variant.

The rows of the public harness run over gRPC against the harness's own Adapter service, which the tests implement. To
point the original harness at this server, start `python -m tests.xds.adapter 17000 18000` in this repository, and in
the harness's folder `go run . -A :17000 -T :18000 -N test-id -V "sotw aggregated"` (or another of its variants).

Beyond the table: changes through a real Envoy under load, rejections, restarts and a stock gRPC client are in
`tests/gateway/test_xds_*.py`; arbitrary conversations, with what must always hold, in `tests/xds/test_fuzz.py`.

Rows through a real peer are at the end. What they showed about Envoy 1.40: it takes resources with a time to live only
when its bootstrap says so (`client_features`: `xds.config.supports-resource-ttl`, and for state of the world
`xds.config.resource-in-sotw`); it crashes when that of endpoints runs out in state of the world
(envoyproxy/envoy#24271); it asks once for a cluster that it does not have, and lets later requests for it wait for the
filter's `timeout`.

Not served: REST and the unary `Fetch` methods, scoped routes, runtime, `xdstp://` names. Make before break is a promise
of an aggregated stream: separate streams for each type have no common order, and no server can give them one.
"""


def page() -> str:
    """The whole page."""
    for module in MODULES:
        import_module(f"tests.xds.{module}")
    for module in PEERS:
        import_module(f"tests.gateway.{module}")
    listed = sorted(ROWS, key=lambda row: (*MODULES, *PEERS).index(row.module))  # whoever imported them first
    order = {name: number for number, name in enumerate(dict.fromkeys(row.section for row in listed))}
    runs = sum(len(row.variants) * max(1, len(row.kinds)) for row in ROWS)
    parts = [_HEAD, f"{len(ROWS)} rows, {runs} runs.\n"]
    rows = sorted(listed, key=lambda row: order[row.section])
    for section, group in groupby(rows, key=lambda row: row.section):
        parts.append(f"## {section}\n")
        parts.append("| row | what is required | " + " | ".join(one.value for one in Variant) + " | test |")
        parts.append("|---|---|" + "---|" * len(Variant) + "---|")
        for row in group:
            kinds = " ".join(row.kinds) or "yes"
            cells = " | ".join(kinds if one in row.variants else "–" for one in Variant)
            parts.append(f"| {row.number} | {row.title} | {cells} | `{row.test}` |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
