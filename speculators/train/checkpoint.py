"""Resumable states of training, `checkpoints/step_N`: weights, optimizers, random generators, data position.

The learning rate and the order of the data are functions of the step (`schedule`, `order`); the step determines both.
All files are safetensors and JSON, which cannot run code, and a manifest of their hashes is written last.
"""

import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from speculators.runfolder.identity import STATE, check_same
from speculators.train import random_state
from speculators.train.metrics import Readings
from speculators.train.sharding import gathered, part
from speculators.utils import manifest
from speculators.utils.strict import read_as

log = logging.getLogger(__name__)
MODEL, OPTIMIZER, RANDOM = "model.safetensors", "optimizer.safetensors", "random_{}.json"
NAME = re.compile(r"step_[1-9][0-9]{0,17}")


@dataclass
class TrainState:
    """The state of training besides tensors.

    Attributes:
        step: optimizer steps done.
        tokens: tokens seen, padding aside.
        seconds: time spent in training, over all resumes.
        heldout: the newest held-out readings.
        best_step: step with the best held-out acceptance so far, estimated or decoded; None before the first.
        best: the held-out readings of that step.
        fresh: fingerprint of the trainable tensors before the first step.
        processes: number of training processes.
        sequences_per_step: of all processes together; 0 in checkpoints without it.
        identity: of the run, as `speculators.runfolder.identity` has it.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    heldout: Readings = field(default_factory=dict)
    best_step: int | None = None
    best: Readings = field(default_factory=dict)
    fresh: dict[str, list[float]] = field(default_factory=dict)
    processes: int = 1
    sequences_per_step: int = 0
    identity: dict[str, Any] = field(default_factory=dict)


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder of checkpoints, ascending."""
    return sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_*") if NAME.fullmatch(path.name))


def state_in(folder: Path, step: int) -> TrainState:
    """The state besides tensors in the checkpoint of one step.

    Raises:
        ValueError: it cannot be read; the message names the file.
    """
    return read_as(folder / f"step_{step}" / STATE, TrainState)


def problem_in(folder: Path, step: int, needs_best: bool) -> str | None:
    """Why the checkpoint of one step cannot be resumed, None if it can; reads all of it.

    Args:
        folder: of checkpoints.
        step: the checkpoint's.
        needs_best: whether the best step's checkpoint is needed, too.
    """
    needed = (MODEL, OPTIMIZER, STATE, RANDOM.format(0))
    if (damage := manifest.damage(folder / f"step_{step}", needed)) is not None:
        return damage
    try:
        best = state_in(folder, step).best_step
    except ValueError as error:
        return str(error)
    return manifest.damage(folder / f"step_{best}") if needs_best and best not in (None, step) else None


class Checkpoints:
    """Saves, loads and prunes the checkpoints of one run.

    Args:
        folder: `checkpoints` in the run's folder; made when something is saved.
        accelerator: of the run's processes.
        model: the draft itself, not wrapped.
        optimizers: of all its trainable parameters.
        identity: of the run; a checkpoint of another run is not resumed.
        sequences_per_step: over all processes; a checkpoint of other steps is not resumed.
        keep_last: newest checkpoints that are kept, >= 1; the best one is kept as well.
        needs_best: whether the best step's checkpoint will be loaded at the end.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        identity: dict[str, Any],
        sequences_per_step: int,
        keep_last: int,
        needs_best: bool,
    ) -> None:
        self.folder = folder
        self._accelerator = accelerator
        self._model, self._optimizers = model, optimizers
        self._identity, self._sequences_per_step = identity, sequences_per_step
        self._keep_last, self._needs_best = keep_last, needs_best
        self._passed_over: set[int] = set()

    def steps(self) -> list[int]:
        """Steps of the existing checkpoints, ascending."""
        return steps_in(self.folder)

    def path(self, step: int) -> Path:
        """Path of the checkpoint of a step."""
        return self.folder / f"step_{step}"

    def save(self, state: TrainState) -> None:
        """Write `step_N` atomically, then remove checkpoints that are not to be kept."""
        complete, partial = self.path(state.step), self.folder / "partial"
        first, together = self._accelerator.is_main_process, self._accelerator.wait_for_everyone
        if first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        together()
        rank = self._accelerator.process_index
        (partial / RANDOM.format(rank)).write_text(json.dumps(random_state.get(self._accelerator.device)))
        for name, tensors in ((MODEL, self._model.state_dict()), (OPTIMIZER, moments(self._model, self._optimizers))):
            whole = gathered(tensors, keep=first)
            if first:
                save_file({key: tensor.contiguous() for key, tensor in whole.items()}, partial / name)
        together()
        if first:
            saved = replace(
                state,
                processes=self._accelerator.num_processes,
                sequences_per_step=self._sequences_per_step,
                identity=self._identity,
            )
            (partial / STATE).write_text(json.dumps(asdict(saved), indent=1))
            manifest.write(partial, partial.iterdir())
            if complete.exists():
                shutil.rmtree(complete)
            partial.rename(complete)
            self._passed_over.discard(state.step)
            good = [step for step in self.steps() if step not in self._passed_over]
            kept = {*good[-self._keep_last :], state.best_step}
            for step in self.steps():
                if step not in kept:
                    shutil.rmtree(self.path(step))
        together()

    def resume(self) -> TrainState | None:
        """Load the newest undamaged checkpoint; None if there are no checkpoints.

        Raises:
            WrongInput: another run wrote it.
            ValueError: as `load`, or all checkpoints are damaged.
        """
        step = self._newest_good() if self._accelerator.is_main_process else 0
        chosen: Any = self._accelerator.reduce(torch.tensor(step, device=self._accelerator.device), "sum")
        return self.load(int(chosen)) if int(chosen) else None

    def load(self, step: int) -> TrainState:
        """Load the checkpoint of one step into model, optimizers and random generators.

        Raises:
            ValueError: another number of processes wrote it, whose steps had another number of sequences.
        """
        path, state, processes = self.path(step), state_in(self.folder, step), self._accelerator.num_processes
        if processes != state.processes and self._sequences_per_step != state.sequences_per_step:
            raise ValueError(
                f"{path}: it was trained by {state.processes} processes, now there are {processes}, which would read other data "
                f"in each step. Resume with launch.num_processes={state.processes}; trainer.sequences_per_step makes the steps "
                "of a new run independent of it"
            )
        own = self._model.state_dict()
        self._model.load_state_dict({name: part(t, own[name]) for name, t in load_file(path / MODEL).items()})
        put_moments(self._model, self._optimizers, load_file(path / OPTIMIZER))
        rank = self._accelerator.process_index % state.processes
        random_state.put(json.loads((path / RANDOM.format(rank)).read_text()), self._accelerator.device)
        # Each process counts the tokens of its own sequences.
        return replace(state, tokens=state.tokens * state.processes // processes)

    def _newest_good(self) -> int:
        """The step to resume from; 0 if there are no checkpoints."""
        problems = {}
        for step in reversed(self.steps()):
            if (problem := problem_in(self.folder, step, self._needs_best)) is not None:
                problems[step] = problem
                continue
            check_same(self._identity, state_in(self.folder, step).identity, self.path(step))
            for line in problems.values():
                log.warning("checkpoint skipped: %s; resuming from %s", line, self.path(step))
            self._passed_over = set(problems)
            return step
        if problems:
            raise ValueError(f"{'; '.join(problems.values())}; remove {self.folder} to train again from the start")
        return 0


def moments(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """The state tensors of optimizers, as `PARAMETER/NAME`; their other state follows from the run's settings."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": tensor
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, tensor in state.items()
    }


def put_moments(model: nn.Module, optimizers: Sequence[Optimizer], tensors: dict[str, Tensor]) -> None:
    """Load into optimizers the tensors that `moments` took from others of the same parameters."""
    parameters = dict(model.named_parameters())
    names: dict[Tensor, str] = {parameter: name for name, parameter in parameters.items()}
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition("/")
        # A number, such as AdamW's count of steps, is not divided.
        own = part(tensor, parameters[parameter]) if tensor.ndim else tensor
        by_parameter.setdefault(parameter, {})[key] = own
    for optimizer in optimizers:
        # By number, in the order of the groups: so torch moves each to the device and dtype that it needs.
        own = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
        state = {i: by_parameter[name] for i, name in enumerate(own) if name in by_parameter}
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
