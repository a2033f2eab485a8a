"""How the verifier's next token follows from its logits, with a draft and without."""

import torch
from torch import Tensor


class Sampler:
    """The verifier's sampling, and the randomness of a decoding run.

    Args:
        temperature: logits are divided by it; 0 takes the most likely token.
        generator: of all random numbers, on the verifier's device.
        top_k: sample among the so many most likely tokens, >= 1; None is all.
        top_p: sample among the fewest most likely tokens whose probabilities add up to this, in (0, 1].
    """

    def __init__(
        self, temperature: float, generator: torch.Generator, top_k: int | None = None, top_p: float = 1.0
    ) -> None:
        self.temperature, self.generator, self.top_k, self.top_p = temperature, generator, top_k, top_p

    @property
    def is_greedy(self) -> bool:
        """Whether the next token is the most likely one."""
        return self.temperature == 0

    def probs(self, logits: Tensor) -> Tensor:
        """The verifier's next-token distribution; not for a greedy sampler.

        As in vLLM, temperature comes first, then top-k, then top-p of what is left.

        Args:
            logits: [..., V], any float dtype.

        Returns:
            float32 [..., V].
        """
        scaled = self._scaled(logits)
        if self.top_k is not None and self.top_k < scaled.shape[-1]:
            least = scaled.topk(self.top_k, dim=-1).values[..., -1:]
            scaled = scaled.masked_fill(scaled < least, -torch.inf)
        probs = scaled.softmax(-1)
        if self.top_p < 1:
            ascending, order = probs.sort(dim=-1)
            # What adds up to 1 - top_p from below is left out; the most likely token never is.
            cut = ascending.cumsum(-1) <= 1 - self.top_p
            cut[..., -1] = False
            probs = probs.masked_fill(torch.zeros_like(cut).scatter(-1, order, cut), 0.0)
            probs = probs / probs.sum(-1, keepdim=True)
        return probs

    def draft_probs(self, logits: Tensor) -> Tensor:
        """The distribution that draft tokens are sampled from: the draft's at the verifier's temperature, as in vLLM.

        Args:
            logits: [..., V] of the draft model, -inf where it has no such token.

        Returns:
            float32 [..., V].
        """
        return self._scaled(logits).softmax(-1)

    def choose(self, logits_BV: Tensor) -> Tensor:
        """The verifier's next token, int64 [B]: the most likely one, or a sampled one."""
        return logits_BV.argmax(-1) if self.is_greedy else self.draw(self.probs(logits_BV))

    def draw(self, weight_BV: Tensor) -> Tensor:
        """int64 [B] tokens with probabilities proportional to `weight_BV`; each row's sum must be above 0."""
        return torch.multinomial(weight_BV, 1, generator=self.generator).squeeze(1)

    def select(self, rows: Tensor) -> None:
        """Keep only the texts `rows`, int64 indices; the others are finished."""

    def coin(self, chance: Tensor) -> Tensor:
        """bool, True with probability `chance` (at least 1 is always), independently for each element."""
        return torch.rand(chance.shape, generator=self.generator, device=chance.device) < chance

    def _scaled(self, logits: Tensor) -> Tensor:
        return logits.float() / self.temperature
