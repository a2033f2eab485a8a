"""Measures acceptance length and speed of a draft by decoding with and without it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import set_verbosity_error

from speculators.data.evaluation_data import EvaluationData, evaluation_data
from speculators.data.prepare import Prompt, prompts, train_prompts
from speculators.data.template import ChatTemplate
from speculators.decoding.generate import Decoded, Decoder, Speculation
from speculators.decoding.same_text import same_text
from speculators.evaluate.checkpoint import read_strictly
from speculators.evaluate.interval import acceptance_interval
from speculators.model import SpeculatorModel
from speculators.proposals import TokenProposalConfig
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.runfolder.result import EvaluationResult
from speculators.settings.evaluation import EvaluationSettings
from speculators.settings.run_config import RunConfig
from speculators.utils.device import resolve
from speculators.verifier.in_process import Verifier
from speculators.verifier.loader import VerifierLoader

NO_PROMPT = (
    "data.heldout_fraction: no prompts are held out for the evaluation; raise it, or set evaluation.num_prompts=0"
)


def evaluate(
    model: SpeculatorModel,
    verifier: Verifier,
    prompts: Sequence[list[int]],
    proposal: TokenProposalConfig,
    evaluation: EvaluationSettings,
    seed: int,
) -> EvaluationResult:
    """Decode held-out prompts with and without the draft, and compare.

    Args:
        model: the draft, on the verifier's device.
        verifier: the model that it drafts for.
        prompts: token ids; the first evaluation.num_prompts are taken.
        proposal: proposal method and its settings.
        evaluation: sizes, temperature and what counts as a tie.
        seed: of sampling.

    Raises:
        ValueError: there is no prompt.
    """
    chosen = [list(p) for p in prompts[: evaluation.num_prompts]]
    if not chosen:
        raise ValueError(NO_PROMPT)
    training = model.training
    model.eval()
    sampler = sampler_of(evaluation, verifier, seed)
    speculation = speculation_of(model, verifier, proposal, sampler)
    with_draft = Decoder(verifier, sampler, evaluation.max_new_tokens, speculation)
    plainly = Decoder(verifier, sampler, evaluation.max_new_tokens)
    drafted, plain = Decoded(levels=proposal.levels), Decoded()
    # Warm-up on few tokens, so that one-time costs are not measured.
    for decoder in (with_draft, plainly):
        replace(decoder, max_new_tokens=2)(chosen[:1])
    for start in range(0, len(chosen), evaluation.batch_size):
        batch = chosen[start : start + evaluation.batch_size]
        drafted.add(with_draft(batch))
        plain.add(plainly(batch))
    model.train(training)
    lossy = proposal.lossy(evaluation.temperature)
    same = None
    if sampler.is_greedy and lossy is None:
        sizes = evaluation.max_new_tokens, evaluation.tie_epsilon, evaluation.batch_size
        same = same_text(verifier, chosen, drafted.tokens, *sizes)
    acceptance_length = drafted.acceptance_length
    tokens_per_second = drafted.generated / drafted.seconds
    objectives = {
        "acceptance_length": acceptance_length,
        "tokens_per_second": tokens_per_second,
        "speedup": modelled_speedup(acceptance_length, model.passes(proposal.levels), evaluation.cost_ratio),
    }
    return EvaluationResult(
        objective=objectives[evaluation.objective],
        acceptance_length=acceptance_length,
        acceptance_per_position=[k / max(1, drafted.drafts) for k in drafted.accepted_K],
        speculative_tokens=proposal.nodes,
        num_prompts=len(chosen),
        max_new_tokens=evaluation.max_new_tokens,
        drafts=drafted.drafts,
        drafted=drafted.drafted,
        accepted=drafted.accepted,
        generated=drafted.generated,
        matches_plain_decoding=None if same is None else not same.wrong,
        ties=same.ties if same else 0,
        lossy=lossy,
        tokens_per_second=tokens_per_second,
        plain_tokens_per_second=plain.generated / plain.seconds,
        prompts=chosen,
        tokens=drafted.tokens,
        rounds=drafted.rounds,
        acceptance_length_interval=acceptance_interval(drafted.rounds),
    )


def evaluate_both(
    model: SpeculatorModel,
    verifier: Verifier,
    prompts: Sequence[list[int]],
    own: EvaluationData | None,
    run: RunConfig,
) -> EvaluationResult:
    """Decode held-out prompts, and those of evaluation.data, on which the objective is measured if there are any.

    Args:
        model: the draft, on the verifier's device.
        verifier: the model that it drafts for.
        prompts: token ids of the held-out prompts.
        own: those of evaluation.data; None without any.
        run: its proposal, evaluation and seed.

    Raises:
        ValueError: there is no held-out prompt.
    """
    result = evaluate(model, verifier, prompts, run.proposal, run.evaluation, run.seed)
    if own is None:
        return result
    second = evaluate(
        model, verifier, [prompt.tokens for prompt in own.prompts], run.proposal, run.evaluation, run.seed
    )
    second = replace(second, source=own.source, trained_on=own.trained_on)
    return replace(result, objective=second.objective, evaluation_data=second)


def decoded_length(
    model: SpeculatorModel, verifier: VerifierLoader, prompts: Sequence[list[int]], run: RunConfig
) -> float:
    """The acceptance length of a draft in training, decoded on the first trainer.keep_best_prompts prompts.

    Args:
        model: the draft, on the verifier's device.
        verifier: loads the whole verifier at the first call, which then stays in memory.
        prompts: token ids of the held-out prompts, at least one.
        run: its proposal, and the sizes and sampling of its evaluation.
    """
    chosen, size, whole = prompts[: run.trainer.keep_best_prompts], run.evaluation.batch_size, verifier.whole()
    sampler = sampler_of(run.evaluation, whole, run.seed)
    speculation = speculation_of(model, whole, run.proposal, sampler)
    decoder, total = Decoder(whole, sampler, run.evaluation.max_new_tokens, speculation), Decoded()
    for start in range(0, len(chosen), size):
        total.add(decoder(chosen[start : start + size]))
    return total.acceptance_length


def sampler_of(evaluation: EvaluationSettings, verifier: Verifier, seed: int) -> Sampler:
    """The verifier's sampling as an evaluation sets it."""
    generator = torch.Generator(device=verifier.device).manual_seed(seed)
    return Sampler(evaluation.temperature, generator, evaluation.top_k, evaluation.top_p)


def speculation_of(
    model: SpeculatorModel, verifier: Verifier, proposal: TokenProposalConfig, sampler: Sampler
) -> Speculation:
    """A draft with a proposal, as decoding takes it."""
    layer_ids = model.layer_ids if model.reads_states else None
    return Speculation(ProposalMethod.of(proposal, sampler), partial(model.drafter, verifier.head), layer_ids)


def modelled_speedup(acceptance_length: float, passes: int, cost_ratio: float) -> float:
    """Times faster than plain decoding (Leviathan et al. 2023, arXiv:2211.17192, theorem 3.8, with the measured length).

    Args:
        acceptance_length: tokens that a pass of the verifier yields.
        passes: of the draft model for each pass of the verifier, as `SpeculatorModel.passes` counts them.
        cost_ratio: time of one pass of the draft model over that of one pass of the verifier.
    """
    return acceptance_length / (1 + cost_ratio * passes)


def evaluate_checkpoint(checkpoint: Path, run: RunConfig, heldout: bool) -> EvaluationResult:
    """Evaluate a published draft.

    Args:
        checkpoint: its folder.
        run: verifier, data, proposal and evaluation to use; its training settings are not read.
        heldout: take only the prompts that training with this seed holds out, not all of the data's.

    Raises:
        ValueError: it is no valid published folder, or verifier or data cannot be loaded.
    """
    chosen, own = [prompt.tokens for prompt in prompts_of_run(run, heldout)], own_prompts(run, heldout)
    verifier = Verifier.load(run.verifier, resolve(run.device))
    return evaluate_both(load_draft(checkpoint, verifier), verifier, chosen, own, run)


def prompts_of_run(run: RunConfig, heldout: bool) -> list[Prompt]:
    """The prompts of a run's data; `heldout` takes only those that training with its seed holds out."""
    return prompts(run.data, ChatTemplate.of(run.verifier, run.data), run.seed if heldout else None)


def own_prompts(run: RunConfig, heldout: bool) -> EvaluationData | None:
    """The prompts of a run's evaluation.data; `heldout` as of `prompts_of_run`: else it is unknown what is trained on."""
    if run.evaluation.data is None:
        return None
    trained = train_prompts(run.data, run.seed) if heldout else None
    return evaluation_data(run, ChatTemplate.of(run.verifier, run.data), trained)


def load_draft(checkpoint: Path, verifier: Verifier) -> SpeculatorModel:
    """Read a published draft onto its verifier's device.

    Raises:
        ValueError: it is no valid published folder.
    """
    read_strictly(checkpoint)
    # transformers reports missing tensors as newly initialised; here they are the verifier's, or an error.
    set_verbosity_error()
    loaded: Any = SpeculatorModel.from_pretrained(
        checkpoint, dtype=verifier.head.head_VH.dtype, output_loading_info=True
    )
    model, report = loaded
    model.borrow(report["missing_keys"], verifier.head)
    torch.nn.Module.to(model, verifier.device)  # transformers wraps its own `to` in a way that type checkers misread
    return model
