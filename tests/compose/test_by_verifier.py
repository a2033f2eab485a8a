"""Defaults that depend on the verifier's size: what they are, where they came from, and what overrules them."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from speculators.composition.compose import compose, pinned
from speculators.runfolder.run_yaml import load
from speculators.train.device import float32_products
from speculators.utils.messages import WrongInput


def verifier(folder: Path, width: int, vocab: int) -> list[str]:
    """Overrides that choose a verifier of these sizes, of which there is a config.json alone."""
    config = json.loads((Path(str(files("speculators.assets"))) / "tiny" / "config.json").read_text())
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": width, "vocab_size": vocab}))
    return ["verifier=hf", f"verifier.name_or_path={folder}", "data.regenerate=true"]


@pytest.mark.parametrize(
    ("width", "vocab", "rate", "draft_vocab", "precision", "published"),
    [
        (256, 4096, 1e-3, None, "tf32", "float32"),  # the embedded verifier
        (576, 49152, 1e-3, None, "tf32", "float32"),  # SmolLM2-135M
        (2048, 151936, 2.8e-4, 32000, "tf32", "float32"),  # Qwen3-1.7B
        (4096, 128256, 1.4e-4, 32000, "bf16", "bfloat16"),  # Llama-3.1-8B
        (8192, 128256, 7e-5, 32000, "bf16", "bfloat16"),  # Llama-3.3-70B
    ],
)
def test_values_follow_the_verifiers_size(
    width: int, vocab: int, rate: float, draft_vocab: int | None, precision: str, published: str, tmp_path: Path
) -> None:
    chosen = verifier(tmp_path, width, vocab)
    muon, adamw = compose(chosen), compose([*chosen, "optimizer=adamw"])
    assert muon.optimizer.model_dump()["adamw_lr"] == adamw.optimizer.lr == rate
    assert muon.optimizer.lr == 0.02
    assert muon.algorithm.model_dump()["draft_vocab_size"] == draft_vocab
    assert (muon.precision, muon.export.dtype) == (precision, published)


def test_a_pin_has_value_and_rule(tmp_path: Path) -> None:
    """Who reads run.yaml sees what was taken and why; what is typed has no rule."""
    pinned([*verifier(tmp_path / "verifier", 4096, 128256), "export.dtype=float32"], tmp_path)
    pin = load(tmp_path)
    assert pin.run.precision == "bf16"
    assert pin.sources["precision"].startswith("rule ${if_above:hidden_size,2048,bf16,tf32} (conf/train.yaml:")
    assert pin.sources["optimizer.adamw_lr"].startswith("rule ${inverse_width:1.0e-3,576} (conf/optimizer/muon.yaml:")
    assert pin.sources["algorithm.draft_vocab_size"].startswith("rule ${if_above:vocab_size,64000,32000,null} (")
    assert pin.sources["export.dtype"] == "override export.dtype=float32" and pin.run.export.dtype == "float32"


def test_a_verifier_that_is_not_there_is_one_message() -> None:
    """And not one more for each value that its size would decide."""
    with pytest.raises(WrongInput) as caught:
        compose(["verifier=hf", "verifier.name_or_path=./nowhere"])
    assert len(caught.value.messages) == 1 and "the folder ./nowhere does not exist" in caught.value.messages[0]
    with pytest.raises(WrongInput) as caught:
        compose(["verifier=hf"])
    assert [m.partition(" must")[0] for m in caught.value.messages] == ["verifier.name_or_path"]


def test_a_rule_on_what_is_no_size(tmp_path: Path) -> None:
    """In a file of one's own."""
    (tmp_path / "optimizer").mkdir()
    text = "name: adamw\nlr: ${if_above:depth,3,1e-3,1e-4}\nbetas: [0.9, 0.95]\neps: 1.0e-8\nweight_decay: 0.0\n"
    (tmp_path / "optimizer" / "mine.yaml").write_text(text)
    with pytest.raises(WrongInput) as caught:
        compose(["optimizer=mine", f"hydra.searchpath=[file://{tmp_path}]"])
    assert caught.value.messages[0].startswith("optimizer.lr: ") and "depth is not a size" in caught.value.messages[0]


@pytest.mark.parametrize(
    ("device", "precision", "products"),
    [("cuda", "tf32", "high"), ("cuda", "bf16", "high"), ("cuda", "fp32", "highest"), ("cpu", "tf32", "highest")],
)
def test_tf32_is_an_accelerators_and_trainings_alone(device: str, precision: str, products: str) -> None:
    with float32_products(torch.device(device), precision):
        assert torch.get_float32_matmul_precision() == products
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_draft_drafts_no_more_than_it_is_trained_for(tmp_path: Path) -> None:
    """Heads that cannot go on limit the default, and a recurrent draft does not; run.yaml has the rule."""
    assert compose(["algorithm=medusa", "algorithm.num_heads=3"]).proposal.levels == 3
    assert compose(["algorithm=medusa", "algorithm.num_heads=9", "proposal=sampling"]).proposal.levels == 5
    assert compose(["algorithm=eagle3", "algorithm.ttt_steps=2"]).proposal.levels == 5
    pinned(["algorithm=medusa", "algorithm.num_heads=3"], tmp_path)
    assert load(tmp_path).sources["proposal.speculative_tokens"].startswith("rule ${at_most_trained:5} (conf/proposal/")
