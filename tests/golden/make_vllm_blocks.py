"""DFlash and DSpark drafts published by this project, and what vLLM 0.32.0 computes with them.

python tests/golden/make_vllm_blocks.py VLLM/bin/python      writes tests/golden/vllm_blocks/

vLLM's own parser, loader and modules read the published folders (`tools/vllm_blocks.py` says what is not vLLM's).
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from speculators.config import SpeculatorModelConfig
from speculators.export.publish import save_weights
from speculators.model import SpeculatorModel

HERE = Path(__file__).parent / "vllm_blocks"
WORKER = Path(__file__).parents[2] / "tools" / "vllm_blocks.py"
VOCAB, DRAFT_VOCAB, HIDDEN, SLOTS = 128, 48, 16, 4
# Two documents side by side, and the first tokens of blocks, which stay inside them.
DOCUMENTS, STARTS = (15, 11), [1, 3, 7, 11, 16, 18, 22]
LAYER = {
    "model_type": "qwen3",
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


def layers(count: int, window: int | None = None, **others: Any) -> dict[str, Any]:
    """The layer config of so many layers, of full attention or of one window."""
    sliding = {"sliding_window": window, "use_sliding_window": True, "layer_types": ["sliding_attention"] * count}
    return {**LAYER, "num_hidden_layers": count, **(sliding if window else {}), **others}


MIXED = {"sliding_window": 5, "use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]}
# By name, which begins with the type; on top of the whole vocabulary.
DRAFTS: dict[str, dict[str, Any]] = {
    "dflash": {
        "transformer_layer_config": layers(3),
        "draft_vocab_size": DRAFT_VOCAB,
        "sliding_window_non_causal": True,
    },
    "dflash_causal_windows": {
        "transformer_layer_config": layers(3, window=5, attention_bias=True),
        "sliding_window_non_causal": False,
    },
    "dflash_windows": {"transformer_layer_config": layers(2, window=3), "sliding_window_non_causal": True},
    "dspark": {"transformer_layer_config": layers(2), "draft_vocab_size": DRAFT_VOCAB},
    "dspark_fill_in": {
        "transformer_layer_config": layers(1, window=5),
        "sample_from_anchor": False,
        "confidence_head_with_markov": False,
    },
    "dspark_mixed": {"transformer_layer_config": layers(2, **MIXED), "enable_confidence_head": False},
}


@torch.no_grad()
def publish(name: str, values: dict[str, Any], folder: Path) -> None:
    """A draft of random weights, norms and vocabulary included."""
    algorithm = name.partition("_")[0]
    anchored = algorithm == "dspark" and values.get("sample_from_anchor", True)
    rank = {"markov_rank": 8} if algorithm == "dspark" else {}
    config = SpeculatorModelConfig.from_dict(
        {
            "speculators_model_type": algorithm,
            "draft_vocab_size": VOCAB,
            "block_size": SLOTS + (0 if anchored else 1),
            "aux_hidden_state_layer_ids": [1, 3, 5],
            "mask_token_id": VOCAB - 3,
            "target_hidden_size": HIDDEN,
            **rank,
            **values,
            "speculators_config": {
                "algorithm": algorithm,
                "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": SLOTS}],
                "default_proposal_method": "greedy",
                "verifier": {"name_or_path": "verifier", "architectures": ["LlamaForCausalLM"]},
            },
        }
    )
    torch.manual_seed(0)
    model = SpeculatorModel.for_config(config)(config)
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name:
            parameter.uniform_(0.5, 1.5)
        else:
            parameter.normal_(0, 0.3)
    buffers = dict(model.named_buffers())
    if "d2t" in buffers:
        kept = torch.randperm(VOCAB)[:DRAFT_VOCAB].sort().values
        buffers["d2t"].copy_(kept - torch.arange(DRAFT_VOCAB))
        buffers["t2d"][kept] = True
        buffers["lm_head.weight"].normal_(0, 0.3)
    config.save_pretrained(folder)
    save_weights(model, torch.float32, folder / "model.safetensors")


def inputs(verifier: LlamaForCausalLM) -> dict[str, Tensor]:
    """Random states of the verifier for two documents, its embedding and head, and where blocks begin."""
    torch.manual_seed(1)
    tokens = sum(DOCUMENTS)
    return {
        "hidden_states": torch.randn(1, tokens, 3 * HIDDEN),
        "input_ids": torch.randint(VOCAB, (1, tokens)),
        "document_ids": torch.arange(len(DOCUMENTS)).repeat_interleave(torch.tensor(DOCUMENTS))[None],
        "position_ids": torch.cat([torch.arange(length) for length in DOCUMENTS])[None],
        "embed_tokens": verifier.get_input_embeddings().weight.data,
        "lm_head": verifier.lm_head.weight.data,
        "anchor_positions": torch.tensor(STARTS),
    }


def main() -> None:
    """Publish the drafts, and have vLLM add to each what it computes."""
    (python,) = sys.argv[1:]
    torch.manual_seed(2)
    sizes = {key: value for key, value in LAYER.items() if key != "model_type"}
    verifier = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=6, initializer_range=0.3)).eval()
    with tempfile.TemporaryDirectory() as folder:
        verifier.save_pretrained(folder)
        for name, values in DRAFTS.items():
            publish(name, values, HERE / name)
            save_file(inputs(verifier), HERE / f"{name}.safetensors")  # vLLM reads every such file inside the folder
        drafts = [str((HERE / name).resolve()) for name in DRAFTS]
        subprocess.run([python, str(WORKER), folder, *drafts], check=True, cwd=folder)


main()
