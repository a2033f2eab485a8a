"""In which order a run does its work, what of the verifier is in memory meanwhile, and what a failure leaves behind."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from speculators.cli.launch import launch
from speculators.composition.compose import pinned
from speculators.execution import run as run_module
from speculators.utils.messages import RunFailed
from speculators.verifier.loader import VerifierLoader
from speculators.verifier.location import local_path

SHORT = [
    "trainer.max_steps=2", "trainer.batch_size=1", "data.max_conversations=24", "data.heldout_fraction=0.2", "tracker=none",
    "launch.num_threads=1", "algorithm.ttt_steps=1", "evaluation.num_prompts=1", "evaluation.max_new_tokens=4",
    "verifier_states=cached",
]  # fmt: skip


@pytest.fixture
def verifier(tmp_path: Path) -> Path:
    """The embedded verifier in a folder of its own."""
    return Path(shutil.copytree(local_path("pkg://speculators.assets/tiny"), tmp_path / "verifier"))


@pytest.fixture
def overrides(tmp_path: Path, verifier: Path) -> list[str]:
    return [*SHORT, f"verifier.name_or_path={verifier}", f"cache.dir={tmp_path / 'cache'}"]


def verifiers_alive() -> int:
    """Whole verifiers in the memory of this process."""
    gc.collect()
    return sum(type(thing) is LlamaForCausalLM for thing in gc.get_objects())


def test_cached_training_has_no_verifier_in_memory(
    tmp_path: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither after the extraction of missing states, nor in a run that finds all of them: that one never loads it."""
    train, alive = run_module.train, []

    def watched(*arguments):
        alive.append(verifiers_alive())
        return train(*arguments)

    monkeypatch.setattr(run_module, "train", watched)
    before = verifiers_alive()
    pinned([*overrides, "evaluation.num_prompts=0"], tmp_path / "first")
    launch(tmp_path / "first")
    assert list((tmp_path / "cache").glob("states-*"))
    monkeypatch.setattr(VerifierLoader, "whole", None)
    pinned([*overrides, "evaluation.num_prompts=0", "optimizer.lr=0.005"], tmp_path / "second")
    launch(tmp_path / "second")
    assert alive == [before, before]


def test_a_failed_evaluation_leaves_the_checkpoint_and_is_made_up_for(
    tmp_path: Path, overrides: list[str], verifier: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The verifier's weights are gone when the evaluation asks for them. With them back, `run` evaluates and no more."""
    pinned(overrides, tmp_path / "calm")
    expected = launch(tmp_path / "calm")
    weights, hidden, publish = verifier / "model.safetensors", tmp_path / "hidden", run_module.publish
    folder = tmp_path / "run"

    def and_lose_the_weights(*arguments):
        checkpoint = publish(*arguments)
        weights.rename(hidden)
        return checkpoint

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "publish", and_lose_the_weights)
        pinned(overrides, folder)
        with pytest.raises(RunFailed):
            launch(folder)
    told = (
        f"the draft is published in {folder / 'checkpoint'}, but its evaluation failed; repeat it with "
        f"`speculators run {folder}`: "
    )
    said, traceback = capsys.readouterr().err, (folder / "FAILED").read_text()
    assert told in said
    assert told in traceback and "has neither model.safetensors nor" in traceback
    assert not (folder / "DONE").exists() and not (folder / "result.json").exists()
    calm, failed = tmp_path / "calm" / "checkpoint", folder / "checkpoint"
    assert (failed / "model.safetensors").read_bytes() == (calm / "model.safetensors").read_bytes()
    assert "Not evaluated." in (failed / "README.md").read_text()

    hidden.rename(weights)
    metrics = (folder / "metrics.jsonl").read_bytes()
    for entry in (tmp_path / "cache").glob("states-*"):
        shutil.rmtree(entry)
    assert launch(folder) == expected
    assert (folder / "DONE").exists() and not (folder / "FAILED").exists()
    assert (folder / "metrics.jsonl").read_bytes() == metrics and not list((tmp_path / "cache").glob("states-*"))
    lengths = [json.loads((f / "result.json").read_text())["acceptance_length"] for f in (folder, tmp_path / "calm")]
    assert lengths[0] == lengths[1]
    assert f"**{lengths[0]:.2f}**" in (failed / "README.md").read_text()


@pytest.mark.slow
def test_a_run_killed_before_its_evaluation_goes_on(tmp_path: Path, overrides: list[str]) -> None:
    """SIGKILL once the checkpoint is published; `speculators run` ends what was begun."""
    command = [sys.executable, "-m", "speculators", "train", *overrides, f"hydra.run.dir={tmp_path / 'run'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any(line.startswith("published: ") for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "run" / "result.json").exists()
    again = [sys.executable, "-m", "speculators", "run", str(tmp_path / "run")]
    # A file grants no right: the cache's folder is typed again.
    again += [o for o in overrides if o.startswith("cache.dir=")]
    done = subprocess.run(again, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists() and (tmp_path / "run" / "DONE").exists()
    assert "acceptance length" in (tmp_path / "run" / "checkpoint" / "README.md").read_text()
