"""ir listeners -> Listener: one HTTP connection manager each, set up as Envoy's edge guide says.

The route table comes by RDS, so an edit of routes never touches a listener, and no connection is drained for it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import lru_cache

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import envoy_data_plane.envoy.extensions.filters.listener.tls_inspector.v3 as tls_inspector_v3
import envoy_data_plane.envoy.extensions.filters.network.connection_limit.v3 as connection_limit_v3
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls_v3

from controlplane.ir.gateway import Certificate, Edge, Gateway, Listener
from controlplane.snapshot.resource import LISTENER, SECRET, Resource, whole
from controlplane.translate.address import address
from controlplane.translate.cluster import ADS
from controlplane.translate.encode import encode, packed
from controlplane.translate.http_filters.chain import HTTP_FILTERS
from controlplane.translate.http_filters.early_headers import early_header_mutations
from controlplane.translate.local_reply import local_reply_config
from controlplane.translate.values import BUFFER_BYTES, H2_CONNECTION_WINDOW, H2_STREAM_WINDOW, duration

_H2_STREAMS = 100


def listener_resource(listener: Listener, gateway: Gateway) -> Resource:
    """A listener and everything that holds for each request on it, whatever the routes are."""
    return _resource(listener, replace(gateway, route_tables=(), clusters=(), limits=(), troubled=()))


@lru_cache(256)
def _resource(listener: Listener, gateway: Gateway) -> Resource:
    manager = _connection_manager(listener, gateway)
    filter_chain = listener_v3.FilterChain(
        filters=[
            *_connection_limit(listener, gateway.edge),
            listener_v3.Filter(name="envoy.filters.network.http_connection_manager", typed_config=packed(manager)),
        ],
        transport_socket=_tls(listener.certificate) if listener.certificate else None,
        transport_socket_connect_timeout=timedelta(seconds=10),
    )
    built = listener_v3.Listener(
        name=listener.name,
        address=address(listener.address, listener.port),
        filter_chains=[filter_chain],
        listener_filters=[
            listener_v3.ListenerFilter(
                name="envoy.filters.listener.tls_inspector", typed_config=packed(tls_inspector_v3.TlsInspector())
            )
        ]
        if listener.certificate
        else [],
        per_connection_buffer_limit_bytes=BUFFER_BYTES,
        traffic_direction=core.TrafficDirection.INBOUND,
    )
    return whole(LISTENER, listener.name, encode(built), *((listener.origin,) if listener.origin else ()))


def _connection_limit(listener: Listener, edge: Edge) -> list[listener_v3.Filter]:
    """Closes connections beyond the limit as soon as they are made."""
    if edge.max_connections is None:
        return []
    limit = connection_limit_v3.ConnectionLimit(
        stat_prefix=f"listener_{listener.port}", max_connections=edge.max_connections
    )
    return [listener_v3.Filter(name="envoy.filters.network.connection_limit", typed_config=packed(limit))]


def secret_resource(certificate: Certificate) -> Resource:
    """A certificate and its key, by SDS: it rotates without touching the listener."""
    built = tls_v3.Secret(
        name=certificate.name,
        tls_certificate=tls_v3.TlsCertificate(
            certificate_chain=core.DataSource(inline_string=certificate.certificate_pem),
            private_key=core.DataSource(inline_string=certificate.key_pem),
        ),
    )
    return whole(SECRET, certificate.name, encode(built), certificate.origin)


def _connection_manager(listener: Listener, gateway: Gateway) -> hcm_v3.HttpConnectionManager:
    edge = gateway.edge
    return hcm_v3.HttpConnectionManager(
        stat_prefix=f"listener_{listener.port}",
        codec_type=hcm_v3.HttpConnectionManagerCodecType.AUTO,
        rds=hcm_v3.Rds(config_source=ADS, route_config_name=listener.route_table),
        http_filters=[
            hcm_v3.HttpFilter(name=one.name, typed_config=config, disabled=not one.everywhere)
            for one in HTTP_FILTERS
            if (config := one.listener(gateway)) is not None
        ],
        early_header_mutation_extensions=early_header_mutations(gateway),
        local_reply_config=local_reply_config(),
        upgrade_configs=[hcm_v3.HttpConnectionManagerUpgradeConfig(upgrade_type="websocket", enabled=False)],
        # Who asks, and under which id.
        use_remote_address=True,
        xff_num_trusted_hops=edge.trusted_hops,
        # No address is internal: an internal client could steer retries and time-outs by x-envoy-* headers. An empty
        # setting would still trust private networks.
        internal_address_config=hcm_v3.HttpConnectionManagerInternalAddressConfig(
            cidr_ranges=[core.CidrRange(address_prefix="255.255.255.255", prefix_len=32)]
        ),
        forward_client_cert_details=hcm_v3.HttpConnectionManagerForwardClientCertDetails.SANITIZE_SET,
        generate_request_id=True,
        preserve_external_request_id=edge.keep_request_id,
        always_set_request_id_in_response=True,
        # One spelling of every path and host, before anything is decided by them.
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=_ESCAPED_SLASHES[edge.escaped_slashes],
        strip_any_host_port=True,
        strip_trailing_host_dot=True,
        # Bounds on what a stranger may send, and how long it may take.
        max_request_headers_kb=edge.max_header_kib,
        request_headers_timeout=duration(edge.request_headers_timeout_ms),
        request_timeout=duration(edge.stream_idle_timeout_ms),
        stream_idle_timeout=duration(edge.stream_idle_timeout_ms),
        drain_timeout=duration(edge.drain_timeout_ms),
        common_http_protocol_options=core.HttpProtocolOptions(
            idle_timeout=duration(edge.idle_timeout_ms),
            max_headers_count=edge.max_headers,
            headers_with_underscores_action=_UNDERSCORES[edge.headers_with_underscores],
        ),
        http_protocol_options=core.Http1ProtocolOptions(
            allow_absolute_url=True, override_stream_error_on_invalid_http_message=False
        ),
        http2_protocol_options=core.Http2ProtocolOptions(
            max_concurrent_streams=_H2_STREAMS,
            initial_stream_window_size=H2_STREAM_WINDOW,
            initial_connection_window_size=H2_CONNECTION_WINDOW,
            override_stream_error_on_invalid_http_message=False,
        ),
        stream_error_on_invalid_http_message=False,
        server_name="causeway",
        server_header_transformation=hcm_v3.HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
    )


_ESCAPED_SLASHES = {
    "reject": hcm_v3.HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
    "redirect": hcm_v3.HttpConnectionManagerPathWithEscapedSlashesAction.UNESCAPE_AND_REDIRECT,
    "forward": hcm_v3.HttpConnectionManagerPathWithEscapedSlashesAction.UNESCAPE_AND_FORWARD,
    "keep": hcm_v3.HttpConnectionManagerPathWithEscapedSlashesAction.KEEP_UNCHANGED,
}
_UNDERSCORES = {
    "reject": core.HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
    "drop": core.HttpProtocolOptionsHeadersWithUnderscoresAction.DROP_HEADER,
    "allow": core.HttpProtocolOptionsHeadersWithUnderscoresAction.ALLOW,
}


def _tls(certificate: Certificate) -> core.TransportSocket:
    context = tls_v3.DownstreamTlsContext(
        common_tls_context=tls_v3.CommonTlsContext(
            alpn_protocols=["h2", "http/1.1"],
            tls_params=tls_v3.TlsParameters(
                tls_minimum_protocol_version=tls_v3.TlsParametersTlsProtocol.TLSv1_2,
            ),
            tls_certificate_sds_secret_configs=[tls_v3.SdsSecretConfig(name=certificate.name, sds_config=ADS)],
        )
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))
