"""Settings of the dynamic tree proposal. Torch-free."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from speculators.proposals.base import TokenProposalConfig

# Bound of the drafted tokens from which those that are verified are chosen; the published methods draft some 500.
MOST_CANDIDATES = 100_000


@TokenProposalConfig.register("dynamic_tree")
class DynamicTreeTokenProposalConfig(TokenProposalConfig):
    """The likeliest tokens of a tree that grows where the draft is confident (EAGLE-2, arXiv:2406.16858)."""

    is_tree: ClassVar[bool] = True
    levels_key: ClassVar[str] = "depth"

    proposal_type: Literal["dynamic_tree"] = "dynamic_tree"
    speculative_tokens: int = Field(default=48, ge=1, description="drafted tokens that a pass of the verifier checks")
    expansion_factor: int = Field(
        default=10, ge=1, description="nodes of a level that are expanded, and children drafted for each"
    )
    depth: int = Field(default=6, ge=1, description="levels of the tree: passes of the draft model")

    @property
    def levels(self) -> int:
        """The tree's depth."""
        return self.depth

    @property
    def nodes(self) -> int:
        """The tokens that are kept of all candidates."""
        return min(self.speculative_tokens, self.candidates)

    @property
    def candidates(self) -> int:
        """Drafted tokens from which the likeliest are kept."""
        return self.expansion_factor + (self.depth - 1) * self.expansion_factor**2

    def problems(self, temperature: float) -> Iterator[tuple[str, Any, str]]:
        """Sizes that cannot be filled, or are too large to be drafted."""
        if self.candidates > MOST_CANDIDATES:
            reason = (
                f"at depth={self.depth} it drafts {self.candidates} tokens, {MOST_CANDIDATES} are the most; lower it"
            )
            yield "expansion_factor", self.expansion_factor, reason
        if self.speculative_tokens > self.candidates:
            reason = f"depth and expansion_factor draft only {self.candidates} tokens in all; lower it, or raise them"
            yield "speculative_tokens", self.speculative_tokens, reason
        if self.depth > self.speculative_tokens:
            reason = f"a path of this length is longer than proposal.speculative_tokens={self.speculative_tokens}; lower depth"
            yield "depth", self.depth, reason
