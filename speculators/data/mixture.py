"""Which conversations of one or several sources a run takes, and in which order."""

import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice

from speculators.data.conversations import Conversation, read
from speculators.data.files import key_of, sources_of
from speculators.data.unused import Unused
from speculators.settings.data import DataSettings


def shares(data: DataSettings) -> list[float] | None:
    """Each source's share of the conversations, which add up to 1; None takes all of each."""
    weights = [source.weight for source in sources_of(data)]
    known = [weight for weight in weights if weight is not None]
    return [weight / sum(known) for weight in known] if known else None


def conversations(data: DataSettings, unused: Unused, answered: bool, counts: list[int]) -> Iterator[Conversation]:
    """The usable conversations of every source, one source after the other.

    Args:
        data: the sources; of those that stream no more is read than a run can take.
        unused: counts what was left out, by reason.
        answered: as for `read`.
        counts: filled with the number of conversations of each source.

    Raises:
        ValueError: a source is missing or broken.
    """
    parts = shares(data)
    for number, source in enumerate(sources_of(data)):
        most = data.max_conversations
        if most is not None and parts:
            most = round(parts[number] * most)
        found = read(source, key_of(data, number), unused, answered)
        counts.append(0)
        for conversation in islice(found, most if source.streaming else None):
            counts[-1] += 1
            yield conversation


def order(data: DataSettings, counts: list[int], seed: int) -> list[int]:
    """Indices of the conversations that a run takes, shuffled.

    Args:
        data: weights and max_conversations.
        counts: conversations of each source, which are numbered one source after the other.
        seed: of the shuffle.
    """
    numbers = list(range(sum(counts)))
    random.Random(seed).shuffle(numbers)
    parts = shares(data)
    if parts is None:
        return numbers[: data.max_conversations]
    total = min(count / part for count, part in zip(counts, parts, strict=True))
    total = total if data.max_conversations is None else min(total, data.max_conversations)
    left = [round(part * total) for part in parts]
    chosen = []
    for number, source in zip(numbers, sources_among(numbers, counts), strict=True):
        if left[source]:
            left[source] -= 1
            chosen.append(number)
    return chosen


def sources_among(numbers: Iterable[int], counts: list[int]) -> Iterator[int]:
    """The source of each numbered conversation."""
    ends = list(accumulate(counts))
    return (bisect_right(ends, number) for number in numbers)


def names(data: DataSettings) -> list[str]:
    """The display name of each source."""
    return [str(source.path or source.name) for source in sources_of(data)]
