"""Bytes to YAML nodes, with problems in users' words. Knows YAML; knows nothing of what may be written in it.

The C parser composes nodes with their places; tags, anchors, aliases and merge keys are refused here or in `values`, so
a node is a plain tree and cannot grow into more than was written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml
from yaml._yaml import CParser

from controlplane.manifests.interpolation import HIDDEN, hide
from controlplane.manifests.problem import Problem
from controlplane.memo import by_identity
from controlplane.origin import Origin

LARGEST_FILE = 4 * 1024 * 1024
DEEPEST = 32
MOST_DOCUMENTS = 1000

_SAFE_DEPTH = 1000
_QUOTED = re.compile(r"""\"[^"\\]*\"|'[^']*'""")
_RUN = re.compile(r"(?m)^[ ?:-]{1000}")
_ALIAS = re.compile(r"(?m)(?:^|[\s\[{,:])\*[^\s\[\]{},*]")
_SCANNING = re.compile(r"while scanning an? (alias|anchor|quoted scalar)")
# Line ends but "\n" among them: YAML counts them, editors do not, and every place would be off by some lines.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]|\r(?!\n)")

# What the parser says, what it means here, and what helps. First match wins.
_WORDS: tuple[tuple[str, str, str], ...] = (
    (
        r"mapping values are not allowed",
        'a ":" where no key can be',
        'quote a value with ": " in it, or check the indentation',
    ),
    (
        r"found character that cannot start any token",
        "a character that cannot begin a value",
        "put the value in quotes",
    ),
    (
        r"while scanning an? (alias|anchor)",
        'a value that begins with "*" or "&" needs quotes',
        'write "*" in quotes',
    ),
    (
        r"did not find expected key",
        "the line does not fit the ones above",
        "check the indentation, and a quote or bracket left open above",
    ),
    (r"did not find expected '-' indicator", "the line is not an item of the list above", 'begin it with "- "'),
    (
        r"did not find expected ',' or '([]}])'",
        'a "," or the closing bracket is missing',
        "close it, or put a value with special characters in quotes",
    ),
    (r"block sequence entries are not allowed", "a list item where none can be", "begin the list on a line of its own"),
    (r"did not find expected node content", "something is opened here and not closed", "close the bracket"),
    (r"could not find expected ':'", 'a key without a ":"', 'write "key: value"'),
    (r"found unexpected end of stream", "a quote is opened and not closed", "close it"),
    (
        r"unknown escape character",
        "an unknown escape in double quotes",
        r"write \\ for a backslash, or use single quotes",
    ),
    (r"did not find expected <document start>", "something stands after the end of the document", "begin it with ---"),
    (
        r"found undefined tag handle|found unknown.*tag|while parsing a tag|while scanning a tag",
        "a tag",
        "leave it out",
    ),
    (r"exceeded maximum depth|max(imum)? (nesting|depth)", f"nested more than {DEEPEST} deep", ""),
    (r"found duplicate anchor", "the same anchor twice", "anchors and aliases are not read; write the value out"),
    (r"duplicate (%YAML|%TAG)|found (duplicate|incompatible|a YAML)|directive", "a YAML directive", "leave it out"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Syntax:
    """A file as far as YAML goes: its lines, the roots of its documents, and what stopped it."""

    text: str
    roots: tuple[yaml.Node, ...] = ()
    problems: tuple[Problem, ...] = ()


class _Composer(CParser):
    """Composes without resolving tags: what a scalar means is decided in `values`, once, by rules of our own."""

    def resolve(self, kind: object, value: object, implicit: object) -> str:
        return ""

    def descend_resolver(self, parent: object, index: object) -> None:
        return

    def ascend_resolver(self) -> None:
        return


def read_syntax(file: str, content: bytes) -> Syntax:
    """The documents of a file's content."""
    if len(content) > LARGEST_FILE:
        return _refused(
            file,
            f"the file has {len(content) / 1e6:.1f}MB; a manifest has at most {LARGEST_FILE / 1e6:.1f}MB",
            hint="split it; every .yaml file of the folder is read",
            code="file-too-large",
        )
    text = _decode(file, content)
    if isinstance(text, Syntax):
        return text
    strange = _CONTROL.search(text) or HIDDEN.search(text)
    if strange is not None:
        line, column = _place(text, strange.start())
        return _refused(
            file,
            f"the character U+{ord(strange[0]):04X} has no place in a manifest",
            hint="remove it, or write it as an escape in double quotes",
            code="character",
            text=text,
            line=line,
            column=column,
        )
    return _compose(file, text)


def _compose(file: str, text: str) -> Syntax:
    roots: list[yaml.Node] = []
    hidden = hide(text)
    try:
        if _ALIAS.search(hidden) and (aliases := _aliases(file, hidden)):
            return Syntax(text=text, problems=aliases)
        if too_deep := _too_deep(file, hidden):
            return Syntax(text=text, problems=too_deep)
        parser = _Composer(hidden)
        while parser.check_node():
            root = parser.get_node()
            if root is not None and not (isinstance(root, yaml.ScalarNode) and root.value == "" and not root.style):
                roots.append(root)
            if len(roots) > MOST_DOCUMENTS:
                return _refused(file, f"more than {MOST_DOCUMENTS} documents in one file", code="file-too-large")
    except yaml.MarkedYAMLError as error:
        return Syntax(text=text, roots=tuple(roots), problems=(_explain(file, text, error),))
    except (yaml.YAMLError, RecursionError) as error:
        return _refused(file, f"not YAML: {error}", code="syntax", text=text)
    if not roots:
        return _refused(
            file, "the file is empty", hint="delete it if it is not needed, or write `routes: []`", code="file-empty"
        )
    return Syntax(text=text, roots=tuple(roots))


def _too_deep(file: str, text: str) -> tuple[Problem, ...]:
    """A problem where brackets or dashes nest absurdly. The C composer recurses, and a deep enough file would end us.

    A quick count that may only err upwards, then, where it is high, the exact one.
    """
    found = _RUN.search(text)
    if found is not None:
        return (_deep(Origin(file=file, line=_place(text, found.start())[0], column=1)),)
    if text.count("[") + text.count("{") <= _SAFE_DEPTH:
        return ()
    depth = highest = 0
    for line in text.split("\n"):
        depth += line.count("[") + line.count("{")
        highest = max(highest, depth)
        bare = _QUOTED.sub("", line)
        if '"' not in bare and "'" not in bare and "#" not in bare:
            depth = max(0, depth - bare.count("]") - bare.count("}"))
    if highest <= _SAFE_DEPTH:
        return ()
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                return (_deep(origin_of(file, event)),)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return ()


def _deep(origin: Origin) -> Problem:
    return Problem(origin=origin, message=f"nested more than {DEEPEST} deep", code="depth")


def _aliases(file: str, text: str) -> tuple[Problem, ...]:
    """A problem for every alias. Slow, so only for a text that may have one."""
    return tuple(
        Problem(
            origin=origin_of(file, event),
            message=f"aliases (*{event.anchor}) are not read",
            hint="write the value out, or put it in quotes if the * is meant; what several share belongs in "
            "gateway.defaults or on the service",
            code="alias",
            length=length_of(event),
        )
        for event in yaml.parse(text, Loader=yaml.CSafeLoader)
        if isinstance(event, yaml.AliasEvent)
    )


@by_identity(65_536)
def origin_of(file: str, node: yaml.Node | yaml.Event) -> Origin:
    """Where a node begins."""
    mark = node.start_mark
    return (
        Origin(file=file, line=mark.line + 1, column=mark.column + 1) if mark else Origin(file=file, line=1, column=1)
    )


def length_of(node: yaml.Node | yaml.Event) -> int:
    """How many characters a node takes on its line; 1 where it spans several."""
    start, end = node.start_mark, node.end_mark
    if start is None or end is None or start.line != end.line:
        return 1
    return max(1, end.column - start.column)


def _decode(file: str, content: bytes) -> str | Syntax:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _refused(file, "the file is UTF-16", hint="save it as UTF-8", code="encoding")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        line, column = _place(before, len(before))
        return _refused(
            file,
            f"the byte 0x{content[error.start]:02X} is not UTF-8",
            hint="save the file as UTF-8",
            code="encoding",
            text=content.decode("utf-8", "replace"),
            line=line,
            column=column,
        )


def _explain(file: str, text: str, error: yaml.MarkedYAMLError) -> Problem:
    lines = text.split("\n")
    mark = error.problem_mark
    if error.context_mark is not None and (
        mark is None or _SCANNING.match(error.context or "") or _at_end(lines, mark)
    ):
        mark = error.context_mark  # what was opened and not closed is more telling than where that was noticed
    line, column = (mark.line, mark.column) if mark is not None and not _at_end(lines, mark) else _last(lines)
    origin = Origin(file=file, line=line + 1, column=column + 1)
    indent = re.match(r"[ \t]*", lines[line])
    if indent is not None and "\t" in indent[0]:
        origin = Origin(file=file, line=line + 1, column=indent[0].index("\t") + 1)
        return Problem(origin=origin, message="a tab in the indentation", hint="YAML wants spaces", code="syntax-tab")
    before, at = lines[line][max(0, column - 1) : column], lines[line][column : column + 1]
    if at in ("{", "[") and before.strip() and before not in "[{,:":
        message = f'a "{at}" inside a value needs quotes here'
        return Problem(origin=origin, message=message, hint="write the value in quotes", code="syntax")
    said = f"{error.context or ''} {error.problem or ''}".strip()
    for pattern, message, hint in _WORDS:
        if re.search(pattern, said):
            return Problem(origin=origin, message=message, hint=hint, code="syntax")
    return Problem(origin=origin, message=f"not YAML: {said}", code="syntax")


def _at_end(lines: list[str], mark: yaml.Mark) -> bool:
    return not "".join(lines[mark.line :])[mark.column :].strip()


def _last(lines: list[str]) -> tuple[int, int]:
    """The place of the last character that is written."""
    line = max((i for i, text in enumerate(lines) if text.strip()), default=0)
    return line, max(0, len(lines[line].rstrip()) - 1)


def _refused(
    file: str, message: str, *, code: str, hint: str = "", text: str = "", line: int = 1, column: int = 1
) -> Syntax:
    origin = Origin(file=file, line=line, column=column)
    return Syntax(text=text, problems=(Problem(origin=origin, message=message, hint=hint, code=code),))


def _place(text: str, at: int) -> tuple[int, int]:
    return text.count("\n", 0, at) + 1, at - (text.rfind("\n", 0, at) + 1) + 1
