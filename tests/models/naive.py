"""What vLLM computes for a draft of llama or qwen3 layers, one position, head and number at a time.

Written from vLLM's classes, with nothing of this project: a sequence's draft tokens are given, and each step's logits
come back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
# One layer's keys and values, position by position.
Past = list[tuple[Tensor, Tensor]]
# (embedding, fed state, position, past of every layer) -> (what the head reads, what is fed back)
Pass = Callable[[Tensor, Tensor, int, list[Past]], tuple[Tensor, Tensor]]


def rms_norm(x_H: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    """x over the root of its mean square."""
    return x_H / torch.sqrt((x_H * x_H).mean() + eps) * weight_H


def linear(x_H: Tensor, weights: Weights, name: str) -> Tensor:
    """W x, and b where there is one."""
    y = weights[f"{name}.weight"] @ x_H
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def rope(x_d: Tensor, position: int, theta: float) -> Tensor:
    """Number i and number i + d/2 turn together."""
    half, out = len(x_d) // 2, x_d.clone()
    for i in range(half):
        angle = torch.tensor(position * theta ** (-2 * i / len(x_d)))
        out[i] = x_d[i] * torch.cos(angle) - x_d[i + half] * torch.sin(angle)
        out[i + half] = x_d[i + half] * torch.cos(angle) + x_d[i] * torch.sin(angle)
    return out


def attention(x_I: Tensor, weights: Weights, name: str, layer: Mapping[str, Any], position: int, past: Past) -> Tensor:
    """One query against `past` and itself, or the last of them in a layer with a window; its key and value are appended."""
    size, heads, kv_heads = layer["head_dim"], layer["num_attention_heads"], layer["num_key_value_heads"]

    def split(part: str, count: int) -> list[Tensor]:
        vectors = list(linear(x_I, weights, f"{name}.{part}_proj").view(count, size))
        if part != "v" and layer["model_type"] == "qwen3":
            vectors = [rms_norm(v, weights[f"{name}.{part}_norm.weight"], layer["rms_norm_eps"]) for v in vectors]
        if part != "v":
            vectors = [rope(v, position, layer["rope_parameters"]["rope_theta"]) for v in vectors]
        return vectors

    queries, keys, values = split("q", heads), split("k", kv_heads), split("v", kv_heads)
    past.append((torch.stack(keys), torch.stack(values)))
    kinds = layer.get("layer_types", [])
    slides = bool(kinds) and kinds[int(name.split(".")[1])] == "sliding_attention"
    seen = past[-layer["sliding_window"] :] if slides else past
    mixed = []
    for head, query in enumerate(queries):
        group = head // (heads // kv_heads)
        scores = torch.stack([query @ key[group] / size**0.5 for key, _ in seen]).softmax(0)
        mixed.append(sum(score * value[group] for score, (_, value) in zip(scores, seen, strict=True)))
    return linear(torch.cat(mixed), weights, f"{name}.o_proj")


def mlp(x_H: Tensor, weights: Weights, name: str) -> Tensor:
    """down(silu(gate x) * up x)."""
    gate = linear(x_H, weights, f"{name}.gate_proj")
    return linear(gate * torch.sigmoid(gate) * linear(x_H, weights, f"{name}.up_proj"), weights, f"{name}.down_proj")


def pre_norm_layer(
    x_H: Tensor, weights: Weights, i: int, layer: Mapping[str, Any], position: int, past: Past
) -> Tensor:
    """An ordinary decoder layer."""
    normed = rms_norm(x_H, weights[f"layers.{i}.input_layernorm.weight"], layer["rms_norm_eps"])
    x_H = x_H + attention(normed, weights, f"layers.{i}.self_attn", layer, position, past)
    return post_attention(x_H, weights, i, layer)


def post_attention(x_H: Tensor, weights: Weights, i: int, layer: Mapping[str, Any]) -> Tensor:
    """The second half of every decoder layer."""
    normed = rms_norm(x_H, weights[f"layers.{i}.post_attention_layernorm.weight"], layer["rms_norm_eps"])
    return x_H + mlp(normed, weights, f"layers.{i}.mlp")


@dataclass
class NaiveDraft:
    """A recurrent draft.

    Attributes:
        layers: how many.
        embed_VH: embedding that it uses.
        first_fed: the verifier's states at one position -> what the first pass is fed there.
        run: one pass over one position.
        logits: what the head reads -> logits over the verifier's vocabulary.
        fuse: states of several layers -> what a pass is fed, of drafts that read such states.
    """

    layers: int
    embed_VH: Tensor
    first_fed: Callable[[int], Tensor]
    run: Pass
    logits: Callable[[Tensor], Tensor]
    fuse: Callable[[Tensor], Tensor] | None = None
    seen: list[Past] = field(default_factory=list)

    def draft(self, tokens: Sequence[int], anchor: int, count: int) -> list[Tensor]:
        """Logits of `count` steps after the last verified position `anchor`, fed the tokens that are given.

        First pass: place i carries the embedding of token i + 1 and the verifier's state of i, at position i. Then
        each step takes the next token and the draft's own state, one position further.
        """
        past: list[Past] = [[] for _ in range(self.layers)]
        for i in range(anchor + 1):
            out, fed = self.run(self.embed_VH[tokens[i + 1]], self.first_fed(i), i, past)
        logits = [self.logits(out)]
        for k in range(1, count):
            out, fed = self.run(self.embed_VH[tokens[anchor + 1 + k]], fed, anchor + k, past)
            logits.append(self.logits(out))
        return logits
