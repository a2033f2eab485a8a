"""One optimizer step: micro-batches through verifier, draft and losses, gradients, clipping, update."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from speculators.losses.distillation import distill, row_count
from speculators.model import SpeculatorModel, TrainingContext
from speculators.protocols.batch import Batch
from speculators.protocols.hidden_states import HiddenStates
from speculators.protocols.rows import DraftOutput
from speculators.settings.algorithm import AlgorithmSettings
from speculators.train.sharding import whole


class Student:
    """The draft in training, with the objects that its loss needs.

    Args:
        model: the draft; sharded already, or data-parallel from here on.
        verifier: its states and its head.
        algorithm: weights of the losses.
        accelerator: autocast, and gradients over processes.
    """

    def __init__(
        self, model: SpeculatorModel, verifier: HiddenStates, algorithm: AlgorithmSettings, accelerator: Accelerator
    ) -> None:
        self._layer_ids = model.layer_ids
        self._verifier = verifier
        self._algorithm = algorithm
        self._accelerator = accelerator
        self.model: nn.Module = model if isinstance(model, FSDPModule) else accelerator.prepare_model(model)

    def weight(self, batch: Batch) -> float:
        """Weight of a batch's loss relative to other batches; for a grid of rows, its number of targets."""
        return row_count(batch.rows.layout, self._algorithm.slot_decay)

    def announce(self, batches: Sequence[Batch]) -> None:
        """Say that batches will be learned from, or their loss computed, after those announced before."""
        for batch in batches:
            self._verifier.announce(batch, self._layer_ids)

    def loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss over the rows of a batch on the host, and the values that a `Meter` collects.

        Args:
            batch: with its rows planned.
            progress: share of the optimizer steps that are done, in [0, 1).
        """
        states = self._verifier(batch, self._layer_ids)
        batch, head = batch.to(self._verifier.device), self._verifier.head
        weights, slot_decay = self._algorithm.loss.model_dump(), self._algorithm.slot_decay
        with self._accelerator.autocast():
            output: DraftOutput = self.model(batch, states, head, TrainingContext(self._algorithm, progress))
            distilled = {
                name: distill(rows, batch, states, head, weights, slot_decay) for name, rows in output.rows.items()
            }
            first = next(iter(distilled.values()))
            extra = {name: function(first.results) for name, function in output.extra_losses.items()}
        parts = [output.rows[name].weight * d.loss for name, d in distilled.items()]
        loss = sum([*parts[1:], *(weights[name] * value for name, value in extra.items())], parts[0])
        sets = {f"loss_{name}": d.loss for name, d in distilled.items()} if len(distilled) > 1 else {}
        return loss, {**first.metrics, **sets, **extra}

    def learn(self, batches: Sequence[Batch], progress: float) -> dict[str, Tensor]:
        """Add the gradient of the mean over the rows of all `batches` together, independent of their division.

        Args:
            batches: this process's micro-batches of one optimizer step.
            progress: share of the optimizer steps that are done, in [0, 1).

        Returns:
            The values that a `Meter` collects; `loss` is the mean loss.
        """
        counts = [self.weight(batch) for batch in batches]
        device = self._verifier.device
        # Without any row the loss of a step is 0, not NaN.
        total = self._accelerator.reduce(torch.full((), sum(counts), device=device), "sum").clamp_min(1e-9)  # type: ignore[union-attr] # typed for nests
        sums: dict[str, Tensor] = {}
        for i, (batch, count) in enumerate(zip(batches, counts, strict=True)):
            last = i == len(batches) - 1
            # DDP and FSDP2 average over processes; multiplying by their number makes that a sum.
            share = count * self._accelerator.num_processes / total  # type: ignore[operator] # typed for nests
            with self._reducing(last):
                loss, metrics = self.loss(batch, progress)
                self._accelerator.backward(loss * share)
            for name, value in {"loss": loss, **metrics}.items():
                value = value.detach() if name.endswith("_S") else value.detach() * share
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def update(self, optimizers: Sequence[Optimizer], max_grad_norm: float) -> Tensor:
        """Clip, step and zero the gradients; returns the gradient norm before clipping."""
        norm = self._accelerator.clip_grad_norm_(self.model.parameters(), max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return whole(norm)  # type: ignore[arg-type] # a tensor on every backend but DeepSpeed

    def _reducing(self, last: bool) -> AbstractContextManager[None]:
        """While entered, a backward pass adds the gradients of all processes only if it is a step's last."""
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(last)
            return nullcontext()
        return nullcontext() if last else self._accelerator.no_sync(self.model)
