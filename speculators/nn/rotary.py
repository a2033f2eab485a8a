"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), every scaling that transformers knows, as vLLM rotates."""

from typing import cast

import torch
from torch import Tensor
from transformers import PhiConfig, PretrainedConfig
from transformers.models.phi.modeling_phi import PhiRotaryEmbedding

# cosine and sine, [B, T, width]; with a partial_rotary_factor the width is that part of head_dim
Rotation = tuple[Tensor, Tensor]


class Rotary:
    """Cosines and sines of positions.

    Not an nn.Module: the frequencies follow from the config and are not lost when a draft is built on the meta device.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        self.config = config
        # Llama's, but of as much of head_dim as partial_rotary_factor says.
        self.embedding: PhiRotaryEmbedding | None = None

    def __call__(self, position_BT: Tensor, dtype: torch.dtype) -> Rotation:
        """Cosine and sine of int64 positions, in `dtype`."""
        device = position_BT.device
        if self.embedding is None or self.embedding.inv_freq.device != device:
            self.embedding = PhiRotaryEmbedding(cast(PhiConfig, self.config)).to(device)
        return self.embedding(torch.empty(0, dtype=dtype, device=device), position_BT)


def rotate(x_BHTd: Tensor, rotation: Rotation) -> Tensor:
    """Turn queries or keys by their positions' angles; what lies beyond the rotation's width stays."""
    cos_B1Td, sin_B1Td = (part.unsqueeze(1) for part in rotation)
    width = cos_B1Td.shape[-1]
    turned, rest = x_BHTd[..., :width], x_BHTd[..., width:]
    low, high = turned.chunk(2, dim=-1)
    turned = turned * cos_B1Td + torch.cat((-high, low), dim=-1) * sin_B1Td
    return turned if not rest.shape[-1] else torch.cat((turned, rest), dim=-1)
