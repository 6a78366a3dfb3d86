"""YAML nodes to plain values, by the rules of YAML 1.2: only `true` and `false` are booleans, `no` and `on` are text.

Keys are text and unique. A value is what stands there and nothing else: tags, aliases, merge keys and empty values are
problems. Where a scalar has variables in it, its other reading is kept, for the field that wants it (`retype`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import yaml

from controlplane.manifests.interpolation import Interpolation, show
from controlplane.manifests.problem import Problem
from controlplane.manifests.syntax import DEEPEST, length_of, origin_of

Value = str | int | float | bool | None | list["Value"] | dict[str, "Value"]

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(
    r"[-+]?(?:0|[1-9][0-9]{0,17})?\.[0-9]{1,18}(?:[eE][-+]?[0-9]{1,3})?|[-+]?[1-9][0-9]{0,17}[eE][-+]?[0-9]{1,3}"
)
_WORDS: dict[str, bool | None] = {
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    "null": None, "Null": None, "NULL": None, "~": None, "": None,
}  # fmt: skip
_TYPED = frozenset("+-.0123456789tTfFnN~")


def plain(text: str) -> str | int | float | bool | None:
    """What an unquoted scalar means."""
    if text and text[0] not in _TYPED:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


@dataclass(frozen=True, slots=True)
class Expanded:
    """A scalar that had variables: what was written, and its text after they were replaced."""

    written: str
    text: str


@dataclass(slots=True)
class Reading:
    """Everything that comes of reading the nodes of one file."""

    file: str
    interpolation: Interpolation
    has_variables: bool
    problems: list[Problem] = field(default_factory=list)
    expanded: dict[int, Expanded] = field(default_factory=dict)  # by id(node)
    retyped: set[int] = field(default_factory=set)
    reported: set[int] = field(default_factory=set)  # nodes whose value could not be known

    def value(self, node: yaml.Node, depth: int = 0) -> Value:
        """The plain value of a node."""
        if depth > DEEPEST:
            self.reported.add(id(node))
            self._problem(node, f"nested more than {DEEPEST} deep", code="depth")
            return None
        if node.tag:
            self._tag(node)
            self.reported.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        return [self._item(child, depth) for child in node.value]

    def key(self, node: yaml.ScalarNode) -> str:
        """The text of a key, its variables replaced. What is wrong with it was reported when it was first read."""
        if not self.has_variables:
            return str(node.value)
        expanded = self.expanded.get(id(node))
        return expanded.text if expanded else show(node.value)

    def _item(self, node: yaml.Node, depth: int) -> Value:
        value = self.value(node, depth + 1)
        if value is None and isinstance(node, yaml.ScalarNode) and id(node) not in self.reported:
            self.reported.add(id(node))
            self._problem(node, "an item of the list is empty", hint="write something or remove it", code="empty-value")
        return value

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Value]:
        result: dict[str, Value] = {}
        places: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(key_node, "a key is plain text", hint="quote it if it has brackets in it", code="key")
                continue
            key = self._text(key_node) if self.has_variables else key_node.value
            if key == "<<" and not key_node.style:
                self._problem(
                    key_node,
                    "merge keys (<<) are not read",
                    hint="write the values out; what several share belongs in gateway.defaults or on the service",
                    code="merge",
                )
                continue
            if key in places:
                first = origin_of(self.file, places[key])
                self._problem(
                    key_node,
                    f'"{key}" is written twice',
                    hint=f"the first is on line {first.line}; keep one",
                    code="duplicate-key",
                )
                continue
            places[key] = key_node
            value = self.value(value_node, depth + 1)
            if value is None and isinstance(value_node, yaml.ScalarNode) and id(value_node) not in self.reported:
                self._problem(
                    key_node,
                    f'nothing is written for "{key}"',
                    hint="write a value, or leave the key out",
                    code="empty-value",
                )
                continue
            result[key] = value
        return result

    def _scalar(self, node: yaml.ScalarNode) -> str | int | float | bool | None:
        if self.has_variables:
            text = self._text(node)
            if id(node) in self.expanded:
                meant = text if node.style else plain(text)
                return text if meant is None else meant  # a variable is never nothing
        else:
            text = node.value
        if node.style:
            return text
        if text and text[0] not in _TYPED:
            return text
        return plain(text)

    def _text(self, node: yaml.ScalarNode) -> str:
        written = show(node.value)
        if "${" not in written:
            return written
        text, faults = self.interpolation.expand(written)
        for fault in faults:
            # Inside a scalar of several lines only its beginning is known.
            one_line = length_of(node) > 1
            offset = fault.at + (node.style in ("'", '"')) if one_line else 0
            start = origin_of(self.file, node)
            self.problems.append(
                Problem(
                    origin=replace(start, column=start.column + offset),
                    message=fault.message,
                    hint=fault.hint,
                    code=fault.code,
                    length=fault.length if one_line else 1,
                )
            )
        if faults:
            self.reported.add(id(node))
        self.expanded[id(node)] = Expanded(written, text)
        return text

    def _tag(self, node: yaml.Node) -> None:
        self._problem(node, f"the tag {node.tag} is not read", hint="leave it out", code="tag")

    def _problem(self, node: yaml.Node, message: str, *, code: str, hint: str = "") -> None:
        self.problems.append(
            Problem(origin=origin_of(self.file, node), message=message, hint=hint, code=code, length=length_of(node))
        )
