"""The sampling proposal: a chain sampled from the draft. Torch-free at import."""

from speculators.proposals.sampling.config import SamplingTokenProposalConfig

__all__ = ["SamplingTokenProposalConfig"]
