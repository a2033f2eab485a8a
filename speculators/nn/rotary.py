"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), every scaling that transformers knows."""

from typing import cast

import torch
from torch import Tensor
from transformers import LlamaConfig, PretrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

# cosine and sine, [B, T, head_dim]
Rotation = tuple[Tensor, Tensor]


class Rotary:
    """Cosines and sines of positions.

    No module: the frequencies follow from the config, so a draft built on the meta device has nothing to lose here.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        self.config = config
        self.embedding: LlamaRotaryEmbedding | None = None

    def __call__(self, position_BT: Tensor, dtype: torch.dtype) -> Rotation:
        """Cosine and sine of int64 positions, in `dtype`."""
        device = position_BT.device
        if self.embedding is None or self.embedding.inv_freq.device != device:
            self.embedding = LlamaRotaryEmbedding(cast(LlamaConfig, self.config)).to(device)
        return self.embedding(torch.empty(0, dtype=dtype, device=device), position_BT)


def rotate(x_BHTd: Tensor, rotation: Rotation) -> Tensor:
    """Turn queries or keys by their positions' angles."""
    cos_B1Td, sin_B1Td = (part.unsqueeze(1) for part in rotation)
    low, high = x_BHTd.chunk(2, dim=-1)
    return x_BHTd * cos_B1Td + torch.cat((-high, low), dim=-1) * sin_B1Td
