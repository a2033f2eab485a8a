"""The decoding rule of the sampled chain, written out (Leviathan et al. 2023, arXiv:2211.17192)."""

import torch
from torch import Tensor

from sampled_chain import SampledChainProposalConfig
from speculators.proposals.acceptance import greedy_verdict
from speculators.proposals.chain import draft_chain, most_likely
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.protocols.draft import Draft, Verdict
from speculators.protocols.drafter import Context, Drafter


@ProposalMethod.register("sampled_chain")
class SampledChainMethod(ProposalMethod):
    """Accept x with min(1, p(x) / q(x)); after the first rejection sample from (p - q)+."""

    def __init__(self, config: SampledChainProposalConfig, sampler: Sampler) -> None:
        super().__init__(config, sampler)
        self.config = config

    def draft(self, drafter: Drafter, context: Context) -> Draft:
        """Each token with the distribution that it was sampled from."""
        choose = most_likely if self.sampler.is_greedy else self._sample
        return draft_chain(drafter, context, self.config.levels, choose)

    def _sample(self, logits_BV: Tensor) -> tuple[Tensor, Tensor]:
        prob_BV = self.sampler.draft_probs(logits_BV)
        return self.sampler.draw(prob_BV), prob_BV

    def judge(self, draft: Draft, logits_BPV: Tensor) -> Verdict:
        """One coin a token; what is left of p at the first rejected one, and p itself where the draft ends."""
        if draft.prob_BMV is None:
            return greedy_verdict(draft, logits_BPV, self.config.levels)
        p_BPV, q_BKV, K = self.sampler.probs(logits_BPV), draft.prob_BMV, draft.token_BM.shape[1]
        token_BK1 = draft.token_BM.unsqueeze(-1)
        chance_BK = (p_BPV[:, :K].gather(2, token_BK1) / q_BKV.gather(2, token_BK1)).squeeze(-1)
        kept_BK = (self.sampler.coin(chance_BK) & draft.valid()).long().cumprod(1).bool()
        row_B, accepted_B = torch.arange(len(kept_BK), device=kept_BK.device), kept_BK.sum(1)
        rejected_B = accepted_B.clamp(max=K - 1)
        was_judged_B = (accepted_B < K) & draft.valid()[row_B, rejected_B]
        p_BV, q_BV = p_BPV[row_B, accepted_B], q_BKV[row_B, rejected_B]
        rest_BV = torch.where(was_judged_B.unsqueeze(1), (p_BV - q_BV).clamp_min(0), p_BV)
        place_K = torch.arange(K, device=kept_BK.device)
        return Verdict(torch.where(kept_BK, place_K, -1), self.sampler.draw(rest_BV))
