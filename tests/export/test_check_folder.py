"""`speculators check FOLDER`: wrong folders and configs, each with exit code 2 and one clear message."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner
from vllm_verdicts import VERIFIER as TINY
from vllm_verdicts import read_golden, write_folder

from speculators.cli.main import app
from speculators.evaluate.checkpoint import with_its_own
from speculators.export.checklist import judge
from tests.export.conftest import export_settings

GOLDEN = read_golden()
BASES = GOLDEN["bases"]
EXPORT = export_settings("vllm")
LAYER, USAGE, IDS = "transformer_layer_config", "speculators_config", "eagle_aux_hidden_state_layer_ids"
VERIFIER = f"{USAGE}.verifier.name_or_path"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def draft(tmp_path: Path) -> Callable[..., Path]:
    """A published folder of zeros; `set`, `delete` and `tensors` are those of the golden cases."""

    def make(base: str = "eagle3", **changes: Any) -> Path:
        write_folder(BASES, {"base": base, **changes}, tmp_path / "draft")
        return tmp_path / "draft"

    return make


def check(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and text of the command; an exception that it did not foresee fails the test."""
    result = CliRunner().invoke(app, ["check", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("base", [name for name in BASES if GOLDEN["cases"][name]["verdict"] == "loads"])
@pytest.mark.parametrize("target", ["auto", "vllm", "none"])
def test_good_folders(base: str, target: str, draft: Callable[..., Path]) -> None:
    folder = draft(base)
    sentence = "obeys the published format" if target == "none" else "is a draft that vllm 0.32.0 will serve"
    code, text = check(folder, f"export.target={target}")
    first, *others = text.splitlines()
    assert (code, first) == (0, f"{folder} {sentence}")
    # Keys of the format that the engine does not need, and facts about it.
    assert all(line.startswith(("  ignored: ", "  note: ")) for line in others)


def test_a_config_alone(draft: Callable[..., Path]) -> None:
    file = draft() / "config.json"
    assert check(file) == (0, f"{file} is a draft that vllm 0.32.0 will serve\n")
    (file.parent / "model.safetensors").unlink()
    code, text = check(file.parent)
    assert code == 2 and "refused: model.safetensors: is missing" in text
    code, text = check(file.parent, "export.target=none")
    assert code == 2 and "invalid: model.safetensors: is missing" in text


def sharded(folder: Path) -> dict[str, Any]:
    """Two files and an index instead of model.safetensors, as transformers writes large models; the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(names.values()):
        save_file({name: tensors[name] for name in tensors if names[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_several_files(draft: Callable[..., Path]) -> None:
    folder = draft()
    index = sharded(folder)
    assert check(folder) == (0, f"{folder} is a draft that vllm 0.32.0 will serve\n")
    tensors = load_file(folder / "model-00002-of-00002.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].flatten()[-1] = float("inf")
    save_file(tensors, folder / "model-00002-of-00002.safetensors")
    code, text = check(folder)
    assert code == 2 and f"wrong: {name}='NaN or infinity'" in text
    (folder / "model.safetensors.index.json").unlink()
    code, text = check(folder)
    assert code == 2 and "no model.safetensors.index.json that names model-00001-of-00002.safetensors" in text
    index["weight_map"].pop(name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    code, text = check(folder)
    assert code == 2 and f"the index differ in '{name}'" in text


def test_files_that_engines_would_read_too(draft: Callable[..., Path]) -> None:
    folder = draft()
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    code, text = check(folder)
    assert code == 2 and "invalid: consolidated.safetensors: would be read by engines too" in text
    (folder / "consolidated.safetensors").rename(folder / "model.safetensors.index.json")
    code, text = check(folder)
    assert code == 2 and "invalid: model.safetensors.index.json: exists beside model.safetensors" in text


# What is changed in a good config, and what the message must hold.
VALUES: list[tuple[str, Any, list[str]]] = [
    ("speculators_model_type", "eagel3", ["invalid: speculators_model_type='eagel3'", "did you mean eagle3?"]),
    ("speculators_model_type", ["eagle3"], ["invalid: speculators_model_type=['eagle3']", "one of"]),
    ("norm_befor_fc", True, ["invalid: norm_befor_fc=True", "did you mean norm_before_fc?"]),
    ("norm_output", "yes", ["invalid: norm_output='yes'", "boolean"]),
    ("model_type", "llama", ["refused: model_type='llama'", "remove it"]),
    ("draft_vocab_size", "1024", ["draft_vocab_size='1024'", "integer"]),
    ("draft_vocab_size", 9000, ["draft_vocab_size=9000", "at most", "4096"]),
    ("target_hidden_size", 128, ["refused: target_hidden_size=128", "256"]),
    ("dtype", "float99", ["invalid: dtype='float99'", "bfloat16"]),
    ("quantization_config", {"quant_method": "awq"}, ["refused: quantization_config", "remove it"]),
    (IDS, [5, 3, 1], [f"wrong: {IDS}=[5, 3, 1]", "write [1, 3, 5]"]),
    (IDS, [1, 3, 70], [f"refused: {IDS}=[1, 3, 70]", "6"]),
    (IDS, [1, 3], ["refused: transformer_layer_config.num_aux_hidden_states", "must be 2"]),
    (IDS, "1,3,5", [f"refused: {IDS}='1,3,5'", "list"]),
    (IDS, None, [f"refused: {IDS}", "uses [2, 3]"]),
    (LAYER, [], [f"refused: {LAYER}=[]", "mapping"]),
    (f"{LAYER}.hiden_size", 256, [f"{LAYER}.hiden_size=256", "did you mean hidden_size?"]),
    (f"{LAYER}.hidden_size", "256", [f"{LAYER}.hidden_size='256'", "integer"]),
    (f"{LAYER}.hidden_act", "gelu", [f"refused: {LAYER}.hidden_act='gelu'", "silu"]),
    (f"{LAYER}.model_type", "gemma", [f"refused: {LAYER}.model_type='gemma'", "llama and qwen3"]),
    (f"{LAYER}.num_attention_heads", 3, [f"refused: {LAYER}.num_key_value_heads=2", "divide"]),
    (f"{LAYER}.num_hidden_layers", 10**9, ["refused: config.json", "plausible size"]),
    (f"{LAYER}.layer_types", ["full_attention"] * 2, [f"refused: {LAYER}.layer_types", "1 in all"]),
    (f"{LAYER}.rope_parameters", {"rope_type": "swirl"}, [f"refused: {LAYER}.rope_parameters.rope_type='swirl'"]),
    (f"{LAYER}.vocab_size", 4000, [f"wrong: {LAYER}.vocab_size=4000", "4096"]),
    (USAGE, "eagle3", [f"refused: {USAGE}='eagle3'", "mapping"]),
    (f"{USAGE}.algorithm", "eagle", [f"invalid: {USAGE}.algorithm='eagle'", "'eagle3'"]),
    (f"{USAGE}.proposal_methods", [], [f"refused: {USAGE}.proposal_methods=[]", "must hold a proposal"]),
    (f"{USAGE}.proposal_methods", [None], [f"refused: {USAGE}.proposal_methods[0].speculative_tokens"]),
    (f"{USAGE}.proposal_methods.0.proposal_type", "tree", [f"{USAGE}.proposal_methods[0]", "one of ", "greedy"]),
    (f"{USAGE}.proposal_methods.0.speculative_tokens", 0, ["refused:", "speculative_tokens=0", "greater than"]),
    (
        f"{USAGE}.proposal_methods.0.speculative_token",
        3,
        ["[0].speculative_token=3", "did you mean speculative_tokens?"],
    ),
    (VERIFIER, None, [f"refused: {VERIFIER}", "must name the verifier"]),
    (VERIFIER, "", [f"refused: {VERIFIER}", "must name the verifier"]),
    (VERIFIER, 7, [f"refused: {VERIFIER}=7", "string"]),
    (VERIFIER, "/no/such/folder", [f"refused: {VERIFIER}='/no/such/folder'", "does not exist"]),
    (VERIFIER, "no/such-model", [f"refused: {VERIFIER}='no/such-model'", "Hub"]),
    (VERIFIER, "pkg://speculators.assets/tiny", [f"refused: {VERIFIER}='pkg://", "hub id or a folder"]),
    (VERIFIER, "x" * 5000, [f"refused: {VERIFIER}='xxx", "cannot be loaded"]),
    (f"{USAGE}.verifier.architectures", ["Qwen3ForCausalLM"], ["invalid:", "['LlamaForCausalLM']"]),
]


@pytest.mark.parametrize(("key", "value", "parts"), VALUES, ids=[f"{k}={str(v)[:40]}" for k, v, _ in VALUES])
def test_wrong_values(key: str, value: Any, parts: list[str], draft: Callable[..., Path]) -> None:
    code, text = check(draft(set={key: value}))
    assert code == 2 and all(part in text for part in parts), text
    assert "Traceback" not in text and "pydantic" not in text


@pytest.mark.parametrize(
    ("tensors", "parts"),
    [
        ({"fc.weight": None}, ["wrong: fc.weight: is missing", "[256, 768]", "something other"]),
        ({"norm.weight": ["F32", [128]]}, ["refused: norm.weight=[128]", "[256]", "could not serve"]),
        ({"d2t": ["I32", [1024]]}, ["invalid: d2t='I32'", "int64", "violates the published format"]),
        ({"fc.bias": ["F32", [256]]}, ["wrong: fc.bias=[256]", "not a tensor of a draft"]),
        ({"verifier_lm_head.weight": ["F32", [4, 4]]}, ["refused: verifier_lm_head.weight=[4, 4]"]),
    ],
)
def test_wrong_tensors(tensors: dict[str, Any], parts: list[str], draft: Callable[..., Path]) -> None:
    code, text = check(draft(tensors=tensors))
    assert code == 2 and all(part in text for part in parts), text


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


BREAKAGES: list[tuple[str, Callable[[Path], Any], list[str]]] = [
    ("no folder", shutil.rmtree, ["there is no such file or folder", "RUN/checkpoint"]),
    ("no config.json", lambda f: (f / "config.json").unlink(), ["there is no config.json"]),
    ("empty config.json", lambda f: cut(f / "config.json", 0), ["config.json", "cannot be read as JSON"]),
    ("half a config.json", lambda f: cut(f / "config.json", 300), ["config.json", "cannot be read as JSON"]),
    ("binary config.json", lambda f: (f / "config.json").write_bytes(b"\xff\xfe\0{"), ["cannot be read as JSON"]),
    ("deep config.json", lambda f: (f / "config.json").write_text("[" * 10**5), ["cannot be read as JSON"]),
    ("a list", lambda f: (f / "config.json").write_text("[1]"), ["must hold a JSON object, not list"]),
    ("a verifier", lambda f: shutil.copy(TINY / "config.json", f), ["not the config of a draft", "speculators_config"]),
    ("cut tensors", lambda f: cut(f / "model.safetensors", 5000), ["model.safetensors", "cannot be read as safe"]),
    ("no header", lambda f: cut(f / "model.safetensors", 4), ["model.safetensors", "cannot be read as safe"]),
    ("empty tensors", lambda f: cut(f / "model.safetensors", 0), ["model.safetensors", "cannot be read as safe"]),
    ("other bytes", lambda f: (f / "model.safetensors").write_bytes(b"PK" * 99), ["cannot be read as safetensors"]),
]
NATIVE: list[tuple[str, Callable[[Path], Any], list[str]]] = [
    ("no native folder", lambda f: shutil.rmtree(f / "vllm"), ["refused: vllm=['config.json', 'model.safetensors']"]),
    ("no native tensors", lambda f: (f / "vllm/model.safetensors").unlink(), ["refused: vllm", "export again"]),
    ("broken native config", lambda f: cut(f / "vllm/config.json", 9), ["vllm/config.json", "cannot be read as JSON"]),
    ("native list", lambda f: (f / "vllm/config.json").write_text("[]"), ["vllm/config.json", "not list"]),
    ("cut native tensors", lambda f: cut(f / "vllm/model.safetensors", 99), ["vllm/model.safetensors", "again"]),
]


@pytest.mark.parametrize(
    ("base", "wreck", "parts"),
    [("eagle3", wreck, parts) for _, wreck, parts in BREAKAGES] + [("eagle", w, p) for _, w, p in NATIVE],
    ids=[name for name, _, _ in BREAKAGES + NATIVE],
)
def test_broken_files(base: str, wreck: Callable[[Path], Any], parts: list[str], draft: Callable[..., Path]) -> None:
    folder = draft(base)
    wreck(folder)
    code, text = check(folder)
    assert code == 2 and all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ("{", "verifier.name_or_path"),
        ("[]", "must hold a JSON object, not list"),
        ('{"hidden_size": "x"}', "has no hidden_size"),
        ('{"text_config": 3}', "text_config"),
    ],
)
def test_a_verifier_that_cannot_be_read(config: str, part: str, draft: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "verifier").mkdir()
    (tmp_path / "verifier" / "config.json").write_text(config)
    code, text = check(draft(set={VERIFIER: str(tmp_path / "verifier")}))
    assert code == 2 and f"refused: {VERIFIER}=" in text and part in text, text


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("seed=1", "only export.target"),
        ("export.tagret=vllm", "did you mean export.target?"),
        ("export.target=sglang", "export.target"),
        ("export.engine_version=0.1.0", "choose one of vllm 0.32.0"),
    ],
)
def test_wrong_overrides(override: str, part: str, draft: Callable[..., Path]) -> None:
    code, text = check(draft(), override)
    assert code == 2 and part in text, text


@pytest.mark.parametrize("base", ["eagle3", "eagle", "medusa"])
def test_whatever_stands_there_nothing_breaks(base: str, draft: Callable[..., Path]) -> None:
    """Wild values at every key of the config, from a fixed seed; each is judged, and none raises."""
    folder = draft(base)
    good, dice = (folder / "config.json").read_text(), random.Random(0)
    wild = [None, True, -1, 0, 3, 10**20, 2.5, float("inf"), "", "x", "\0", [], [[]], [None], {}, {"a": {}}, [{"": 1}]]
    paths = places(json.loads(good))
    for _ in range(250):
        config = json.loads(good)
        for *parents, last in dice.sample(paths, dice.choice([1, 1, 2])):
            at = config
            for part in parents:
                at = at[part] if isinstance(at, dict) and part in at or isinstance(at, list) and at else {}
            if isinstance(at, dict):
                at[last] = dice.choice(wild)
        (folder / "config.json").write_text(json.dumps(config))
        assert judge(folder, EXPORT).summary, config


def places(value: Any) -> list[tuple[Any, ...]]:
    """All keys of a config, as paths."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in items for path in [(key,), *((key, *rest) for rest in places(inner))]]


def test_the_command_is_free_of_torch(draft: Callable[..., Path]) -> None:
    """As a person calls it: exit codes, and neither torch nor transformers."""
    code = (
        "import sys; from speculators.cli.main import main; sys.argv = ['speculators', 'check', sys.argv[1]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "loaded = [m for m in ('torch', 'transformers') if m in sys.modules]\n"
        "assert not loaded, loaded\nsys.exit(code)"
    )
    for value, expected in ((True, 0), ("perhaps", 2)):
        command = [sys.executable, "-c", code, str(draft(set={"norm_output": value}))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == expected and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"set": {"norm_befor_fc": True}}, "did you mean norm_before_fc?"),
        ({"set": {f"{USAGE}.proposal_methods": 3}}, "proposal_methods"),
        ({"tensors": {"fc.weight": None}}, "fc.weight: is missing"),
    ],
)
def test_evaluating_reads_as_strictly(changes: dict[str, Any], part: str, draft: Callable[..., Path]) -> None:
    result = CliRunner().invoke(app, ["evaluate", str(draft(**changes))])
    assert isinstance(result.exception, SystemExit) and result.exit_code == 2 and part in result.output


def test_a_good_folder_can_be_evaluated(draft: Callable[..., Path]) -> None:
    assert "algorithm=eagle3" in with_its_own(draft(), [])[0]
