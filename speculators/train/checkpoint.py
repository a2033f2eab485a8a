"""Resumable states of training, `checkpoints/step_N`: weights, optimizers, random generators, the place in the data.

The learning rate and the order of the data are functions of the step (`schedule`, `order`), so the step says both.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from accelerate import Accelerator

from speculators.train.metrics import Readings


@dataclass
class TrainState:
    """All that training changes besides tensors.

    Attributes:
        step: optimizer steps done.
        tokens: tokens seen, padding aside.
        seconds: time spent in training, over all resumes.
        heldout: the newest held-out readings.
        best_step: step with the best held-out acceptance estimate so far; None before the first.
        best: the held-out readings of that step.
        fresh: fingerprint of the trainable tensors before the first step.
        processes: how many train together; they say what a step is.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    heldout: Readings = field(default_factory=dict)
    best_step: int | None = None
    best: Readings = field(default_factory=dict)
    fresh: dict[str, list[float]] = field(default_factory=dict)
    processes: int = 1


def steps_in(folder: Path) -> list[int]:
    """Steps of the whole checkpoints in a folder of checkpoints, ascending."""
    return sorted(int(p.parent.name.removeprefix("step_")) for p in folder.glob("step_*/state.json"))


def state_in(folder: Path, step: int) -> TrainState:
    """What the checkpoint of one step holds besides tensors."""
    return TrainState(**json.loads((folder / f"step_{step}" / "state.json").read_text()))


class Checkpoints:
    """The folder of one run's checkpoints.

    Args:
        folder: `checkpoints` in the run's folder; made when something is saved.
        accelerator: holds the model and the optimizers, prepared.
        keep_last: newest checkpoints that stay, >= 1; the best one stays besides.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, keep_last: int) -> None:
        self.folder = folder
        self._accelerator = accelerator
        self._keep_last = keep_last

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints there are, ascending."""
        return steps_in(self.folder)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.folder / f"step_{step}"

    def save(self, state: TrainState) -> None:
        """Write `step_N`, whole or not at all, then remove what is not to be kept."""
        whole, partial = self.path(state.step), self.folder / "partial"
        self._accelerator.save_state(str(partial))
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            saved = asdict(replace(state, processes=self._accelerator.num_processes))
            (partial / "state.json").write_text(json.dumps(saved, indent=1))
            if whole.exists():
                shutil.rmtree(whole)
            partial.rename(whole)
            kept = {*self.steps()[-self._keep_last :], state.best_step}
            for step in self.steps():
                if step not in kept:
                    shutil.rmtree(self.path(step))
        self._accelerator.wait_for_everyone()

    def resume(self) -> TrainState | None:
        """Load the newest checkpoint into model, optimizers and random generators; None if there is none."""
        steps = self.steps()
        return self.load(steps[-1]) if steps else None

    def load(self, step: int) -> TrainState:
        """Load the checkpoint of one step.

        Raises:
            ValueError: another number of processes wrote it.
        """
        path, state = self.path(step), state_in(self.folder, step)
        if state.processes != self._accelerator.num_processes:
            raise ValueError(
                f"{path}: {state.processes} processes trained together, now it is {self._accelerator.num_processes}; a step "
                f"would be another part of the data. Go on with as many (launch.num_processes={state.processes})"
            )
        self._accelerator.load_state(str(path))
        return state
