"""Settings of the static tree proposal. Torch-free."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from speculators.proposals.base import TokenProposalConfig
from speculators.utils.strict import Count
from speculators.utils.untrusted import MOST


@TokenProposalConfig.register("static_tree")
class StaticTreeTokenProposalConfig(TokenProposalConfig):
    """A tree of one shape for every text, filled with the draft's most likely tokens (EAGLE-1, arXiv:2401.15077)."""

    is_tree: ClassVar[bool] = True
    levels_key: ClassVar[str] = "depth"

    proposal_type: Literal["static_tree"] = "static_tree"
    initial_branching_factor: Count = Field(default=4, description="children of the last verified token")
    branching_factor: Count = Field(default=2, description="children of every other node above the last level")
    depth: Count = Field(default=5, description="levels of the tree")
    paths: list[list[int]] | None = Field(
        default=None,
        max_length=MOST,
        description="the ranks of each node from the root; [0, 2] is the third most likely child of the "
        "most likely token; null is the regular tree of the other three settings",
    )

    @model_validator(mode="after")
    def check_paths(self) -> "StaticTreeTokenProposalConfig":
        """Refuse paths that are no tree, or not as deep as `depth`."""
        if self.paths is None:
            return self
        known = {tuple(path) for path in self.paths}
        if not known or len(known) != len(self.paths):
            raise ValueError("paths: must hold at least one node, and each only once")
        for path in known:
            before = path[:-1] if path and path[-1] == 0 else (*path[:-1], path[-1] - 1) if path else ()
            if not path or min(path) < 0 or (before and before not in known):
                raise ValueError(
                    f"paths: {list(path)} needs {list(before)} in the list: ranks start at 0 without gaps, "
                    "and each node needs its parent"
                )
        if (deepest := max(map(len, known))) != self.depth:
            raise ValueError(f"depth: must be {deepest}, the length of the longest of paths, not {self.depth}")
        return self

    @property
    def levels(self) -> int:
        """The tree's depth."""
        return self.depth

    @property
    def nested(self) -> bool:
        """Not with paths of its own, which say how deep it is."""
        return self.paths is None

    @property
    def nodes(self) -> int:
        """Nodes of the tree, the root not counted."""
        if self.paths is not None:
            return len(self.paths)
        return self.initial_branching_factor * sum(self.branching_factor**level for level in range(self.depth))

    def problems(self, temperature: float) -> Iterator[tuple[str, Any, str]]:
        """Trees that are too large to be decoded."""
        if self.nodes > MOST:
            reason = f"the tree has more than {MOST} nodes, all of which the verifier reads; lower it or the branching factors"
            yield "depth", self.depth, reason
