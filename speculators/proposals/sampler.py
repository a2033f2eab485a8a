"""How the verifier's next token follows from its logits, with a draft and without."""

import torch
from torch import Tensor


class Sampler:
    """The verifier's sampling, and the randomness of a decoding run.

    Args:
        temperature: logits are divided by it; 0 takes the most likely token.
        generator: of all random numbers, on the verifier's device.
    """

    def __init__(self, temperature: float, generator: torch.Generator) -> None:
        self.temperature, self.generator = temperature, generator

    @property
    def is_greedy(self) -> bool:
        """Whether the next token is the most likely one."""
        return self.temperature == 0

    def probs(self, logits: Tensor) -> Tensor:
        """float32 distribution of the next token, [..., V], from logits of any float dtype; not for a greedy sampler."""
        return (logits.float() / self.temperature).softmax(-1)

    def choose(self, logits_BV: Tensor) -> Tensor:
        """The verifier's next token, int64 [B]: the most likely one, or a sampled one."""
        return logits_BV.argmax(-1) if self.is_greedy else self.draw(self.probs(logits_BV))

    def draw(self, weight_BV: Tensor) -> Tensor:
        """int64 [B] tokens with probabilities proportional to `weight_BV`; each row's sum must be above 0."""
        return torch.multinomial(weight_BV, 1, generator=self.generator).squeeze(1)

    def coin(self, chance: Tensor) -> Tensor:
        """bool, True with probability `chance` (at least 1 is always), independently for each element."""
        return torch.rand(chance.shape, generator=self.generator, device=chance.device) < chance
