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
        trainer: epochs, max_steps, batch_size and gradient_accumulation_steps.
        processes: processes that share each step, >= 1.
    """

    sequences: int
    seed: int
    trainer: TrainerSettings
    processes: int = 1

    @property
    def per_step(self) -> int:
        """Sequences of one optimizer step over all processes."""
        return self.trainer.batch_size * self.trainer.gradient_accumulation_steps * self.processes

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        everything = math.ceil(self.sequences * self.trainer.epochs / self.per_step)
        return min(everything, self.trainer.max_steps or everything)

    def of_step(self, step: int, process: int = 0) -> list[list[Place]]:
        """One process's micro-batches of one step: `gradient_accumulation_steps` of them, in the run's last step as many
        as are left."""
        end = min((step + 1) * self.per_step, self.sequences * self.trainer.epochs)
        # All processes get equally many, else collective operations deadlock: the next epoch fills the rest.
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
