"""Conversations with tools, reasoning and content parts, from the file to a published and measured draft."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from speculators.cli.launch import launch
from speculators.composition.compose import pinned
from speculators.data.template import ChatTemplate
from speculators.data.view import view
from speculators.report.runs import read
from speculators.runfolder.folder import RunFolder
from tests.data.families import FAMILIES, source, tokenizer
from tests.data.test_prepare import numbered
from tests.data.test_view import TOOLS

CITIES = ["Oslo", "Rome", "Lima", "Cairo", "Delhi", "Quito", "Paris", "Tunis"]
SHORT = [
    "trainer.epochs=20", "trainer.max_steps=30", "trainer.batch_size=1", "trainer.log_every=5", "data.max_length=512",
    "data.heldout_fraction=0.2",
    "tracker=none", "launch.num_threads=1", "algorithm.ttt_steps=1", "evaluation.num_prompts=2",
    "evaluation.max_new_tokens=4", "optimizer=adamw", "optimizer.lr=0.005",
]  # fmt: skip


def verifier(family: str, folder: Path) -> Path:
    """A tiny random model with the family's chat template and the token that ends its answers."""
    words = tokenizer(source(FAMILIES[family]))
    words.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=2048, initializer_range=0.2,
        eos_token_id=words.convert_tokens_to_ids("<|im_end|>"),
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", ["smollm2", "qwen3"])
def test_a_file_with_tools_trains_end_to_end(family: str, tmp_path: Path) -> None:
    """The loss falls, the draft decodes losslessly, and what was supervised is what the template has of the answers."""
    lines = [json.dumps(TOOLS).replace("Oslo", city) for city in CITIES] + [json.dumps(numbered(n)) for n in range(8)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    place = verifier(family, tmp_path / "verifier")
    overrides = ["data=jsonl", f"data.path={tmp_path / 'data.jsonl'}", "verifier=hf", f"verifier.name_or_path={place}"]
    run = pinned([*overrides, *SHORT], tmp_path / "run")

    found = view(run.data, ChatTemplate.of(run.verifier, run.data), 100)
    assert (found.used, found.rows) == (16, 16)
    written = "".join(text for example in found.examples for text, supervised in example.pieces if supervised)
    assert all("It rains.<|im_end|>" in written and (city in written) == (family == "qwen3") for city in CITIES)
    # SmolLM2's template knows neither tools nor reasoning; the answers after them are trained on.
    assert bool(found.left_out.counts) == (family == "smollm2")

    assert math.isfinite(launch(tmp_path / "run"))
    (trial,) = read(tmp_path / "run")
    assert trial.status == "done" and trial.result["matches_plain_decoding"] and trial.checkpoint
    readings = [json.loads(line) for line in RunFolder(tmp_path / "run").metrics.read_text().splitlines()]
    losses = [reading["loss"] for reading in readings if reading["kind"] == "train"]
    assert losses[-1] < 0.9 * losses[0], losses
