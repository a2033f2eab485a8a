"""The pre-norm decoder layer of Llama, Qwen2 and Qwen3, and the layer that fuses a token's embedding with a state."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig
from transformers.activations import ACT2FN

from speculators.nn.attention import Attend, Attention, Seen
from speculators.nn.norm import RMSNorm
from speculators.nn.recomputed import recomputed
from speculators.nn.rotary import Rotation


class GatedMLP(nn.Module):
    """down(act(gate x) * up x); the backward pass recomputes the products to save memory."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act = F.silu if config.hidden_act == "silu" else ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return recomputed(self._products, x)

    def _products(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """x + attention(norm x), then + MLP(norm x).

    Args:
        config: Llama, Qwen2 or Qwen3 layer config.
        input_norm: EAGLE-1's first layer has no norm before its attention.
        window: as in `Attention`.
    """

    def __init__(self, config: PretrainedConfig, input_norm: bool = True, window: int | None = None) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps) if input_norm else nn.Identity()
        self.self_attn = Attention(config, config.hidden_size, window)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config)

    def forward(self, x_BTH: Tensor, rotation: Rotation, past: Seen, attend: Attend) -> tuple[Tensor, Seen]:
        """The layer's residual stream and its keys and values; arguments as in `Attention`."""
        attended_BTH, seen = self.self_attn(self.input_layernorm(x_BTH), rotation, past, attend)
        x_BTH = x_BTH + attended_BTH
        return x_BTH + self.mlp(self.post_attention_layernorm(x_BTH)), seen


class FusingLayer(nn.Module):
    """The layer that fuses a token's embedding with a state: attention reads both, the residual is the state alone.

    Args:
        config: Llama or Qwen3 layer config.
        norm_before_residual: the residual is the normalised state.
        window: as in `Attention`.
    """

    def __init__(self, config: PretrainedConfig, norm_before_residual: bool, window: int | None = None) -> None:
        super().__init__()
        self.norm_before_residual = norm_before_residual
        self.hidden_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, 2 * config.hidden_size, window)
        self.mlp = GatedMLP(config)

    def forward(
        self, embed_BTH: Tensor, fed_BTH: Tensor, rotation: Rotation, past: Seen, attend: Attend
    ) -> tuple[Tensor, Seen]:
        """The layer's residual stream and its keys and values; `fed_BTH` is the state, the others as in `Attention`."""
        normed_BTH = self.hidden_norm(fed_BTH)
        residual_BTH = normed_BTH if self.norm_before_residual else fed_BTH
        both_BTI = torch.cat((self.input_layernorm(embed_BTH), normed_BTH), dim=-1)
        attended_BTH, seen = self.self_attn(both_BTI, rotation, past, attend)
        x_BTH = residual_BTH + attended_BTH
        return x_BTH + self.mlp(self.post_attention_layernorm(x_BTH)), seen
