"""What could not be used, by reason."""

from collections import Counter


class Unused:
    """Counts of what was left out, by reason, and where each reason was met first.

    Attributes:
        counts: by reason; a reason completes the sentence "3 conversations ...".
        first: place of the first one, by reason.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, reason: str, place: str) -> None:
        """Count one.

        Args:
            reason: why; one of few, so that counts say something.
            place: file and line, or data set and row.
        """
        self.counts[reason] += 1
        self.first.setdefault(reason, place)

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason} (first: {self.first[reason]})" for reason, count in self.counts.items())
