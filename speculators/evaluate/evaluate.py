"""Measures acceptance length and speed of a draft by decoding with and without it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import set_verbosity_error

from speculators.data.prepare import prompts
from speculators.data.template import ChatTemplate
from speculators.decoding.generate import Decoded, Decoder, Speculation
from speculators.evaluate.checkpoint import read_strictly
from speculators.model import SpeculatorModel
from speculators.proposals import TokenProposalConfig
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.runfolder.result import EvaluationResult
from speculators.settings.run_config import EvaluationSettings, RunConfig
from speculators.utils.device import resolve
from speculators.verifier.in_process import Verifier


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
        raise ValueError(
            "evaluation: no prompt is held out; raise data.heldout_fraction, or set evaluation.num_prompts=0"
        )
    training = model.training
    model.eval()
    generator = torch.Generator(device=verifier.device).manual_seed(seed)
    sampler = Sampler(evaluation.temperature, generator, evaluation.top_k, evaluation.top_p)
    speculation = Speculation(
        ProposalMethod.of(proposal, sampler),
        partial(model.drafter, verifier.head),
        model.layer_ids if model.reads_states else None,
    )
    with_draft = Decoder(verifier, sampler, evaluation.max_new_tokens, speculation)
    plainly = Decoder(verifier, sampler, evaluation.max_new_tokens)
    drafted, plain = Decoded([], [], [0] * proposal.levels), Decoded([], [], [])
    # Warm-up on few tokens, so that one-time costs are not measured.
    for decoder in (with_draft, plainly):
        replace(decoder, max_new_tokens=2)(chosen[:1])
    for start in range(0, len(chosen), evaluation.batch_size):
        batch = chosen[start : start + evaluation.batch_size]
        _add(drafted, with_draft(batch))
        _add(plain, plainly(batch))
    model.train(training)
    same, ties = compare(drafted.tokens, plain.tokens, plain.margins, evaluation.tie_epsilon)
    lossy = proposal.lossy(evaluation.temperature)
    lossless = sampler.is_greedy and lossy is None
    acceptance_length = 1 + drafted.accepted / max(1, drafted.drafts)
    tokens_per_second = drafted.generated / drafted.seconds
    objectives = {
        "acceptance_length": acceptance_length,
        "tokens_per_second": tokens_per_second,
        # Leviathan et al. 2023, arXiv:2211.17192, theorem 3.8, with the measured length.
        "speedup": acceptance_length / (1 + evaluation.cost_ratio * proposal.levels),
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
        matches_plain_decoding=same if lossless else None,
        ties=ties if lossless else 0,
        lossy=lossy,
        tokens_per_second=tokens_per_second,
        plain_tokens_per_second=plain.generated / plain.seconds,
        prompts=chosen,
        tokens=drafted.tokens,
    )


def compare(
    texts: Sequence[Sequence[int]], own: Sequence[Sequence[int]], margins: Sequence[Sequence[float]], epsilon: float
) -> tuple[bool, int]:
    """Whether texts equal the verifier's own up to ties, and how many diverge at a tie.

    Args:
        texts: token ids, decoded with a draft.
        own: token ids of plain decoding.
        margins: beside each token of `own`, the verifier's top-2 margin.
        epsilon: a margin up to this is a tie: rounding may pick either. What follows it is not compared.
    """
    same, ties = True, 0
    for text, right, margin in zip(texts, own, margins, strict=True):
        if list(text) == list(right):
            continue
        first = next((i for i, (a, b) in enumerate(zip(text, right, strict=False)) if a != b), None)
        if first is not None and margin[first] <= epsilon:
            ties += 1
        else:
            same = False
    return same, ties


def _add(total: Decoded, part: Decoded) -> None:
    total.tokens += part.tokens
    total.margins += part.margins
    total.accepted_K = [a + b for a, b in zip_longest(total.accepted_K, part.accepted_K, fillvalue=0)]
    total.drafts += part.drafts
    total.drafted += part.drafted
    total.seconds += part.seconds


def evaluate_checkpoint(checkpoint: Path, run: RunConfig, heldout: bool) -> EvaluationResult:
    """Evaluate a published draft.

    Args:
        checkpoint: its folder.
        run: verifier, data, proposal and evaluation to use; its training settings are not read.
        heldout: take only the prompts that training with this seed holds out, not all of the data's.

    Raises:
        ValueError: it is no valid published folder, or verifier or data cannot be loaded.
    """
    read_strictly(checkpoint)
    device = resolve(run.device)
    verifier = Verifier.load(run.verifier, device)
    # transformers reports missing tensors as newly initialised; here they are the verifier's, or an error.
    set_verbosity_error()
    loaded: Any = SpeculatorModel.from_pretrained(
        checkpoint, dtype=verifier.head.head_VH.dtype, output_loading_info=True
    )
    model, report = loaded
    model.borrow(report["missing_keys"], verifier.head)
    torch.nn.Module.to(model, device)  # transformers wraps its own `to` in a way that type checkers misread
    chosen = prompts(run.data, ChatTemplate.of(run.verifier, run.data), run.seed if heldout else None)
    return evaluate(model, verifier, chosen, run.proposal, run.evaluation, run.seed)
