"""Speculative decoding: draft, then verify in one pass. Without a draft the same loop is plain decoding."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from speculators.decoding.verification import Pass, Verification
from speculators.proposals.method import ProposalMethod
from speculators.proposals.sampler import Sampler
from speculators.protocols.draft import Draft, Verdict
from speculators.protocols.drafter import Context, Drafter
from speculators.protocols.hidden_states import VerifierStates
from speculators.verifier.in_process import Verifier


@dataclass
class Decoded:
    """Generated texts, with counts defined as in vLLM.

    Attributes:
        tokens: generated token ids of each prompt, cut at the end of text and at the token limit.
        rounds: of each prompt, how many drafted tokens each pass that verified a draft accepted, before any cut.
        levels: the most levels of a draft.
        drafted: drafted tokens verified.
        seconds: wall-clock time.
    """

    tokens: list[list[int]] = field(default_factory=list)
    rounds: list[list[int]] = field(default_factory=list)
    levels: int = 0
    drafted: int = 0
    seconds: float = 0.0

    @property
    def drafts(self) -> int:
        """Verifier passes that verified a draft, over all sequences."""
        return sum(map(len, self.rounds))

    @property
    def accepted(self) -> int:
        """Drafted tokens accepted."""
        return sum(map(sum, self.rounds))

    @property
    def acceptance_length(self) -> float:
        """Tokens that one pass of the verifier yields, 1 + accepted / drafts."""
        return 1 + self.accepted / max(1, self.drafts)

    @property
    def accepted_K(self) -> list[int]:
        """How often a draft's k-th level was accepted."""
        return [sum(n > k for own in self.rounds for n in own) for k in range(self.levels)]

    @property
    def generated(self) -> int:
        """Tokens of all texts."""
        return sum(map(len, self.tokens))

    def add(self, part: "Decoded") -> None:
        """Append the texts of another batch."""
        self.tokens += part.tokens
        self.rounds += part.rounds
        self.drafted += part.drafted
        self.seconds += part.seconds


@dataclass(frozen=True)
class Speculation:
    """The proposal method and the draft model of speculative decoding.

    Attributes:
        method: how tokens are drafted and accepted.
        drafter: makes the draft model's side of decoding, for so many sequences.
        layer_ids: verifier layers that the draft reads; None reads no state of the verifier, not even the last.
    """

    method: ProposalMethod
    drafter: Callable[[int], Drafter]
    layer_ids: Sequence[int] | None


@dataclass
class Decoder:
    """One way to decode.

    Attributes:
        verifier: the model whose text it is.
        sampler: how it samples.
        max_new_tokens: tokens per prompt, >= 1.
        speculation: None decodes plainly.
        beyond: tokens to decode after the end of each text, >= 0.
    """

    verifier: Verifier
    sampler: Sampler
    max_new_tokens: int
    speculation: Speculation | None = None
    beyond: int = 0

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[Sequence[int]]) -> Decoded:
        """Decode prompts side by side.

        Args:
            prompts: token ids, at least one prompt and one token each.
        """
        decoded = Decoded([[] for _ in prompts], [[] for _ in prompts])
        started, speculation = time.perf_counter(), self.speculation
        with_states = speculation is not None and speculation.layer_ids is not None
        drafter = speculation.drafter(len(prompts)) if speculation else None

        # 1. the prompts, and the first token
        verification = Verification(self.verifier, (speculation and speculation.layer_ids) or ())
        read, valid_BT = verification.start(prompts)
        next_B = self.sampler.choose(read.logits_BPV[:, -1])
        context = _prompt(read, valid_BT, next_B, with_states)
        alive = list(range(len(prompts)))
        nothing = Draft(next_B.new_empty(len(prompts), 0))
        done = self._write(decoded, alive, nothing, Verdict(nothing.token_BM, next_B))

        while True:
            # 2. finished sequences leave
            if any(done):
                stay = torch.tensor([i for i, d in enumerate(done) if not d], device=next_B.device, dtype=torch.long)
                alive = [a for a, d in zip(alive, done, strict=True) if not d]
                if not alive:
                    break
                verification.select(stay)
                self.sampler.select(stay)
                context, next_B = _select(context, stay), next_B[stay]
                if drafter:
                    drafter.select(stay)
            # 3. draft
            draft = Draft(next_B.new_empty(len(alive), 0))
            if speculation and drafter:
                draft = speculation.method.draft(drafter, context)
            # 4. verify
            read = verification.read(next_B, draft)
            if speculation:
                verdict = speculation.method.judge(draft, read.logits_BPV)
            else:
                verdict = Verdict(draft.token_BM, self.sampler.choose(read.logits_BPV[:, 0]))
            # 5. keep what was accepted
            verification.keep(verdict, read.token_BP.shape[1])
            context, next_B = read.context(verdict, with_states), verdict.token_B
            done = self._write(decoded, alive, draft, verdict)
        decoded.seconds = time.perf_counter() - started
        return decoded

    def _write(self, decoded: Decoded, alive: Sequence[int], draft: Draft, verdict: Verdict) -> list[bool]:
        """Record a round's tokens and counts, on the host; returns whether each sequence is finished."""
        tokens_BM, paths, nexts = draft.token_BM.tolist(), verdict.node_BD.tolist(), verdict.token_B.tolist()
        drafted = draft.token_BM.shape[1] > 0
        if drafted:
            decoded.drafted += draft.token_BM.numel() if draft.valid_BM is None else int(draft.valid_BM.sum())
        decoded.levels = max(decoded.levels, verdict.node_BD.shape[1])
        done = []
        for row, sequence in enumerate(alive):
            path = [node for node in paths[row] if node >= 0]
            if drafted:
                decoded.rounds[sequence].append(len(path))
            tokens = decoded.tokens[sequence]
            tokens += [*(tokens_BM[row][node] for node in path), nexts[row]]
            end = end_of_text(tokens, self.verifier.eos_ids, self.max_new_tokens) + self.beyond
            done.append(len(tokens) >= end)
            del tokens[end:]
        return done


def end_of_text(tokens: Sequence[int], eos_ids: Collection[int], max_new_tokens: int) -> int:
    """How many tokens a text has: up to the first that ends it, or `max_new_tokens`, also if fewer are there yet."""
    return next((i + 1 for i, token in enumerate(tokens[:max_new_tokens]) if token in eos_ids), max_new_tokens)


def _prompt(read: Pass, valid_BT: Tensor, next_B: Tensor, with_states: bool) -> Context:
    """The prompts as the drafter's first context."""
    next_token_BT = torch.cat((read.token_BP[:, 1:], next_B.unsqueeze(1)), dim=1)
    return Context(read.token_BP, next_token_BT, read.states if with_states else None, read.position_BP, valid_BT)


def _select(context: Context, rows: Tensor) -> Context:
    states = context.states
    if states is not None:
        states = VerifierStates(states.last_BTH[rows], None if states.aux_BTA is None else states.aux_BTA[rows])
    return Context(
        context.token_BT[rows],
        context.next_token_BT[rows],
        states,
        context.position_BT[rows],
        context.valid_BT[rows],
    )


def greedy(prompts: Sequence[Sequence[int]]) -> Sampler:
    """A greedy sampler; the prompts are not used."""
    return Sampler(0.0, torch.Generator())


def plain(
    verifier: Verifier,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    sampler: Callable[[Sequence[Sequence[int]]], Sampler] = greedy,
) -> list[list[int]]:
    """The verifier's own answers.

    Args:
        verifier: the model.
        prompts: token ids.
        max_new_tokens: tokens per answer, >= 1.
        batch_size: prompts side by side; those of like length go together.
        sampler: makes that of some prompts.
    """
    answers: dict[int, list[int]] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = [prompts[i] for i in chosen]
        decoded = Decoder(verifier, sampler(batch), max_new_tokens)(batch)
        answers |= dict(zip(chosen, decoded.tokens, strict=True))
    return [answers[i] for i in range(len(prompts))]
