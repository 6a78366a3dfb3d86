"""`causeway bootstrap`: the one file Envoy starts from. Everything else reaches Envoy over ADS.

The file names the control plane, and holds what must be there before it: the node's name, the admin address, the limits
that keep Envoy alive under load. It must not know manifests. Envoy starts with it even while the control plane is away.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from serving.address import Address, TcpAddress, UnixAddress
from serving.settings import command, setting

if TYPE_CHECKING:
    import typer

JsonValue = str | int | float | bool | list["JsonValue"] | dict[str, "JsonValue"]
Json = dict[str, JsonValue]

XDS_CLUSTER = "xds_cluster"
ENVOY_ARGUMENTS = ("--ignore-unknown-dynamic-fields", "--drain-strategy", "immediate")
"""Envoy does not look for fields that it does not know: that would take as long again as all else it does with a table
of routes. An Envoy that could meet one, older than `OLDEST_ENVOY`, is turned away by the control plane."""

OLDEST_ENVOY = (1, 40)
"""The release whose API we speak. Earlier ones lack fields of it, and would run without the settings in them."""

RUNTIME = {"re2.max_program_size.error_level": 10_000}
"""Envoy's own limit, 100 steps, refuses `[0-9a-f]{64}` and a path of a dozen parameters. The largest that manifests may
hold, which says so by file and line, and the longest path fit in here."""

_EXTENSIONS = "type.googleapis.com/envoy.extensions."
_CERTIFICATE, _AUTHORITY = "xds-certificate", "xds-authority"
_TLS_STATS = r"^(listener|cluster)\..*\.ssl\.(ciphers|curves|sigalgs|versions)\..*"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapSettings:
    xds: Address = setting("127.0.0.1:18000", help="The control plane's ADS address: host:port or unix:/path.")
    admin: Address = setting(
        "127.0.0.1:9901",
        variable="CAUSEWAY_BOOTSTRAP_ADMIN",  # by CAUSEWAY_ADMIN all other commands mean our own processes'
        help="Envoy's admin interface: loopback or unix:/path only.",
    )
    node_id: str = setting("", help="This Envoy's name, unique among those of the control plane. Empty: the host name.")
    cluster: str = setting("gateway", help="The group of Envoys this one belongs to.")
    max_heap_mb: int = setting(1024, minimum=64, help="Memory in MB: above 90 % Envoy sheds work in steps.")
    max_connections: int = setting(50_000, minimum=1, help="Client connections at once; above it new ones are closed.")
    xds_ca: Path | None = setting(None, help="PEM of the authority that signed the control plane's certificate.")
    xds_certificate: Path | None = setting(None, help="PEM of this Envoy's client certificate.")
    xds_key: Path | None = setting(None, help="PEM of its key.")
    xds_name: str = setting("", help="Name in the control plane's certificate, when it is not the host of --xds.")
    xds_secrets: Path | None = setting(
        None,
        help="Folder for two files by which Envoy reads its certificate and the authority anew when they are replaced; "
        "of several Envoys each needs an --output or a folder of its own. "
        "Left out: the folder of --output; printed, they are read at the start only.",
    )
    format: Literal["yaml", "json"] = setting("yaml", help="How to print it.")
    output: Path | None = setting(None, help="The file to write, in place of printing.")

    def secret_file(self, name: str) -> Path | None:
        """Where the file is written that names a certificate, as an absolute path. None: nowhere.

        It is named after the output, beside which those of other Envoys may be.
        """
        folder = self.xds_secrets or (self.output.parent if self.output is not None else None)
        if folder is None or self.xds_ca is None:
            return None
        return folder.resolve() / f"{f'{self.output.name}.' if self.output is not None else ''}{name}.json"

    def __post_init__(self) -> None:
        if not self.admin.is_loopback:
            raise ValueError(f"--admin {self.admin}: the admin interface can stop Envoy: loopback or unix:/path only")
        if (self.xds_certificate is None) != (self.xds_key is None):
            raise ValueError("--xds-certificate and --xds-key go together")
        if self.xds_certificate is not None and self.xds_ca is None:
            raise ValueError("--xds-certificate needs --xds-ca: a key is shown to a server that was verified")


_DNS_RESOLVER: Json = {
    "name": "envoy.network.dns_resolver.cares",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
        # Envoy accepts no cluster before all are warm: one whose name server is silent would take it minutes.
        "query_timeout_seconds": 1,
        "query_tries": 2,
    },
}


def register(app: typer.Typer) -> None:
    app.command("bootstrap")(command(BootstrapSettings, _print))


def _print(settings: BootstrapSettings) -> None:
    """Print the bootstrap file an Envoy starts from. Envoy must be 1.40 or later, and is started like this:

    envoy -c envoy.yaml --ignore-unknown-dynamic-fields --drain-strategy immediate
    """
    import typer

    document = bootstrap(settings)
    text = json.dumps(document, indent=2) + "\n" if settings.format == "json" else _yaml(document)
    try:
        for path, secret in _secrets(settings).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"resources": [secret]}, indent=2) + "\n", encoding="utf-8")
        if settings.output is not None:
            settings.output.write_text(text, encoding="utf-8")
    except OSError as failure:
        typer.echo(f"error: cannot write {failure.filename}: {failure.strerror}", err=True)
        raise typer.Exit(1) from None
    if settings.output is None:
        print(text, end="")
    pems = {"--xds-ca": settings.xds_ca, "--xds-certificate": settings.xds_certificate, "--xds-key": settings.xds_key}
    for flag, pem in pems.items():
        # Only a warning: the file may be for another machine.
        if pem is not None and not pem.is_file():
            typer.echo(f"warning: {flag}: there is no {pem.absolute()} here; Envoy needs it where it starts", err=True)


def bootstrap(settings: BootstrapSettings) -> Json:
    """Envoy's Bootstrap (config.bootstrap.v3) in its JSON form."""
    from_ads: Json = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": settings.node_id or socket.gethostname(), "cluster": settings.cluster},
        "admin": {"address": _envoy_address(settings.admin)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": XDS_CLUSTER,
                            # A control plane that restarts is found again in a second, not in Envoy's thirty.
                            "retry_policy": {"retry_back_off": {"base_interval": "0.25s", "max_interval": "5s"}},
                        }
                    }
                ],
            },
            "lds_config": dict(from_ads),
            "cds_config": dict(from_ads),
        },
        "static_resources": {"clusters": [_xds_cluster(settings)]},
        "typed_dns_resolver_config": _DNS_RESOLVER,
        "overload_manager": _overload_manager(settings),
        "layered_runtime": {
            "layers": [{"name": "static", "static_layer": {**RUNTIME}}, {"name": "admin", "admin_layer": {}}]
        },
        "stats_config": {
            "use_all_default_tags": True,
            "stats_matcher": {"exclusion_list": {"patterns": [{"safe_regex": {"regex": _TLS_STATS}}]}},
        },
    }


def _yaml(document: Json) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        # To Envoy's parser a bare y or n is a boolean, which PyYAML does not expect.
        style = '"' if value.lower() in ("y", "n") else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(document, Dumper=Dumper, sort_keys=False, width=120)


def _xds_cluster(settings: BootstrapSettings) -> Json:
    endpoint: Json = {"endpoint": {"address": _envoy_address(settings.xds)}}
    cluster: Json = {
        "name": XDS_CLUSTER,
        "type": "STATIC" if _is_literal(settings.xds) else "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _EXTENSIONS + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": {"connection_keepalive": {"interval": "20s", "timeout": "5s"}}
                },
            }
        },
        "load_assignment": {"cluster_name": XDS_CLUSTER, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if settings.xds_ca is not None:
        cluster["transport_socket"] = _tls(settings, settings.xds_ca)
    return cluster


def _tls(settings: BootstrapSettings, ca: Path) -> Json:
    host = settings.xds.host if isinstance(settings.xds, TcpAddress) else ""
    name = settings.xds_name or host
    context: Json = {"alpn_protocols": ["h2"]}
    expected: Json = {}
    if name:
        kind = "IP_ADDRESS" if _is_ip(name) else "DNS"
        expected["match_typed_subject_alt_names"] = [{"san_type": kind, "matcher": {"exact": name}}]
    authority, certificate = settings.secret_file(_AUTHORITY), settings.secret_file(_CERTIFICATE)
    if authority is None:
        context["validation_context"] = {"trusted_ca": _pem(ca), **expected}
    else:
        context["combined_validation_context"] = {
            "default_validation_context": expected,
            "validation_context_sds_secret_config": _from_file(_AUTHORITY, authority),
        }
    if settings.xds_certificate is not None and settings.xds_key is not None:
        if certificate is None:
            context["tls_certificates"] = [_pair(settings.xds_certificate, settings.xds_key)]
        else:
            context["tls_certificate_sds_secret_configs"] = [_from_file(_CERTIFICATE, certificate)]
    upstream: Json = {"@type": _EXTENSIONS + "transport_sockets.tls.v3.UpstreamTlsContext"}
    upstream["common_tls_context"] = context
    if name and not _is_ip(name):
        upstream["sni"] = name
    return {"name": "envoy.transport_sockets.tls", "typed_config": upstream}


def _from_file(name: str, file: Path) -> Json:
    source: Json = {"path_config_source": {"path": str(file)}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}


def _secrets(settings: BootstrapSettings) -> dict[Path, Json]:
    """The files besides the bootstrap: Envoy takes a certificate anew only if a file of its own says where it is.

    The folder is watched, not the file: a file that is renamed into place and a symlink that is swung both count.
    """
    authority, certificate = settings.secret_file(_AUTHORITY), settings.secret_file(_CERTIFICATE)
    if authority is None or certificate is None or settings.xds_ca is None:
        return {}
    trusted: Json = {"trusted_ca": _pem(settings.xds_ca), "watched_directory": _folder(settings.xds_ca)}
    found = {authority: _secret(_AUTHORITY, validation_context=trusted)}
    if settings.xds_certificate is not None and settings.xds_key is not None:
        pair = _pair(settings.xds_certificate, settings.xds_key)
        pair["watched_directory"] = _folder(settings.xds_certificate)
        found[certificate] = _secret(_CERTIFICATE, tls_certificate=pair)
    return found


def _secret(name: str, **content: Json) -> Json:
    return {"@type": _EXTENSIONS + "transport_sockets.tls.v3.Secret", "name": name, **content}


def _pair(certificate: Path, key: Path) -> Json:
    return {"certificate_chain": _pem(certificate), "private_key": _pem(key)}


def _pem(file: Path) -> Json:
    """Where it is, whatever folder Envoy starts in; through symlinks, which may be swung."""
    return {"filename": str(file.absolute())}


def _folder(file: Path) -> Json:
    return {"path": str(file.absolute().parent)}


def _overload_manager(settings: BootstrapSettings) -> Json:
    heap = "envoy.resource_monitors.fixed_heap"
    # Give memory back, then lose idle clients, then new requests, then new connections: the mildest that helps.
    steps = (
        ("envoy.overload_actions.shrink_heap", 0.90),
        ("envoy.overload_actions.disable_http_keepalive", 0.93),
        ("envoy.overload_actions.stop_accepting_requests", 0.96),
        ("envoy.overload_actions.stop_accepting_connections", 0.98),
    )
    actions: list[JsonValue] = [
        {"name": action, "triggers": [{"name": heap, "threshold": {"value": threshold}}]} for action, threshold in steps
    ]
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": heap,
                "typed_config": {
                    "@type": _EXTENSIONS + "resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": settings.max_heap_mb << 20,
                },
            },
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": _EXTENSIONS + "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": settings.max_connections,
                },
            },
        ],
        "actions": actions,
    }


def _envoy_address(address: Address) -> Json:
    match address:
        case UnixAddress():
            return {"pipe": {"path": str(address.path), "mode": 0o600}}
        case TcpAddress():
            host = "127.0.0.1" if address.host == "localhost" else address.host
            return {"socket_address": {"address": host, "port_value": address.port}}


def _is_literal(address: Address) -> bool:
    return isinstance(address, UnixAddress) or address.host == "localhost" or _is_ip(address.host)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
