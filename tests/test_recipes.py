"""Recipes for verifiers that are not here: what their dry runs say, from a config.json alone."""

import json
from pathlib import Path

import pytest

from speculators.composition.compose import compose
from speculators.execution.plan import figures
from speculators.format.published import speculator_dict
from speculators.verifier.facts import VerifierFacts

QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288,
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "rms_norm_eps": 1e-6, "rope_theta": 1000000, "max_position_embeddings": 40960, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "eos_token_id": 151645,
}  # fmt: skip
LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
    "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 131072, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "eos_token_id": 128009,
}  # fmt: skip


H, MLP, KV, VOCAB = 4096, 12288, 1024, 151936
ATTENTION = 2 * H * H + 2 * H * KV
# fc over three states, attention over two in the first layer, a reduced head; then norms, and what else is trained.
FIRST = 3 * H * H + ATTENTION + H * (H + 2 * KV) + 3 * H * MLP + 32000 * H
BLOCK = 5 * H * H + 5 * (ATTENTION + 3 * H * MLP + 2 * H + 2 * 128) + 2 * H
DRAFTS = {
    # Norms: one over the three states, four more.
    "eagle3_8b": FIRST + 3 * H + 4 * H,
    # Three layers more, an embedding, the state of masked places; norms: four, and two in each further layer.
    "peagle_8b": FIRST + 3 * (ATTENTION + 3 * H * MLP) + VOCAB * H + 3 * H + 4 * H + 3 * 2 * H,
    # fc over five states and five layers; norms: two, two in each layer, and those of its queries and keys.
    "dflash_8b": BLOCK,
    # A term of rank 256 from all tokens to all tokens; the confidence's weights, of a state and that rank, and its bias.
    "dspark_8b": BLOCK + 2 * 256 * VOCAB + H + 256 + 1,
}


# Fewer blocks and micro-batches than the recipe has, whose step has thousands of small operations; no size here depends on them.
ONE = ["trainer.gradient_accumulation_steps=1"]
FEWER = {"peagle_8b": ONE} | dict.fromkeys(("dflash_8b", "dspark_8b"), [*ONE, "algorithm.max_anchors=16"])


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "draft"), DRAFTS.items())
def test_it_is_planned_without_weights_and_without_a_gpu(recipe: str, draft: int, tmp_path: Path) -> None:
    """Sizes by hand, in numbers of 4,096: the verifier's and the draft's; all of it fits a GPU of 80 GB; the hours are there."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_8B))
    run = compose([f"recipe={recipe}", f"verifier.name_or_path={tmp_path}", *FEWER.get(recipe, [])])
    facts = VerifierFacts.read(str(tmp_path))
    found = {name.strip(): value for name, value in figures(run, speculator_dict(run, facts), facts)}
    verifier = 2 * VOCAB * H + 36 * (ATTENTION + 3 * H * MLP + 2 * H + 2 * 128) + H
    assert found["verifier's weights"] == f"{2 * verifier / 1e9:.2f} GB"
    assert found["parameters of the draft"] == f"{draft:,}, {draft:,} of them trainable"
    assert float(found["peak memory (cuda)"].split()[0]) < 75
    flop = float(found["FLOP a token"].split()[0])
    wanted = 10**8 * flop / (0.4 * 989e12) / 3600
    assert (
        found["hours of training"]
        == f"estimated {wanted:.2g} for each 100,000,000 tokens, with an H100 at 40% of 989 TFLOPS"
    )
    wanted = 10**8 / 24 * 2 * verifier / 3.35e12 / 3600
    assert found["hours of the answers"].startswith(f"at least {wanted:.2g} for each 100,000,000 tokens, once")
    if recipe == "eagle3_8b":
        # The verifier without its embedding, and its attention over 4,096 positions; three steps forward and backward.
        products = 2 * (verifier - VOCAB * H) + 36 * 4 * 4096 * H + 3 * 6 * draft
        assert products < flop < 1.2 * products
    assert found["data, steps, states"].startswith("unknown: verifier.name_or_path: the tokenizer of")


@pytest.mark.slow
def test_served_states_of_a_verifier_of_70b_are_planned(tmp_path: Path) -> None:
    """By hand: the ends of the verifier, the draft, the server's FLOP of a token, and the states that are on the way."""
    H, MLP, KV, VOCAB, L = 8192, 28672, 1024, 128256, 80
    attention = 2 * H * H + 2 * H * KV
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B))
    run = compose(["recipe=eagle3_70b", f"verifier.name_or_path={tmp_path}"])
    facts = VerifierFacts.read(str(tmp_path))
    found = {name.strip(): value for name, value in figures(run, speculator_dict(run, facts), facts)}
    draft = 3 * H * H + attention + H * (H + 2 * KV) + 3 * H * MLP + 32000 * H + 7 * H
    assert found["parameters of the draft"] == f"{draft:,}, {draft:,} of them trainable"
    assert found["run's folder"] == f"at least {10 * draft / 1e9:.2f} GB on disk"
    assert found["verifier's weights"] == f"{2 * 2 * VOCAB * H / 1e9:.2f} GB"
    assert float(found["peak memory (cuda)"].split()[0]) < 75
    flop = L * (2 * (attention + 3 * H * MLP) + 4 * 4096 * H)
    assert found["of served states"] == f"{flop:.3g}, by the server"
    assert found["hours of the server"].startswith(f"estimated {10**8 * flop / (0.4 * 989e12) / 3600:.2g} for each")
    sequence = 4096 * 4 * H * 2
    assert found["states on the way"] == (
        f"at most {16 * sequence / 1e9:.2f} GB in the server's folder, {3 * 2 * sequence / 1e9:.2f} GB in this machine's memory"
    )
    command = found["server's command"]
    assert "--served-model-name layers-2-40-77-80 --dtype bfloat16 --max-model-len 4097" in command
    assert command.endswith(" --tensor-parallel-size 4")
