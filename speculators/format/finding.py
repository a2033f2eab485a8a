"""A finding: one problem of a published draft, or a note on it. Torch-free."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from speculators.utils.untrusted import printable, shortened

Level = Literal["refused", "wrong", "invalid", "ignored", "note"]
GRAVEST_FIRST: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class Finding:
    """What a reader finds at one place of a published folder.

    Attributes:
        level: `refused` stops the engine; `wrong` is loaded, and computes something else than the config says;
            `invalid` breaks the published format, whether an engine minds or not; `ignored` has no effect in the
            engine; `note` is worth knowing.
        key: dotted path in config.json, items of lists in brackets; or a tensor's name.
        value: what stands there; None also where nothing does.
        reason: what is wrong or happens, and the remedy.
    """

    level: Level
    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        # A whole mapping would hide the message.
        value = "" if self.value is None or isinstance(self.value, Mapping) else f"={shortened(self.value)}"
        return printable(f"{self.level}: {self.key}{value}: {self.reason}")

    @property
    def bad(self) -> bool:
        """Whether the draft must not be used as it is."""
        return self.level in ("refused", "wrong", "invalid")


def gravest(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest finding of each key, in the order in which the keys first occurred."""
    kept: dict[str, Finding] = {}
    for finding in findings:
        known = kept.setdefault(finding.key, finding)
        if GRAVEST_FIRST.index(finding.level) < GRAVEST_FIRST.index(known.level):
            kept[finding.key] = finding
    return list(kept.values())
