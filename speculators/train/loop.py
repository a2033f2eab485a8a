"""The training loop, independent of the algorithm; the phases of a step are in `Loop.run`, in order."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from speculators.data.prepare import Prepared
from speculators.data.vllm_server import ServerUnavailable
from speculators.model import SpeculatorModel
from speculators.protocols.batch import Batch
from speculators.protocols.hidden_states import HiddenStates
from speculators.runfolder.folder import TRAININGS, RunFolder
from speculators.runfolder.identity import identity
from speculators.runfolder.rights import command
from speculators.settings.run_config import RunConfig
from speculators.train import optimizer
from speculators.train.batches import HELDOUT, Batches, announced, made_ahead
from speculators.train.checkpoint import Checkpoints, TrainState, problem_in, state_in, steps_in
from speculators.train.device import float32_products, start_accelerator
from speculators.train.interrupt import Interrupt, Interrupted
from speculators.train.metrics import Meter, Readings
from speculators.train.moved import check_gradients, check_moved, fingerprint
from speculators.train.order import Order, Place
from speculators.train.progress import TrainProgress, describe
from speculators.train.schedule import scale, set_learning_rate
from speculators.train.sharding import reshard, shard
from speculators.train.step import Student
from speculators.train.tracking import Tracking
from speculators.utils.device import memory_gb

# Held-out readings that may choose the best step.
ESTIMATED, DECODED = "acceptance", "acceptance_decoded"


@dataclass(frozen=True)
class TrainResult:
    """The result of training.

    Attributes:
        step: the step whose weights the model now has.
        steps: optimizer steps done.
        tokens: tokens seen, padding aside.
        seconds: time spent in training steps, over all resumes.
        heldout: held-out readings at `step`; empty without held-out data.
        tracking: still open, for the evaluation; the caller closes it.
    """

    step: int
    steps: int
    tokens: int
    seconds: float
    heldout: Readings
    tracking: Tracking


class NotFinite(RuntimeError):
    """A loss or a gradient became NaN or infinite."""


def train(
    model: SpeculatorModel,
    verifier: HiddenStates,
    prepared: Prepared,
    run: RunConfig,
    folder: Path,
    read: Mapping[str, str] = {},
    decoded: Callable[[], float] | None = None,
) -> TrainResult:
    """Train `model` in place, sharded if the run's is, from the newest checkpoint in the folder if there is one.

    Args:
        model: the draft, on the verifier's device.
        verifier: its states of all of `prepared`, and its head.
        prepared: packed training and held-out sequences.
        run: the run's config.
        folder: the run's folder; gets checkpoints/, metrics.jsonl and the tracker's files.
        read: hashes of what the run reads; checkpoints trained on something else are not resumed.
        decoded: acceptance length of `model` by decoding, by which trainer.keep_best=decoded chooses.

    Returns:
        The result; `model` then has the weights to publish.

    Raises:
        WrongInput: the checkpoints in the folder are another run's.
        NotFinite: names the step; the last good checkpoint stays.
        ServerUnavailable: a server does not deliver the states of the next step; a checkpoint was saved, unless there are several
            processes.
        Interrupted: a signal was received; a checkpoint was saved.
        KeyboardInterrupt: a signal was received while states were missing, and there was nothing to save.
    """
    loop = Loop(model, verifier, prepared, run, folder, read, decoded)
    try:
        with Interrupt(verifier.stop_waiting) as interrupt, loop.progress, float32_products(loop.device, run.precision):
            loop.run(interrupt)
            return loop.finish()
    except BaseException:
        loop.tracking.close()
        raise


def finished(folder: Path, run: RunConfig, sequences: int) -> bool:
    """Whether a folder's newest checkpoint is complete and of a run's last step, so that `train` reads no states.

    Args:
        folder: in which the run trains.
        run: the run's config.
        sequences: packed sequences in the training data, >= 1.
    """
    checkpoints = RunFolder(folder).checkpoints
    steps = steps_in(checkpoints)
    if not steps or problem_in(checkpoints, steps[-1], bool(run.trainer.keep_best)) is not None:
        return False
    state = state_in(checkpoints, steps[-1])
    return state.step == Order(sequences, run.seed, run.trainer, state.processes).steps


class Loop:
    """The parts of one run's training, and its phases."""

    def __init__(
        self,
        model: SpeculatorModel,
        verifier: HiddenStates,
        prepared: Prepared,
        run: RunConfig,
        folder: Path,
        read: Mapping[str, str] = {},
        decoded: Callable[[], float] | None = None,
    ) -> None:
        self.decoded = decoded
        self.bare, self.data, self.settings, self.folder = model, prepared, run, folder
        self.device = verifier.device
        self.accelerator = start_accelerator(self.device, run, folder)
        if run.launch.sharding == "fsdp2" and self.accelerator.num_processes > 1:
            shard(model)
        plan = partial(type(model).plan_rows, run.algorithm)
        self.train, self.heldout = (Batches(s, plan, run.seed) for s in (prepared.train, prepared.heldout))
        self.student = Student(model, verifier, run.algorithm, self.accelerator)
        made = optimizer.build(model, run.optimizer)
        self.optimizers = [self.accelerator.prepare_optimizer(o) for o in made]
        self.order = Order(len(prepared.train), run.seed, run.trainer, self.accelerator.num_processes)
        self.checkpoints = Checkpoints(
            RunFolder(folder).checkpoints,
            self.accelerator,
            model,
            made,
            identity=identity(run, read),
            sequences_per_step=self.order.per_step,
            keep_last=run.trainer.keep_last,
            needs_best=bool(run.trainer.keep_best),
        )
        self.state = self.checkpoints.resume() or TrainState(fresh=fingerprint(model))
        self.ahead = verifier.prefetch_steps
        left = made_ahead(self.batches_of, range(self.state.step, self.order.steps))
        self.left = announced(left, self.student.announce, self.ahead)
        self.tracking = Tracking(self.accelerator, run, folder, self.state.step)
        self.progress = TrainProgress(self.order.steps, self.state.step, self.accelerator.is_main_process)
        self.meter = Meter()
        # First step with a non-finite loss or gradient; stays on the device until `check_finite` reads it.
        self.broken = torch.tensor(math.inf, device=self.device)
        # Number of processes that had received a signal, as of the previous step.
        self.asked: Any = False
        self.lap_start, self.lap_tokens = time.monotonic(), self.state.tokens

    def run(self, interrupt: Interrupt) -> None:
        """Run all remaining steps, with logging, evaluation and checkpoints."""
        trainer, state, steps = self.settings.trainer, self.state, self.order.steps
        if state.step:
            self.progress.say(f"resuming after step {state.step} of {steps}")
        self.bare.train()
        logged, first, stopping = state.step, state.step + 1, False
        while state.step < steps and not stopping:
            # 1. learn
            set_learning_rate(self.optimizers, scale(state.step, steps, self.settings.schedule))
            try:
                self.step(check=state.step + 1 == first)
            except ServerUnavailable:
                # The processes of a run may not all lack states, and they save together.
                can_save = state.step > 0 and self.accelerator.num_processes == 1
                if interrupt.asked:
                    raise (self.stopped() if can_save else KeyboardInterrupt) from None
                if can_save:
                    self.progress.say(f"step {state.step} is saved. To resume: {self.saved()}")
                raise
            self.progress.advance()
            last = state.step == steps
            # 2. log
            if last or state.step % trainer.log_every == 0:
                self.log(state.step - logged)
                logged = state.step
            # 3. evaluate
            improved = False
            if last or due(state.step, trainer.eval_every):
                improved = self.evaluate()
            # 4. save
            if last or due(state.step, trainer.save_every) or (improved and trainer.keep_best):
                self.save()
            # 5. stop
            stopping = self.stopping(interrupt, last)
        if stopping:
            raise self.stopped()

    def step(self, check: bool) -> None:
        """One optimizer step."""
        batches = next(self.left)
        sums = self.student.learn(batches, self.progress_made)
        if check:
            check_gradients(self.bare)
        norm = self.student.update(self.optimizers, self.settings.trainer.max_grad_norm)
        self.state.step += 1
        self.state.tokens += sum(sum(batch.rows.lengths) for batch in batches)
        fine = torch.isfinite(sums["loss"]) & torch.isfinite(norm)
        self.broken = torch.where(fine, self.broken, self.broken.clamp(max=self.state.step))
        self.meter.add({**sums, "grad_norm": norm})

    def batches_of(self, step: int) -> list[Batch]:
        """This process's micro-batches of a step, on the host; called in a thread."""
        places = self.order.of_step(step, self.accelerator.process_index)
        batches = [self.train.of(some, step) for some in places]
        return [batch.pinned() for batch in batches] if self.device.type == "cuda" else batches

    @property
    def progress_made(self) -> float:
        """Fraction of the optimizer steps that are done."""
        return self.state.step / self.order.steps

    def stopping(self, interrupt: Interrupt, last: bool) -> bool:
        """Whether any process received a signal: all must stop after the same step, or collectives deadlock."""
        if self.accelerator.num_processes == 1:
            return interrupt.asked
        # The reduced count is read one step later, when it is available without waiting for the device.
        before, self.asked = self.asked, self.accelerator.reduce(self.broken.new_full((), interrupt.asked), "sum")
        return bool(before) or (last and bool(self.asked))

    def check_finite(self) -> None:
        """Stop the run if a step since the last check had a non-finite loss or gradient; waits for the device."""
        broken = self.broken.item()
        if broken < math.inf:
            saved = self.checkpoints.steps()
            kept = f"step {saved[-1]} is the last checkpoint before it" if saved else "no checkpoint was saved"
            raise NotFinite(
                f"step {int(broken)}: the loss or its gradient is not finite ({kept}). Lower optimizer.lr or "
                "trainer.max_grad_norm, lengthen schedule.warmup_ratio, or set precision=fp32"
            )

    def lap(self) -> float:
        """Seconds since the last lap, added to the training time."""
        now = time.monotonic()
        seconds, self.lap_start = now - self.lap_start, now
        self.state.seconds += seconds
        return seconds

    def log(self, steps: int) -> None:
        """Read the meter of the last `steps` steps; write it to the trackers and the progress display."""
        self.check_finite()
        readings = self.meter.read(self.accelerator, steps)
        tokens, self.lap_tokens = self.state.tokens - self.lap_tokens, self.state.tokens
        readings["learning_rate"] = self.optimizers[0].param_groups[0]["lr"]
        readings["tokens_per_second"] = tokens * self.accelerator.num_processes / self.lap()
        readings["seconds"] = self.state.seconds
        readings["memory_gb"] = memory_gb(self.device)
        self.tracking.log(self.state.step, "train", readings)
        self.progress.show(self.state.step, readings)

    @torch.no_grad()
    def evaluate(self) -> bool:
        """Compute the held-out readings; returns whether the one that chooses the best step is the best so far."""
        self.check_finite()
        self.lap()
        size, count = self.settings.trainer.batch_size, len(self.data.heldout)
        self.bare.eval()
        meter, total = Meter(), 0.0
        places = ([Place(i, i) for i in range(start, min(start + size, count))] for start in range(0, count, size))
        batches = ([self.heldout.of(chosen, HELDOUT)] for chosen in places)
        for (batch,) in announced(batches, self.student.announce, self.ahead):
            weight = self.student.weight(batch)
            loss, metrics = self.student.loss(batch, self.progress_made)
            meter.add({n: v if n.endswith("_S") else v * weight for n, v in {"loss": loss, **metrics}.items()})
            total += weight
        reshard(self.bare)
        decoded = None if self.decoded is None else self.decoded()
        self.bare.train()
        if not total:
            return False
        readings = meter.read(self.accelerator, total)
        if decoded is not None:
            # Processes must agree on the best step, also if the last bit of a logit differs between their devices.
            reduced: Any = self.accelerator.reduce(torch.tensor(decoded, device=self.device), "mean")
            readings[DECODED] = reduced.item()
        self.tracking.log(self.state.step, "heldout", readings)
        self.progress.say(f"step {self.state.step} held-out {describe(readings)}")
        self.state.heldout = readings
        chooses = ESTIMATED if decoded is None else DECODED
        improved = self.state.best_step is None or readings[chooses] > self.state.best[chooses]
        if improved:
            self.state.best_step, self.state.best = self.state.step, readings
        self.lap_start = time.monotonic()
        return improved

    def save(self) -> None:
        """Save a resumable checkpoint of this step."""
        self.check_finite()
        self.lap()
        self.checkpoints.save(self.state)
        self.lap_start = time.monotonic()

    def saved(self) -> str:
        """Save this step, unless it is saved already; returns what to do to resume from it."""
        if self.state.step not in self.checkpoints.steps():
            self.save()
        # A training that trials of a sweep share has no run.yaml of its own.
        shared = self.folder.parent.name == TRAININGS
        return "repeat the sweep's command" if shared else command(self.folder, self.settings)

    def stopped(self) -> Interrupted:
        """Save this step; returns the exception that ends the run and says how to resume it."""
        stop = Interrupted(self.state.step, self.saved())
        self.progress.say(stop.message)
        return stop

    def finish(self) -> TrainResult:
        """Check that every trainable tensor changed, load the weights to publish, and release accelerate."""
        state = self.state
        check_moved(self.bare, state.fresh)
        step, heldout = state.step, state.heldout
        if self.settings.trainer.keep_best and state.best_step not in (None, step):
            self.checkpoints.load(state.best_step)
            step, heldout = state.best_step, state.best
            what = "acceptance length, decoded" if DECODED in heldout else "acceptance estimate"
            self.progress.say(f"publishing step {step}, which has the best held-out {what}")
        self.accelerator.unwrap_model(self.student.model, keep_fp32_wrapper=False)
        self.accelerator.free_memory()
        self.bare.eval()
        return TrainResult(step, state.step, state.tokens, state.seconds, heldout, self.tracking)


def due(step: int, every: int | None) -> bool:
    """Whether an action with interval `every` is due at this step."""
    return every is not None and step % every == 0
