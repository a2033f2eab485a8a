"""YAML as it is read and written here, and the line of each key of a file. Torch-free, and free of Hydra."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as _Safe  # ten times as fast, where PyYAML was built with libyaml
except ImportError:
    from yaml import SafeLoader as _Safe


class _Loader(_Safe):  # pyright: ignore[reportGeneralTypeIssues]  one of two classes, known when it is imported
    """Reads what OmegaConf reads: 1e-4 is a number, and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name} stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that `_Loader` would take for numbers: a commit may be called 1234567e8."""


for _both in (_Loader, _Dumper):
    _number = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
    _both.add_implicit_resolver("tag:yaml.org,2002:float", _number, list("-+0123456789"))


def dump(tree: Any) -> str:
    """YAML that reads back as the same values, keys in their order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


@dataclass(frozen=True)
class Place:
    """Where a walk along a dotted key came to in a file.

    Attributes:
        depth: how many parts of the key the file names.
        line: of the last of them, from 1.
        text: what stands there if it is a single value, else None.
        ends: nothing can be below: a single value, or a list without that item.
    """

    depth: int
    line: int
    text: str | None
    ends: bool


class Lines:
    """One file's keys.

    Args:
        text: of the file.

    Raises:
        yaml.YAMLError: it is no YAML, or a key stands twice.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._root = yaml.compose(text, Loader=_Loader)

    def value(self) -> Any:
        """The file's contents."""
        return yaml.load(self._text, Loader=_Loader)

    def find(self, parts: Sequence[str]) -> Place:
        """Follow the parts of a key as far as the file names them; a list's items are numbered from 0."""
        node, line, depth = self._root, 1, 0
        for part in parts:
            below = _below(node, part)
            if below is None:
                break
            depth, (line, node) = depth + 1, below
        text = node.value if isinstance(node, yaml.ScalarNode) else None
        return Place(depth, line, text, ends=not isinstance(node, yaml.MappingNode))


def _below(node: yaml.Node | None, part: str) -> tuple[int, yaml.Node] | None:
    """The line and the value of a key or an item; None if there is none."""
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark.line + 1, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
        item = node.value[int(part)]
        return item.start_mark.line + 1, item
    return None
