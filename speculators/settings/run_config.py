"""RunConfig: all settings of one run, composed by Hydra and validated here. Torch-free; all defaults are in conf/."""

import re
from datetime import date
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
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
from speculators.utils.hub import hub_id, repository
from speculators.utils.strict import Count, Fraction, PositiveInt, Strict
from speculators.verifier.settings import VerifierSettings

# Variables of a chat template that are set per conversation.
OF_A_CONVERSATION = ("messages", "tools", "documents", "add_generation_prompt", "strftime_now")


def _variables(variables: dict[str, Any]) -> dict[str, Any]:
    if taken := [name for name in variables if name in OF_A_CONVERSATION]:
        raise ValueError(f"{taken[0]} is set by each conversation; remove it")
    if odd := [name for name in variables if not name.isidentifier()]:
        raise ValueError(f"{odd[0]!r} is not a valid variable name")
    return variables


def _date(text: str) -> str:
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise ValueError("should be a date as YYYY-MM-DD") from error
    return text


class DataSettings(Strict):
    """Settings that all sources of conversations share."""

    max_length: int = Field(ge=16, description="tokens of a packed sequence; longer conversations are truncated")
    max_conversations: PositiveInt | None = Field(
        description="number of conversations used, after shuffling; null is all"
    )
    heldout_fraction: float = Field(
        gt=0, lt=1, description="share of the prompts held out of the training, for evaluation"
    )
    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_variables)] | None = Field(
        description="variables of the verifier's chat template, e.g. {enable_thinking: false}"
    )
    chat_template_date: Annotated[str, AfterValidator(_date)] | None = Field(
        description="date that a chat template gets as today's, YYYY-MM-DD; null is the day of the run"
    )
    regenerate: bool = Field(description="replace each answer by one that the verifier generates")
    regenerate_max_new_tokens: PositiveInt | None = Field(
        description="most tokens of a regenerated answer; null is what data.max_length leaves after the prompt"
    )
    regenerate_temperature: float = Field(ge=0, description="sampling temperature of regenerated answers; 0 is greedy")
    regenerate_seed: int = Field(ge=0, lt=2**32, description="seed of regenerated answers with a temperature above 0")
    regenerate_unfinished: Literal["keep", "drop"] = Field(
        description="keep or drop a regenerated answer that reached its most tokens before it ended"
    )


class ChatData(DataSettings):
    """The embedded conversations: greedy answers of the embedded verifier."""

    source: Literal["chat"]


class JsonlData(DataSettings):
    """Files of conversations: JSON lines, also compressed, or parquet, in ShareGPT's or OpenAI's format."""

    source: Literal["jsonl"]
    path: str = Field(min_length=1, description="a file, a folder of files, or a glob pattern")


class HubData(DataSettings):
    """A data set of the Hub, read by `datasets`."""

    source: Literal["hub"]
    name: str = Field(min_length=1, description="data set id")
    subset: str | None = Field(description="configuration of the data set")
    split: str = Field(min_length=1, description="split to read")
    revision: str | None = Field(description="branch, tag or commit")
    streaming: bool = Field(
        description="read rows from the Hub as they are needed, without downloading the data set first"
    )


class Place(Strict):
    """Files or a data set of the Hub, as one value; keys have defaults here, since conf/ cannot set those inside a value."""

    path: str | None = Field(default=None, min_length=1, description="as data.path of data=jsonl")
    name: str | None = Field(default=None, min_length=1, description="as data.name of data=hub")
    subset: str | None = Field(default=None, description="configuration of the data set")
    split: str = Field(default="train", min_length=1, description="split to read")
    revision: str | None = Field(default=None, description="branch, tag or commit")
    streaming: bool = Field(
        default=False, description="read rows from the Hub as they are needed, without downloading the data set first"
    )

    @model_validator(mode="after")
    def _one_place(self) -> "Place":
        if (self.path is None) == (self.name is None):
            raise ValueError("a source must have either path or name")
        return self


class Source(Place):
    """One source of a mixture."""

    weight: float | None = Field(
        default=None, gt=0, description="share of the conversations, relative to the sum of all weights"
    )


def _all_weighed(sources: list[Source]) -> list[Source]:
    if len({source.weight is None for source in sources}) > 1:
        raise ValueError("either all sources must have a weight, or none")
    return sources


class MixtureData(DataSettings):
    """Several sources in one run."""

    source: Literal["mixture"]
    sources: Annotated[list[Source], AfterValidator(_all_weighed)] = Field(
        min_length=1, description="each with a path or a name, and a weight"
    )


def _address(url: str) -> str:
    parts = urlsplit(url)
    without = (parts.username, parts.password, parts.query, parts.fragment)
    # An invalid port raises a ValueError.
    if parts.scheme not in ("http", "https") or not parts.hostname or any(without) or parts.port == 0:
        raise ValueError("should be an address as http://HOST:PORT")
    return url.rstrip("/")


class InProcessStates(Strict):
    """Verifier states that the verifier computes in the training process, in every step."""

    source: Literal["in_process"]


class CachedStates(Strict):
    """Verifier states that are read from disk, computed once for all runs that use them."""

    source: Literal["cached"]


class ServedStates(Strict):
    """Verifier states that a vLLM server computes and delivers through a folder."""

    source: Literal["served"]
    url: Annotated[str, AfterValidator(_address)] | None = Field(
        description="address of a running server; null starts one for this run"
    )
    python: str | None = Field(
        min_length=1,
        description="Python of the environment in which the server is started; null is this run's own",
    )
    args: str | None = Field(
        min_length=1, description="arguments that are added to those of the started server, as on a command line"
    )
    folder: str | None = Field(
        min_length=1,
        description="folder to which the server writes the states; null is a temporary one, of a started server alone",
    )
    keep: bool = Field(description="keep the states on disk, for all runs that use them")
    concurrency: PositiveInt = Field(description="documents that are requested at the same time")
    prefetch_steps: int = Field(ge=0, description="optimizer steps whose states are requested before they are needed")
    timeout: float = Field(gt=0, description="seconds that the run waits for a server that does not answer")

    @model_validator(mode="after")
    def _started_or_given(self) -> "ServedStates":
        if self.url is None:
            return self
        if self.folder is None:
            raise ValueError(
                "a server that is given by url needs folder, its shared_storage_path as this machine sees it"
            )
        if self.python is not None or self.args is not None:
            raise ValueError("python and args are for a server that the run starts; leave them out, or leave out url")
        return self


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
    max_grad_norm: float = Field(gt=0, description="gradients are clipped to this norm")
    log_every: PositiveInt = Field(description="steps between two lines of metrics")
    eval_every: PositiveInt | None = Field(description="steps between two held-out losses; null is only at the end")
    save_every: PositiveInt | None = Field(
        description="steps between two resumable checkpoints; null is only at the end"
    )
    keep_last: PositiveInt = Field(description="resumable checkpoints kept")
    keep_best: bool | Literal["decoded"] = Field(
        description="publish the step with the best held-out acceptance estimate, or decoded acceptance length, not the last"
    )
    keep_best_prompts: PositiveInt = Field(description="held-out prompts decoded at each step of keep_best=decoded")
    init_from: str | None = Field(
        min_length=1,
        description="folder of a published draft whose weights the training starts from; null is new weights",
    )


def _place(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError("should be {path: FILE} or {name: DATASET}")
    return value


class EvaluationSettings(Strict):
    """Decoding with the draft on held-out prompts, and on prompts of their own source."""

    objective: Literal["acceptance_length", "tokens_per_second", "speedup"] = Field(
        description="value that a sweep maximises; speedup is modelled with cost_ratio"
    )
    cost_ratio: float = Field(
        ge=0,
        description="time of a pass of the draft model, as a share of a pass of the verifier; for the modelled speedup",
    )
    data: Annotated[Place | None, BeforeValidator(_place)] = Field(
        description="further prompts to decode, not those of `data`: {path: FILE} or {name: DATASET, split: SPLIT}; null is none"
    )
    num_prompts: int = Field(ge=0, description="prompts decoded of each source; 0 skips the evaluation")
    max_new_tokens: PositiveInt = Field(description="tokens generated per prompt")
    batch_size: PositiveInt = Field(description="prompts decoded in one batch")
    temperature: float = Field(ge=0, description="sampling temperature of the verifier; 0 is greedy")
    top_k: PositiveInt | None = Field(
        description="number of most likely tokens that the verifier samples from; null is all"
    )
    top_p: float = Field(
        gt=0,
        le=1,
        description="the verifier samples from the fewest most likely tokens whose probabilities sum to at least this",
    )
    tie_epsilon: float = Field(
        ge=0,
        description="a token that is not the verifier's most likely one is a tie if its logit is this close to the largest",
    )


# First and last number of requests in a batch, and tokens to draft in batches of these sizes.
BatchSizes = Annotated[list[PositiveInt], Field(min_length=3, max_length=3)]


def _ascending(ranges: list[list[int]]) -> list[list[int]]:
    if not ranges or ranges[0][0] != 1:
        raise ValueError("the first range begins with 1 request")
    for (first, last, _), follows in zip(ranges, [*ranges[1:], None], strict=True):
        if last < first or follows is not None and follows[0] != last + 1:
            raise ValueError(f"{[first, last]}: a range ends after it begins, and the next one begins right after it")
    return ranges


def _license(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        raise ValueError("must be a licence as the Hub abbreviates it, such as apache-2.0")
    return name


class ExportSettings(Strict):
    """Target engine and dtype of the published checkpoint."""

    target: Literal["auto", "vllm", "none"] = Field(
        description="engine that serves the draft; auto is the first that can"
    )
    engine_version: str = Field(min_length=1, description="version of the engine whose rules are checked")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(description="dtype of the published weights")
    num_speculative_tokens_per_batch_size: Annotated[list[BatchSizes], AfterValidator(_ascending)] | None = Field(
        description="tokens to draft by the number of requests in a batch, as [first, last, tokens]; null is one number"
    )
    enable_adaptive_verification: bool = Field(
        description="the engine verifies fewer tokens of drafts that are not confident"
    )

    hub_repo: Annotated[str, AfterValidator(repository)] | None = Field(
        description="repository of the Hub, as OWNER/NAME, to which the measured draft is pushed; null pushes nothing"
    )
    license: Annotated[str, AfterValidator(_license)] | None = Field(
        description="licence of the draft, as the Hub abbreviates it, such as apache-2.0; for its model card"
    )
    base_model: Annotated[str, AfterValidator(hub_id)] | None = Field(
        description="the verifier's name on the Hub, for what is pushed; null is the name that its config.json has"
    )

    def serving_options(self) -> dict[str, Any]:
        """The options, named as in vLLM's `--speculative-config`, that are set."""
        options = {
            "num_speculative_tokens_per_batch_size": self.num_speculative_tokens_per_batch_size,
            "enable_adaptive_verification": self.enable_adaptive_verification,
        }
        return {key: value for key, value in options.items() if value}


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
    num_processes: Count | None = Field(description="processes of a run with torchrun; null is one per accelerator")
    timeout: float | None = Field(gt=0, description="seconds after which a trial is stopped; null is no limit")
    on_failure: Literal["continue", "stop"] = Field(
        description="whether a sweep continues or stops after a failed trial"
    )
    num_threads: Count | None = Field(description="CPU threads of torch; null is torch's default")


class SpeculatorChoice(Strict):
    """The part of the published config that follows from the settings; consists of interpolations of the groups."""

    speculators_model_type: str
    speculators_config: dict[str, Any]


def _by_name(value: Any, handler: Handler) -> AlgorithmSettings:
    if not isinstance(value, dict):
        return handler(value)
    name = value.get("name")
    if name not in AlgorithmSettings.names():
        raise ValueError(
            f"algorithm.name: {name!r} is not an algorithm; choose one of {', '.join(AlgorithmSettings.names())}"
        )
    return AlgorithmSettings.named(name).model_validate(value)


def _exact(value: Any, handler: Handler) -> TokenProposalConfig:
    """Validate a run's proposal strictly: unlike a published one, no unknown or missing keys, and no type coercion."""
    return _strictly(value, handler, complete=True)


def _known(value: Any, handler: Handler) -> TokenProposalConfig:
    """Validate a further proposal strictly; missing keys have the format's defaults."""
    return _strictly(value, handler, complete=False)


def _strictly(value: Any, handler: Handler, complete: bool) -> TokenProposalConfig:
    proposal = handler(value)
    if not isinstance(value, dict):
        return proposal
    fields = type(proposal).model_fields
    problems = [InitErrorDetails(type="extra_forbidden", loc=(k,), input=value[k]) for k in value if k not in fields]
    if complete:
        problems += [InitErrorDetails(type="missing", loc=(k,), input=value) for k in fields if k not in value]
    if problems:
        raise ValidationError.from_exception_data("proposal", problems)
    return type(proposal).model_validate(value, strict=True)


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu|npu)(:\d+)?", name):
        raise ValueError("should be auto, cpu, mps, cuda, xpu or npu, or a numbered device such as cuda:0")
    return name


class RunConfig(Strict):
    """All settings of one run, as Hydra composes them, `run.yaml` stores them and `run(folder)` reads them."""

    seed: int = Field(ge=0, lt=2**32)
    device: Annotated[str, AfterValidator(_device)] = Field(
        description="auto (the best available), cpu, mps, cuda, xpu or npu, or a numbered device such as cuda:0"
    )
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        description="fp32; tf32: matrix products in TF32 on an accelerator; bf16: autocast to bfloat16. Weights stay float32"
    )
    dry_run: bool = Field(description="check the run, print its plan and stop")
    algorithm: Annotated[SerializeAsAny[AlgorithmSettings], WrapValidator(_by_name)]
    proposal: Annotated[SerializeAsAny[TokenProposalConfig], WrapValidator(_exact)]
    other_proposals: list[Annotated[SerializeAsAny[TokenProposalConfig], WrapValidator(_known)]] = Field(
        description="further methods to publish, after the one of `proposal`, which engines read"
    )
    verifier: VerifierSettings
    verifier_states: Annotated[InProcessStates | CachedStates | ServedStates, Field(discriminator="source")]
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
