"""Attention masks of one verifier pass over a tree of drafted tokens."""

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PretrainedConfig

from speculators.protocols.draft import Draft
from speculators.verifier.in_process import Verifier

FULL, SLIDING = "full_attention", "sliding_attention"


def ancestors(draft: Draft) -> Tensor:
    """[B, M, M] bool, True where the second node is the first one or lies on its path from the root."""
    token_BM, parent_BM = draft.token_BM, draft.parents()
    M = token_BM.shape[1]
    node_M = torch.arange(M, device=token_BM.device)
    reached_BMM = ((parent_BM.unsqueeze(2) == node_M) | (node_M.unsqueeze(1) == node_M)).float()
    # Each product doubles the number of generations that are reached.
    for _ in range(M.bit_length()):
        reached_BMM = (reached_BMM @ reached_BMM).clamp(max=1)
    return reached_BMM > 0


def tree_visibility(valid_BL: Tensor, draft: Draft) -> tuple[Tensor, Tensor]:
    """Which columns each place of the pass may attend to, and their distances.

    Args:
        valid_BL: bool, the cache's columns that hold a token, those of earlier passes.
        draft: the tree; its pass has P = 1 + M places, the last verified token first.

    Returns:
        bool visible_BPC over the cache's columns and then the pass's own, C = L + P, and int64 distance_BPC, how many
        positions a column lies before the place (anything where it is not visible).
    """
    on_path_BMM = ancestors(draft)
    tree_BPP = torch.nn.functional.pad(on_path_BMM, (1, 0, 1, 0))
    tree_BPP[:, :, 0] = True
    P = tree_BPP.shape[1]
    visible_BPC = torch.cat((valid_BL.unsqueeze(1).expand(-1, P, -1), tree_BPP), dim=2)
    length_B1 = valid_BL.sum(1, keepdim=True)
    place_BP = length_B1 + tree_BPP.sum(2) - 1
    column_BC = torch.cat((valid_BL.cumsum(1) - 1, place_BP), dim=1)
    return visible_BPC, place_BP.unsqueeze(2) - column_BC.unsqueeze(1)


def check_reads_trees(verifier: Verifier) -> None:
    """Check that all of a verifier's layers can restrict attention to one path of a tree.

    Raises:
        ValueError: some cannot.
    """
    if other := verifier.other_layers:
        raise ValueError(
            f"proposal: the verifier's {', '.join(other)} layers cannot verify a tree of tokens; choose a chain, "
            "such as proposal=greedy"
        )


def attention_masks(
    config: PretrainedConfig, visible_BPC: Tensor, distance_BPC: Tensor, dtype: torch.dtype
) -> Tensor | Mapping[str, Tensor]:
    """The masks of a pass as transformers' decoders take them.

    Args:
        config: the verifier's text config.
        visible_BPC: bool, whether a place may see a column.
        distance_BPC: int64, in positions; a sliding window counts them.
        dtype: of the verifier's states.

    Returns:
        [B, 1, P, C], 0 where a place may attend and the lowest number elsewhere; by kind of layer if there are several.

    """
    values = config.to_dict()
    window: int | None = values.get("sliding_window")
    kinds = set(values.get("layer_types") or [FULL if window is None else SLIDING])

    def mask(kind: str) -> Tensor:
        seen_BPC = visible_BPC if kind == FULL or window is None else visible_BPC & (distance_BPC < window)
        hidden = torch.finfo(dtype).min
        return torch.zeros_like(seen_BPC, dtype=dtype).masked_fill_(~seen_BPC, hidden).unsqueeze(1)

    return mask(kinds.pop()) if len(kinds) == 1 else {kind: mask(kind) for kind in kinds}
