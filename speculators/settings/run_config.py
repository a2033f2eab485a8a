"""RunConfig: all settings of one run, composed by Hydra and validated here. Torch-free; all defaults are in conf/."""

import re
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic import ValidatorFunctionWrapHandler as Handler
from pydantic_core import InitErrorDetails

from speculators.cache.settings import CacheSettings
from speculators.proposals import TokenProposalConfig
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.strict import Fraction, PositiveInt, Strict
from speculators.verifier.settings import VerifierSettings

# Variables of a chat template that are set per conversation.
OF_A_CONVERSATION = ("messages", "tools", "documents", "add_generation_prompt", "strftime_now")


def _variables(variables: dict[str, Any]) -> dict[str, Any]:
    if taken := [name for name in variables if name in OF_A_CONVERSATION]:
        raise ValueError(f"{taken[0]} follows from each conversation and cannot be set")
    if odd := [name for name in variables if not name.isidentifier()]:
        raise ValueError(f"{odd[0]!r} is no name of a variable")
    return variables


def _date(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise ValueError("should be a day as YYYY-MM-DD") from error
    return text


class DataSettings(Strict):
    """Settings that all sources of conversations share."""

    max_length: int = Field(ge=16, description="tokens of a packed sequence; a longer conversation is cut")
    max_conversations: PositiveInt | None = Field(description="use the first so many after shuffling; null is all")
    heldout_fraction: float = Field(gt=0, lt=1, description="share of the prompts kept from training, for evaluation")
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_variables)] | None = Field(
        description="variables of the verifier's chat template, e.g. {enable_thinking: false}"
    )
    chat_template_date: Annotated[str, AfterValidator(_date)] | None = Field(
        description="the day that a chat template prints as today's, YYYY-MM-DD; null is the day of the run"
    )
    regenerate: bool = Field(description="replace each answer by the verifier's own")
    regenerate_max_new_tokens: PositiveInt | None = Field(
        description="tokens of a regenerated answer; null is what data.max_length leaves"
    )
    regenerate_temperature: float = Field(ge=0, description="of sampled answers; 0 is greedy")
    regenerate_seed: int = Field(ge=0, lt=2**32, description="of sampled answers")
    regenerate_unfinished: Literal["keep", "drop"] = Field(
        description="what becomes of a regenerated answer that did not end within its tokens"
    )


class ChatData(DataSettings):
    """The embedded conversations: greedy answers of the embedded verifier."""

    source: Literal["chat"]


class JsonlData(DataSettings):
    """Files of conversations: JSON lines, also compressed, or parquet, in ShareGPT's or OpenAI's format."""

    source: Literal["jsonl"]
    path: str = Field(min_length=1, description="a file, a folder of such, or a pattern")


class HubData(DataSettings):
    """A data set of the Hub, read by `datasets`."""

    source: Literal["hub"]
    name: str = Field(min_length=1, description="data set id")
    subset: str | None = Field(description="configuration of the data set")
    split: str = Field(min_length=1, description="split to read")
    revision: str | None = Field(description="branch, tag or commit")
    streaming: bool = Field(description="read from the Hub as it is used, not downloaded first")


class Source(Strict):
    """One source of a mixture; keys have defaults here, since conf/ cannot set them for the items of a list."""

    path: str | None = Field(default=None, min_length=1, description="as data.path of data=jsonl")
    name: str | None = Field(default=None, min_length=1, description="as data.name of data=hub")
    subset: str | None = Field(default=None, description="configuration of the data set")
    split: str = Field(default="train", min_length=1, description="split to read")
    revision: str | None = Field(default=None, description="branch, tag or commit")
    streaming: bool = Field(default=False, description="read from the Hub as it is used, not downloaded first")
    weight: float | None = Field(default=None, gt=0, description="its share of the conversations, over the sum of all")

    @model_validator(mode="after")
    def _one_place(self) -> "Source":
        if (self.path is None) == (self.name is None):
            raise ValueError("a source has either a path or the name of a data set")
        return self


def _all_weighed(sources: list[Source]) -> list[Source]:
    if len({source.weight is None for source in sources}) > 1:
        raise ValueError("all of them have a weight, or none")
    return sources


class MixtureData(DataSettings):
    """Several sources in one run."""

    source: Literal["mixture"]
    sources: Annotated[list[Source], AfterValidator(_all_weighed)] = Field(
        min_length=1, description="each with a path or a name, and a weight"
    )


class InProcessStates(Strict):
    """Verifier states that the verifier computes in the training process, in every step."""

    source: Literal["in_process"]


class CachedStates(Strict):
    """Verifier states that are read from disk, computed once for all runs that use them."""

    source: Literal["cached"]


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
    adamw_lr: float = Field(gt=0, lt=1, description="peak learning rate of what is no matrix")


class ScheduleSettings(Strict):
    """Learning-rate schedule: linear warm-up, then decay of the form `name` to min_lr_ratio of the peak."""

    name: Literal["linear", "cosine", "constant"]
    warmup_ratio: Fraction = Field(description="share of all steps spent warming up")
    min_lr_ratio: Fraction = Field(description="last learning rate over the peak")


class TrainerSettings(Strict):
    """Training loop: duration, batch size, and which checkpoints are kept."""

    epochs: PositiveInt = Field(description="passes over the training data")
    max_steps: PositiveInt | None = Field(description="stop after so many optimizer steps; null is all epochs")
    batch_size: PositiveInt = Field(description="packed sequences of data.max_length tokens per device and pass")
    gradient_accumulation_steps: PositiveInt
    max_grad_norm: float = Field(gt=0, description="gradients are clipped to this norm")
    log_every: PositiveInt = Field(description="steps between two lines of metrics")
    eval_every: PositiveInt | None = Field(description="steps between two held-out losses; null is only at the end")
    save_every: PositiveInt | None = Field(
        description="steps between two resumable checkpoints; null is only at the end"
    )
    keep_last: PositiveInt = Field(description="resumable checkpoints kept")
    keep_best: bool = Field(description="publish the step with the best held-out acceptance estimate, not the last")


class EvaluationSettings(Strict):
    """Decoding with the draft on held-out prompts."""

    objective: Literal["acceptance_length", "tokens_per_second", "speedup"] = Field(
        description="what a sweep maximises; speedup is modelled from cost_ratio"
    )
    cost_ratio: float = Field(
        ge=0, description="time of drafting one token over time of one verifier pass, for the speedup"
    )
    num_prompts: int = Field(ge=0, description="prompts decoded; 0 leaves the evaluation out")
    max_new_tokens: PositiveInt = Field(description="tokens generated per prompt")
    batch_size: PositiveInt = Field(description="prompts decoded side by side")
    temperature: float = Field(ge=0, description="of the verifier's sampling, with a draft and without; 0 is greedy")
    top_k: PositiveInt | None = Field(
        description="the verifier samples among the so many likeliest tokens; null is all"
    )
    top_p: float = Field(
        gt=0, le=1, description="the verifier samples among the fewest likeliest tokens that have this probability"
    )
    tie_epsilon: float = Field(
        ge=0,
        description="a token that is not the verifier's likeliest is a tie if its logit lies so close to the largest",
    )


class ExportSettings(Strict):
    """Target engine and dtype of the published checkpoint."""

    target: Literal["auto", "vllm", "none"] = Field(description="engine; auto is the first that serves the algorithm")
    engine_version: str = Field(min_length=1, description="version of the engine that preflight checks against")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(description="dtype of the published weights")


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
        description="trials of a sweep each in a process of its own, or all in one; or each run in several processes"
    )
    num_processes: PositiveInt | None = Field(description="processes of a torchrun run; null is one an accelerator")
    timeout: float | None = Field(gt=0, description="seconds after which a trial is stopped; null waits for ever")
    on_failure: Literal["continue", "stop"] = Field(description="what a sweep does after a trial failed")
    num_threads: PositiveInt | None = Field(description="CPU threads of torch; null leaves torch's own choice")


class SpeculatorChoice(Strict):
    """The part of the published config that follows from the settings; consists of interpolations of the groups."""

    speculators_model_type: str
    speculators_config: dict[str, Any]


def _by_name(value: Any, handler: Handler) -> AlgorithmSettings:
    if not isinstance(value, dict):
        return handler(value)
    name = value.get("name")
    if name not in AlgorithmSettings.names():
        raise ValueError(f"algorithm.name: {name!r} is no algorithm; there are {', '.join(AlgorithmSettings.names())}")
    return AlgorithmSettings.named(name).model_validate(value)


def _exact(value: Any, handler: Handler) -> TokenProposalConfig:
    """Validate a run's proposal strictly: unlike a published one, no unknown or missing keys, and no type coercion."""
    proposal = handler(value)
    if not isinstance(value, dict):
        return proposal
    fields = type(proposal).model_fields
    problems = [InitErrorDetails(type="extra_forbidden", loc=(k,), input=value[k]) for k in value if k not in fields]
    problems += [InitErrorDetails(type="missing", loc=(k,), input=value) for k in fields if k not in value]
    if problems:
        raise ValidationError.from_exception_data("proposal", problems)
    return type(proposal).model_validate(value, strict=True)


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Flatten a nested dict to values by dotted key; a list is a value, unless it holds dicts."""

    def walk(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for name, value in items:
            if isinstance(value, dict) or isinstance(value, list) and any(isinstance(v, dict) for v in value):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(walk(tree, ""))


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu|npu)(:\d+)?", name):
        raise ValueError("should be auto, cpu, mps, cuda, xpu, npu, or one of several as cuda:N")
    return name


class RunConfig(Strict):
    """All settings of one run, as Hydra composes them, `run.yaml` stores them and `run(folder)` reads them."""

    seed: int = Field(ge=0, lt=2**32)
    device: Annotated[str, AfterValidator(_device)] = Field(
        description="auto, the best there is; cpu, mps, cuda, xpu, npu, or one of several as cuda:N"
    )
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        description="tf32: products of training in TF32 on an accelerator; bf16: under autocast; weights stay float32"
    )
    dry_run: bool = Field(description="print the plan and stop")
    algorithm: Annotated[SerializeAsAny[AlgorithmSettings], WrapValidator(_by_name)]
    proposal: Annotated[SerializeAsAny[TokenProposalConfig], WrapValidator(_exact)]
    verifier: VerifierSettings
    verifier_states: Annotated[InProcessStates | CachedStates, Field(discriminator="source")]
    data: Annotated[ChatData | JsonlData | HubData | MixtureData, Field(discriminator="source")]
    optimizer: Annotated[AdamW | Muon, Field(discriminator="name")]
    schedule: ScheduleSettings
    trainer: TrainerSettings
    evaluation: EvaluationSettings
    export: ExportSettings
    cache: CacheSettings
    tracker: TrackerSettings
    launch: LaunchSettings
    speculator: SpeculatorChoice
