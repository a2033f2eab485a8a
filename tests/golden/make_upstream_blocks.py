"""Drafts of blocks that upstream's speculators 0.9.0 made, with the logits that it computes. Run it where upstream is installed.

UPSTREAM/bin/python tests/golden/make_upstream_blocks.py              writes tests/golden/upstream/{dflash,dspark}_*/
UPSTREAM/bin/python tests/golden/make_upstream_blocks.py FOLDER IN OUT  loads a draft, computes OUT from the inputs IN
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config
from upstream_drafts import main, randomise, usage

from speculators.models.dflash import DFlashDraftModel, DFlashSpeculatorConfig
from speculators.models.dflash import core as dflash
from speculators.models.dspark import DSparkDraftModel, DSparkSpeculatorConfig
from speculators.models.dspark import core as dspark

VOCAB, DRAFT_VOCAB, HIDDEN, TOKENS, BLOCK = 128, 48, 32, 26, 4
# Tokens that blocks begin with, in both documents; no block leaves its document.
ANCHORS = [1, 3, 7, 11, 16, 18, 22]
LAYER = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
SLIDING = {"use_sliding_window": True, "sliding_window": 2048, "layer_types": ["sliding_attention"]}
# By name, which begins with the type. Upstream's windows begin at a block, vLLM's move with each input: this one is longer
# than any text, so that only the causal order is left of it.
DRAFTS: dict[str, dict[str, Any]] = {
    "dflash": {
        "transformer_layer_config": Qwen3Config(**LAYER, num_hidden_layers=2),
        "draft_vocab_size": VOCAB,
        "sliding_window_non_causal": True,
    },
    "dflash_causal": {
        "transformer_layer_config": Qwen3Config(**LAYER, **SLIDING, num_hidden_layers=1, attention_bias=True),
        "draft_vocab_size": DRAFT_VOCAB,
        "sliding_window_non_causal": False,
    },
    "dspark": {
        "transformer_layer_config": Qwen3Config(**LAYER, num_hidden_layers=1),
        "draft_vocab_size": DRAFT_VOCAB,
        "markov_rank": 8,
    },
    "dspark_fill_in": {
        "transformer_layer_config": Qwen3Config(**LAYER, **SLIDING, num_hidden_layers=1),
        "draft_vocab_size": VOCAB,
        "sample_from_anchor": False,
        "markov_rank": 8,
        "confidence_head_with_markov": False,
    },
}
CONFIGS = {"dflash": DFlashSpeculatorConfig, "dspark": DSparkSpeculatorConfig}
MODELS = {"dflash": DFlashDraftModel, "dspark": DSparkDraftModel}


def draft(algorithm: str, options: dict[str, Any]) -> DFlashDraftModel:
    """A draft of random weights, norms and vocabulary included."""
    torch.manual_seed(0)
    config = CONFIGS[algorithm](
        **options,
        block_size=BLOCK,
        mask_token_id=VOCAB - 3,
        aux_hidden_state_layer_ids=[1, 3, 5],
        speculators_config=usage(algorithm),
    )
    model = MODELS[algorithm](config)
    randomise(model, VOCAB)
    return model


def inputs(model: DFlashDraftModel) -> dict[str, Tensor]:
    """Two documents side by side; what upstream does not save, since it is the verifier's; and where blocks begin."""
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, TOKENS, 3 * HIDDEN),
        "input_ids": torch.randint(VOCAB, (1, TOKENS)),
        "document_ids": torch.tensor([[0] * 15 + [1] * 11]),
        "position_ids": torch.tensor([[*range(15), *range(11)]]),
        "embed_tokens": model.embed_tokens.weight.data,
        "lm_head": model.lm_head.weight.data,
        "anchor_positions": torch.tensor(ANCHORS),
    }


@torch.no_grad()
def logits(model: DFlashDraftModel, given: dict[str, Tensor]) -> Tensor:
    """[slots, anchors, draft vocabulary] of the inputs that predict, Markov term included."""
    anchors = given["anchor_positions"]
    made: list[Tensor] = []

    def keep(logits: Tensor, *_: Any, **__: Any) -> tuple[None, dict[str, Any]]:
        made.append(logits)
        return None, {}

    for module in (dflash, dspark):
        module.compute_metrics = keep
    # Instead of random anchors.
    dflash.select_anchors = lambda *_: (anchors, torch.ones_like(anchors, dtype=torch.bool))
    model.float().eval()
    model.embed_tokens.weight.copy_(given["embed_tokens"])
    model.lm_head.weight.copy_(given["lm_head"])
    model(
        hidden_states=given["hidden_states"],
        input_ids=given["input_ids"],
        loss_mask=torch.ones(1, TOKENS),
        verifier_last_hidden_states=torch.zeros(1, TOKENS, HIDDEN),
        document_ids=given["document_ids"],
        position_ids=given["position_ids"],
        max_anchors=len(anchors),
    )
    first = 0 if model.config.sample_from_anchor else 1
    return made[0].view(len(anchors), BLOCK, -1)[:, first:].transpose(0, 1).contiguous()


main(MODELS, DRAFTS, draft, inputs, logits)
