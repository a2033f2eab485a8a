"""Sampled chain: tokens sampled from the draft, a rejected one replaced by a sample of the residual."""

from typing import Literal

from speculators.proposals import ChainProposalConfig, TokenProposalConfig


@TokenProposalConfig.register("sampled_chain")
class SampledChainProposalConfig(ChainProposalConfig):
    """It has the settings of every chain."""

    proposal_type: Literal["sampled_chain"] = "sampled_chain"
