"""One call of a stock gRPC client to the target in its argument; says on standard output what came of it, as JSON."""

from __future__ import annotations

import json
import sys
import time

import grpc
import grpc_csds
from envoy.service.status.v3 import csds_pb2


def main(target: str) -> None:
    began = time.monotonic()
    told: dict[str, object] = {}
    with grpc.insecure_channel(target) as channel:
        try:
            told["answer"] = channel.unary_unary("/any.Service/Call")(b"hello", timeout=20).decode()
        except grpc.RpcError as failure:
            told["code"], told["details"] = failure.code().name, failure.details()
        told["took_s"] = time.monotonic() - began
        servicer = grpc_csds.ClientStatusDiscoveryServiceServicer()
        dump = servicer.FetchClientStatus(csds_pb2.ClientStatusRequest(), None)
        csds: dict[str, dict[str, str]] = {}
        for one in dump.config[0].generic_xds_configs:
            states = one.DESCRIPTOR.fields_by_name["client_status"].enum_type.values_by_number
            csds.setdefault(one.type_url.rpartition("/")[2], {})[one.name] = states[one.client_status].name
        told["csds"] = csds
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
