"""What decoding with each of several proposals would count, found from one decoded text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from speculators.decoding.generate import Decoded, Decoder, end_of_text
from speculators.decoding.tree_mask import ancestors
from speculators.evaluate.evaluate import sampler_of, speculation_of
from speculators.model import SpeculatorModel
from speculators.proposals import TokenProposalConfig
from speculators.proposals.acceptance import follow
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.protocols.draft import Draft
from speculators.protocols.drafter import Context
from speculators.protocols.hidden_states import VerifierStates
from speculators.settings.evaluation import EvaluationSettings
from speculators.verifier.in_process import Verifier


@torch.inference_mode()
def what_if(
    model: SpeculatorModel,
    verifier: Verifier,
    prompts: Sequence[Sequence[int]],
    proposals: Sequence[TokenProposalConfig],
    evaluation: EvaluationSettings,
    seed: int,
) -> list[Decoded]:
    """What decoding with each proposal counts.

    The greedy text is the same with every lossless proposal. So it is decoded once, with the one of most levels, and read
    once more for the verifier's states; then the rounds of every proposal are found by drafting alone, and proposals whose
    drafts begin alike share them. Sampled or lossy proposals are decoded one by one.

    Args:
        model: the draft, on the verifier's device.
        verifier: the model that it drafts for.
        prompts: token ids, at least one prompt.
        proposals: methods with their settings.
        evaluation: sizes and temperature.
        seed: of sampling.

    Returns:
        For each proposal its counts, without seconds.
    """
    found = [Decoded(levels=proposal.levels) for proposal in proposals]
    samplers = [sampler_of(evaluation, verifier, seed) for _ in proposals]
    fixed = [i for i, p in enumerate(proposals) if evaluation.temperature == 0 and p.lossy(0.0) is None]
    model.eval()
    for start in range(0, len(prompts), evaluation.batch_size):
        batch = prompts[start : start + evaluation.batch_size]

        def decoder(i: int) -> Decoder:
            speculation = speculation_of(model, verifier, proposals[i], samplers[i])
            return Decoder(verifier, samplers[i], evaluation.max_new_tokens, speculation)

        if fixed:
            deepest = max(fixed, key=lambda i: proposals[i].levels)
            tokens = replace(decoder(deepest), beyond=proposals[deepest].levels)(batch).tokens
            text = _Text.read(model, verifier, batch, tokens, evaluation.max_new_tokens)
            for group in families(proposals, fixed, model.same_at_any_depth):
                _walk(text, model, verifier, [(proposals[i], found[i]) for i in group], samplers[group[-1]])
        for i in set(range(len(proposals))) - set(fixed):
            found[i].add(decoder(i)(batch))
    return found


def families(
    proposals: Sequence[TokenProposalConfig], among: Sequence[int], same_at_any_depth: bool
) -> list[list[int]]:
    """Which proposals' drafts are the first levels of one draft, that of the last in each group.

    Args:
        proposals: all.
        among: indices of those to group.
        same_at_any_depth: of the model.
    """
    groups: dict[str, list[int]] = {}
    for i in among:
        settings = proposals[i].model_dump()
        if proposals[i].nested and same_at_any_depth:
            del settings[proposals[i].levels_key]
        groups.setdefault(repr(settings), []).append(i)
    return [sorted(group, key=lambda i: proposals[i].levels) for group in groups.values()]


@dataclass(frozen=True)
class _Text:
    """Prompts with the verifier's texts after them, and its states.

    Attributes:
        token_BW: padded on the right.
        states: of the whole, at every position.
        prompt_lengths: tokens of each prompt.
        ends: tokens of each text.
        texts: each up to its end.
    """

    token_BW: Tensor
    states: VerifierStates | None
    prompt_lengths: list[int]
    ends: list[int]
    texts: list[list[int]]

    @classmethod
    def read(
        cls,
        model: SpeculatorModel,
        verifier: Verifier,
        prompts: Sequence[Sequence[int]],
        tokens: Sequence[Sequence[int]],
        max_new_tokens: int,
    ) -> "_Text":
        """One pass of the verifier, if the draft reads its states."""
        whole = [[*prompt, *own] for prompt, own in zip(prompts, tokens, strict=True)]
        width = max(map(len, whole))
        token_BW = torch.tensor([row + [0] * (width - len(row)) for row in whole], device=verifier.device)
        position_BW = torch.arange(width, device=verifier.device).expand_as(token_BW)
        states = verifier.states(token_BW, position_BW, model.layer_ids) if model.reads_states else None
        ends = [end_of_text(own, verifier.eos_ids, max_new_tokens) for own in tokens]
        texts = [list(own[:end]) for own, end in zip(tokens, ends, strict=True)]
        return cls(token_BW, states, [len(prompt) for prompt in prompts], ends, texts)

    def context(self, rows: Sequence[int], starts: Sequence[int], ends: Sequence[int]) -> Context:
        """The positions `starts` up to `ends` of some rows, as newly verified; the token at `ends` was just sampled."""
        device, width = self.token_BW.device, max(end - start for start, end in zip(starts, ends, strict=True))
        row_B1, start_B1, end_B1 = (torch.tensor(x, device=device).unsqueeze(1) for x in (rows, starts, ends))
        position_BT = end_B1 - width + torch.arange(width, device=device)
        valid_BT = position_BT >= start_B1
        position_BT = position_BT * valid_BT
        states = None
        if self.states is not None:
            aux_BWA = self.states.aux_BTA
            aux_BTA = None if aux_BWA is None else aux_BWA[row_B1, position_BT]
            states = VerifierStates(self.states.last_BTH[row_B1, position_BT], aux_BTA)
        tokens = self.token_BW[row_B1, position_BT] * valid_BT, self.token_BW[row_B1, position_BT + 1]
        return Context(*tokens, states, position_BT, valid_BT)

    def accepted(
        self, draft: Draft, depth_BM: Tensor, rows: Sequence[int], ends: Sequence[int], levels: int
    ) -> list[int]:
        """How many levels of a draft after position `ends` are the text's own."""
        row_B1, end_B1 = (torch.tensor(x, device=self.token_BW.device).unsqueeze(1) for x in (rows, ends))
        fits_BM = draft.token_BM == self.token_BW[row_B1, end_B1 + depth_BM]
        return (follow(draft, fits_BM, levels) >= 0).sum(1).tolist()


def _walk(
    text: _Text,
    model: SpeculatorModel,
    verifier: Verifier,
    members: Sequence[tuple[TokenProposalConfig, Decoded]],
    sampler: Sampler,
) -> None:
    """The rounds of proposals whose drafts are the first levels of the last one's.

    Each walks on its own through the text: a round accepts some tokens and adds one. The next draft is always made at the
    earliest place at which some of them stands, for all that stand there.
    """
    count, deepest = len(text.ends), members[-1][0]
    method = ProposalMethod.of(deepest, sampler)
    drafter = model.drafter(verifier.head, count)
    # Tokens of each text that each proposal has written; the first one comes with the prompt.
    written = [[1] * len(members) for _ in range(count)]
    rounds: list[list[list[int]]] = [[[] for _ in range(count)] for _ in members]
    taken_in, rows = [0] * count, list(range(count))
    while True:
        stay = [i for i, row in enumerate(rows) if min(written[row]) < text.ends[row]]
        if not stay:
            break
        if len(stay) < len(rows):
            drafter.select(torch.tensor(stay, device=verifier.device))
            rows = [rows[i] for i in stay]
        now = [min(written[row]) for row in rows]
        # The position of the last written token, whose state the verifier has not computed yet.
        ends = [text.prompt_lengths[row] + n - 1 for row, n in zip(rows, now, strict=True)]
        draft = method.draft(drafter, text.context(rows, [taken_in[row] for row in rows], ends))
        depth_BM = ancestors(draft).sum(2)
        accepted = text.accepted(draft, depth_BM, rows, ends, deepest.levels)
        for member, (proposal, decoded) in enumerate(members):
            drafted = (draft.valid() & (depth_BM <= proposal.levels)).sum(1).tolist()
            for i, row in enumerate(rows):
                if written[row][member] == now[i]:
                    own = min(accepted[i], proposal.levels)
                    rounds[member][row].append(own)
                    written[row][member] += own + 1
                    decoded.drafted += drafted[i]
        for row, end in zip(rows, ends, strict=True):
            taken_in[row] = end
    for (_, decoded), own in zip(members, rounds, strict=True):
        decoded.rounds += own
        decoded.tokens += text.texts
