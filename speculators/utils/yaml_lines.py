"""YAML loader and dumper, limits on untrusted YAML, and the line numbers of a file's keys. Imports no torch or Hydra."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from speculators.utils.messages import broken_yaml
from speculators.utils.untrusted import MOST_BYTES, MOST_DEPTH, MOST_DIGITS, MOST_NODES, TOO_DEEP, read_bytes

try:
    from yaml import CSafeLoader as _Safe  # ten times as fast, where PyYAML was built with libyaml
except ImportError:
    from yaml import SafeLoader as _Safe


class _Loader(_Safe):  # pyright: ignore[reportGeneralTypeIssues]  one of two classes, known when it is imported
    """A loader that agrees with OmegaConf: 1e-4 is a number, a date is text, and duplicate keys are errors."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MOST_DIGITS:
            reason = f"a number of {len(node.value)} digits"
            raise yaml.constructor.ConstructorError(None, None, reason, node.start_mark)
        return super().construct_yaml_int(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name} is given twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes strings that `_Loader` would read as numbers, e.g. a commit 1234567e8, and has no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _both in (_Loader, _Dumper):
    _number = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
    _both.add_implicit_resolver("tag:yaml.org,2002:float", _number, list("-+0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def dump(tree: Any) -> str:
    """Format a tree as YAML that loads as the same values, with keys in their order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


@dataclass(frozen=True)
class Place:
    """The deepest node of a file on the path of a dotted key.

    Attributes:
        depth: number of parts of the key that the file contains.
        line: line of the last of them, from 1.
        text: the node's text if it is a scalar, else None.
        ends: whether the node is not a mapping: a scalar, or a list without that item.
    """

    depth: int
    line: int
    text: str | None
    ends: bool


class Lines:
    """The keys of one file with their lines.

    Args:
        text: of the file.

    Attributes:
        value: the file's contents.

    Raises:
        yaml.YAMLError: it is not valid YAML, or has a duplicate key.
    """

    def __init__(self, text: str) -> None:
        self._root = yaml.compose(text, Loader=_Loader)
        self.value: Any = None if self._root is None else _Loader("").construct_document(self._root)

    def find(self, parts: Sequence[str]) -> Place:
        """Follow the parts of a key as far as the file contains them; a list's items are numbered from 0."""
        node, line, depth = self._root, 1, 0
        for part in parts:
            below = _below(node, part)
            if below is None:
                break
            depth, (line, node) = depth + 1, below
        text = node.value if isinstance(node, yaml.ScalarNode) else None
        return Place(depth, line, text, ends=not isinstance(node, yaml.MappingNode))


def read_yaml(file: Path) -> Lines:
    """Read an untrusted YAML file.

    Args:
        file: opened only if it is a regular file.

    Raises:
        ValueError: it cannot be read or is not valid YAML; or it is too large or too deeply nested, or has aliases or
            tags, which no file of a run has. The message names the file.
    """
    try:
        text = read_bytes(file, MOST_BYTES).decode()
        _check_limits(text)
        return Lines(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read as YAML: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(broken_yaml(error, file)) from error


def _check_limits(text: str) -> None:
    """Raise ValueError if a text has what its reader would need too much memory, time or stack for."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Safe)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        line = event.start_mark.line + 1
        if depth > MOST_DEPTH:
            raise ValueError(f"{TOO_DEEP} (line {line})")
        if number > MOST_NODES:
            raise ValueError(f"it has more than {MOST_NODES} keys and values")
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {line} has the alias *{event.anchor}; write the value there")
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag is not None:
            raise ValueError(f"line {line} has the tag {event.tag}; leave it out")


def _below(node: yaml.Node | None, part: str) -> tuple[int, yaml.Node] | None:
    """The line and the value of a key or an item; None if there is none."""
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark.line + 1, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
        item = node.value[int(part)]
        return item.start_mark.line + 1, item
    return None


def comments(text: str) -> dict[str, str]:
    """The comment above each key of a YAML file, by dotted key."""
    found: dict[str, str] = {}
    above: list[str] = []
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            above.append(stripped.lstrip("# "))
        elif ":" in stripped and not stripped.startswith("-"):
            indent = len(line) - len(line.lstrip())
            path = [(i, k) for i, k in path if i < indent] + [(indent, stripped.partition(":")[0])]
            found[".".join(k for _, k in path)] = " ".join(above)
            above = []
        else:
            above = []
    return found
