"""Settings of `optimizer`, `schedule` and `trainer`."""

from math import ceil
from typing import Annotated, Literal

from pydantic import Field

from speculators.utils.strict import Fraction, PositiveInt, Strict


class AdamW(Strict):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    name: Literal["adamw"]
    lr: float = Field(gt=0, lt=1, description="peak learning rate")
    # YAML has no tuples.
    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], Field(strict=False)
    ]
    eps: float = Field(gt=0)
    weight_decay: float = Field(ge=0)


class Muon(Strict):
    """Muon for matrices (Jordan et al. 2024), AdamW for embeddings, heads and norms."""

    name: Literal["muon"]
    lr: float = Field(gt=0, lt=1, description="peak learning rate of the matrices")
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    adamw_lr: float = Field(gt=0, lt=1, description="peak learning rate of all other parameters")


class ScheduleSettings(Strict):
    """Learning-rate schedule: linear warm-up, then decay of the form `name` to min_lr_ratio of the peak."""

    name: Literal["linear", "cosine", "constant"]
    warmup_ratio: Fraction = Field(description="share of all steps spent warming up")
    min_lr_ratio: Fraction = Field(description="last learning rate, as a share of the peak")


class TrainerSettings(Strict):
    """Training loop: duration, batch size, and which checkpoints are kept."""

    epochs: PositiveInt = Field(description="passes over the training data")
    max_steps: PositiveInt | None = Field(description="most optimizer steps; null is all epochs")
    batch_size: PositiveInt = Field(description="packed sequences of data.max_length tokens per device and pass")
    gradient_accumulation_steps: PositiveInt
    sequences_per_step: PositiveInt | None = Field(
        description="packed sequences of an optimizer step over all processes; null is those of each process together"
    )
    max_grad_norm: float = Field(gt=0, description="gradients are clipped to this norm")
    log_every: PositiveInt = Field(description="steps between two lines of metrics")
    eval_every: PositiveInt | None = Field(description="steps between two held-out losses; null is only at the end")
    save_every: PositiveInt | None = Field(
        description="steps between two resumable checkpoints; null is only at the end"
    )
    keep_last: PositiveInt = Field(description="resumable checkpoints kept")
    keep_best: Literal[True, False, "decoded"] = Field(
        description="publish the step with the best held-out acceptance estimate, or decoded acceptance length, not the last"
    )
    keep_best_prompts: PositiveInt = Field(description="held-out prompts decoded at each step of keep_best=decoded")
    init_from: str | None = Field(
        min_length=1,
        description="folder of a published draft whose weights the training starts from; null is new weights",
    )

    def passes(self) -> int:
        """Passes in an optimizer step of one process."""
        if self.sequences_per_step is None:
            return self.gradient_accumulation_steps
        return ceil(self.sequences_per_step / self.batch_size)
