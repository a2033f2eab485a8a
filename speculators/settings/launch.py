"""Settings of `launch` and `tracker`: how processes are started, and where metrics go."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from speculators.utils.strict import Count, Strict


def _project(name: str) -> str:
    # Some trackers write into a folder of this name.
    if name in (".", "..") or any(character in name for character in "/\\\0"):
        raise ValueError("must be a name without slashes, no path")
    return name


class TrackerSettings(Strict):
    """Where metrics go besides metrics.jsonl; the names are accelerate's."""

    name: Literal[
        "none", "tensorboard", "wandb", "mlflow", "comet_ml", "clearml", "aim", "dvclive", "swanlab", "trackio"
    ]
    project: Annotated[str, AfterValidator(_project)] = Field(min_length=1)


class LaunchSettings(Strict):
    """How the processes of a run or a sweep are started."""

    mode: Literal["process", "inline", "torchrun"] = Field(
        description="process: each trial of a sweep in its own process; inline: all in one; torchrun: each run in several"
    )
    num_processes: Count | None = Field(
        description="processes of a run with torchrun on each machine; null is one per accelerator"
    )
    num_nodes: Count = Field(description="machines of a run with torchrun")
    rdzv_endpoint: str | None = Field(
        min_length=1, description="HOST:PORT at which torchrun's processes on several machines find each other"
    )
    sharding: Literal["ddp", "fsdp2"] = Field(
        description="ddp: each process holds the whole draft; fsdp2: a part of its parameters, gradients and optimizer states"
    )
    timeout: float | None = Field(gt=0, description="seconds after which a trial is stopped; null is no limit")
    on_failure: Literal["continue", "stop"] = Field(
        description="whether a sweep continues or stops after a failed trial"
    )
    num_threads: Count | None = Field(description="CPU threads of torch; null is torch's default")
