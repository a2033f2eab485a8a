"""What the scripts share that have upstream's speculators 0.9.0 make drafts and compute their logits."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from speculators import SpeculatorModelConfig, SpeculatorsConfig, VerifierConfig
from speculators.proposals import GreedyTokenProposalConfig

HERE = Path(__file__).parent / "upstream"


def usage(algorithm: str) -> SpeculatorsConfig:
    """How a draft is used."""
    return SpeculatorsConfig(
        algorithm=algorithm,
        proposal_methods=[GreedyTokenProposalConfig(speculative_tokens=3)],
        default_proposal_method="greedy",
        verifier=VerifierConfig(name_or_path=None, architectures=["LlamaForCausalLM"]),
    )


@torch.no_grad()
def randomise(model: Any, vocab: int) -> None:
    """Random weights, norms and vocabulary included."""
    parameter: nn.Parameter
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.uniform_(0.5, 1.5)
        else:
            parameter.normal_(0, 0.1)
    if model.config.draft_vocab_size < vocab:
        kept = torch.randperm(vocab)[: model.config.draft_vocab_size].sort().values
        marked = torch.zeros(vocab, dtype=torch.bool)
        marked[kept] = True
        model.load_vocab_mappings(marked, kept - torch.arange(len(kept)))


def main(
    models: Mapping[str, Any],
    drafts: Mapping[str, dict[str, Any]],
    draft: Callable[[str, dict[str, Any]], Any],
    inputs: Callable[[Any], dict[str, Tensor]],
    logits: Callable[[Any, dict[str, Tensor]], Tensor],
) -> None:
    """Write the drafts, or, with the arguments FOLDER IN OUT, compute what one gives.

    Args:
        models: class of each algorithm.
        drafts: options by name, which begins with the algorithm.
        draft: makes one of an algorithm, with options.
        inputs: of a draft.
        logits: of a draft, for inputs.
    """
    if sys.argv[1:]:
        folder, given, out = sys.argv[1:]
        config = SpeculatorModelConfig.from_pretrained(folder)
        config.transformer_layer_config._attn_implementation = "sdpa"
        model = models[config.speculators_model_type].from_pretrained(folder, config=config)
        save_file({"logits": logits(model, load_file(given))}, out)
        return
    for name, options in drafts.items():
        options["transformer_layer_config"]._attn_implementation = "sdpa"
        model = draft(name.partition("_")[0], options)
        model.save_pretrained(HERE / name)
        for code in (HERE / name).glob("*.py"):
            code.unlink()
        given = inputs(model)
        save_file({**given, "logits": logits(model, given)}, HERE / name / "golden.safetensors")
