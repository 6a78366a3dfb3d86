"""How Envoy asks our own services: a worker that is away is one that another stands in for, at once."""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import (
    BackoffStrategy,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    RetryPolicy,
    RetryPolicyRetryHostPredicate,
)
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate

from controlplane.ir.names import ClusterName
from controlplane.translate.encode import packed

_FIRST_RETRY = timedelta(milliseconds=1)
_NOT_THE_SAME_AGAIN = RetryPolicyRetryHostPredicate(
    name="envoy.retry_host_predicates.previous_hosts", typed_config=packed(PreviousHostsPredicate())
)


def policy_call(cluster: ClusterName, timeout: timedelta) -> GrpcService:
    """A call to one of our services that has `timeout` in all, with the workers that are asked in turn."""
    return GrpcService(
        envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=cluster, skip_envoy_headers=True),
        timeout=timeout,
        retry_policy=RetryPolicy(
            # Unreachable, or it died meanwhile, or (unavailable) it has only just started and knows nothing yet. A call
            # that was under way may be answered twice then: a check changes nothing, a limit counts one too many.
            retry_on="connect-failure,refused-stream,reset,unavailable",
            num_retries=3,
            # Left out, the wait before a retry is up to a second. What is called its maximum is also what Envoy gives
            # each try, so it is all the time there is.
            retry_back_off=BackoffStrategy(base_interval=_FIRST_RETRY, max_interval=timeout),
            # A worker that is away has the fewest requests and is chosen time and again: until it is another one.
            retry_host_predicate=[_NOT_THE_SAME_AGAIN],
            host_selection_retry_max_attempts=100,
        ),
    )
