"""Attention over earlier keys and values, the same in training and in drafting."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig

from speculators.nn.norm import RMSNorm
from speculators.nn.rotary import Rotation, rotate


class KeyValue(NamedTuple):
    """Keys and values of one layer, [B, key-value heads, length, head_dim]."""

    key: Tensor
    value: Tensor

    def append(self, other: "KeyValue") -> "KeyValue":
        """Both, `other` last."""
        return KeyValue(torch.cat((self.key, other.key), dim=2), torch.cat((self.value, other.value), dim=2))


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; Qwen3's has a norm on queries and keys.

    Args:
        config: the draft's `transformer_layer_config`, Llama or Qwen3.
        input_size: width of what queries, keys and values are made of; EAGLE-3's first layer reads two states.
    """

    def __init__(self, config: PretrainedConfig, input_size: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.groups = config.num_attention_heads // config.num_key_value_heads
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(input_size, queries, bias=bias)
        self.k_proj = nn.Linear(input_size, keys, bias=bias)
        self.v_proj = nn.Linear(input_size, keys, bias=bias)
        # Engines give a Qwen3 draft no output bias, whatever attention_bias says.
        qk_norm = config.model_type == "qwen3"
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=bias and not qk_norm)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps) if qk_norm else nn.Identity()

    def forward(
        self, x_BTI: Tensor, rotation: Rotation, past: KeyValue | None, mask_B1TL: Tensor
    ) -> tuple[Tensor, KeyValue]:
        """Attend to `past` and to x itself.

        Args:
            x_BTI: input of width `input_size`.
            rotation: of x's positions.
            past: earlier keys and values; None if there are none.
            mask_B1TL: True where a query may see a key, or what is added to its score; L counts past keys, then x's own.

        Returns:
            The output [B, T, H] and all keys and values, x's own last.
        """
        heads = (*x_BTI.shape[:2], -1, self.head_dim)
        query = rotate(self.q_norm(self.q_proj(x_BTI).view(heads)).transpose(1, 2), rotation)
        key = rotate(self.k_norm(self.k_proj(x_BTI).view(heads)).transpose(1, 2), rotation)
        own = KeyValue(key, self.v_proj(x_BTI).view(heads).transpose(1, 2))
        seen = own if past is None else past.append(own)
        # Repeated by hand: with enable_gqa the CPU falls back to an attention that materialises all scores.
        out_BHTd = F.scaled_dot_product_attention(
            query,
            seen.key.repeat_interleave(self.groups, dim=1),
            seen.value.repeat_interleave(self.groups, dim=1),
            attn_mask=mask_B1TL,
        )
        return self.o_proj(out_BHTd.transpose(1, 2).flatten(2)), seen
