"""The greedy proposal's decoding rule."""

import torch
from torch import Tensor

from speculators.proposals.chain import accepted_prefix, draft_chain, most_likely
from speculators.proposals.greedy.config import GreedyTokenProposalConfig
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.protocols.draft import Draft, Verdict
from speculators.protocols.drafter import Context, Drafter


@ProposalMethod.register("greedy")
class GreedyMethod(ProposalMethod):
    """A chain of the draft's most likely tokens."""

    def __init__(self, config: GreedyTokenProposalConfig, sampler: Sampler) -> None:
        super().__init__(config, sampler)
        self.config, self.exact = config, config.lossy(sampler.temperature) is None

    def draft(self, drafter: Drafter, context: Context) -> Draft:
        """Draft `speculative_tokens` tokens, each the most likely one."""
        return draft_chain(drafter, context, self.config.levels, most_likely)

    def judge(self, draft: Draft, logits_BPV: Tensor) -> Verdict:
        """Accept the verifier's own tokens, or those near enough to them; at a temperature, accept by their probability."""
        return self._sampled(draft, logits_BPV) if not self.sampler.is_greedy else self._greedy(draft, logits_BPV)

    def _greedy(self, draft: Draft, logits_BPV: Tensor) -> Verdict:
        """Accept a token among the verifier's first k that is nearly as likely as the first (arXiv:2203.16487)."""
        best_BP = logits_BPV.argmax(-1)
        if self.exact:
            fine_BK = draft.token_BM == best_BP[:, :-1]
        else:
            before_BKV = logits_BPV[:, :-1]
            own_BK1 = before_BKV.gather(-1, draft.token_BM.unsqueeze(-1))
            fine_BK = (before_BKV > own_BK1).sum(-1) < self.config.verifier_accept_k
            # Differences of logits are differences of log-probabilities.
            fine_BK &= before_BKV.amax(-1) - own_BK1.squeeze(-1) <= self.config.accept_tolerance
        node_BK = accepted_prefix(fine_BK, draft)
        accepted_B1 = (node_BK >= 0).sum(1, keepdim=True)
        return Verdict(node_BK, best_BP.gather(1, accepted_B1).squeeze(1))

    def _sampled(self, draft: Draft, logits_BPV: Tensor) -> Verdict:
        """Rejection sampling with a one-hot draft distribution, as vLLM does by default (`draft_sample_method=greedy`).

        Accept x with probability p(x); else sample from p without x (Leviathan et al. 2023, arXiv:2211.17192, q(x) = 1).
        """
        p_BPV, K = self.sampler.probs(logits_BPV), draft.token_BM.shape[1]
        chance_BK = p_BPV[:, :K].gather(-1, draft.token_BM.unsqueeze(-1)).squeeze(-1)
        node_BK = accepted_prefix(self.sampler.coin(chance_BK), draft)
        accepted_B = (node_BK >= 0).sum(1)
        row_B = torch.arange(len(accepted_B), device=accepted_B.device)
        rest_BV = p_BPV[row_B, accepted_B]
        # The token after the accepted ones was judged and rejected, unless the draft ended there.
        next_B = accepted_B.clamp(max=K - 1)
        ended_B = (accepted_B == K) | ~draft.valid()[row_B, next_B]
        rest_BV[row_B, draft.token_BM[row_B, next_B]] *= ended_B
        return Verdict(node_BK, self.sampler.draw(rest_BV))
