"""The greedy proposal's decoding rule."""

from torch import Tensor

from speculators.proposals.acceptance import follow, greedy_verdict, last_place, sampled_verdict
from speculators.proposals.chain import draft_chain, most_likely
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
        self.config = config

    def draft(self, drafter: Drafter, context: Context) -> Draft:
        """Draft `speculative_tokens` tokens, each the most likely one."""
        return draft_chain(drafter, context, self.config.levels, most_likely)

    def judge(self, draft: Draft, logits_BPV: Tensor) -> Verdict:
        """Accept the verifier's own tokens or near ones; above temperature 0, accept by the verifier's probability.

        As vLLM does by default (`draft_sample_method=greedy`): the draft's distribution is one-hot.
        """
        if not self.sampler.is_greedy:
            return sampled_verdict(draft, logits_BPV, self.sampler, self.config.levels, siblings=1)
        if self.config.lossy(0.0) is None:
            return greedy_verdict(draft, logits_BPV, self.config.levels)
        return self._near(draft, logits_BPV)

    def _near(self, draft: Draft, logits_BPV: Tensor) -> Verdict:
        """Accept a token among the verifier's first k that is nearly as likely as the first (arXiv:2203.16487)."""
        before_BKV = logits_BPV[:, :-1]
        own_BK1 = before_BKV.gather(-1, draft.token_BM.unsqueeze(-1))
        fine_BK = (before_BKV > own_BK1).sum(-1) < self.config.verifier_accept_k
        # Differences of logits are differences of log-probabilities.
        fine_BK &= before_BKV.amax(-1) - own_BK1.squeeze(-1) <= self.config.accept_tolerance
        node_BK = follow(draft, fine_BK, self.config.levels)
        return Verdict(node_BK, logits_BPV.argmax(-1).gather(1, last_place(node_BK)).squeeze(1))
