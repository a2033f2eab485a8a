"""Attention over earlier keys and values, the same layer in training and in drafting."""

from typing import NamedTuple, Protocol

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


# Keys and values of one layer: those of earlier passes in order, each as its pass made it, then a pass's own.
Seen = tuple[KeyValue, ...]


class Attend(Protocol):
    """How a pass's queries attend; all its layers share it."""

    def __call__(self, query_BHTd: Tensor, seen: Seen, window: int | None = None) -> Tensor:
        """[B, heads, T, head_dim] attention over what the queries see of `seen`.

        Args:
            query_BHTd: of the pass.
            seen: keys and values.
            window: no query sees a key that is so many positions before it, or more, as in vLLM; None is no limit.
        """
        ...


def joined(seen: Seen) -> KeyValue:
    """All keys and values along their length."""
    if len(seen) == 1:
        return seen[0]
    return KeyValue(torch.cat([k for k, _ in seen], dim=2), torch.cat([v for _, v in seen], dim=2))


def masked(mask_B1TL: Tensor, query_BT: Tensor | None = None, key_BL: Tensor | None = None) -> Attend:
    """Attention with a mask.

    Args:
        mask_B1TL: True where a query may see a key, or what is added to its score; L counts all keys.
        query_BT: int64 position of each query; layers with a window need it.
        key_BL: int64 position of each key; layers with a window need it.
    """
    masks: dict[int | None, Tensor] = {None: mask_B1TL}

    def attend(query_BHTd: Tensor, seen: Seen, window: int | None = None) -> Tensor:
        if window is not None and window not in masks:
            assert query_BT is not None and key_BL is not None
            far_BTL = key_BL.unsqueeze(1) <= query_BT.unsqueeze(2) - window
            masks[window] = mask_B1TL.masked_fill(
                far_BTL.unsqueeze(1), False if mask_B1TL.dtype == torch.bool else -torch.inf
            )
        key, value = joined(seen)
        groups = query_BHTd.shape[1] // key.shape[1]
        # Repeated by hand: with enable_gqa the CPU falls back to an attention that materialises all scores.
        return F.scaled_dot_product_attention(
            query_BHTd,
            key.repeat_interleave(groups, dim=1),
            value.repeat_interleave(groups, dim=1),
            attn_mask=masks[window],
        )

    return attend


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; Qwen3's has a norm on queries and keys, Qwen2's biases on both and values.

    Args:
        config: the draft's `transformer_layer_config`, Llama, Qwen2 or Qwen3.
        input_size: width of what queries, keys and values are made of; EAGLE-3's first layer reads two states.
        window: tokens over which a query attends, itself included; None is all before it.
    """

    def __init__(self, config: PretrainedConfig, input_size: int, window: int | None = None) -> None:
        super().__init__()
        self.window = window
        # A Qwen2 config has no head_dim of its own.
        self.head_dim = config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        bias = config.model_type == "qwen2" or config.attention_bias
        self.q_proj = nn.Linear(input_size, queries, bias=bias)
        self.k_proj = nn.Linear(input_size, keys, bias=bias)
        self.v_proj = nn.Linear(input_size, keys, bias=bias)
        # Qwen2 has no output bias, and engines give a Qwen3 draft none, whatever attention_bias says.
        qk_norm = config.model_type == "qwen3"
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=bias and config.model_type == "llama")
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps) if qk_norm else nn.Identity()

    def keys_values(self, x_BTI: Tensor, rotation: Rotation) -> KeyValue:
        """Keys and values of x; arguments as of `forward`."""
        heads = (*x_BTI.shape[:2], -1, self.head_dim)
        key = rotate(self.k_norm(self.k_proj(x_BTI).view(heads)).transpose(1, 2), rotation)
        return KeyValue(key, self.v_proj(x_BTI).view(heads).transpose(1, 2))

    def forward(self, x_BTI: Tensor, rotation: Rotation, past: Seen, attend: Attend) -> tuple[Tensor, Seen]:
        """Attend to `past` and to x itself.

        Args:
            x_BTI: input of width `input_size`.
            rotation: of x's positions.
            past: earlier keys and values; empty if there are none.
            attend: computes what x's queries get from `past` and x's own keys and values.

        Returns:
            The output [B, T, H], and `past` with x's own keys and values.
        """
        heads = (*x_BTI.shape[:2], -1, self.head_dim)
        query = rotate(self.q_norm(self.q_proj(x_BTI).view(heads)).transpose(1, 2), rotation)
        seen = (*past, self.keys_values(x_BTI, rotation))
        return self.o_proj(attend(query, seen, self.window).transpose(1, 2).flatten(2)), seen


def additive_mask(sees_BTL: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, T, L] what is added to scores in `dtype`: 0 where a query may see a key, else minus infinity.

    For a mask that several layers or steps share: from a bool mask, attention would make and keep one in each of them.
    """
    return torch.zeros_like(sees_BTL, dtype=dtype).masked_fill_(~sees_BTL, -torch.inf).unsqueeze(1)


def cached_mask(old_BL: Tensor, own_BT: Tensor) -> Tensor:
    """[B, T, L + T] bool, what new places of a text see: the valid ones among all places up to themselves.

    Args:
        old_BL: bool, validity of the places whose keys are cached.
        own_BT: bool, validity of the new places. One that is padding sees itself, so that its softmax is defined; its
            output and key are not used.
    """
    T = own_BT.shape[1]
    sees_BTT = torch.ones(T, T, dtype=torch.bool, device=own_BT.device).tril() & own_BT.unsqueeze(1)
    sees_BTT = sees_BTT | torch.eye(T, dtype=torch.bool, device=own_BT.device)
    return torch.cat((old_BL.unsqueeze(1).expand(-1, T, -1), sees_BTT), dim=2)


def layer_windows(config: PretrainedConfig) -> list[int | None]:
    """The sliding window of each decoder layer, in positions; None where it sees all.

    Args:
        config: the draft's `transformer_layer_config`.

    Raises:
        ValueError: a layer slides and the config has no window.
    """
    values = config.to_dict()
    kinds, window = values.get("layer_types"), values.get("sliding_window")
    if kinds is None:
        return [None] * config.num_hidden_layers
    if "sliding_attention" in kinds and window is None:
        raise ValueError(
            "transformer_layer_config.sliding_window: sliding layers need it; a qwen3 config also use_sliding_window=true"
        )
    return [window if kind == "sliding_attention" else None for kind in kinds]
