"""Rules of keys of a config that several engines or drafts share. Torch-free."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from speculators.format.finding import Finding, Level
from speculators.utils.dotted import find, holder


def lookup(config: Any, path: str) -> Any:
    """The value at a dotted path, where `[0]` is a list's first; None where any part of it is missing."""
    return find(config, path.replace("[0]", ".0"))


def filled(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config with values at dotted paths where it has none, or null; a missing mapping is not made."""
    copied = copy.deepcopy(dict(config))
    for path, value in values.items():
        place, last = holder(copied, path)
        if place is not None and place.get(last) is None:
            place[last] = value
    return copied


def required(config: Mapping[str, Any], paths: Iterable[str], engine: object) -> Iterator[Finding]:
    """Keys that an engine has no default for."""
    for path in paths:
        if lookup(config, path) is None:
            yield Finding("refused", path, None, f"{engine} has no default for it; write the value")


def one_of(
    config: Mapping[str, Any], path: str, values: Sequence[Any], reason: str, level: Level = "refused"
) -> Iterator[Finding]:
    """A key with few values that an engine can serve.

    Args:
        config: as the engine reads it.
        path: dotted.
        values: None also stands for a key that is missing.
        reason: what happens with any other value, and the remedy.
        level: of any other value.
    """
    value = lookup(config, path)
    if value not in values:
        yield Finding(level, path, value, reason)


def written_out(
    config: Mapping[str, Any], path: str, taken: Any, level: Level, engine: object, also: str | None = None
) -> Iterator[Finding]:
    """A key that must be written out, since the engine's default differs from other readers' of the format.

    Args:
        config: as it is written.
        path: dotted.
        taken: the engine's value.
        level: of a missing key.
        engine: for the message.
        also: another path with the same meaning.
    """
    if lookup(config, path) is None and (also is None or lookup(config, also) is None):
        yield Finding(
            level,
            path,
            None,
            f"must be written: {engine} assumes {taken!r} where it is missing, other readers of the format do not",
        )
