"""RunConfig: all settings of one run, composed by Hydra and validated here. Torch-free; all defaults are in conf/."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializeAsAny, ValidationError, WrapValidator
from pydantic import ValidatorFunctionWrapHandler as Handler
from pydantic_core import InitErrorDetails

from speculators.cache.settings import CacheSettings
from speculators.proposals import TokenProposalConfig
from speculators.settings.algorithm import AlgorithmSettings
from speculators.settings.answers import InProcessAnswers, ServedAnswers
from speculators.settings.data import ChatData, HubData, JsonlData, MixtureData
from speculators.settings.evaluation import EvaluationSettings
from speculators.settings.export import ExportSettings
from speculators.settings.launch import LaunchSettings, TrackerSettings
from speculators.settings.states import CachedStates, InProcessStates, ServedStates
from speculators.settings.training import AdamW, Muon, ScheduleSettings, TrainerSettings
from speculators.utils.strict import Strict
from speculators.verifier.settings import VerifierSettings


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
    verifier_answers: Annotated[InProcessAnswers | ServedAnswers, Field(discriminator="source")]
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
