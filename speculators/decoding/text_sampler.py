"""Sampling in which a text depends on its prompt and the seed alone, not on the texts that are decoded beside it."""

from collections.abc import Sequence
from hashlib import sha256

import torch
from torch import Tensor

from speculators.proposals.sampler import Sampler


class TextSampler(Sampler):
    """A sampler with separate random numbers for each text, so that a text does not depend on its batch or order.

    Args:
        temperature: logits are divided by it; above 0.
        seed: of all texts.
        prompts: token ids of the texts that are decoded side by side.
        length: tokens of a text at most.
        device: the verifier's.
    """

    def __init__(
        self, temperature: float, seed: int, prompts: Sequence[Sequence[int]], length: int, device: torch.device
    ) -> None:
        super().__init__(temperature, torch.Generator())
        self._number_BT = torch.stack([_numbers(seed, prompt, length) for prompt in prompts]).to(device)
        self._at = 0

    def draw(self, weight_BV: Tensor) -> Tensor:
        """int64 [B] tokens: where each text's next number in [0, 1) falls among its cumulated weights."""
        cumulated_BV = weight_BV.cumsum(-1)
        number_B1 = self._number_BT[:, self._at : self._at + 1] * cumulated_BV[:, -1:]
        self._at += 1
        # Rounding may carry a number up to the sum itself.
        return torch.searchsorted(cumulated_BV, number_B1, right=True).squeeze(1).clamp_max(weight_BV.shape[1] - 1)

    def select(self, rows: Tensor) -> None:
        """Keep the numbers of some texts."""
        self._number_BT = self._number_BT[rows]


def text_seed(seed: int, prompt: Sequence[int]) -> int:
    """The seed of one text, a signed 64-bit number.

    Args:
        seed: of all texts.
        prompt: token ids.
    """
    name = f"{seed}:{','.join(map(str, prompt))}"
    return int.from_bytes(sha256(name.encode()).digest()[:8], "little", signed=True)


def _numbers(seed: int, prompt: Sequence[int], length: int) -> Tensor:
    """float32 [T] uniform random numbers of one text."""
    return torch.rand(length, generator=torch.Generator().manual_seed(text_seed(seed, prompt)))
