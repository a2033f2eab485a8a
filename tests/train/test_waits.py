"""Between two log lines no step reads a value of the device: each read waits for all that is queued there."""

import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM

from speculators.protocols.batch import Batch
from speculators.train.batches import made_ahead
from speculators.train.loop import Loop
from speculators.verifier.in_process import Verifier
from tests.train.conftest import drafted, tiny_llama

aten = torch.ops.aten
# Operations that give a value to the host, or whose result has a size that depends on values.
READS = {
    aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default, aten.nonzero.default,
    aten.masked_select.default, aten._unique2.default, aten.bincount.default, aten.repeat_interleave.Tensor,
    aten.unique_consecutive.default, aten.unique_dim.default,
}  # fmt: skip


@pytest.fixture
def packing(llama: LlamaForCausalLM) -> Verifier:
    """A verifier that computes packed rows as they are, as on an accelerator."""
    verifier = Verifier(llama)
    verifier.packs = True
    return verifier


class Reads(TorchDispatchMode):
    """Collects the places of such operations. On a CPU nothing waits for them, but they are dispatched alike."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()]
            # The optimizers of torch count their steps in tensors on the host.
            if not any("/site-packages/torch/optim/" in frame for frame in frames):
                self.places.append(
                    next(f for f in reversed(frames) if "/site-packages/torch/" not in f and __file__ not in f)
                )
        return func(*args, **(kwargs or {}))


def reads_of_steps(loop: Loop, steps: int) -> list[str]:
    """Where the steps after the first, which is checked, read values."""
    loop.bare.train()
    loop.step(check=True)
    with Reads() as reads:
        for _ in range(steps):
            loop.step(check=False)
    return reads.places


MUON = {"name": "muon", "lr": 0.02, "momentum": 0.95, "weight_decay": 0.1, "adamw_lr": 0.003}


@pytest.mark.parametrize("optimizer", [{}, MUON], ids=["adamw", "muon"])
def test_a_step_reads_no_value(make_run, fresh, packing, prepared, tmp_path: Path, optimizer: dict[str, Any]) -> None:
    """Only transformers does, once in each pass of a verifier in the training process: whether documents are packed."""
    run = make_run(trainer={"epochs": 4, "batch_size": 2, "gradient_accumulation_steps": 2}, optimizer=optimizer)
    model = fresh(run)
    places = reads_of_steps(Loop(model, packing, prepared, run, tmp_path), 2)
    assert len(places) == 4 and all("masking_utils" in place for place in places), places


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("optimizer", [{}, MUON], ids=["adamw", "muon"])
def test_a_step_does_not_wait_for_cuda(make_run, prepared, tmp_path: Path, optimizer: dict[str, Any]) -> None:
    """The same of what CUDA itself counts as waiting."""
    run = make_run(device="cuda", trainer={"epochs": 4, "gradient_accumulation_steps": 2}, optimizer=optimizer)
    verifier = Verifier(tiny_llama().cuda())
    loop = Loop(drafted(run, verifier, prepared), verifier, prepared, run, tmp_path)
    loop.bare.train()
    loop.step(check=True)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        for _ in range(2):
            loop.step(check=False)
        torch.cuda.set_sync_debug_mode("default")
    places = [
        f"{warning.filename}:{warning.lineno}" for warning in found if "called a synchronizing" in str(warning.message)
    ]
    assert len(places) == 4 and all("masking_utils" in place for place in places), places


def test_a_read_is_found(make_run, fresh, packing, prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the losses, say."""
    run, learn = make_run(trainer={"epochs": 4}), Loop.step

    def step(loop: Loop, check: bool) -> None:
        learn(loop, check)
        float(loop.broken)

    monkeypatch.setattr(Loop, "step", step)
    places = reads_of_steps(Loop(fresh(run), packing, prepared, run, tmp_path), 1)
    assert sum("masking_utils" not in place for place in places) == 1


def test_the_next_step_is_made_meanwhile() -> None:
    """One step ahead and no more, in order; an error is raised where its step is needed."""
    made: list[int] = []

    def make(step: int) -> list[Batch]:
        if step == 3:
            raise ValueError("three")
        made.append(step)
        return []

    steps = made_ahead(make, range(9))
    assert next(steps) == []
    while made != [0, 1]:
        time.sleep(0.001)
    time.sleep(0.02)
    assert made == [0, 1]
    next(steps)
    next(steps)
    with pytest.raises(ValueError, match="three"):
        next(steps)
