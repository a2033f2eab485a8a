"""Makes the batches of a step, with their rows planned, while the step before is computed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from speculators.data.collate import collate
from speculators.data.pack import Packed
from speculators.data.row_plan import RowPlanner, row_seed
from speculators.protocols.batch import Batch
from speculators.train.order import Place

# Step number used to plan the rows of held-out sequences, so that they are the same at every evaluation.
HELDOUT = -1


@dataclass(frozen=True)
class Batches:
    """Makes batches from packed sequences.

    Attributes:
        sequences: all packed sequences.
        plan: chooses the rows of a sequence.
        seed: the run's.
    """

    sequences: Sequence[Packed]
    plan: RowPlanner
    seed: int

    def of(self, places: Sequence[Place], step: int) -> Batch:
        """Collate sequences into a batch on the host.

        Args:
            places: which, and their numbers in the step's whole batch.
            step: optimizer step, from 0, or `HELDOUT`.
        """
        seeds = [row_seed(self.seed, step, place.number) for place in places]
        return collate([self.sequences[place.index] for place in places], self.plan, seeds)


def made_ahead(make: Callable[[int], list[Batch]], steps: Iterable[int]) -> Iterator[list[Batch]]:
    """The batches of each step, those of the next one made by a thread meanwhile.

    Args:
        make: makes the batches of a step; its errors are raised when they are needed.
        steps: in order.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        waiting = deque()
        for step in steps:
            waiting.append(thread.submit(make, step))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def announced(
    steps: Iterable[list[Batch]], announce: Callable[[Sequence[Batch]], None], ahead: int
) -> Iterator[list[Batch]]:
    """The same batches, step by step, each announced before it is needed.

    Args:
        steps: the batches of each step; read as they are announced.
        announce: called with the batches of each step, in order.
        ahead: steps that are announced beyond the one which is given out.
    """
    waiting: deque[list[Batch]] = deque()
    for batches in steps:
        announce(batches)
        waiting.append(batches)
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
