"""Counts of unusable data, by reason."""

from collections import Counter
from collections.abc import Mapping


class Unused:
    """Counts of what was left out, by reason, with the place of the first occurrence of each.

    Args:
        counts: by reason; a reason completes the sentence "3 conversations ...".
        first: place of the first one, by reason.
    """

    def __init__(self, counts: Mapping[str, int] = {}, first: Mapping[str, str] = {}) -> None:
        self.counts, self.first = Counter(counts), dict(first)

    def add(self, reason: str, place: str) -> None:
        """Count one.

        Args:
            reason: why; one of a fixed set, so that counts are meaningful.
            place: file and line, or data set and row.
        """
        self.counts[reason] += 1
        self.first.setdefault(reason, place)

    def include(self, other: "Unused") -> None:
        """Count as well what was counted elsewhere; of a reason that both have, the first place is this one's."""
        self.counts.update(other.counts)
        self.first = other.first | self.first

    def __add__(self, other: "Unused") -> "Unused":
        """Both counts together; of a reason that both have, the first place is this one's."""
        both = Unused(self.counts, self.first)
        both.include(other)
        return both

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason} (first: {self.first[reason]})" for reason, count in self.counts.items())
