"""Drafts that upstream's speculators 0.9.0 made, with the logits that it computes. Run it where upstream is installed.

UPSTREAM/bin/python tests/golden/make_upstream_logits.py              writes tests/golden/upstream/*/
UPSTREAM/bin/python tests/golden/make_upstream_logits.py FOLDER IN OUT  loads a draft, computes OUT from the inputs IN
"""

import json
import sys
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, Qwen3Config
from upstream_drafts import HERE, main, randomise, usage

from speculators import SpeculatorModelConfig
from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig
from speculators.models.peagle import PEagleDraftModel, PEagleSpeculatorConfig
from speculators.models.peagle import core as peagle

VOCAB, DRAFT_VOCAB, HIDDEN, TOKENS, STEPS = 256, 96, 64, 26, 3
LAYER = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
DRAFTS: dict[str, dict[str, Any]] = {
    "eagle3_llama": {
        "transformer_layer_config": LlamaConfig(**LAYER, num_hidden_layers=1),
        "draft_vocab_size": DRAFT_VOCAB,
    },
    "eagle3_qwen3": {
        "transformer_layer_config": Qwen3Config(**LAYER, num_hidden_layers=2),
        "draft_vocab_size": VOCAB,
        "norm_before_residual": True,
        "fc_norm": True,
        "norm_output": True,
        "embed_requires_grad": True,
    },
    "peagle_llama": {
        "transformer_layer_config": LlamaConfig(**LAYER, num_hidden_layers=2),
        "draft_vocab_size": DRAFT_VOCAB,
        "mask_token_id": 7,
        "norm_before_fc": True,
    },
    "peagle_qwen3": {
        "transformer_layer_config": Qwen3Config(**LAYER, num_hidden_layers=1),
        "draft_vocab_size": VOCAB,
        "mask_token_id": VOCAB - 1,
        "norm_before_residual": True,
    },
}
CONFIGS = {"eagle3": Eagle3SpeculatorConfig, "peagle": PEagleSpeculatorConfig}
MODELS = {"eagle3": Eagle3DraftModel, "peagle": PEagleDraftModel}


def draft(algorithm: str, options: dict[str, Any]) -> Eagle3DraftModel:
    """A draft of random weights, norms and vocabulary included."""
    torch.manual_seed(0)
    config = CONFIGS[algorithm](
        **options,
        eagle_aux_hidden_state_layer_ids=[1, 3, 5],
        speculators_config=usage(algorithm),
    )
    model = MODELS[algorithm](config)
    randomise(model, VOCAB)
    return model


def inputs(model: Eagle3DraftModel) -> dict[str, Tensor]:
    """Two documents side by side, in the places that upstream gives them."""
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, TOKENS, 3 * HIDDEN),
        "input_ids": torch.randint(VOCAB, (1, TOKENS)),
        "document_ids": torch.tensor([[0] * 15 + [1] * 11]),
        "position_ids": torch.tensor([[*range(1, 16), *range(1, 12)]]),
    }


@torch.no_grad()
def logits(model: Eagle3DraftModel, given: dict[str, Tensor]) -> Tensor:
    """[steps, tokens, draft vocabulary] what the head gives at each step or depth, by the position where it begins."""
    seen: list[Tensor] = []
    hook = model.lm_head.register_forward_hook(lambda module, args, output: seen.append(output[0].clone()))
    if isinstance(model, PEagleDraftModel):
        # Every row that there is, instead of sampled ones.
        anchor_R = torch.cat([torch.arange(TOKENS - depth) for depth in range(STEPS)])
        depth_R = torch.cat([torch.full((TOKENS - depth,), depth) for depth in range(STEPS)])
        peagle.generate_cod_sample_indices = lambda **_: (anchor_R, depth_R)
        peagle.compute_metrics = lambda **_: (None, {})
        model.float().eval()(**given, num_depths=STEPS, verifier_last_hidden_states=torch.zeros(1, TOKENS, HIDDEN))
        all_STD = torch.zeros(STEPS, TOKENS, seen[0].shape[-1])
        all_STD[depth_R, anchor_R] = seen[0]
    else:
        model.float().eval()(**given, ttt_steps=STEPS)
        all_STD = torch.stack(seen)
    hook.remove()
    return all_STD


if not sys.argv[1:]:
    types = sorted(SpeculatorModelConfig.registry or {})
    (HERE / "model_types.json").write_text(json.dumps(types) + "\n")
main(MODELS, DRAFTS, draft, inputs, logits)
