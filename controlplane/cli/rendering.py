"""Resources as Envoy's own JSON: to be read by people without secrets, or given to the Envoy binary with them."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from controlplane.cli.bootstrap import RUNTIME
from controlplane.cli.up.envoy import find_envoy
from controlplane.snapshot import resource as types
from controlplane.snapshot.resource import Audience, Resource
from controlplane.snapshot.snapshot import Snapshot
from controlplane.xds.protocol import reason
from extauthz.policy import RESOURCE_NAME as EXTAUTHZ
from extauthz.policy import Policy
from serving.secret import REDACTED

Json = dict[str, "Value"]
Value = str | int | float | bool | None | list["Value"] | Json

SHORT_TYPES = {
    "listeners": types.LISTENER,
    "routes": types.ROUTE,
    "clusters": types.CLUSTER,
    "endpoints": types.ENDPOINT,
    "secrets": types.SECRET,
    "policies": types.EXTENSION,
}
"""The names people use for the types of resources, in the order in which they are rendered."""

_SECRET_KEYS = frozenset({"private_key", "password", "session_ticket_keys", "generic_secret", "digest", "hash"})
_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_VALIDATION_S = 60
_AROUND = re.compile(r"(?m)^(\[\S.*?\] ?)+(error initializing configuration 'the configuration': ?)?")
"""What Envoy puts before what it says: time, place in its source, and which file it was given."""


class EnvoyIsSilentError(Exception):
    """Envoy has not said anything in time."""


def decoded(resource: Resource) -> Json:
    """A resource in Envoy's JSON form, secrets included."""
    name = resource.type_url.removeprefix("type.googleapis.com/")
    message = _message_class(name)()
    message.ParseFromString(resource.body)
    return _as_json(message)


def readable(resource: Resource, private: Iterable[str] = ()) -> Json:
    """A resource in Envoy's JSON form for people: `[redacted]` for secrets and for every text in `private`."""
    found = decoded(resource)
    if resource.type_url == types.EXTENSION:
        found = {"name": found["name"], "document": _policy(resource.name, found)}
    hidden = frozenset(text for text in private if text)
    redacted = _redacted(found, hidden)
    return redacted if isinstance(redacted, dict) else {}


def _policy(name: str, found: Json) -> Value:
    """A service's document, shown by its own model, which knows its secrets."""
    packed = found.get("typed_config")
    text = packed.get("value") if isinstance(packed, dict) else None
    if not isinstance(text, str):
        return None
    if name == EXTAUTHZ:
        text = Policy.model_validate_json(text).model_dump_json()
    document: Value = json.loads(text)
    return document


def _redacted(value: Value, hidden: frozenset[str]) -> Value:
    match value:
        case dict():
            return {k: REDACTED if k in _SECRET_KEYS and v else _redacted(v, hidden) for k, v in value.items()}
        case list():
            return [_redacted(item, hidden) for item in value]
        case str() if value in hidden:
            return REDACTED
        case _:
            return value


def _as_json(message: Message) -> Json:
    """JSON with the types of every `Any` in it loaded, however deep."""
    for _ in range(100):
        try:
            return dict(json_format.MessageToDict(message, preserving_proto_field_name=True))
        except TypeError as problem:
            unknown = re.search(r"type\.googleapis\.com/([\w.]+)", str(problem))
            if unknown is None:
                raise
            _message_class(unknown[1])
    raise TypeError("more than 100 kinds of messages in one resource")


@cache
def _message_class(name: str) -> Callable[[], Message]:
    """The class of a message by its full name. Its package's modules are imported where it is not known yet."""
    pool = descriptor_pool.Default()
    try:
        found = pool.FindMessageTypeByName(name)
    except KeyError:
        package = import_module(name.rpartition(".")[0])
        for module in iter_modules(package.__path__):
            if module.name.endswith("_pb2"):
                import_module(f"{package.__name__}.{module.name}")
        found = pool.FindMessageTypeByName(name)
    make: Callable[[], Message] = message_factory.GetMessageClass(found)
    return make


def envoy_says(snapshot: Snapshot) -> str | None:
    """What the Envoy binary has against the snapshot, or None. Raises EnvoyNotFoundError and EnvoyIsSilentError.

    Everything is put into one static configuration, with its secrets, in a file that only we can read and that is
    deleted at once.
    """
    binary = find_envoy()
    with tempfile.TemporaryDirectory(prefix="causeway-") as folder:
        path = Path(folder) / "envoy.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(static_configuration(snapshot)))
        command = [str(binary), "--mode", "validate", "-c", str(path), "--log-level", "error"]
        command += ["--base-id", "0", "--use-dynamic-base-id", "--reject-unknown-dynamic-fields"]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=_VALIDATION_S, check=False)  # noqa: S603
        except subprocess.TimeoutExpired:
            raise EnvoyIsSilentError(f"Envoy did not answer within {_VALIDATION_S} seconds") from None
    if run.returncode == 0:
        return None
    said = (run.stderr + run.stdout).replace(str(path), "the configuration").strip()
    return reason(_AROUND.sub("", said)).strip() or f"Envoy ended with exit code {run.returncode}"


def static_configuration(snapshot: Snapshot) -> Json:
    """The snapshot as one bootstrap without a control plane: what Envoy would have once everything was fetched."""
    by_type = {
        short: [decoded(r) for r in snapshot.of_type(url).values() if r.audience is Audience.ENVOY]
        for short, url in SHORT_TYPES.items()
    }
    routes = {str(table["name"]): table for table in by_type["routes"]}
    loads = {str(load["cluster_name"]): load for load in by_type["endpoints"]}
    return {
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {**RUNTIME}}]},
        "static_resources": {
            "listeners": [_inline(listener, routes) for listener in by_type["listeners"]],
            "clusters": [_static_cluster(cluster, loads) for cluster in by_type["clusters"]],
            "secrets": list(by_type["secrets"]),
        },
    }


def _inline(value: Value, routes: dict[str, Json]) -> Value:
    """Routes where they are referred to, and secrets by name only."""
    if isinstance(value, list):
        return [_inline(item, routes) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _inline(item, routes) for key, item in value.items() if key != "sds_config"}
    if value.get("@type") == _MANAGER:
        source = found.pop("rds", None)
        name = source.get("route_config_name") if isinstance(source, dict) else None
        if isinstance(name, str) and name in routes:
            found["route_config"] = _inline(routes[name], routes)
    return found


def _static_cluster(cluster: Json, loads: dict[str, Json]) -> Value:
    if cluster.get("type") != "EDS":
        return _inline(cluster, {})
    found = cluster.get("eds_cluster_config")
    service = found.get("service_name") if isinstance(found, dict) else None
    name = service if isinstance(service, str) and service else str(cluster["name"])
    rest = {key: item for key, item in cluster.items() if key not in ("type", "eds_cluster_config")}
    return _inline({**rest, "type": "STATIC", "load_assignment": loads.get(name, {"cluster_name": name})}, {})
