"""Provenance of config values: the file and line, or the override, that set a key.

Only `cli/hydra_app.py`, this folder and `sweep/` import Hydra or OmegaConf; no function returns their types elsewhere.
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
from speculators.utils.discovery import CONF
from speculators.utils.yaml_lines import Lines, Place

NAME = "train"
# A value that consists of one reference to another key only.
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Source:
    """Provenance of one value.

    Attributes:
        place: `override KEY=VALUE`, or `conf/GROUP/OPTION.yaml:LINE`; the path of a file that is not this package's.
        via: the key that the value is taken from, if the file contains `${key}`.
        rule: the rule on the verifier's size that the file contains instead of a value.
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
    """A file of the defaults list, and the key prefix of its contents."""

    path: Path
    inside: Sequence[str]
    lines: Lines

    def find(self, parts: list[str]) -> Place | None:
        """The deepest node of the file on the path of a key; None if there is none."""
        n = len(self.inside)
        if parts[:n] != list(self.inside):
            return None
        place = self.lines.find(parts[n:])
        # A key that its own group's file leaves out is attributed to that file.
        return replace(place, depth=n + place.depth, ends=place.ends and place.depth > 0) if n + place.depth else None


class Blame:
    """Looks up the provenance of the keys of one composed config.

    Hydra must still be initialised as it was for composing. The defaults list and its files are read once, at the first
    look-up.

    Args:
        node: the config's `hydra` node.
    """

    def __init__(self, node: Any) -> None:
        self._node = node

    def __call__(self, key: str) -> str | None:
        """Provenance of a key, formatted for a message; None if it is unknown."""
        source = self.source(key)
        if source is None:
            return None
        return f"the command-line {source.place}" if source.place.startswith("override ") else source.place

    def source(self, key: str, followed: frozenset[str] = frozenset()) -> Source | None:
        """Provenance of a key's value; None if it is unknown.

        Args:
            key: dotted; items of a list are numbered from 0.
            followed: keys already followed, to stop at circular interpolations.
        """
        parts = key.split(".")
        for override in reversed(self._overrides):
            if _sets(override, parts):
                return Source(f"override {override.input_line}")
        best: tuple[_File, Place] | None = None
        for file in self._files:
            place = file.find(parts)
            # A value without keys replaces everything that earlier files set below it.
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

    def is_typed(self, key: str) -> bool:
        """Whether an override sets a key, and not only the option of its group."""
        return any(_sets(override, key.split(".")) for override in self._overrides)

    @property
    def overrides(self) -> list[str]:
        """The overrides as they were typed, interpolations in them unresolved."""
        return cast(list[str], OmegaConf.to_container(self._node.overrides.task, resolve=False))

    @property
    def hydra_overrides(self) -> list[str]:
        """The overrides of Hydra's own settings, as they were typed."""
        return cast(list[str], OmegaConf.to_container(self._node.overrides.hydra, resolve=False))

    @property
    def searchpath(self) -> list[str]:
        """Search-path entries given on the command line: --config-dir, hydra.searchpath."""
        typed = ("command-line", "hydra.searchpath in command-line")
        return [f"{s.schema}://{s.path}" for s in self._node.runtime.config_sources if s.provider in typed]

    @cached_property
    def _overrides(self) -> list[Override]:
        return OverridesParser.create().parse_overrides(self.overrides)

    @cached_property
    def _files(self) -> list[_File]:
        loader = GlobalHydra.instance().config_loader()
        roots = [root for s in self._node.runtime.config_sources if (root := folder(s.schema, s.path)) is not None]
        found = []
        for default in loader.compute_defaults_list(
            NAME, [*self.hydra_overrides, *self.overrides], RunMode.RUN
        ).defaults:
            package = (default.package or "").removeprefix("_global_")
            if package.startswith("hydra") or default.config_path is None:
                continue
            path = next((f for root in roots if (f := root / f"{default.config_path}.yaml").is_file()), None)
            if path is not None:
                lines = Lines(path.read_text(encoding="utf-8"))
                found.append(_File(path, package.split(".") if package else [], lines))
        return found


def _sets(override: Override, parts: Sequence[str]) -> bool:
    """Whether an override sets a key's value."""
    name = override.key_or_group.split(".")
    rest = parts[len(name) :]
    if list(parts[: len(name)]) != name:
        return False
    if not rest:
        return True
    value: Any = None if override.is_delete() else override.value()
    if not isinstance(value, dict):
        # The value is an option of a group: the option's file provides the keys.
        return len(name) > 1
    # A dict is merged into the existing one.
    for part in rest:
        if not isinstance(value, dict):
            return True
        if part not in value:
            return False
        value = value[part]
    return True


def folder(scheme: str, path: str) -> Path | None:
    """The folder of an entry of Hydra's search path; None if the entry is not a folder."""
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
