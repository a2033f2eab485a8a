"""The decoding rule of the shy proposal."""

from torch import Tensor

from shy import ShyProposalConfig
from speculators.proposals.chain import accepted_prefix, draft_chain, most_likely
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.protocols.draft import Draft, Verdict
from speculators.protocols.drafter import Context, Drafter


@ProposalMethod.register("shy")
class ShyMethod(ProposalMethod):
    """The verifier's own tokens, cut short."""

    def __init__(self, config: ShyProposalConfig, sampler: Sampler) -> None:
        super().__init__(config, sampler)
        self.config = config

    def draft(self, drafter: Drafter, context: Context) -> Draft:
        """A chain of most likely tokens."""
        return draft_chain(drafter, context, self.config.levels, most_likely)

    def judge(self, draft: Draft, logits_BPV: Tensor) -> Verdict:
        """Accept at most `max_accepted` of the verifier's own tokens."""
        best_BP = logits_BPV.argmax(-1)
        node_BK = accepted_prefix(draft.token_BM == best_BP[:, :-1], draft)
        node_BK[:, self.config.max_accepted :] = -1
        accepted_B1 = (node_BK >= 0).sum(1, keepdim=True)
        return Verdict(node_BK, best_BP.gather(1, accepted_B1).squeeze(1))
