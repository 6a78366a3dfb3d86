"""The control plane's figures for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

CLIENTS = Gauge("causeway_xds_streams", "xDS streams open now.")
SERVED = Counter("causeway_xds_snapshots", "Snapshots put in service.")
HELD = Gauge("causeway_xds_change_held", "1 while a change waits for a confirmation.")
UNKEPT = Gauge("causeway_xds_unkept", "1 while what is served is not on disk: a restart would not serve it.")
KEPT_BACK = Counter("causeway_xds_kept_back", "Resources and parts a client rejected and that are kept back.", ["type"])
PROPAGATION = Histogram(
    "causeway_xds_propagation_seconds",
    "From a snapshot put in service to a client having accepted all of it.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
CANARY = Gauge("causeway_xds_canary", "1 while a change is on trial with some Envoys.")
CANARIES = Counter("causeway_xds_canaries", "Changes that were on trial, by what became of them.", ["outcome"])
