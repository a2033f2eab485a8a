"""Drafting a tree of a shape that is known beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from speculators.protocols.draft import Draft
from speculators.protocols.drafter import Context, Drafter, Predictions

# A node by its ranks from the root: (0, 2) is the third likeliest child of the likeliest first token.
Path: TypeAlias = tuple[int, ...]


def regular_paths(initial_branching_factor: int, branching_factor: int, depth: int) -> list[Path]:
    """The paths of a tree with as many children at every node, and a number of its own at the root.

    Args:
        initial_branching_factor: children of the root, >= 1.
        branching_factor: children of every other node, >= 1.
        depth: levels, >= 1.
    """
    levels: list[list[Path]] = [[(rank,) for rank in range(initial_branching_factor)]]
    while len(levels) < depth:
        levels.append([(*path, rank) for path in levels[-1] for rank in range(branching_factor)])
    return [path for level in levels for path in level]


@dataclass(frozen=True)
class StaticShape:
    """A tree by the ranks of its nodes.

    Attributes:
        paths: every node's, in any order; each begins with the path of another node, and (0, 2) needs (0, 0) and (0, 1).
    """

    paths: Sequence[Path]

    @cached_property
    def levels(self) -> list[list[Path]]:
        """Paths by level, siblings together and in the order of their ranks."""
        ordered = sorted(self.paths, key=lambda path: (len(path), path))
        return [[p for p in ordered if len(p) == depth] for depth in range(1, len(ordered[-1]) + 1)]

    @cached_property
    def expanded(self) -> list[list[Path]]:
        """Of every level but the last, the paths that have children."""
        inner = {path[:-1] for path in self.paths}
        return [[path for path in level if path in inner] for level in self.levels[:-1]]

    @property
    def siblings(self) -> int:
        """Most children of a node."""
        return 1 + max(path[-1] for path in self.paths)


def draft_static(drafter: Drafter, context: Context, shape: StaticShape) -> Draft:
    """Draft a tree whose shape does not depend on the text: one pass of the draft model a level.

    Args:
        drafter: the draft model.
        context: newly verified positions.
        shape: the tree.

    Returns:
        The tree, level by level. A node is not valid where the draft has fewer tokens than its rank asks for, and below
        nodes that the draft calls closed.
    """
    device, batch_size = context.position_BT.device, len(context.position_BT)

    def indices(places: Sequence[int]) -> Tensor:
        return torch.tensor(places, device=device).expand(batch_size, -1)

    predictions, root = drafter.extend(context, len(shape.levels)), Path()
    # Of the nodes that are expanded: their paths, which are valid, and their numbers in the draft.
    before, inner, numbers, count = [root], [root], {root: -1}, 0
    valid_BN = torch.ones(batch_size, 1, dtype=torch.bool, device=device)
    tokens, parents, valids = [], [], []
    for number, level in enumerate(shape.levels):
        parent_BN = indices([inner.index(path[:-1]) for path in level])
        ranks = [path[-1] for path in level]
        token_BN, has_BN = ranked(predictions, parent_BN, indices(ranks), max(ranks) + 1)
        has_BN = has_BN & valid_BN.gather(1, parent_BN)
        tokens.append(token_BN)
        valids.append(has_BN)
        parents.append(indices([numbers[path[:-1]] for path in level]))
        numbers |= {path: count + i for i, path in enumerate(level)}
        count += len(level)
        if number < len(shape.expanded):
            before, inner = inner, shape.expanded[number]
            chosen_BN = indices([level.index(path) for path in inner])
            valid_BN = has_BN.gather(1, chosen_BN)
            above_BN = indices([before.index(path[:-1]) for path in inner])
            predictions = drafter.expand(token_BN.gather(1, chosen_BN), above_BN)
    return Draft(torch.cat(tokens, dim=1), torch.cat(parents, dim=1), torch.cat(valids, dim=1))


def ranked(predictions: Predictions, node_BM: Tensor, rank_BM: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    """The children of some nodes by their rank.

    Args:
        predictions: after N nodes.
        node_BM: int64 each child's parent among those N.
        rank_BM: int64 0 is the most likely child.
        ranks: one more than the largest of them.

    Returns:
        int64 token_BM, and bool whether there is such a child: not where the draft's vocabulary is smaller than the rank,
        and not after a closed node.
    """
    value_BNR, token_BNR = predictions.logits_BNV.topk(min(ranks, predictions.logits_BNV.shape[-1]), dim=-1)
    R = value_BNR.shape[-1]

    def pick(x_BNR: Tensor) -> Tensor:
        x_BMR = x_BNR.gather(1, node_BM.unsqueeze(-1).expand(-1, -1, R))
        return x_BMR.gather(2, rank_BM.clamp(max=R - 1).unsqueeze(-1)).squeeze(-1)

    has_BM = (rank_BM < R) & (pick(value_BNR) > -torch.inf)
    if predictions.open_BN is not None:
        has_BM = has_BM & predictions.open_BN.gather(1, node_BM)
    return pick(token_BNR), has_BM
