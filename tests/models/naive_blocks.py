"""What vLLM computes for a draft that fills blocks, one block, query, key and head at a time.

Written from vLLM's classes, with nothing of this project.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .naive import Weights, linear, post_attention, rms_norm, rope

# Position, and the key and value of every head.
Place = tuple[int, list[Tensor], list[Tensor]]


@dataclass
class NaiveBlocks:
    """A draft that fills blocks.

    Attributes:
        weights: of the draft.
        values: its published config.
        embed_VH: the verifier's embedding.
        head_DH: the head, of the draft's tokens.
        aux_TA: the verifier's states at every position.
        causal: of every layer, whether a query sees nothing of later positions.
        window: tokens that a layer sees back; None is all.
    """

    weights: Weights
    values: Mapping[str, Any]
    embed_VH: Tensor
    head_DH: Tensor
    aux_TA: Tensor
    causal: bool
    window: int | None

    def outputs(self, tokens: Sequence[int], anchor: int, inputs: int) -> list[Tensor]:
        """What the head reads at each input of the block after `anchor`."""
        layer, weights = self.values["transformer_layer_config"], self.weights
        eps = layer["rms_norm_eps"]
        context = [rms_norm(linear(aux_A, weights, "fc"), weights["hidden_norm.weight"], eps) for aux_A in self.aux_TA]
        block = [self.embed_VH[tokens[anchor + 1]]] + [self.embed_VH[self.values["mask_token_id"]]] * (inputs - 1)
        positions = [anchor + 1 + i for i in range(inputs)]
        for i in range(layer["num_hidden_layers"]):
            name = f"layers.{i}.self_attn"
            seen = [self.place(context[t], name, t) for t in range(anchor + 1)]
            normed = [rms_norm(x_H, weights[f"layers.{i}.input_layernorm.weight"], eps) for x_H in block]
            seen += [self.place(x_H, name, p) for x_H, p in zip(normed, positions, strict=True)]
            attended = [self.attend(x_H, name, p, seen) for x_H, p in zip(normed, positions, strict=True)]
            block = [post_attention(x + y, weights, i, layer) for x, y in zip(block, attended, strict=True)]
        return [rms_norm(x_H, weights["norm.weight"], eps) for x_H in block]

    def draft(self, tokens: Sequence[int], anchor: int, count: int) -> list[Tensor]:
        """Logits of `count` tokens after the one after `anchor`, over the verifier's vocabulary."""
        first = 0 if self.values.get("sample_from_anchor") else 1
        return [self.logits(out_H) for out_H in self.outputs(tokens, anchor, count + first)[first:]]

    def logits(self, out_H: Tensor) -> Tensor:
        """Over the verifier's vocabulary, -inf where the draft has no such token; the head's scale and cap are left out."""
        wide_V = torch.full((len(self.embed_VH),), -torch.inf)
        for i, logit in enumerate(self.head_DH @ out_H):
            wide_V[i + (int(self.weights["d2t"][i]) if "d2t" in self.weights else 0)] = logit
        return wide_V

    def heads(self, x_H: Tensor, name: str, part: str, position: int) -> list[Tensor]:
        """Queries, keys or values of every head; the first two normalised and turned."""
        layer = self.values["transformer_layer_config"]
        vectors = list(linear(x_H, self.weights, f"{name}.{part}_proj").view(-1, layer["head_dim"]))
        if part == "v":
            return vectors
        norm = self.weights[f"{name}.{part}_norm.weight"]
        turned = [rms_norm(v, norm, layer["rms_norm_eps"]) for v in vectors]
        return [rope(v, position, layer["rope_parameters"]["rope_theta"]) for v in turned]

    def place(self, x_H: Tensor, name: str, position: int) -> Place:
        """A key and a value of every head."""
        return position, self.heads(x_H, name, "k", position), self.heads(x_H, name, "v", position)

    def sees(self, query: int, key: int) -> bool:
        """Whether a position may look at another."""
        if self.causal and key > query:
            return False
        return self.window is None or abs(query - key) < self.window

    def attend(self, x_H: Tensor, name: str, position: int, seen: Sequence[Place]) -> Tensor:
        """One query against all that it sees."""
        visible = [place for place in seen if self.sees(position, place[0])]
        queries, mixed = self.heads(x_H, name, "q", position), []
        for head, query in enumerate(queries):
            group = head * len(visible[0][1]) // len(queries)
            scores = torch.stack([query @ keys[group] / len(query) ** 0.5 for _, keys, _ in visible]).softmax(0)
            mixed.append(sum(s * values[group] for s, (_, _, values) in zip(scores, visible, strict=True)))
        return linear(torch.cat(mixed), self.weights, f"{name}.o_proj")
