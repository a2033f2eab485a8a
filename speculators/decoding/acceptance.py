"""Which drafted tokens the verifier accepts, and what it says after them."""

import importlib
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from speculators.proposals import PACKAGES, GreedyTokenProposalConfig, TokenProposalConfig
from speculators.utils.registry import ClassRegistryMixin


class Acceptance(ClassRegistryMixin, ABC):
    """Base of every proposal method's rule; registered under its `proposal_type`."""

    # Whether decoding with this rule gives the verifier's own greedy text.
    lossless: bool = False

    @abstractmethod
    def __call__(self, logits_BPV: Tensor, draft_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Judge drafted tokens.

        Args:
            logits_BPV: the verifier's logits at the K + 1 positions before each drafted token and after the last.
            draft_BK: int64 drafted tokens.

        Returns:
            int64 accepted_B, how many from the left are accepted, 0 to K, and token_B, the verifier's next token.
        """

    @classmethod
    def of(cls, proposal: TokenProposalConfig, temperature: float, generator: torch.Generator) -> "Acceptance":
        """The rule of a proposal method.

        Args:
            proposal: the method and its settings.
            temperature: of the verifier's sampling; 0 is greedy.
            generator: randomness of sampling, on the verifier's device.
        """
        if temperature > 0:
            return SampledAcceptance(temperature, generator)
        for package in PACKAGES:
            importlib.import_module(f"{package}.acceptance")
        return (cls.registry or {})[proposal.proposal_type](proposal)


@Acceptance.register("greedy")
class GreedyAcceptance(Acceptance):
    """A drafted token is accepted among the verifier's first k if it is nearly as likely as the first (arXiv:2203.16487)."""

    def __init__(self, proposal: GreedyTokenProposalConfig) -> None:
        self.k, self.tolerance = proposal.verifier_accept_k, proposal.accept_tolerance
        # Among the first one, or no less likely than it: either way it is the first itself.
        self.lossless = self.k == 1 or self.tolerance == 0

    def __call__(self, logits_BPV: Tensor, draft_BK: Tensor) -> tuple[Tensor, Tensor]:
        best_BP = logits_BPV.argmax(-1)
        if self.lossless:
            fine_BK = draft_BK == best_BP[:, :-1]
        else:
            before_BKV = logits_BPV[:, :-1]
            own_BK1 = before_BKV.gather(-1, draft_BK.unsqueeze(-1))
            fine_BK = (before_BKV > own_BK1).sum(-1) < self.k
            # Differences of logits are differences of log-probabilities.
            fine_BK &= before_BKV.amax(-1) - own_BK1.squeeze(-1) <= self.tolerance
        accepted_B = fine_BK.long().cumprod(1).sum(1)
        return accepted_B, best_BP.gather(1, accepted_B.unsqueeze(1)).squeeze(1)


class SampledAcceptance(Acceptance):
    """Rejection sampling with a draft that is sure of its token, as vLLM does by default (`draft_sample_method=greedy`).

    Accept x with probability p(x); else sample from p without x. The text is distributed as the verifier's own
    (Leviathan et al. 2023, arXiv:2211.17192, with q = 1 at x).
    """

    def __init__(self, temperature: float, generator: torch.Generator) -> None:
        self.temperature, self.generator = temperature, generator

    def __call__(self, logits_BPV: Tensor, draft_BK: Tensor) -> tuple[Tensor, Tensor]:
        p_BPV = (logits_BPV.float() / self.temperature).softmax(-1)
        K = draft_BK.shape[1]
        chance_BK = p_BPV[:, :K].gather(-1, draft_BK.unsqueeze(-1)).squeeze(-1)
        luck_BK = torch.rand(chance_BK.shape, generator=self.generator, device=chance_BK.device)
        accepted_B = (luck_BK < chance_BK).long().cumprod(1).sum(1)
        row_B = torch.arange(len(draft_BK), device=draft_BK.device)
        rest_BV = p_BPV[row_B, accepted_B]
        if K:
            refused_B = draft_BK[row_B, accepted_B.clamp(max=K - 1)]
            rest_BV[row_B, refused_B] *= accepted_B == K
        return accepted_B, torch.multinomial(rest_BV, 1, generator=self.generator).squeeze(1)
