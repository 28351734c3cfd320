"""What a user writes as YAML (a recipe, a value of `--set`, a `--reward`) becomes plain values, in little time.

YAML can say more than a recipe may: aliases that stand for billions of values or for themselves, tags that make
objects, keys that are no words. All of it is refused here, with the line. What is shared by an alias is copied.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES, MOST_JSON_BYTES = 1 << 18, 1 << 24
"""Of a file that a person writes, and of one that a program does."""
MOST_VALUES = 20_000
"""Values of a YAML text, each alias counted as what it stands for."""
MOST_DEPTH = 64
"""Mappings and lists inside each other."""
LONGEST_KEY = 200
TAG = "tag:yaml.org,2002:"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class TreeError(ValueError):
    """A text that is no tree of plain values: what is wrong, with the line where there is one."""


def read_tree(path: Path) -> Any:
    """Read a file: JSON by its name, else YAML. Raises TreeError, OSError."""
    is_json = path.suffix == ".json"
    text = _text_of(path, MOST_JSON_BYTES if is_json else MOST_BYTES)
    return json_tree(text) if is_json else yaml_tree(text)


def json_tree(text: str) -> Any:
    """Return what JSON says. Raises TreeError."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TreeError(f"it is no JSON that can be read: {error}") from error
    require_plain(tree)
    return tree


def yaml_tree(text: str) -> Any:
    """Return what YAML says. Raises TreeError."""
    if len(text) > MOST_BYTES:
        raise TreeError(f"it has {len(text)} characters, and may have {MOST_BYTES}")
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark is not None else ""
        what = ", ".join(filter(None, (error.context, error.problem)))
        raise TreeError(f"{where}{shown(what, 300)[1:-1]}") from error
    except yaml.reader.ReaderError as error:
        line = 1 + text.count("\n", 0, error.position)
        raise TreeError(f"line {line}: the character #x{ord(text[error.position]):04x} is not for YAML") from error
    except (ValueError, LookupError, OverflowError) as error:  # of escapes that are no characters, and the like
        raise TreeError(f"its text cannot be read: {error}") from error
    tree = None if node is None else _value(node)
    require_plain(tree)
    return tree


def require_plain(tree: Any) -> None:
    """Raise TreeError where values lie too deep inside each other, or a text holds half of a character."""
    left = [(tree, 0)]
    while left:
        node, depth = left.pop()
        if depth > MOST_DEPTH:
            raise TreeError(f"values lie more than {MOST_DEPTH} deep inside each other")
        if isinstance(node, dict):
            left += [(each, depth + 1) for pair in node.items() for each in pair]
        elif isinstance(node, list):
            left += [(each, depth + 1) for each in node]
        elif isinstance(node, str) and any("\ud800" <= each <= "\udfff" for each in node):
            raise TreeError(f"{shown(node)} holds half of a character (a lone surrogate), which no file can keep")


def shown(value: Any, longest: int = 60) -> str:
    """Return a value for a message: what would act on a terminal written out, and no longer than this."""
    text = repr(value[: 2 * longest] if isinstance(value, str) else value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _text_of(path: Path, most_bytes: int) -> str:
    """Return a file's text. A pipe or a device is not waited for; raises TreeError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise TreeError("it is no file but a folder, a pipe or a device")
    with open(descriptor, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise TreeError(f"it has over {most_bytes} bytes, too many for what it is to be")
    if content.startswith(UTF_16):
        raise TreeError("it is in UTF-16; save it in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise TreeError(f"line {line}: byte {content[error.start]:#x} is not UTF-8; save it in UTF-8") from error


class _Loader(yaml.SafeLoader):
    """YAML's own, which counts what it composes, and goes no deeper than a recipe may."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num, self._depth = 0, 0
        self._sizes: dict[int, int] = {}
        """Values of each node that is composed to its end, by its identity."""

    def fetch_flow_collection_start(self, kind: Any) -> None:
        if self.flow_level >= MOST_DEPTH:  # counted here, since the scanner's time grows with the square of it
            raise _marked(f"brackets lie more than {MOST_DEPTH} deep", self.get_mark())
        super().fetch_flow_collection_start(kind)

    def compose_node(self, parent: Any, index: Any) -> Any:
        event, before = self.peek_event(), self._num  # type: ignore[no-untyped-call]
        is_alias = isinstance(event, yaml.AliasEvent)
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise _marked(f"values lie more than {MOST_DEPTH} deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            name = f"*{shown(event.anchor)[1:-1]}"
            raise _marked(f"{name} stands inside of what it stands for, and would have no end", event.start_mark)
        self._num += self._sizes[id(node)] if is_alias else 1
        self._sizes.setdefault(id(node), self._num - before)
        if self._num > MOST_VALUES:
            what = "with its aliases written out it has" if self._sizes[id(node)] > 1 or is_alias else "it has"
            raise _marked(f"{what} {self._num:,} values by here, and may have {MOST_VALUES:,}", event.start_mark)
        return node


def _marked(what: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=mark)


_Loader.yaml_implicit_resolvers = {  # a date stays the text that it is
    first: [(tag, form) for tag, form in resolvers if tag != f"{TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(  # YAML 1.1 takes 1e-5 for a text
    f"{TAG}float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+\Z"), list("-+0123456789")
)
_CONSTRUCTOR = yaml.constructor.SafeConstructor()


def _value(node: yaml.Node) -> Any:
    tag = node.tag.removeprefix(TAG)
    if isinstance(node, yaml.MappingNode) and tag == "map":
        return _mapping(node)
    if isinstance(node, yaml.SequenceNode) and tag == "seq":
        return [_value(each) for each in node.value]
    if not isinstance(node, yaml.ScalarNode) or tag not in ("str", "value", "null", "bool", "int", "float", "merge"):
        raise _wrong(node, f"the tag {shown(node.tag)} is not for recipes: texts, numbers, lists and mappings are")
    text = node.value
    if tag in ("int", "float") and (":" in text or re.fullmatch(r"[-+]?0[0-7_]+", text)):
        raise _wrong(node, f"YAML reads {shown(text)} to the base 60 or 8; write another number, or put it in quotes")
    try:
        read = {"null": "null", "bool": "bool", "int": "int", "float": "float"}.get(tag)
        return getattr(_CONSTRUCTOR, f"construct_yaml_{read}")(node) if read else text
    except (ValueError, LookupError, OverflowError) as error:
        raise _wrong(node, f"{shown(text)} is no {tag}: {shown(str(error), 120)[1:-1]}") from error


def _mapping(node: yaml.MappingNode) -> dict[str, Any]:
    """Return a mapping; what it merges gives way to its own keys, and to what is merged before."""
    found: dict[str, Any] = {}
    merged: list[dict[str, Any]] = []
    for key_node, value_node in node.value:
        if key_node.tag == f"{TAG}merge":
            merged += _merged(value_node)
            continue
        key = _value(key_node)
        if not isinstance(key, str):
            raise _wrong(key_node, f"key {shown(key)} is no text; if it is to be one, put it in quotes")
        if len(key) > LONGEST_KEY:
            raise _wrong(key_node, f"key {shown(key)} has {len(key)} characters, and may have {LONGEST_KEY}")
        if key in found:
            raise _wrong(key_node, f"key {shown(key)} is given twice; YAML would keep the last in silence")
        found[key] = _value(value_node)
    for each in merged:
        found = {**each, **found}
    return found


def _merged(node: yaml.Node) -> Iterator[dict[str, Any]]:
    for each in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        if not isinstance(each, yaml.MappingNode):
            raise _wrong(each, "<< merges mappings, and this is none")
        yield _mapping(each)


def _wrong(node: yaml.Node, what: str) -> TreeError:
    return TreeError(f"line {node.start_mark.line + 1}: {what}")
