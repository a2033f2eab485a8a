import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from speculators.data.collate import collate
from speculators.evaluate.evaluate import decoded_length
from speculators.train.device import start_accelerator
from speculators.train.interrupt import Interrupted
from speculators.train.loop import Loop, NotFinite, train
from speculators.train.step import Student
from speculators.verifier.in_process import Verifier
from speculators.verifier.loader import VerifierLoader
from tests.train.conftest import prepared_data


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def same(a, b):
    return all(torch.equal(a[n], b[n]) for n in a)


def test_training_lowers_the_loss_and_moves_everything(make_run, lines, fresh, verifier, prepared, tmp_path):
    run = make_run(trainer={"epochs": 12, "log_every": 5, "eval_every": 20}, tracker={"name": "tensorboard"})
    model = fresh(run)
    before = weights(model)
    result = train(model, verifier, prepared, run, tmp_path)
    losses = [line["loss"] for line in lines(tmp_path, "train")]
    assert losses[-1] < 0.8 * losses[0]
    assert [line["step"] for line in lines(tmp_path, "heldout")] == [20, 40, 60, 66]
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert result.step == result.steps == 66 and result.tokens == 12 * prepared.report.train_tokens
    assert result.heldout["acceptance"] == pytest.approx(lines(tmp_path, "heldout")[-1]["acceptance"])
    assert list(tmp_path.rglob("events.out.tfevents.*"))


MUON = {"name": "muon", "lr": 0.02, "momentum": 0.95, "weight_decay": 0.1, "adamw_lr": 0.003}


@pytest.mark.parametrize("optimizer", [{}, MUON], ids=["adamw", "muon"])
def test_resuming_goes_on_bit_equal(make_run, lines, fresh, verifier, prepared, tmp_path, optimizer):
    run = make_run(trainer={"epochs": 2, "max_steps": 6, "save_every": 3, "keep_last": 2}, optimizer=optimizer)
    straight = fresh(run)
    train(straight, verifier, prepared, run, tmp_path)

    half = tmp_path / "half"
    (half / "checkpoints").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step_3").rename(half / "checkpoints" / "step_3")
    resumed = fresh(run)
    torch.manual_seed(99)
    result = train(resumed, verifier, prepared, run, half)
    assert [line["step"] for line in lines(half, "train")] == [4, 6]
    assert result.steps == 6
    assert same(weights(straight), weights(resumed))


def test_damaged_readings_do_not_keep_a_run_from_going_on(make_run, lines, fresh, verifier, prepared, tmp_path):
    run = make_run(trainer={"max_steps": 4, "save_every": 2, "keep_last": 2, "log_every": 1})
    train(fresh(run), verifier, prepared, run, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "step_4")
    file = tmp_path / "metrics.jsonl"
    good = file.read_bytes().splitlines(True)
    broken = [
        b"{\n",
        b"\xff\xfe\n",
        b"[1]\n",
        b'{"step": "x"}\n',
        b'{"kind": "train"}\n',
        b"[" * 9999 + b"\n",
        b"cut off",
    ]
    file.write_bytes(b"".join([good[0], *broken[:3], *good[1:], *broken[3:]]))
    train(fresh(run), verifier, prepared, run, tmp_path)
    assert [line["step"] for line in lines(tmp_path, "train")] == [1, 2, 3, 4]


def test_a_finished_run_is_not_trained_again(make_run, fresh, verifier, prepared, tmp_path):
    run = make_run(trainer={"max_steps": 2})
    model = fresh(run)
    first = train(model, verifier, prepared, run, tmp_path)
    again = fresh(run)
    second = train(again, verifier, prepared, run, tmp_path)
    assert same(weights(model), weights(again))
    assert (second.steps, second.heldout, second.tokens) == (first.steps, first.heldout, first.tokens)


def test_the_best_step_is_published(make_run, lines, fresh, verifier, prepared, tmp_path):
    run = make_run(trainer={"epochs": 4, "eval_every": 1, "keep_best": True}, optimizer={"lr": 0.3})
    model = fresh(run)
    result = train(model, verifier, prepared, run, tmp_path)
    heldout = {line["step"]: line["acceptance"] for line in lines(tmp_path, "heldout")}
    best = max(heldout, key=lambda step: (heldout[step], -step))
    assert result.step == best and result.heldout["acceptance"] == heldout[best]
    other = tmp_path / "other"
    other.mkdir()
    loop = Loop(model, verifier, prepared, run, other)
    loop.evaluate()
    assert loop.state.heldout["acceptance"] == pytest.approx(heldout[best])


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_micro_batches_do_not_change_the_gradient(make_run, fresh, verifier, prepared, tmp_path, cut):
    run = make_run()
    whole, pieces = fresh(run), fresh(run)
    students = [
        Student(m, verifier, run.algorithm, start_accelerator(verifier.device, run, tmp_path)) for m in (whole, pieces)
    ]
    sums = students[0].learn([collate(prepared.train[:4], 3)], 0.0)
    cut_sums = students[1].learn([collate(prepared.train[i : i + cut], 3) for i in range(0, 4, cut)], 0.0)
    assert cut_sums["loss"].item() == pytest.approx(sums["loss"].item(), rel=1e-5)
    assert torch.equal(cut_sums["count_S"], sums["count_S"])
    for (name, a), (_, b) in zip(whole.named_parameters(), pieces.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on_bit_equal(
    make_run, fresh, verifier, prepared, tmp_path, monkeypatch, number, capsys
):
    run = make_run(trainer={"max_steps": 4, "log_every": 1})
    straight = fresh(run)
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
    train(straight, verifier, prepared, run, tmp_path / "straight")

    step = Loop.step

    def stopped(loop, check):
        step(loop, check)
        if loop.state.step == 2:
            os.kill(os.getpid(), number)

    model, folder = fresh(run), tmp_path / "stopped"
    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stop:
        patch.setattr(Loop, "step", stopped)
        train(model, verifier, prepared, run, folder)
    assert stop.value.code == 130
    assert f"speculators run {folder}" in capsys.readouterr().out
    train(model, verifier, prepared, run, folder)
    assert same(weights(straight), weights(model))


def test_nan_stops_and_the_last_good_checkpoint_stays(make_run, fresh, verifier, prepared, tmp_path, monkeypatch):
    run = make_run(trainer={"max_steps": 6, "save_every": 2, "log_every": 6})
    loss = Student.loss
    calls = []

    def broken(student, batch, progress):
        calls.append(1)
        value, metrics = loss(student, batch, progress)
        return (value * float("nan") if len(calls) == 4 else value), metrics

    monkeypatch.setattr(Student, "loss", broken)
    with pytest.raises(NotFinite, match=r"step 4: .*not finite \(step 2 is the last checkpoint before it\)"):
        train(fresh(run), verifier, prepared, run, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_2"]


def test_a_step_without_any_target_gives_no_nan(make_run, lines, fresh, verifier, tmp_path):
    """Its loss is zero. Each of eleven sequences is a step, and six have no target."""
    run = make_run(trainer={"batch_size": 1, "log_every": 1})
    model = fresh(run)
    train(model, verifier, prepared_data(unsupervised=6), run, tmp_path)
    losses = [line["loss"] for line in lines(tmp_path, "train")]
    assert losses.count(0.0) == 6 and len([loss for loss in losses if loss > 0]) == 5
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_dead_tensor_is_found_at_the_first_step(make_run, fresh, verifier, prepared, tmp_path):
    run = make_run()
    model = fresh(run)
    model.register_parameter("forgotten", torch.nn.Parameter(torch.ones(2)))
    with pytest.raises(RuntimeError, match="no gradient reaches forgotten"):
        train(model, verifier, prepared, run, tmp_path)


def test_bf16_keeps_fp32_masters(make_run, fresh, verifier, prepared, tmp_path):
    run = make_run(precision="bf16", trainer={"max_steps": 3})
    model = fresh(run)
    train(model, verifier, prepared, run, tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.isfinite().all() for p in model.parameters())


class Loaded(VerifierLoader):
    """A verifier that is in memory already."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier

    def whole(self) -> Verifier:
        return self.verifier


def test_the_best_decoded_step_is_published(make_run, lines, fresh, verifier, prepared, tmp_path):
    """Not the one of the best estimate; of two that are alike the first."""
    run = make_run(trainer={"max_steps": 5, "eval_every": 1, "keep_best": "decoded", "keep_last": 5})
    lengths, model = [1.25, 1.5, 1.125, 1.5, 1.0], fresh(run)
    given = iter(lengths)
    result = train(model, verifier, prepared, run, tmp_path, decoded=lambda: next(given))
    assert [line["acceptance_decoded"] for line in lines(tmp_path, "heldout")] == lengths
    assert result.step == 2 and result.heldout["acceptance_decoded"] == 1.5
    best = load_file(tmp_path / "checkpoints" / "step_2" / "model.safetensors")
    assert all(torch.equal(tensor, best[name]) for name, tensor in model.state_dict().items() if name in best)


def test_decoding_leaves_no_trace_and_a_resume_chooses_alike(make_run, lines, fresh, verifier, prepared, tmp_path):
    """Weights are those of a run that does not decode; resumed halfway, readings and the published step are the same."""
    base = {"epochs": 2, "max_steps": 6, "eval_every": 2, "save_every": 3, "keep_last": 6}
    for name in ("last", "straight"):
        (tmp_path / name).mkdir()
    last = fresh(make_run(trainer=base))
    train(last, verifier, prepared, make_run(trainer=base), tmp_path / "last")

    run = make_run(trainer=base | {"keep_best": "decoded"})

    def trained(folder: Path) -> tuple[int, dict[str, torch.Tensor]]:
        model = fresh(run)
        decoded = partial(decoded_length, model, Loaded(verifier), prepared.prompts, run)
        result = train(model, verifier, prepared, run, folder, decoded=decoded)
        assert result.heldout["acceptance_decoded"] == decoded()
        return result.step, weights(model)

    step, straight = trained(tmp_path / "straight")
    final = load_file(tmp_path / "straight" / "checkpoints" / "step_6" / "model.safetensors")
    assert all(torch.equal(final[name], tensor) for name, tensor in weights(last).items())

    half = tmp_path / "half"
    for kept in ("step_2", "step_3"):
        if (tmp_path / "straight" / "checkpoints" / kept).exists():
            shutil.copytree(tmp_path / "straight" / "checkpoints" / kept, half / "checkpoints" / kept)
    resumed_step, resumed = trained(half)
    assert resumed_step == step and same(resumed, straight)
    readings = [[r["acceptance_decoded"] for r in lines(tmp_path / f, "heldout")] for f in ("straight", "half")]
    assert readings[1] == readings[0][1:] and len(readings[1]) == 2
