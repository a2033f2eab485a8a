"""Every algorithm there is, found by itself, on one tiny random verifier; each once as it comes and once all otherwise."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pydantic import ValidationError
from torch import Tensor
from train_tiny_mimo import convert
from transformers import LlamaConfig, LlamaForCausalLM

from speculators.composition.compose import compose
from speculators.config import SpeculatorModelConfig
from speculators.data.collate import collate
from speculators.data.row_plan import RowPlanner
from speculators.data.template import Document
from speculators.decoding.generate import Decoder, Speculation, plain
from speculators.execution.rules import broken
from speculators.format.published import speculator_dict
from speculators.model import SpeculatorModel, TrainingContext
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.protocols.batch import Batch
from speculators.protocols.drafter import Drafter
from speculators.protocols.hidden_states import VerifierStates
from speculators.protocols.initialisation import Initialisation
from speculators.protocols.rows import DraftOutput, Rows
from speculators.settings.algorithm import AlgorithmSettings
from speculators.settings.run_config import RunConfig
from speculators.train import optimizer
from speculators.train.build import build
from speculators.train.step import Student
from speculators.verifier.facts import VerifierFacts
from speculators.verifier.in_process import Verifier
from speculators.verifier.tensors import VerifierTensors

VOCAB = 128
CPU = torch.device("cpu")
STEPS = 60
# Weights as they are trained, and a few steps that go far.
SETTINGS = ["export.dtype=float32", "optimizer.adamw_lr=0.03"]
ALGORITHMS = AlgorithmSettings.names()


@dataclass(frozen=True)
class Case:
    """One algorithm with its settings, and the verifier that it drafts for."""

    run: RunConfig
    facts: VerifierFacts
    verifier: Verifier

    @cached_property
    def texts(self) -> list[Document]:
        """Prompts of different lengths, each with the verifier's own answer."""
        g = torch.Generator().manual_seed(7)
        prompts = [torch.randint(VOCAB, (n,), generator=g).tolist() for n in (3, 9, 5, 14)]
        answers = plain(self.verifier, prompts, max_new_tokens=20, batch_size=4)
        return [Document([*p, *a], [False] * len(p) + [True] * len(a)) for p, a in zip(prompts, answers, strict=True)]

    @property
    def plan(self) -> RowPlanner:
        """Says which rows a sequence has."""
        model = SpeculatorModel.for_config(SpeculatorModelConfig.from_dict(speculator_dict(self.run, self.facts)))
        return partial(model.plan_rows, self.run.algorithm)

    def batch(self, *sequences: list[Document], first: int = 0) -> Batch:
        """Packed sequences with the rows that the algorithm plans; `first` is the seed of the first one's, others follow."""
        return collate(sequences, self.plan, range(first, first + len(sequences)))

    def fresh(self) -> SpeculatorModel:
        """The draft as training starts with it, always the same."""
        torch.manual_seed(0)
        config = SpeculatorModelConfig.from_dict(speculator_dict(self.run, self.facts))
        # Uneven counts in no order, so that a reduced vocabulary is no prefix of the whole.
        tensors = partial(VerifierTensors, self.run.verifier)
        return build(config, Initialisation(self.verifier.head, torch.arange(VOCAB) * 37 % VOCAB, tensors), CPU)

    def shaken(self) -> SpeculatorModel:
        """A draft whose every weight differs from every other: nothing is left at zero, one or the verifier's."""
        model = self.fresh()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return model.eval()

    @torch.no_grad()
    def output(self, model: SpeculatorModel, batch: Batch, states: VerifierStates | None = None) -> DraftOutput:
        """What the training forward pass gives, halfway through training."""
        states = self.verifier(batch, model.layer_ids) if states is None else states
        return model(batch, states, self.verifier.head, TrainingContext(self.run.algorithm, 0.5))

    def rows(self, model: SpeculatorModel, batch: Batch) -> Rows:
        """The rows that are drafted with."""
        return next(iter(self.output(model, batch).rows.values()))

    def logits(self, rows: Rows, batch: Batch) -> Tensor:
        """[R, V] logits, in the verifier's vocabulary."""
        logits_RD = 0
        for i, term in enumerate(rows.terms):
            weights = [term.weights[slot - 1 if len(term.weights) > 1 else 0] for slot in batch.rows.slot_R.tolist()]
            products = [weight @ x for weight, x in zip(weights, term.input_RI, strict=True)]
            product_RD = torch.stack(products) if products else term.input_RI.new_zeros(0, len(term.weights[0]))
            scaled = i == 0 and rows.scaled_as_verifier
            logits_RD = logits_RD + (self.verifier.head.scaled(product_RD) if scaled else product_RD)
        if rows.kept_D is None:
            return logits_RD
        wide_RV = torch.full((len(logits_RD), VOCAB), -torch.inf)
        wide_RV[:, rows.kept_D] = logits_RD
        return wide_RV

    def decoder(
        self, model: SpeculatorModel, max_new_tokens: int, drafter: Callable[[int], Drafter] | None = None
    ) -> Decoder:
        """Draft-and-verify with the run's proposal; another drafter than the model's may be given."""
        sampler = Sampler(0.0, torch.Generator())
        layer_ids = model.layer_ids if model.reads_states else None
        make = drafter or partial(model.drafter, self.verifier.head)
        speculation = Speculation(ProposalMethod.of(self.run.proposal, sampler), make, layer_ids)
        return Decoder(self.verifier, sampler, max_new_tokens, speculation)


def llama(folder: Path, head_dim: int) -> Path:
    """A verifier's folder; its text never ends by itself.

    Seven layers are the fewest in which an early, a middle and a late one differ.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=7, num_attention_heads=4,
        num_key_value_heads=2, head_dim=head_dim, max_position_embeddings=2048, initializer_range=0.2,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(6)  # it is sure of its tokens, or rounding would choose among them
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def verifiers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Path, Verifier]]:
    """Folder and verifier, by class; each is loaded as a run loads it."""
    place = tmp_path_factory.mktemp("verifiers")
    convert(llama(place / "of_mimos_sizes", head_dim=16), place / "mimo")
    folders = {"LlamaForCausalLM": llama(place / "llama", head_dim=32), "MiMoForCausalLM": place / "mimo"}

    def load(folder: Path) -> Verifier:
        return Verifier.load(compose([f"verifier.name_or_path={folder}", "data.regenerate=true"]).verifier, CPU)

    return {name: (folder, load(folder)) for name, folder in folders.items()}


@pytest.fixture(scope="session", params=ALGORITHMS)
def case(request: pytest.FixtureRequest, verifiers: Mapping[str, tuple[Path, Verifier]]) -> Case:
    """An algorithm as its YAML has it; one that drafts for certain classes of verifiers alone drafts for the first."""
    (name, *_) = AlgorithmSettings.named(request.param).verifier_architectures or ("LlamaForCausalLM",)
    folder, verifier = verifiers[name]
    run = compose([f"algorithm={request.param}", f"verifier.name_or_path={folder}", "data.regenerate=true", *SETTINGS])
    return Case(run, VerifierFacts.read(str(folder)), verifier)


@pytest.fixture(scope="session", params=["as_it_comes", "otherwise"])
def either(request: pytest.FixtureRequest, case: Case) -> Case:
    """An algorithm as its YAML has it, and with every setting changed that can be."""
    return case if request.param == "as_it_comes" else Case(otherwise(case.run), case.facts, case.verifier)


def otherwise(run: RunConfig) -> RunConfig:
    """The run with every switch, choice and size of its algorithm changed, where the rules allow it."""
    fields, changed = type(run.algorithm).model_fields, set()
    # Twice: one change may have to wait for another.
    for name in [*fields, *fields]:
        for value in [] if name in changed else others(fields[name].annotation, run.algorithm.model_dump()[name]):
            try:
                algorithm = type(run.algorithm).model_validate(run.algorithm.model_dump() | {name: value})
            except ValidationError:
                continue
            candidate = run.model_copy(update={"algorithm": algorithm})
            if not broken(candidate):
                run = candidate
                changed.add(name)
                break
    return run


def others(kind: Any, value: Any) -> list[Any]:
    """Values to try instead of a setting's own; none for what is no switch, choice or size."""
    if get_origin(kind) is Literal:
        return [v for v in get_args(kind) if v != value]
    if value is None:
        return [48]
    if isinstance(value, bool):
        return [not value]
    return [value + 1] if isinstance(value, int) else []


def student(case: Case, model: SpeculatorModel) -> Student:
    """The draft in training, as the loop has it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    return Student(model, case.verifier, case.run.algorithm, Accelerator(cpu=True))


@dataclass(frozen=True)
class Overfit:
    """A draft that was trained on nothing but `case.texts`.

    Attributes:
        losses: of each step.
        accuracy_S: share of a slot's rows that are right, of those whose token the draft's vocabulary has.
    """

    case: Case
    model: SpeculatorModel
    losses: list[float]
    accuracy_S: Tensor


@pytest.fixture(scope="session")
def overfit(either: Case) -> Overfit:
    """Some steps of the composed optimizer on one batch."""
    model, batch = either.fresh(), either.batch(either.texts)
    trained, optimizers = student(either, model), optimizer.build(model, either.run.optimizer)
    losses = []
    for step in range(STEPS):
        for group in (group for o in optimizers for group in o.param_groups):
            group["lr"] = group["peak_lr"] * (1 - step / STEPS)
        sums = trained.learn([batch], progress=step / STEPS)
        trained.update(optimizers, either.run.trainer.max_grad_norm)
        losses.append(sums["loss"].item())
    kept_D = either.rows(model.eval(), batch).kept_D
    first_P = either.verifier.head.logits(either.verifier(batch, ()).last_BTH).argmax(-1).flatten()
    first_R = first_P[batch.rows.target_R]
    known_R = torch.ones_like(first_R, dtype=torch.bool) if kept_D is None else torch.isin(first_R, kept_D)
    counted_R = batch.rows.valid_R & known_R
    count_S = torch.stack([counted_R[span].sum() for span in batch.rows.layout.spans])
    return Overfit(either, model, losses, sums["correct_S"] / count_S)
