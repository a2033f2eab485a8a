"""What vLLM computes for drafts that read fused states of several layers: models/llama_eagle3.py and qwen3_eagle3.py."""

from typing import Any

import torch
from torch import Tensor

from speculators.model import SpeculatorModel

from .compare import VOCAB, make_draft
from .naive import NaiveDraft, Past, Weights, attention, linear, post_attention, pre_norm_layer, rms_norm

KEPT = [1, 2, 5, 8, 9, 13, 14, 20, 22]


def draft_of(values: dict[str, Any]) -> SpeculatorModel:
    """A random draft; a reduced vocabulary is KEPT."""
    model = make_draft(values)
    buffers = dict(model.named_buffers())
    if "d2t" in buffers:
        buffers["d2t"].copy_(torch.tensor([token - i for i, token in enumerate(KEPT)]))
        buffers["t2d"].copy_(torch.tensor([token in KEPT for token in range(VOCAB)]))
    return model


def naive_draft(weights: Weights, values: dict[str, Any], embed_VH: Tensor, aux_TA: Tensor) -> NaiveDraft:
    """Step by step, as vLLM's class has it."""
    layer = values["transformer_layer_config"]
    eps, states = layer["rms_norm_eps"], len(values["eagle_aux_hidden_state_layer_ids"])

    def fuse(x_A: Tensor) -> Tensor:
        if values.get("norm_before_fc"):
            x_A = rms_norm(x_A, weights["input_norm.weight"], eps)
        if values.get("fc_norm"):
            parts = [rms_norm(part, weights[f"fc_norm.{j}.weight"], eps) for j, part in enumerate(x_A.view(states, -1))]
            x_A = torch.cat(parts)
        return linear(x_A, weights, "fc")

    def run(embed_H: Tensor, g_H: Tensor, position: int, past: list[Past]):
        e_H = rms_norm(embed_H, weights["layers.0.input_layernorm.weight"], eps)
        m_H = rms_norm(g_H, weights["layers.0.hidden_norm.weight"], eps)
        residual_H = m_H if values.get("norm_before_residual") else g_H
        attended_H = attention(torch.cat([e_H, m_H]), weights, "layers.0.self_attn", layer, position, past[0])
        x_H = post_attention(residual_H + attended_H, weights, 0, layer)
        for i in range(1, layer["num_hidden_layers"]):
            x_H = pre_norm_layer(x_H, weights, i, layer, position, past[i])
        out_H = rms_norm(x_H, weights["norm.weight"], eps)
        return out_H, out_H if values.get("norm_output") else x_H

    def logits(out_H: Tensor) -> Tensor:
        logits_D = weights["lm_head.weight"] @ out_H
        wide_V = torch.full((VOCAB,), -torch.inf)
        for i, logit in enumerate(logits_D):
            wide_V[i + (int(weights["d2t"][i]) if "d2t" in weights else 0)] = logit
        return wide_V

    embed_VH = weights.get("embed_tokens.weight", embed_VH)
    return NaiveDraft(layer["num_hidden_layers"], embed_VH, lambda i: fuse(aux_TA[i]), run, logits, fuse)
