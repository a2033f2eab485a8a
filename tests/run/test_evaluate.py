"""`speculators evaluate` takes what it is not told from the checkpoint and from the run that made it."""

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner
from vllm_verdicts import read_golden, write_folder

from speculators.cli.launch import launch
from speculators.cli.main import app
from speculators.composition.compose import compose, pinned
from speculators.evaluate.checkpoint import is_trained, with_its_own
from speculators.execution.input_hashes import check_data
from speculators.runfolder.run_yaml import complete, load, write_pin
from speculators.settings.run_config import RunConfig
from speculators.utils import digest
from speculators.utils.messages import WrongInput
from speculators.verifier.in_process import Verifier

TINY = Path(str(files("speculators.assets"))) / "tiny"
FEW = ["evaluation.num_prompts=2", "evaluation.max_new_tokens=12", "launch.num_threads=1", "tracker=none"]


def published(folder: Path, *overrides: str) -> Path:
    """The checkpoint of a run of a few steps."""
    pinned([*FEW, "trainer.max_steps=15", "trainer.batch_size=1", *overrides], folder)
    launch(folder)
    return folder / "checkpoint"


def evaluated(checkpoint: Path, *overrides: str) -> dict[str, Any]:
    """result.json of evaluating it."""
    folder = checkpoint.parent / "evaluation"
    result = CliRunner().invoke(app, ["evaluate", str(checkpoint), *FEW, f"output={folder}", *overrides])
    assert result.exit_code == 0, result.output
    return json.loads((folder / "result.json").read_text())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file of some of the embedded conversations."""
    rows = Path(str(files("speculators.assets"))).joinpath("chat.jsonl").read_text().splitlines(True)
    file = tmp_path / "data.jsonl"
    file.write_text("".join(rows[:80]))
    return file


def draft(folder: Path, verifier: str, **data: Any) -> Path:
    """A published draft with weights of zero, and the run.yaml of a run that trained it on a file of data."""
    set = {"speculators_config.verifier.name_or_path": verifier}
    write_folder(read_golden()["bases"], {"base": "eagle3", "set": set}, folder)
    run = compose([*FEW, "data=jsonl", "data.path=x"]).model_dump(mode="json")
    run["verifier"]["name_or_path"], run["data"] = verifier, run["data"] | data
    write_pin(RunConfig.model_validate(run), folder)
    return folder


@pytest.mark.parametrize("name", ["dätä", "a\\b", "it's", "${oc.env:TOKEN}", "\\${seed}", "a, b=[{c}]", 'q"uote'])
def test_values_of_a_checkpoint_are_taken_as_they_are(name: str, tmp_path: Path) -> None:
    """In whatever alphabet: they pass no grammar of overrides, and nothing in them is interpolated."""
    verifier = tmp_path / "verifiers" / name
    shutil.copytree(TINY, verifier)
    values = {"path": f"{name}.jsonl", "chat_template_kwargs": {"a": [name, {"b": name}]}}
    checkpoint = draft(tmp_path / "draft", str(verifier), **values)
    run = compose(*with_its_own(checkpoint, ["data.max_conversations=7"]))
    assert run.verifier.name_or_path == str(verifier)
    assert run.data.model_dump(include=set(values)) == values and run.data.max_conversations == 7


def test_a_checkpoint_cannot_ask_for_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a verifier that would be a variable's value is shown as it stands, with the file that has it."""
    monkeypatch.setenv("TOKEN", "hf_0123456789")
    checkpoint = draft(tmp_path, str(TINY))
    config = checkpoint / "config.json"
    config.write_text(config.read_text().replace(json.dumps(str(TINY)), '"org/${oc.env:TOKEN}"'))
    for words in ([], ["evaluation.num_prompts=1"]):
        result = CliRunner().invoke(app, ["evaluate", str(checkpoint), *words])
        assert result.exit_code == 2 and "hf_0123456789" not in result.output
        assert "the config.json of org/${oc.env:TOKEN} cannot be downloaded" in result.output
        assert f"set by {config}" in result.output


def test_the_prompts_are_of_the_data_that_was_trained_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path does not lead to whatever file the current folder has; without a hash a file must be named."""
    checkpoint, other = draft(tmp_path / "draft", str(TINY), path="data.jsonl"), tmp_path / "other"
    other.mkdir()
    (other / "data.jsonl").write_text("".join(data.read_text().splitlines(True)[:40]))

    def said(folder: Path) -> str:
        monkeypatch.chdir(folder)
        result = CliRunner().invoke(app, ["evaluate", str(checkpoint), *FEW])
        assert result.exit_code == 2, result.output
        return result.output

    remedy = "or choose other prompts: data=jsonl data.path=FILE"
    assert f"data.path=data.jsonl: {checkpoint / 'run.yaml'} records no hash of the data" in said(other)
    complete(checkpoint, 1, {"data": digest.of_file(data)})
    assert "data.path=data.jsonl: the data has changed since run.yaml was written" in said(other)
    assert "data.path: no file matches data.jsonl" in said(checkpoint) and remedy in said(checkpoint)
    check_data(compose(*with_its_own(checkpoint, [f"data.path={data}"])), load(checkpoint), checkpoint)


def test_drafts_proposals_and_tokens_are_compared(tmp_path: Path) -> None:
    """Every combination in one table and file, on the same prompts; what a draft cannot do is left out, and said."""
    checkpoints = [str(draft(tmp_path / name, str(TINY))) for name in ("first", "second")]
    words = ["data=chat", "proposals=[greedy,{proposal_type: static_tree, depth: 2}]", "--output", str(tmp_path)]
    words += ["evaluation.speculative_tokens=[1,3]", "data.max_conversations=40"]
    result = CliRunner().invoke(app, ["evaluate", *checkpoints, *FEW, *words])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "comparison.json").read_text())
    assert [(c["checkpoint"], c["proposal"]["proposal_type"], c["levels"]) for c in found["choices"]] == [
        (checkpoint, *each) for checkpoint in checkpoints for each in (("greedy", 1), ("greedy", 3), ("static_tree", 2))
    ]
    assert found["same_prompts"] and all(c["num_prompts"] == 2 for c in found["choices"])
    commands = [c["serve_command"] for c in found["choices"][:3]]
    assert '{"num_speculative_tokens": 1}' in commands[0] and commands[2] is None
    assert (tmp_path / "comparison.png").exists() and "static_tree" in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["proposals=[gredy]"], "did you mean greedy?"),
        (["proposals=[{depth: 2}]"], "names no method"),
        (["proposals=[greedy"], "proposals=[greedy: is no list"),
        (["proposals=[{proposal_type: greedy, depth: 2}]"], "proposal.depth"),
        (["evaluation.speculative_tokens=[2,0]"], "evaluation.speculative_tokens: 0 is no number of tokens"),
        (["evaluation.speculative_tokens=[2]", "evaluation.num_prompts=0"], "nothing to evaluate"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    """With the key and the value."""
    checkpoint = draft(tmp_path, str(TINY))
    result = CliRunner().invoke(app, ["evaluate", str(checkpoint), *FEW, "data=chat", *words])
    assert result.exit_code == 2 and said in result.output, result.output


@pytest.mark.slow
def test_the_checkpoints_own_settings_count(data: Path, tmp_path: Path) -> None:
    """More heads than the YAML has, a seed, data of its own: all without being said again; what is said wins."""
    own = [
        "algorithm=medusa",
        "algorithm.num_heads=7",
        "proposal.speculative_tokens=7",
        "seed=5",
        "trainer.max_steps=4",
    ]
    own += [
        "data=jsonl",
        f"data.path={data}",
        "data.max_length=320",
        "verifier.dtype=float32",
        "data.chat_template_kwargs={a: [x, {b: true}]}",
    ]
    checkpoint = published(tmp_path / "run", *own)
    again = evaluated(checkpoint)
    before = json.loads((tmp_path / "run" / "result.json").read_text())
    assert again["speculative_tokens"] == 7
    assert again["acceptance_length"] == before["acceptance_length"]
    assert again["accepted"] == before["accepted"]

    run = compose(*with_its_own(checkpoint, ["data.max_conversations=40", "seed=6"]))
    assert (run.data.source, run.data.max_conversations, run.seed) == ("jsonl", 40, 6)
    assert run.data.chat_template_kwargs == {"a": ["x", {"b": True}]}
    assert run.verifier.dtype == "float32" and is_trained(checkpoint, ["data.max_conversations=40"])
    assert compose(*with_its_own(checkpoint, ["data=chat"])).data == compose([]).data
    assert not is_trained(checkpoint, ["data=chat"])
    # Of the verifier that is named instead, nothing of the checkpoint's is left.
    assert compose(*with_its_own(checkpoint, ["verifier=tiny"])).verifier == compose([]).verifier
    none = CliRunner().invoke(app, ["evaluate", str(checkpoint), "evaluation.num_prompts=0"])
    assert none.exit_code == 2 and "evaluation.num_prompts=0: there is nothing to evaluate" in none.output
    with pytest.raises(WrongInput, match="drafts at most 7"):
        compose(*with_its_own(checkpoint, ["proposal.speculative_tokens=8"]))


@pytest.mark.slow
def test_a_head_that_is_left_out_is_the_verifiers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As in an engine: without lm_head in the file the draft decodes as with the verifier's written there."""
    checkpoint = published(tmp_path / "run", "algorithm=eagle3", "data.max_conversations=80")
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    verifier = Verifier.load(compose([]).verifier, torch.device("cpu"))
    (checkpoint / "manifest.json").unlink()
    tensors["lm_head.weight"] = verifier.head.head_VH.float().contiguous()
    save_file(tensors, file)
    there = evaluated(checkpoint)
    del tensors["lm_head.weight"]
    save_file(tensors, file)
    capfd.readouterr()
    left_out = evaluated(checkpoint)
    assert "newly initialized" not in "".join(capfd.readouterr())
    assert left_out["accepted"] == there["accepted"] > 0
