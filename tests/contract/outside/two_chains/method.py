"""The decoding rule of the two-chains proposal."""

from torch import Tensor

from speculators.proposals.acceptance import greedy_verdict, sampled_verdict
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.proposals.tree import StaticShape, draft_static
from speculators.protocols.draft import Draft, Verdict
from speculators.protocols.drafter import Context, Drafter
from two_chains import TwoChainsProposalConfig


@ProposalMethod.register("two_chains")
class TwoChainsMethod(ProposalMethod):
    """Two nodes a level; each pass of the draft model expands both."""

    def __init__(self, config: TwoChainsProposalConfig, sampler: Sampler) -> None:
        super().__init__(config, sampler)
        self.config = config
        # A node by its ranks from the root: rank 0 or 1 first, then always the most likely child.
        self.shape = StaticShape([(first, *[0] * rest) for first in (0, 1) for rest in range(config.length)])

    def draft(self, drafter: Drafter, context: Context) -> Draft:
        """The same shape for every text."""
        return draft_static(drafter, context, self.shape)

    def judge(self, draft: Draft, logits_BPV: Tensor) -> Verdict:
        """Both first tokens were chosen, not sampled: they are judged by the verifier's probability of them."""
        if self.sampler.is_greedy:
            return greedy_verdict(draft, logits_BPV, self.config.length)
        return sampled_verdict(draft, logits_BPV, self.sampler, self.config.length, siblings=2)
