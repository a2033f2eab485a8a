"""This project's verdict on good and broken drafts against vLLM's own, which tools/vllm_verdicts.py asked for."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from vllm_verdict_cases import BASES
from vllm_verdicts import GOLDEN as FILE
from vllm_verdicts import write_folder

from speculators.composition.compose import compose
from speculators.config import SpeculatorModelConfig
from speculators.export.checklist import judge
from speculators.settings.run_config import ExportSettings
from speculators.utils.messages import WrongInput

GOLDEN = json.loads(FILE.read_text())
CASES = {case["name"]: case for case in GOLDEN["cases"]}
EXPORT = ExportSettings(target="vllm", engine_version=GOLDEN["vllm"], dtype="float32")

# What vLLM loads without a word, and then computes something else than was trained.
SILENT = {
    # keys that it reads otherwise
    "eagle3: no norm_before_residual": "vLLM takes true, the format false",
    "eagle3: eagle_aux_hidden_state_layer_ids=[5, 3, 1]": "sorted before the states are joined",
    "eagle3: transformer_layer_config.vocab_size=4000": "not the verifier's vocabulary",
    "eagle3: transformer_layer_config.vocab_size=5000": "not the verifier's vocabulary",
    "eagle3: transformer_layer_config.eagle_config={'use_aux_hidden_state': False}": "reads the last state, and no fc",
    "eagle: layernorms=True": "no such norms",
    "eagle: fusion_bias=True": "no such bias",
    "eagle: transformer_layer_architecture='Qwen3DecoderLayer'": "llama's layer instead",
    "eagle: transformer_layer_config.model_type='qwen3'": "llama's layer instead",
    "eagle: transformer_layer_config.vocab_size=5000": "not the verifier's vocabulary",
    "eagle: no vllm/vocab_size": "32000, LlamaConfig's default, is not the verifier's vocabulary",
    "eagle: vllm/rms_norm_eps=1e-06": "the published config, which was trained, says otherwise",
    # tensors that stay as memory was, or norms at one
    "eagle3: norm_before_fc=True": "no input_norm",
    "eagle3: fc_norm=True": "no fc_norm",
    "eagle3 fc_norm: norm_before_fc=True": "no input_norm",
    "eagle3: embed_requires_grad=True": "its own embedding is missing",
    "eagle3: transformer_layer_config.model_type='qwen3'": "no norms of queries and keys",
    "eagle3: transformer_layer_config.num_hidden_layers=2": "no second layer",
    "eagle3: transformer_layer_config.attention_bias=True": "no biases",
    "eagle3: transformer_layer_config.attention_bias='x'": "is true: no biases",
    "eagle3: transformer_layer_config.attention_bias=1": "no biases",
    "eagle3: transformer_layer_config.mlp_bias=True": "no biases",
    "eagle3: no fc.weight": "missing",
    "eagle3: no norm.weight": "missing",
    "eagle3: no lm_head.weight": "missing",
    "eagle3: no d2t": "offsets of zero",
    "eagle: transformer_layer_config.num_hidden_layers=2": "no second layer",
    "eagle: no transformer_layer_config.num_hidden_layers": "32, LlamaConfig's default",
    "eagle: no fc.weight": "missing",
    "medusa: original_lm_head=True": "no shared head",
    "medusa: no lm_heads.2.weight": "missing",
    # tensors that are dropped or cut
    "eagle3 norm_before_fc: norm_before_fc=False": "input_norm dropped",
    "eagle3: input_norm.weight": "input_norm dropped",
    "eagle3: fc.bias": "bias dropped",
    "eagle: fc.bias": "bias dropped",
    "medusa: a bias": "bias dropped",
    "medusa: lm_head.weight": "head dropped",
    "medusa: num_hidden_layers=0": "blocks dropped",
    "eagle3: transformer_layer_config.intermediate_size=512": "the MLP is cut",
    "eagle3: transformer_layer_config.num_key_value_heads=1": "keys and values are cut",
    "eagle3: transformer_layer_config.head_dim=48": "the heads are cut",
}
# Where this project is stricter than vLLM: never the other way.
STRICTER = {
    "eagle3: transformer_layer_config.head_dim=0": "vLLM takes 0 for null; transformers' layers of this size are empty",
    "eagle: no vllm/head_dim": "vLLM derives the same number; export always writes it",
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """One case names a verifier that is nowhere; the Hub is not asked for it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def levels(tmp_path: Path) -> Callable[[str], set[str]]:
    """Levels of what `speculators check FOLDER export.target=vllm` finds in a case's folder."""

    def judged(name: str) -> set[str]:
        write_folder(GOLDEN["bases"], CASES[name], tmp_path / "draft")
        return {finding.level for finding in judge(tmp_path / "draft", EXPORT).findings}

    return judged


@pytest.mark.parametrize("name", [name for name in CASES if name not in STRICTER | SILENT])
def test_the_same_verdict(name: str, levels: Callable[[str], set[str]]) -> None:
    found = levels(name)
    assert ("refused" in found) == (CASES[name]["verdict"] == "refuses"), CASES[name]
    assert "refused" in found or "wrong" not in found


@pytest.mark.parametrize("name", SILENT)
def test_what_vllm_loads_and_computes_wrongly(name: str, levels: Callable[[str], set[str]]) -> None:
    assert CASES[name]["verdict"] == "loads"
    assert "wrong" in (found := levels(name)) and "refused" not in found


@pytest.mark.parametrize("name", STRICTER)
def test_where_vllm_is_more_lenient(name: str, levels: Callable[[str], set[str]]) -> None:
    assert CASES[name]["verdict"] == "loads" and levels(name) & {"refused", "wrong"}


@pytest.mark.parametrize("name", CASES)
def test_what_obeys_the_format_can_be_read(name: str, tmp_path: Path) -> None:
    """A config without a finding is one that `from_dict` reads."""
    write_folder(GOLDEN["bases"], CASES[name], tmp_path)
    if not any(finding.bad for finding in judge(tmp_path, EXPORT.model_copy(update={"target": "none"})).findings):
        SpeculatorModelConfig.from_dict(json.loads((tmp_path / "config.json").read_text()))


@pytest.mark.parametrize("name", GOLDEN["bases"])
def test_a_composed_run_gets_the_verdict_of_its_export(name: str) -> None:
    """What vLLM refuses after training is refused before."""
    if CASES[name]["verdict"] == "loads":
        compose([*BASES[name], "export=vllm"])
    else:
        with pytest.raises(WrongInput, match="vllm 0.32.0 cannot serve this"):
            compose([*BASES[name], "export=vllm"])
