"""Values of nested dicts and lists by dotted key, in which a number is the index of a list's item. Torch-free."""

from collections.abc import Iterator, Mapping
from typing import Any


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a nested dict to values by dotted key; a list is a value, unless it holds dicts."""

    def walk(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        items = node.items() if isinstance(node, Mapping) else enumerate(node)
        for name, value in items:
            if isinstance(value, Mapping) or isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(walk(tree, ""))


def find(tree: Any, key: str, default: Any = None) -> Any:
    """The value at a dotted key, or `default` if any part of the key is missing."""
    for part in key.split("."):
        if isinstance(tree, Mapping) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and part.isdecimal() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return default
    return tree


def holder(tree: dict[str, Any], key: str) -> tuple[Any, str]:
    """The dict that a dotted key lies in, or None if there is none, and the key's last part."""
    above, _, last = key.rpartition(".")
    found = find(tree, above) if above else tree
    return (found if isinstance(found, dict) else None), last
