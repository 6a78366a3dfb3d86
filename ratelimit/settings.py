"""What the rate limit service is told at its start. Apart from the server, so that reading it costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serving.address import Address
from serving.secret import Secret
from serving.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the process is told at its start."""

    listen: tuple[Address, ...] = setting("127.0.0.1:8081", help="Where Envoy connects: host:port or unix:/path.")
    admin: Address = setting("127.0.0.1:8080", help="Health, metrics, /json and /limits.")
    config: Path | None = setting(None, help="A folder of the reference service's YAML.")
    merge_domains: bool = setting(False, env=("MERGE_DOMAIN_CONFIG",), help="Files of one domain are one.")
    xds: Address | None = setting(None, help="The control plane.")
    xds_reference: bool = setting(False, help="Ask the control plane for RateLimitConfig as well.")
    state: Path | None = setting(None, help="A folder for the last known good policy.")
    node: str = setting("", help="This process's name; the host's name and process id if left out.")
    redis: str = setting("", help="The shared store, as a URL without a password; memory if left out.")
    redis_url: Secret | None = setting(None, env=("REDIS_URL",), help="The shared store, as a URL.")
    redis_timeout_ms: int = setting(50, minimum=1, maximum=10_000, help="A store slower than this is not waited for.")
    max_counters: int = setting(1_000_000, minimum=1_000, help="Counters in memory.")
    shadow_mode: bool = setting(False, env=("SHADOW_MODE",), help="Count everything, refuse nothing.")
    quota_mode: bool = setting(False, env=("QUOTA_MODE",), help="Every reference descriptor is a quota.")
    extra_tags: tuple[str, ...] = setting(
        (), env=("EXTRA_TAGS",), help="Labels for the reference service's metrics: name=value,name=value."
    )
    response_headers: bool = setting(
        False, env=("LIMIT_RESPONSE_HEADERS_ENABLED",), help="The reference service's three response headers."
    )
    response_metadata: bool = setting(
        False, env=("RESPONSE_DYNAMIC_METADATA",), help="The reference service's dynamic metadata."
    )
    limit_header: str = setting("RateLimit-Limit", env=("LIMIT_LIMIT_HEADER",), help="Its first header's name.")
    remaining_header: str = setting(
        "RateLimit-Remaining", env=("LIMIT_REMAINING_HEADER",), help="Its second header's name."
    )
    reset_header: str = setting("RateLimit-Reset", env=("LIMIT_RESET_HEADER",), help="Its third header's name.")
    tls_cert: Path | None = setting(None, help="A certificate for TCP addresses, PEM.")
    tls_key: Path | None = setting(None, help="Its key, PEM.")
    tls_ca: Path | None = setting(None, help="Whose client certificates are accepted, PEM; needed for mTLS.")
    allow_insecure: bool = setting(False, help="Plain text beyond loopback and Unix sockets.")
    drain_s: float = setting(5.0, minimum=0, maximum=600, help="How long calls in flight may take at the end.")

    def __post_init__(self) -> None:
        if self.config is None and self.xds is None:
            raise ValueError("--config or --xds is required: a folder of limits, or a control plane to get them from")
        if self.xds_reference and (self.config is not None or self.xds is None):
            raise ValueError("--xds-reference needs --xds and excludes --config")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key go together")
        if any("=" not in tag for tag in self.extra_tags):
            raise ValueError("--extra-tags: expected name=value")
        if self.redis and self.redis_url is not None:
            raise ValueError("--redis and CAUSEWAY_REDIS_URL name two stores")
