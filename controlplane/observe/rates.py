"""How many requests an Envoy answered and how many of them failed: what a canary is judged by. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.ir.names import is_service, service_of

STATS = r"/stats?format=json&usedonly&filter=^(http\..*\.downstream_rq_(completed|5xx)|cluster\..*\.upstream_rq_5\d\d)$"
_OF_A_SERVICE = re.compile(r"cluster\.(?P<cluster>.+)(?<!\.external)(?<!\.internal)\.upstream_rq_(?P<status>5\d\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """An Envoy's counters since it started."""

    completed: int
    failed: int
    by_service: Mapping[str, int] = field(default_factory=dict)
    """Failures by service and status: `orders 503`."""


def counters(stats: Mapping[str, object]) -> Requests:
    """Envoy's `/stats?format=json`, added up over its listeners; its own admin listener is none of them."""
    completed = failed = 0
    by_service: Counter[str] = Counter()
    rows = stats.get("stats", [])
    for row in rows if isinstance(rows, list) else []:
        name, value = str(row.get("name", "")), int(row.get("value", 0))
        if (found := _OF_A_SERVICE.fullmatch(name)) is not None:
            if value and is_service(found["cluster"]):
                by_service[f"{service_of(found['cluster'])} {found['status']}"] += value
        elif name.startswith("http.admin."):
            continue
        elif name.endswith("_completed"):
            completed += value
        elif name.endswith("_5xx"):
            failed += value
    return Requests(completed=completed, failed=failed, by_service=by_service)
