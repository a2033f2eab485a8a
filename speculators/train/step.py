"""One optimizer step: micro-batches through verifier, draft and losses, gradients, clipping, update."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from speculators.losses.distillation import distill
from speculators.model import SpeculatorModel
from speculators.protocols.batch import Batch
from speculators.protocols.hidden_states import HiddenStates
from speculators.settings.algorithm import AlgorithmSettings


class Student:
    """The draft in training, with everything that its loss needs.

    Args:
        model: the draft.
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
        self.model: nn.Module = accelerator.prepare_model(model)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss over the targets of a batch on the host, and what a `Meter` collects of it."""
        states = self._verifier(batch, self._layer_ids)
        batch = batch.to(self._verifier.device)
        with self._accelerator.autocast():
            output = self.model(batch, states, self._verifier.head)
            distilled = distill(
                output.rows, batch, states, self._verifier.head, self._algorithm.loss, self._algorithm.slot_decay
            )
        weights = self._algorithm.loss.model_dump()
        loss = sum((weights[name] * extra for name, extra in output.extra_losses.items()), distilled.loss)
        return loss, {**distilled.metrics, **output.extra_losses}

    def learn(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Add the gradient of the mean over the targets of all `batches` together, however these are cut.

        Returns:
            What a `Meter` collects; `loss` is the mean loss.
        """
        counts = [batch.target_N.numel() for batch in batches]
        device = self._verifier.device
        total = self._accelerator.reduce(torch.tensor(float(sum(counts)), device=device), "sum")
        sums: dict[str, Tensor] = {}
        for i, (batch, count) in enumerate(zip(batches, counts, strict=True)):
            last = i == len(batches) - 1
            # DDP averages over processes; times their number makes that a sum.
            share = count * self._accelerator.num_processes / total  # type: ignore[operator] # typed for nests
            with nullcontext() if last else self._accelerator.no_sync(self.model):
                loss, metrics = self.loss(batch)
                self._accelerator.backward(loss * share)
            for name, value in {"loss": loss, **metrics}.items():
                value = value.detach() if name.endswith("_S") else value.detach() * share
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def update(self, optimizers: Sequence[Optimizer], max_grad_norm: float) -> Tensor:
        """Clip, step, forget the gradients; the gradient's norm before clipping."""
        norm = self._accelerator.clip_grad_norm_(self.model.parameters(), max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return norm  # type: ignore[return-value] # a tensor on every backend but DeepSpeed
