"""Prints the conformance table from the tests' rows: `python -m tests.xds.table > docs/xds-conformance.md`."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from importlib import import_module
from itertools import groupby
from pathlib import Path

from tests.xds.rows import BEHAVIOURS, ROWS, Variant

MODULES = (
    "test_checklist",
    "test_order",
    "test_slow_to_warm",
    "test_lifetime",
    "test_on_demand",
    "test_behaviours",
    "test_harness",
    "test_refusals",
    "test_wire",
)
PEERS = (
    "test_xds_types",
    "test_xds_on_demand",
    "test_xds_lifetime",
    "test_xds_refusals",
    "test_xds_warming",
    "test_xds_grpc_client",
    "test_xds_rate_limits",
)
PAGE = Path(__file__).parents[2] / "docs" / "xds-conformance.md"

_HEAD = """# xDS conformance

What the control plane does in each variant of the xDS protocol. Every filled cell is a test that runs in `make check`
or `make test`; the page is printed from them (`python -m tests.xds.table`), and a test fails when it is out of date.
A dash: the row does not apply to the variant.

The rows of the public harness run over gRPC against the harness's own Adapter service, which the tests implement. The
[original harness](#the-original-harness) was run too: all of its 98 rows pass.

Rows through real peers come last; those through the rate limit service in Go run where it is installed. Beyond the
table: changes through a real Envoy under load are in `tests/gateway/test_xds_*.py`; arbitrary conversations, with what
must always hold, in `tests/xds/test_fuzz.py`.

What Envoy 1.40 was seen to do:

- It takes a time to live only when its bootstrap says so (`client_features`: `xds.config.supports-resource-ttl`, and in
  state of the world `xds.config.resource-in-sotw`). In state of the world only the whole resource keeps one alive, and
  it crashes when that of endpoints runs out (envoyproxy/envoy#24271).
- It asks once for a cluster that it does not have; later requests for it wait for the filter's `timeout`.
- Its listener is not used before it has heard something of the virtual hosts of a route configuration on demand.
- It answers 500 without an extension that a draining listener names, and refuses, with the unified mux, a response that
  leaves out an extension it has: neither is taken from an Envoy that asks for it.

Not served: REST and the unary `Fetch` methods, scoped routes, runtime, `xdstp://` names. Make before break is a promise
of an aggregated stream: separate streams for each type have no common order, and no server can give them one.
"""

_ORIGINAL = """## The original harness

[`ii/xds-test-harness`](https://github.com/ii/xds-test-harness), an xDS client in Go that knows nothing of this server,
run against it on 2026-11-21:

| variant | rows | passed | steps |
|---|---|---|---|
| `sotw non-aggregated` | 24 | 24 | 152 |
| `sotw aggregated` | 26 | 26 | 168 |
| `incremental non-aggregated` | 22 | 22 | 168 |
| `incremental aggregated` | 26 | 26 | 208 |

The harness was at commit `c99746a6d0e65e204e7f5cf8121207df351bcfa8`, with a later `features/delta.feature`, which asks
for more in its last scenario. It was gathered file by file, not cloned. Files that this commit does not touch are
versions that fit it: the messages of `api/adapter/adapter.proto` at `954dbdbb`, `features/subscribing.feature` at
`44bd726a`, `parser.go` and `fmt_xds.go` as a fork has them. In `services.go` the element type of two channels was set
to the `*anypb.Any` that the rest of the commit needs. Nothing that judges a server was changed.

In the harness's folder (Go 1.26, protoc 3.21, protoc-gen-go 1.28.0, protoc-gen-go-grpc 1.2.0; godog 0.12.5,
go-control-plane 0.10.3, grpc 1.47.0):

    protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative \\
        api/adapter/adapter.proto
    go build -o xds-test-harness .

In this repository, and left running:

    python -m tests.xds.adapter 17000 18000

In the harness's folder again, for each variant:

    ./xds-test-harness -A :17000 -T :18000 -N test-id -V "sotw aggregated"

A variant takes four to six minutes, most of it fixed waits. Variants can run side by side, each with an adapter on
ports of its own and in a folder of its own with a copy of `features` (a link to it is not followed), as each writes
`results.json`.

How to read the outcome: once connected, the harness ends with status 0 whatever happened, even when it found no row at
all. The log has a line `PASSED` or `FAILED` for each row; `results.json` counts steps. That rows can fail was tried:
when the adapter ignores every update and addition, 16, 18, 12 and 16 rows fail (in the table's order); when the server
forgets to unsubscribe, 4 in each variant.

The harness sends a request of its client and a change to the adapter at the same moment, over two connections, and
counts on the request being first: a row about unsubscribing failed once for that, as it does every time when requests
are heard 20 ms late. The adapter therefore waits 0.2 s before each change, and the rows pass then as well.

The harness is more lenient than the rows above in two places: it notices an answer to an acceptance only while another
one is under way, and does not look whether a missing resource is told to be missing.
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
    listed += [replace(row, section=BEHAVIOURS, number=row.behaviour) for row in listed if row.behaviour]
    rows = sorted(listed, key=lambda row: (order[row.section], _natural(row.number)))
    for section, group in groupby(rows, key=lambda row: row.section):
        parts.append(f"## {section}\n")
        parts.append("| row | what is required | " + " | ".join(one.value for one in Variant) + " | test |")
        parts.append("|---|---|" + "---|" * len(Variant) + "---|")
        for row in group:
            kinds = " ".join(row.kinds) or "yes"
            cells = " | ".join(kinds if one in row.variants else "–" for one in Variant)
            parts.append(f"| {row.number} | {row.title} | {cells} | `{row.test}` |")
        parts.append("")
    return "\n".join((*parts, _ORIGINAL))


def _natural(number: str) -> tuple[str, int, str]:
    """`9` before `10`, `H3b` after `H3`."""
    letters, digits, rest = re.split(r"(\d+)", number)
    return letters, int(digits), rest


if __name__ == "__main__":
    sys.stdout.write(page())
