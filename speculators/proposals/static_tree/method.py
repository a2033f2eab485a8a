"""The static tree's decoding rule."""

from torch import Tensor

from speculators.proposals.acceptance import greedy_verdict, sampled_verdict
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.proposals.static_tree.config import StaticTreeTokenProposalConfig
from speculators.proposals.tree import StaticShape, draft_static, regular_paths
from speculators.protocols.draft import Draft, Verdict
from speculators.protocols.drafter import Context, Drafter


@ProposalMethod.register("static_tree")
class StaticTreeMethod(ProposalMethod):
    """The draft's most likely tokens in a tree of one shape."""

    def __init__(self, config: StaticTreeTokenProposalConfig, sampler: Sampler) -> None:
        super().__init__(config, sampler)
        factors = config.initial_branching_factor, config.branching_factor, config.depth
        paths = regular_paths(*factors) if config.paths is None else [tuple(path) for path in config.paths]
        self.shape = StaticShape(paths)

    def draft(self, drafter: Drafter, context: Context) -> Draft:
        """One pass of the draft model a level, over the nodes that have children."""
        return draft_static(drafter, context, self.shape)

    def judge(self, draft: Draft, logits_BPV: Tensor) -> Verdict:
        """Follow the verifier's tokens; above temperature 0, children are verified as chosen tokens, not as samples."""
        depth = len(self.shape.levels)
        if self.sampler.is_greedy:
            return greedy_verdict(draft, logits_BPV, depth)
        return sampled_verdict(draft, logits_BPV, self.sampler, depth, self.shape.siblings)
