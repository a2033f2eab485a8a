"""Every outcome of a method's random choices, each with its probability: exact laws from the code that runs."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from speculators.proposals.sampler import Sampler

T = TypeVar("T")


class Scripted(Sampler):
    """Takes the choices of a script, then the first that is possible; computes in float64."""

    def __init__(self, script: Sequence[int], temperature: float = 1.0) -> None:
        super().__init__(temperature, torch.Generator())
        self.script, self.chance = list(script), 1.0
        # At each choice, which were possible and which was taken.
        self.possible: list[list[int]] = []
        self.taken: list[int] = []

    def _scaled(self, logits: Tensor) -> Tensor:
        return logits.double() / self.temperature

    def draw(self, weight_BV: Tensor) -> Tensor:
        return torch.tensor([self._take((row / row.sum()).tolist()) for row in weight_BV])

    def coin(self, chance: Tensor) -> Tensor:
        # As a random number is compared with it: NaN, which stands at nodes that are not there, is never.
        chances = [min(c, 1.0) if c > 0 else 0.0 for c in chance.flatten().tolist()]
        sides = [self._take([1 - c, c]) for c in chances]
        return torch.tensor(sides, dtype=torch.bool).view(chance.shape)

    def _take(self, probs: list[float]) -> int:
        possible = [i for i, p in enumerate(probs) if p > 0]
        place = len(self.taken)
        choice = self.script[place] if place < len(self.script) else possible[0]
        self.possible.append(possible)
        self.taken.append(choice)
        self.chance *= probs[choice]
        return choice


def outcomes(run: Callable[[Sampler], T]) -> list[tuple[float, T]]:
    """Run once for every combination of random choices.

    Args:
        run: takes all its randomness from the sampler that it is given.

    Returns:
        Probability and result of each combination; the probabilities add up to 1.
    """
    found, scripts = [], [[]]
    while scripts:
        sampler = Scripted(scripts.pop())
        result = run(sampler)
        found.append((sampler.chance, result))
        # Choices beyond the script were the first of theirs: the others are still to be made.
        for place in range(len(sampler.script), len(sampler.taken)):
            later = [c for c in sampler.possible[place] if c != sampler.taken[place]]
            scripts += [[*sampler.taken[:place], choice] for choice in later]
    return found
