"""Checkpoints: what stays, what is taken after a crash or damage, whose they are, and that training goes on exactly."""

import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from speculators.train.checkpoint import Checkpoints, TrainState
from speculators.utils.messages import WrongInput

OWN = {"seed": 0, "optimizer.lr": 0.1, "optimizer.betas": [0.9, 0.95], "read.data": "ab" * 32}


def parts(folder, keep_last=2, identity=OWN, needs_best=False, per_step=4):
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return (
        model,
        optimizer,
        Checkpoints(folder, accelerator, model, [optimizer], identity, per_step, keep_last, needs_best),
    )


def learn(model, optimizer):
    model(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_the_newest_and_the_best_stay(tmp_path):
    _, _, checkpoints = parts(tmp_path)
    for step in (1, 2, 3, 10):
        checkpoints.save(TrainState(step=step, best_step=1))
    assert checkpoints.steps() == [1, 3, 10]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_1", "step_10", "step_3"]


def test_a_checkpoint_cut_off_while_written_is_not_taken(tmp_path):
    model, _, checkpoints = parts(tmp_path)
    checkpoints.save(TrainState(step=1, tokens=5))
    kept = model.weight.clone()
    with torch.no_grad():
        model.weight.zero_()
    checkpoints.path(2).mkdir()
    (checkpoints.path(2) / "model.safetensors").write_bytes(b"half")
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "random_7.json").write_text("of an earlier attempt")
    state = checkpoints.resume()
    assert state is not None and (state.step, state.tokens) == (1, 5)
    assert torch.equal(model.weight, kept)
    checkpoints.save(TrainState(step=3))
    assert checkpoints.steps() == [1, 3]
    assert not (checkpoints.path(3) / "random_7.json").exists()


def test_nothing_to_resume(tmp_path):
    assert parts(tmp_path)[2].resume() is None


def test_weights_moments_and_all_random_generators_go_on(tmp_path):
    model, optimizer, checkpoints = parts(tmp_path)
    learn(model, optimizer)
    random.gauss(0, 1), numpy.random.randn()  # each keeps the second of two normal numbers for the next call
    checkpoints.save(TrainState(step=1))
    learn(model, optimizer)
    expected = model.weight.detach().clone(), random.gauss(0, 1), numpy.random.randn(), torch.rand(1)

    model, optimizer, checkpoints = parts(tmp_path)
    random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
    checkpoints.resume()
    learn(model, optimizer)
    assert torch.equal(model.weight, expected[0])
    assert (random.gauss(0, 1), numpy.random.randn(), torch.rand(1)) == expected[1:]


def test_the_optimizers_state_is_torch_s_own(tmp_path):
    """As torch's `state_dict` has it, whose pickle is not read."""
    model, optimizer, checkpoints = parts(tmp_path)
    learn(model, optimizer)
    checkpoints.save(TrainState(step=1))
    expected = optimizer.state_dict()
    _, other, checkpoints = parts(tmp_path)
    checkpoints.resume()
    torch.testing.assert_close(other.state_dict(), expected, rtol=0, atol=0)


def test_another_number_of_processes_goes_on_if_a_step_has_as_many_sequences(tmp_path, monkeypatch):
    """Its tokens are those of one process of several."""
    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "num_processes", 4)
        parts(tmp_path, per_step=16)[2].save(TrainState(step=1, tokens=5))
    model, _, checkpoints = parts(tmp_path, per_step=4)
    with torch.no_grad():
        model.weight.zero_()
    with pytest.raises(ValueError, match=r"4 processes, now there are 1, .*launch.num_processes=4"):
        checkpoints.resume()
    assert not model.weight.any()
    model, _, checkpoints = parts(tmp_path, per_step=16)
    state = checkpoints.resume()
    assert state is not None and state.tokens == 20


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: random.randrange(file.stat().st_size)])


FILES = ["model.safetensors", "optimizer.safetensors", "random_0.json", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [flipped, cut, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over(
    name: str, harm: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever file it is, at random places: training goes on from the one before, and says why; both ends are kept."""
    random.seed(name + harm.__name__)
    model, optimizer, checkpoints = parts(tmp_path, keep_last=1)
    learn(model, optimizer)
    checkpoints.save(TrainState(step=1, best_step=1))
    learn(model, optimizer)
    checkpoints.save(TrainState(step=2, best_step=1))
    expected = model.weight.detach().clone()
    for trial in range(10):
        folder = tmp_path / str(trial)
        folder.mkdir()
        for step in ("step_1", "step_2"):
            shutil.copytree(tmp_path / step, folder / step)
        harm(folder / "step_2" / name)
        model, optimizer, checkpoints = parts(folder, keep_last=1)
        caplog.clear()
        state = checkpoints.resume()
        assert state is not None
        if state.step == 2:  # the manifest's own spaces and line ends say nothing
            assert name == "manifest.json" and torch.equal(model.weight, expected)
            continue
        assert f"checkpoint skipped: {folder / 'step_2'}" in caplog.text
        assert f"resuming from {folder / 'step_1'}" in caplog.text
        assert name in caplog.text or name == "manifest.json"
        learn(model, optimizer)
        assert torch.equal(model.weight, expected)
        checkpoints.save(TrainState(step=2, best_step=1))
        assert checkpoints.steps() == [1, 2] and checkpoints.resume().step == 2


def test_without_a_good_checkpoint_nothing_is_trained_anew(tmp_path):
    """Somebody decides whether what was trained is lost; the message has the file and the remedy."""
    _, _, checkpoints = parts(tmp_path)
    checkpoints.save(TrainState(step=1))
    flipped(checkpoints.path(1) / "optimizer.safetensors")
    with pytest.raises(
        ValueError, match=rf"step_1/optimizer.safetensors is damaged.*; remove {tmp_path} to train again"
    ):
        checkpoints.resume()
    assert checkpoints.steps() == [1]


def test_one_whose_best_step_is_damaged_is_passed_over(tmp_path):
    """It could not end: the best step's weights are what is published."""
    _, _, checkpoints = parts(tmp_path, keep_last=3, needs_best=True)
    checkpoints.save(TrainState(step=1, best_step=1))
    checkpoints.save(TrainState(step=2, best_step=2))
    checkpoints.save(TrainState(step=3, best_step=2))
    flipped(checkpoints.path(2) / "model.safetensors")
    assert checkpoints.resume().step == 1
    assert parts(tmp_path, needs_best=False)[2].resume().step == 3


@pytest.mark.parametrize("step", [2, 5, 7])
def test_what_was_passed_over_is_removed_once_another_is_saved(step, tmp_path):
    """It does not count among those that are kept."""
    _, _, checkpoints = parts(tmp_path, keep_last=2)
    for saved in (1, 5):
        checkpoints.save(TrainState(step=saved))
    flipped(checkpoints.path(5) / "model.safetensors")
    assert checkpoints.resume().step == 1 and checkpoints.steps() == [1, 5]
    checkpoints.save(TrainState(step=step))
    assert checkpoints.steps() == [1, step]
    assert checkpoints.resume().step == step


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", 1, "trained with seed=0, and the run has 1; set it to that value, or train in a new folder"),
        ("optimizer.lr", 0.2, "trained with optimizer.lr=0.1, and the run has 0.2"),
        ("optimizer.betas", [0.9, 0.99], "optimizer.betas=[0.9, 0.95], and the run has [0.9, 0.99]"),
        ("read.data", "cd" * 32, "trained with another data (ababababababababab"),
    ],
)
def test_another_runs_checkpoint_is_refused(key, value, message, tmp_path):
    """Before anything is loaded; it stays as it is."""
    parts(tmp_path)[2].save(TrainState(step=1))
    model, _, checkpoints = parts(tmp_path, identity=OWN | {key: value})
    before = model.weight.detach().clone()
    with pytest.raises(WrongInput) as refused:
        checkpoints.resume()
    assert message in str(refused.value) and str(tmp_path / "step_1") in str(refused.value)
    assert torch.equal(model.weight, before) and checkpoints.steps() == [1]


def test_another_versions_keys_are_no_difference(tmp_path):
    """A setting that is renamed or new says nothing about the weights."""
    parts(tmp_path)[2].save(TrainState(step=1))
    assert parts(tmp_path, identity=OWN | {"algorithm.new": 1})[2].resume().step == 1


def test_no_pickle_is_written_or_read(tmp_path):
    """A planted one under the names that accelerate reads is not opened."""
    _, _, checkpoints = parts(tmp_path / "checkpoints")
    checkpoints.save(TrainState(step=1))
    assert sorted(file.name for file in checkpoints.path(1).iterdir()) == sorted(FILES)

    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    for name in (
        "optimizer.bin",
        "random_states_0.pkl",
        "scheduler.bin",
        "pytorch_model.bin",
        "custom_checkpoint_0.pkl",
    ):
        (checkpoints.path(1) / name).write_bytes(pickle.dumps(Attack()))
    assert checkpoints.resume().step == 1 and not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["../../victim", "/etc/hostname", "sub/file"])
def test_a_manifest_names_files_of_its_folder_alone(name, tmp_path):
    _, _, checkpoints = parts(tmp_path)
    checkpoints.save(TrainState(step=1))
    file = checkpoints.path(1) / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: ""}))
    with pytest.raises(ValueError, match="is not the name of a file in this folder"):
        checkpoints.resume()
