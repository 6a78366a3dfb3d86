"""What may stand at a path of a document, asked of the JSON Schema: its keys, and whether it is secret.

Only problems need this, so a folder without any never pays for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from controlplane.manifests.models.document import Document
from controlplane.manifests.problem import Steps, dotted

Schema = dict[str, object]


@cache
def _root() -> Schema:
    return dict(Document.model_json_schema())


def _alternatives(schema: object) -> Iterator[Schema]:
    """Every schema that a value may follow, references and unions opened."""
    if not isinstance(schema, dict):
        return
    reference = schema.get("$ref")
    if isinstance(reference, str):
        definitions = _root().get("$defs")
        if isinstance(definitions, dict):
            yield from _alternatives(definitions.get(reference.removeprefix("#/$defs/")))
    for union in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(union)
        for branch in branches if isinstance(branches, list) else ():
            yield from _alternatives(branch)
    yield schema


def _children(schema: Schema, step: str | int) -> Iterator[Schema]:
    if isinstance(step, int):
        yield from _alternatives(schema.get("items"))
        return
    properties = schema.get("properties")
    if isinstance(properties, dict) and step in properties:
        yield from _alternatives(properties[step])
        return
    patterns = schema.get("patternProperties")
    for child in patterns.values() if isinstance(patterns, dict) else ():
        yield from _alternatives(child)
    yield from _alternatives(schema.get("additionalProperties"))


def _at(path: Steps) -> list[Schema]:
    found = list(_alternatives(_root()))
    for step in path:
        found = [child for schema in found for child in _children(schema, step)]
    return found


def known_keys(path: Steps) -> list[str]:
    """The keys that the mapping at `path` may have, in the order of the reference."""
    keys: dict[str, None] = {}
    for schema in _at(path):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            keys.update(dict.fromkeys(properties))
    return list(keys)


def is_secret(path: Steps) -> bool:
    """Whether what stands at `path` must not be shown."""
    return any(schema.get("writeOnly") for schema in _at(path))


def description(path: Steps) -> str:
    """The first sentence of the reference about `path`."""
    for schema in reversed(_at(path)):
        text = schema.get("description")
        if isinstance(text, str):
            return " ".join(text.split()).partition(". ")[0].rstrip(".")
    return ""


@cache
def _homes() -> dict[str, tuple[str, ...]]:
    """Where each key is known: key -> places for people, nearest to the root first."""
    homes: dict[str, list[str]] = {}
    queue: list[tuple[Steps, int]] = [((), 0)]
    seen: set[tuple[str, ...]] = set()
    while queue:
        path, depth = queue.pop(0)
        keys = tuple(known_keys(path))
        if not keys:
            # A mapping by names of the user's choice, or a list.
            steps: tuple[str | int, ...] = ("<name>", 0) if depth < 6 else ()
            queue.extend(((*path, step), depth + 1) for step in steps if _at((*path, step)))
            continue
        if keys in seen:
            continue
        seen.add(keys)
        for key in keys:
            homes.setdefault(key, []).append(dotted(path).replace("[0]", "[]"))
            if depth < 6:
                queue.append(((*path, key), depth + 1))
    return {key: tuple(places) for key, places in homes.items()}


def homes(key: str) -> tuple[str, ...]:
    """Where else a key is known, for people: `gateway.defaults`; "" is the top of a document."""
    return _homes().get(key, ())
