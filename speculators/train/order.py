"""The order of training sequences: a pure function of the seed, so that a resumed run continues where it stopped."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch

from speculators.settings.training import TrainerSettings


class Place(NamedTuple):
    """A sequence of a step: its index in the training data, and its number in the step's whole batch."""

    index: int
    number: int


@dataclass(frozen=True)
class Order:
    """The sequence order of all epochs, divided into steps; each epoch is shuffled separately.

    Attributes:
        sequences: packed sequences in the training data, >= 1.
        seed: the run's seed.
        trainer: epochs, max_steps and the settings of a step's size.
        processes: processes that share each step, >= 1.
    """

    sequences: int
    seed: int
    trainer: TrainerSettings
    processes: int = 1

    def __post_init__(self) -> None:
        if self.per_step % self.processes:
            raise ValueError(
                f"trainer.sequences_per_step={self.per_step}: {self.processes} processes cannot share them evenly; choose a "
                "multiple of their number"
            )

    @property
    def per_step(self) -> int:
        """Sequences of one optimizer step over all processes."""
        each = self.trainer.batch_size * self.trainer.gradient_accumulation_steps
        return self.trainer.sequences_per_step or each * self.processes

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        everything = math.ceil(self.sequences * self.trainer.epochs / self.per_step)
        return min(everything, self.trainer.max_steps or everything)

    def of_step(self, step: int, process: int = 0) -> list[list[Place]]:
        """One process's micro-batches of one step; in the run's last step as many as are left."""
        end = (step + 1) * self.per_step
        # The next epoch fills the last step up: to its size if that does not depend on the processes, else so far that all
        # processes get equally many, without which collective operations deadlock.
        if self.trainer.sequences_per_step is None:
            end = min(end, self.sequences * self.trainer.epochs)
            end += -end % self.processes
        start = step * self.per_step
        mine = [Place(self._at(i), i - start) for i in range(start + process, end, self.processes)]
        size = self.trainer.batch_size
        return [mine[i : i + size] for i in range(0, len(mine), size)]

    def _at(self, place: int) -> int:
        epoch, place = divmod(place, self.sequences)
        return shuffled(self.sequences, self.seed, epoch)[place]


@lru_cache(maxsize=2)
def shuffled(sequences: int, seed: int, epoch: int) -> list[int]:
    """0 ... sequences - 1 in the order of one epoch."""
    # Generator seeds of epochs differ by multiples of a prime, so that neighbouring run seeds share no epoch.
    generator = torch.Generator().manual_seed(seed + 1_000_003 * epoch)
    return torch.randperm(sequences, generator=generator).tolist()
