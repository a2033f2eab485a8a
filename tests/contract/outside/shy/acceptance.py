"""The rule of the shy proposal."""

from torch import Tensor

from shy import ShyProposalConfig
from speculators.decoding.acceptance import Acceptance


@Acceptance.register("shy")
class ShyAcceptance(Acceptance):
    """The verifier's own tokens, cut short."""

    lossless = True

    def __init__(self, proposal: ShyProposalConfig) -> None:
        self.most = proposal.max_accepted

    def __call__(self, logits_BPV: Tensor, draft_BK: Tensor) -> tuple[Tensor, Tensor]:
        best_BP = logits_BPV.argmax(-1)
        accepted_B = (draft_BK == best_BP[:, :-1]).long().cumprod(1).sum(1).clamp(max=self.most)
        return accepted_B, best_BP.gather(1, accepted_B.unsqueeze(1)).squeeze(1)
