import json
import random

import numpy
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from speculators.train.checkpoint import Checkpoints, TrainState


def parts(folder, keep_last=2):
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare_model(nn.Linear(2, 2))
    optimizer = accelerator.prepare_optimizer(torch.optim.AdamW(model.parameters(), lr=0.1))
    return model, optimizer, Checkpoints(folder, accelerator, keep_last)


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
    state = checkpoints.resume()
    assert state is not None and (state.step, state.tokens) == (1, 5)
    assert torch.equal(model.weight, kept)
    checkpoints.save(TrainState(step=3))
    assert checkpoints.steps() == [1, 3]


def test_nothing_to_resume(tmp_path):
    assert parts(tmp_path)[2].resume() is None


def test_weights_moments_and_all_random_generators_go_on(tmp_path):
    model, optimizer, checkpoints = parts(tmp_path)
    learn(model, optimizer)
    checkpoints.save(TrainState(step=1))
    learn(model, optimizer)
    expected = model.weight.detach().clone(), random.random(), numpy.random.rand(), torch.rand(1)

    model, optimizer, checkpoints = parts(tmp_path)
    random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
    checkpoints.resume()
    learn(model, optimizer)
    assert torch.equal(model.weight, expected[0])
    assert (random.random(), numpy.random.rand(), torch.rand(1)) == expected[1:]


def test_another_number_of_processes_does_not_go_on(tmp_path):
    model, _, checkpoints = parts(tmp_path)
    checkpoints.save(TrainState(step=1))
    file = checkpoints.path(1) / "state.json"
    state = json.loads(file.read_text())
    assert state["processes"] == 1
    file.write_text(json.dumps(state | {"processes": 4}))
    with torch.no_grad():
        model.weight.zero_()
    with pytest.raises(ValueError, match=r"4 processes .* now it is 1.*launch.num_processes=4"):
        checkpoints.resume()
    assert not model.weight.any()
