"""The package from Python: public names, docs/python.md, and what a finished run leaves for a person and for trackers."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from rlcompleter import Completer

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoConfig, AutoTokenizer

import speculators
from speculators.cli.main import app
from speculators.execution.machine import first_weights_fit
from speculators.export.publish import save_weights
from speculators.format.published import speculator_dict
from speculators.runfolder.run_yaml import load
from speculators.utils.digest import of_file
from speculators.verifier.facts import VerifierFacts
from speculators.verifier.location import local_path

ROOT = Path(__file__).parents[2]


def test_public_names_are_listed_and_there() -> None:
    """In `dir`, each importable; type checkers find the marker of a typed package."""
    names = set(speculators.__all__)
    assert {"compose", "run", "load_result", "SpeculatorModel", "RunConfig", "WrongInput"} <= names
    assert names <= set(dir(speculators))
    names.remove("__version__")
    assert all(getattr(speculators, name).__name__ == name for name in names)
    assert (Path(speculators.__file__).parent / "py.typed").is_file()
    completed = Completer({"speculators": speculators}).attr_matches("speculators.")
    assert {f"speculators.{name}" for name in names} <= {word.rstrip("()") for word in completed}


def test_a_checkout_on_the_path_reads_its_own_yaml(tmp_path: Path) -> None:
    """Although another one is installed."""
    (tmp_path / "speculators").symlink_to(Path(speculators.__file__).parent)
    (tmp_path / "conf").mkdir()
    for path in (ROOT / "conf").iterdir():
        (tmp_path / "conf" / path.name).symlink_to(path)
    (tmp_path / "conf" / "train.yaml").unlink()
    text = (ROOT / "conf" / "train.yaml").read_text()
    (tmp_path / "conf" / "train.yaml").write_text(text.replace("\nseed: 0\n", "\nseed: 77\n"))
    command = [sys.executable, "-m", "speculators", "train", "--cfg", "job", "--package", "seed"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, cwd=tmp_path / "conf", capture_output=True, text=True)
    assert "77" in done.stdout, done.stderr


def test_a_folder_without_a_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}: there is no result.json"):
        speculators.load_result(tmp_path)


@pytest.mark.long
def test_the_page_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/python.md, block by block; then what the run left."""
    monkeypatch.chdir(tmp_path)
    names, said = {}, io.StringIO()
    with contextlib.redirect_stdout(said):
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL):
            exec(block, names)
    assert "did you mean algorithm.ttt_steps?" in said.getvalue()

    folder, result = tmp_path / "runs" / "quick", names["result"]
    # train.log: steps, the held-out loss, the evaluation.
    log = (folder / "train.log").read_text()
    for line in ("step 5/5 loss", "step 5 held-out loss", "trained: step 5 of 5", "evaluation: acceptance length"):
        assert log.count(line) == 1, line
    # The tracker has the measured length, and the first position's share.
    file = next(folder.rglob("events.out.tfevents.*"))
    events = EventAccumulator(str(file))
    events.Reload()
    for tag, value in (
        ("evaluation/acceptance_length", result.acceptance_length),
        ("evaluation/acceptance_per_position/1", result.acceptance_per_position[0]),
    ):
        assert events.Scalars(tag)[-1].value == pytest.approx(value) and events.Scalars(tag)[-1].step == 5
    # Texts are those of the tokens.
    tokenizer = AutoTokenizer.from_pretrained(local_path("pkg://speculators.assets/tiny"))
    for line in (folder / "generations.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["text"] == tokenizer.decode(row["tokens"]) and row["prompt_text"] == tokenizer.decode(row["prompt"])
    # The page says that transformers' own class does not load the folder, and why.
    with pytest.raises(ValueError, match="model_type"):
        AutoConfig.from_pretrained(folder / "checkpoint")
    # The command says that the run is finished, and changes no file.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        app(["run", str(folder)])
    assert ended.value.code == 0 and "this run is finished; --output=FOLDER" in said.getvalue()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    # Its draft is trained further in another folder; run.yaml has the hash of the weights that it starts from.
    longer = tmp_path / "longer"
    app(["run", str(folder), "--more-epochs", "1", "--output", str(longer)], standalone_mode=False)
    pin = load(longer)
    assert pin.run.trainer.epochs == 1 and pin.run.trainer.init_from == str(folder / "checkpoint")
    assert pin.read["init_from"] == of_file(folder / "checkpoint" / "model.safetensors")
    assert json.loads((longer / "metrics.jsonl").read_text().splitlines()[0])["step"] == 10


def test_first_weights_of_another_draft_are_refused(tmp_path: Path) -> None:
    """Another algorithm, other shapes, no draft: named with the key before anything is loaded."""
    draft = tmp_path / "draft"
    facts = VerifierFacts.read("pkg://speculators.assets/tiny")
    run = speculators.compose(["algorithm=medusa", "algorithm.num_heads=2"])
    config = speculators.SpeculatorModelConfig.from_dict(speculator_dict(run, facts))
    with torch.random.fork_rng():
        model = speculators.SpeculatorModel.for_config(config)(config)
    config.save_pretrained(draft)
    save_weights(model, torch.float32, draft / "model.safetensors")
    for overrides, message in (
        (["algorithm=medusa", "algorithm.num_heads=2"], None),
        (["algorithm=medusa", "algorithm.num_heads=2", "algorithm.medusa_fc_bias=true"], None),
        (["algorithm=medusa", "algorithm.num_heads=1"], "which this draft has not"),
        (["algorithm=eagle3"], "it is a draft of algorithm=medusa"),
    ):
        found = list(first_weights_fit(speculators.compose([*overrides, f"trainer.init_from={draft}"])))
        assert found == [] if message is None else message in found[0] and found[0].startswith("trainer.init_from=")
    (missing,) = first_weights_fit(speculators.compose([f"trainer.init_from={tmp_path}"]))
    assert missing.startswith(f"trainer.init_from={tmp_path}: ")
