"""Who set each value of a composed run: an override, or a line of a YAML file.

This file, explain.py, compose.py and sweep/ alone import Hydra or OmegaConf, and nothing of either leaves them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import OmegaConf

from speculators.composition.by_verifier import RULE
from speculators.utils.yaml_lines import Lines, Place

CONF, NAME = "speculators.conf", "train"
# A value that is another key's, and nothing else.
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Source:
    """Where a value came from.

    Attributes:
        place: `override KEY=VALUE`, or `conf/GROUP/OPTION.yaml:LINE`; the path of a file that is not this package's.
        via: the key that it was taken from, where a file says `${key}`.
        rule: the rule on the verifier's size that the file states instead of a value.
    """

    place: str
    via: str | None = None
    rule: str | None = None

    def __str__(self) -> str:
        if self.rule:
            return f"rule {self.rule} ({self.place})"
        return f"derived from {self.via} ({self.place})" if self.via else self.place


@dataclass(frozen=True)
class _File:
    """A file of the defaults list, and the parts of the key that its contents stand under."""

    path: Path
    inside: Sequence[str]
    lines: Lines

    def find(self, parts: list[str]) -> Place | None:
        """How far the file goes along a key; None if not at all."""
        n = len(self.inside)
        if parts[:n] != list(self.inside):
            return None
        place = self.lines.find(parts[n:])
        # A key that the file of its own group leaves out is that file's fault.
        return replace(place, depth=n + place.depth, ends=place.ends and place.depth > 0) if n + place.depth else None


class Blame:
    """Finds who set the keys of one composed config.

    Hydra must still be initialised as it was for composing. What costs time, the defaults list and reading its files, is
    done once, and only if somebody asks.

    Args:
        node: the config's `hydra` node.
    """

    def __init__(self, node: Any) -> None:
        self._node = node

    def __call__(self, key: str) -> str | None:
        """Who set a key, as a message says it; None if nobody did."""
        source = self.source(key)
        if source is None:
            return None
        return f"the command-line {source.place}" if source.place.startswith("override ") else source.place

    def source(self, key: str, followed: frozenset[str] = frozenset()) -> Source | None:
        """Where a key's value came from; None if nobody knows.

        Args:
            key: dotted; items of a list are numbered from 0.
            followed: keys that led here, for interpolations that go round in a circle.
        """
        parts = key.split(".")
        for override in reversed(self._overrides):
            if _sets(override, parts):
                return Source(f"override {override.input_line}")
        best: tuple[_File, Place] | None = None
        for file in self._files:
            place = file.find(parts)
            # A value without keys replaces whatever stood under it before.
            if place is not None and (best is None or place.depth >= best[1].depth or place.ends):
                best = file, place
        if best is None:
            return None
        file, place = best
        if (match := REFERENCE.fullmatch(place.text or "")) and key not in followed:
            target = ".".join([match[1], *parts[place.depth :]])
            if (origin := self.source(target, followed | {key})) is not None:
                return Source(origin.place, origin.via or target)
        rule = place.text if place.text and RULE.fullmatch(place.text) else None
        return Source(f"{_shown(file.path)}:{place.line}", rule=rule)

    @property
    def overrides(self) -> list[str]:
        """The overrides as they were typed, interpolations in them unresolved."""
        return cast(list[str], OmegaConf.to_container(self._node.overrides.task, resolve=False))

    @property
    def searchpath(self) -> list[str]:
        """Where options were looked for because the command line said so: --config-dir, hydra.searchpath."""
        typed = ("command-line", "hydra.searchpath in command-line")
        return [f"{s.schema}://{s.path}" for s in self._node.runtime.config_sources if s.provider in typed]

    @cached_property
    def _overrides(self) -> list[Override]:
        return OverridesParser.create().parse_overrides(self.overrides)

    @cached_property
    def _files(self) -> list[_File]:
        hydra = cast(list[str], OmegaConf.to_container(self._node.overrides.hydra, resolve=False))
        loader = GlobalHydra.instance().config_loader()
        roots = [root for s in self._node.runtime.config_sources if (root := folder(s.schema, s.path)) is not None]
        found = []
        for default in loader.compute_defaults_list(NAME, [*hydra, *self.overrides], RunMode.RUN).defaults:
            package = (default.package or "").removeprefix("_global_")
            if package.startswith("hydra") or default.config_path is None:
                continue
            path = next((f for root in roots if (f := root / f"{default.config_path}.yaml").is_file()), None)
            if path is not None:
                lines = Lines(path.read_text(encoding="utf-8"))
                found.append(_File(path, package.split(".") if package else [], lines))
        return found


def _sets(override: Override, parts: Sequence[str]) -> bool:
    """Whether an override decides a key's value."""
    name = override.key_or_group.split(".")
    rest = parts[len(name) :]
    if list(parts[: len(name)]) != name:
        return False
    if not rest:
        return True
    value: Any = None if override.is_delete() else override.value()
    if not isinstance(value, dict):
        # A group's option is a file, which says itself what it sets.
        return len(name) > 1
    # A dict is merged into what there is.
    for part in rest:
        if not isinstance(value, dict):
            return True
        if part not in value:
            return False
        value = value[part]
    return True


def folder(scheme: str, path: str) -> Path | None:
    """The folder of an entry of Hydra's search path; None if it is none."""
    if scheme == "file":
        return Path(path)
    if scheme == "pkg" and not path.startswith("hydra."):
        try:
            return Path(str(files(path)))
        except ModuleNotFoundError:
            return None
    return None


def _shown(file: Path) -> str:
    """`conf/...` for this package's own files, else the path."""
    root = Path(str(files(CONF)))
    return str(Path("conf") / file.relative_to(root)) if file.is_relative_to(root) else str(file)
