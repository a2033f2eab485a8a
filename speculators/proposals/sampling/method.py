"""The sampling proposal's decoding rule."""

from torch import Tensor

from speculators.proposals.acceptance import greedy_verdict, sampled_verdict
from speculators.proposals.chain import draft_chain, most_likely
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.proposals.sampling.block import block_verdict
from speculators.proposals.sampling.config import SamplingTokenProposalConfig
from speculators.protocols.draft import Draft, Verdict
from speculators.protocols.drafter import Context, Drafter


@ProposalMethod.register("sampling")
class SamplingMethod(ProposalMethod):
    """A chain sampled from the draft at the verifier's temperature."""

    def __init__(self, config: SamplingTokenProposalConfig, sampler: Sampler) -> None:
        super().__init__(config, sampler)
        self.config = config

    def draft(self, drafter: Drafter, context: Context) -> Draft:
        """Sample one token after another, and keep the distributions."""

        def sample(logits_BV: Tensor) -> tuple[Tensor, Tensor]:
            prob_BV = self.sampler.draft_probs(logits_BV)
            return self.sampler.draw(prob_BV), prob_BV

        return draft_chain(drafter, context, self.config.levels, most_likely if self.sampler.is_greedy else sample)

    def judge(self, draft: Draft, logits_BPV: Tensor) -> Verdict:
        """Rejection sampling, token by token or of the block."""
        if self.sampler.is_greedy:
            return greedy_verdict(draft, logits_BPV, self.config.levels)
        if self.config.rejection_sample_method == "block":
            return block_verdict(draft, logits_BPV, self.sampler)
        lenience = self.config.accept_lenience
        return sampled_verdict(draft, logits_BPV, self.sampler, self.config.levels, siblings=1, lenience=lenience)
