"""One manifest file: its documents as models, the place of everything in it, and every problem.

A pure function of the content and of the variables it uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import yaml
from pydantic import ValidationError

from controlplane.manifests import shape
from controlplane.manifests.interpolation import Environment, Interpolation
from controlplane.manifests.models.base import nearest
from controlplane.manifests.models.document import Document
from controlplane.manifests.problem import Problem, Steps
from controlplane.manifests.refusal import Finding, explain, path_of
from controlplane.manifests.salvage import salvage
from controlplane.manifests.syntax import Syntax, length_of, origin_of, read_syntax
from controlplane.manifests.values import Expanded, Reading, Value, plain
from controlplane.origin import Origin

_TELLING = re.compile(r"(?i)secret|passw|token|private|credential|api_?key|hash")
_TELLING_LINE = re.compile(
    r"""(?i)((?:secret|passw\w*|token|private\w*|credential\w*)["']?\s*:\s*)([^\s$][^,}\]\n]*)"""
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: its node, and the node of its key where it has one."""

    node: yaml.Node
    key: yaml.Node | None = None

    @property
    def marked(self) -> yaml.Node:
        """What a problem points at: a short value itself, the key of a long one."""
        return self.node if self.key is None or isinstance(self.node, yaml.ScalarNode) else self.key


@dataclass(frozen=True, slots=True)
class Read:
    """A document that was read: its root, and the numbers in it of the routes that could be."""

    document: Document
    root: yaml.Node
    routes: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """What came of reading one file: its documents, less what was refused. `is_known`: nothing else may be in it."""

    name: str
    content: bytes
    syntax: Syntax
    documents: tuple[Read, ...]
    is_known: bool
    problems: tuple[Problem, ...]
    expanded: Mapping[int, Expanded]
    used: Mapping[str, str | None]

    def place(self, root: yaml.Node, path: Steps) -> Place:
        """The place of `path` below `root`, or of the deepest part of it that is written."""
        return _place(root, path, self.expanded)

    def origin(self, node: yaml.Node) -> Origin:
        """Where a node begins."""
        return origin_of(self.name, node)

    def line(self, number: int) -> str:
        """A line of the file with every secret in it covered."""
        lines = self._lines
        return lines[number - 1] if 0 < number <= len(lines) else ""

    @cached_property
    def private_headers(self) -> frozenset[str]:
        """Texts of headers to set or add that have variables in them: such a header may carry a credential."""
        return frozenset(text for root in self.syntax.roots for text in _header_texts(root, self.expanded))

    @cached_property
    def _lines(self) -> list[str]:
        lines = self.syntax.text.split("\n")
        for node in self._secrets():
            start, end = node.start_mark, node.end_mark
            if start is None or end is None:
                continue
            for at in range(start.line, min(end.line, len(lines) - 1) + 1):
                line = lines[at]
                first = start.column if at == start.line else len(line) - len(line.lstrip())
                last = end.column if at == end.line else len(line)
                lines[at] = line[:first] + "*" * max(0, last - first) + line[last:]
        if self.syntax.problems:  # of what could not be read, nobody knows what is secret
            lines = [_TELLING_LINE.sub(lambda m: m[1] + "*" * len(m[2]), line) for line in lines]
        return [line.rstrip("\r") for line in lines]

    def _secrets(self) -> Iterator[yaml.ScalarNode]:
        for root in self.syntax.roots:
            yield from _secrets(root, (), self.expanded)


def read_file(name: str, content: bytes, environment: Environment) -> ManifestFile:
    """Reads a file; never raises."""
    syntax = read_syntax(name, content)
    interpolation = Interpolation(environment)
    reading = Reading(name, interpolation, "${" in syntax.text)
    problems = list(syntax.problems)
    documents = [_validate(root, reading.value(root), reading) for root in syntax.roots]
    problems += reading.problems
    return ManifestFile(
        name=name,
        content=content,
        syntax=syntax,
        documents=tuple(document for document in documents if document is not None),
        is_known=not syntax.problems and None not in documents,
        problems=tuple(problems),
        expanded=reading.expanded,
        used=interpolation.used,
    )


def _validate(root: yaml.Node, value: Value, reading: Reading) -> Read | None:
    """What of the document can be read, its problems added to the reading's."""
    if not isinstance(value, dict):
        if value is not None or not reading.problems:
            reading.problems.append(
                Problem(
                    origin=origin_of(reading.file, root),
                    message="a document is a mapping",
                    hint="write gateway, identity, limits, services or routes, each with a colon",
                    code="type",
                )
            )
        return None
    for _ in range(3):
        try:
            document = Document.model_validate(value)
            return Read(document, root, range(len(document.routes)))
        except ValidationError as error:
            errors = error.errors(include_url=False)
            if not sum(_retype(path_of(e, value), root, value, reading) for e in errors):
                findings = explain(errors, value)
                _report(findings, root, value, reading)
                rest = salvage(value, (finding.path for finding in findings))
                return Read(rest.document, root, rest.routes) if rest else None
    return None


def _retype(path: Steps, root: yaml.Node, value: Value, reading: Reading) -> bool:
    """Gives a refused scalar that had variables its other reading: number for text, text for number."""
    node = _place(root, path, reading.expanded).node
    expanded = reading.expanded.get(id(node))
    if expanded is None or not path:
        return False
    holder: Value = value
    for step in path[:-1]:
        holder = _step(holder, step)
    here, last = _step(holder, path[-1]), path[-1]
    other = plain(expanded.text) if isinstance(here, str) else expanded.text
    if other is None or isinstance(other, str) == isinstance(here, str) or (id(node) in reading.retyped):
        return False
    reading.retyped.add(id(node))
    match holder, last:
        case dict(), str():
            holder[last] = other
        case list(), int():
            holder[last] = other
    return True


def _step(value: Value, step: str | int) -> Value:
    if isinstance(value, dict) and isinstance(step, str):
        return value.get(step)
    return value[step] if isinstance(value, list) and isinstance(step, int) and step < len(value) else None


def _report(findings: list[Finding], root: yaml.Node, value: Value, reading: Reading) -> None:
    for finding in findings:
        place = _place(root, finding.path, reading.expanded)
        if id(place.node) in reading.reported or _is_there(finding, place, reading):
            continue
        node = (place.key or place.node) if finding.on_key else place.marked
        reading.problems.append(
            Problem(
                origin=origin_of(reading.file, node),
                length=length_of(node) if isinstance(node, yaml.ScalarNode) else 1,
                message=_as_written(finding.message, place.node, reading.expanded),
                hint=_as_written(finding.hint, place.node, reading.expanded),
                code=finding.code,
                path=finding.path,
                subject=subject(finding.path, value),
            )
        )


def _is_there(finding: Finding, place: Place, reading: Reading) -> bool:
    """Whether a missing key is there, with nothing behind it; then that was reported."""
    if finding.code != "missing" or not isinstance(place.node, yaml.MappingNode):
        return False
    key = finding.message.removesuffix(" is missing").strip('"')
    return _below(place.node, key, reading.expanded) is not None


def _as_written(text: str, node: yaml.Node, expanded: Mapping[int, Expanded]) -> str:
    """A message with every variable's value replaced by the variable: a value may be a secret in the wrong place."""
    for scalar in _scalars(node):
        found = expanded.get(id(scalar))
        if found is not None and found.text and found.text != found.written:
            whole = rf"(?<!\w){re.escape(found.text)}(?!\w)"
            text = re.sub(whole, found.written.replace("\\", r"\\"), text)
            if len(found.text) >= 6:
                text = text.replace(found.text, found.written)
    return text


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            yield from _scalars(key)
            yield from _scalars(child)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _scalars(child)


def _place(root: yaml.Node, path: Steps, expanded: Mapping[int, Expanded]) -> Place:
    place = Place(root)
    for step in path:
        child = _below(place.node, step, expanded)
        if child is None:
            return place
        place = child
    return place


def _below(node: yaml.Node, step: str | int, expanded: Mapping[int, Expanded]) -> Place | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        return Place(node.value[step]) if step < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            if key_text(key, expanded) == step:
                return Place(child, key)
    return None


def key_text(node: yaml.Node, expanded: Mapping[int, Expanded]) -> str:
    """The text of a key, variables replaced."""
    found = expanded.get(id(node))
    return found.text if found is not None else str(node.value)


def _secrets(node: yaml.Node, path: Steps, expanded: Mapping[int, Expanded]) -> Iterator[yaml.ScalarNode]:
    """Scalars that must not be shown: where the schema says so, and where an unknown key sounds like one of those."""
    if shape.is_secret(path):
        yield from (s for s in _scalars(node) if id(s) not in expanded)
    elif isinstance(node, yaml.MappingNode):
        known = shape.known_keys(path)
        for key, child in node.value:
            text = key_text(key, expanded)
            if known and text not in known and _sounds_secret(path, text, known):
                yield from (s for s in _scalars(child) if id(s) not in expanded)
            else:
                yield from _secrets(child, (*path, text), expanded)
    elif isinstance(node, yaml.SequenceNode):
        for i, child in enumerate(node.value):
            yield from _secrets(child, (*path, i), expanded)


def _header_texts(node: yaml.Node, expanded: Mapping[int, Expanded]) -> Iterator[str]:
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            if key.value in ("set", "add"):
                yield from (expanded[id(s)].text for s in _scalars(child) if id(s) in expanded)
            else:
                yield from _header_texts(child, expanded)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _header_texts(child, expanded)


def _sounds_secret(path: Steps, key: str, known: list[str]) -> bool:
    guess = nearest(key, known)
    return _TELLING.search(key) is not None or (guess is not None and shape.is_secret((*path, guess)))


_SUBJECTS = {"services": "service", "limits": "limit", "api_keys": "API key"}


def subject(path: Steps, document: Value) -> str:
    """What a path is about, for people: `route "/orders/**"`, `service "orders"`, `gateway`."""
    if not path:
        return ""
    section = path[0]
    if section == "routes" and len(path) > 1:
        route = _step(_step(document, "routes"), path[1])
        for field in ("name", "path"):
            text = _step(route, field)
            if isinstance(text, str) and path[2:] != (field,):
                return f'route "{text}"'
        return "route"
    if section in _SUBJECTS and len(path) > 1:
        return f'{_SUBJECTS[str(section)]} "{path[1]}"'
    return str(section) if section in ("gateway", "identity") and len(path) > 1 else ""
