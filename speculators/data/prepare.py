"""From the data settings to packed sequences, held-out prompts and a report."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from speculators.data.conversations import Conversation, read
from speculators.data.pack import Packed, pack
from speculators.data.template import ChatTemplate, Document, TemplateRefused
from speculators.settings.run_config import DataSettings

# Greedy answers of the verifier to prompts, both as token ids.
Generate = Callable[[list[list[int]]], list[list[int]]]


@dataclass(frozen=True)
class DataReport:
    """What became of the data.

    Attributes:
        conversations: read and usable.
        skipped: conversations left out, by reason.
        cut: documents longer than data.max_length.
        train_sequences, heldout_sequences: packed.
        train_tokens: tokens to train on.
        supervised_tokens: those of them that are answers.
        heldout_prompts: distinct prompts kept for evaluation.
    """

    conversations: int
    skipped: dict[str, int]
    cut: int
    train_sequences: int
    heldout_sequences: int
    train_tokens: int
    supervised_tokens: int
    heldout_prompts: int

    def __str__(self) -> str:
        skipped = "".join(f", {count} skipped {reason}" for reason, count in self.skipped.items())
        cut = f", {self.cut} cut at data.max_length" if self.cut else ""
        return (
            f"{self.conversations} conversations{skipped}{cut}; {self.train_tokens:,} tokens to train on in "
            f"{self.train_sequences} sequences, {self.supervised_tokens / self.train_tokens:.0%} of them answers; "
            f"{self.heldout_prompts} prompts held out"
        )


@dataclass(frozen=True)
class Prepared:
    """Everything that training and evaluation read.

    Attributes:
        train, heldout: packed sequences; no prompt is in both.
        prompts: token ids of the held-out prompts, each with the start of an answer.
        token_count_V: int64 count of each supervised training token.
        report: counts for the user.
    """

    train: list[Packed]
    heldout: list[Packed]
    prompts: list[list[int]]
    token_count_V: Tensor
    report: DataReport


def prepare(
    data: DataSettings,
    tokenizer: PreTrainedTokenizerBase,
    vocab_size: int,
    seed: int,
    generate: Generate | None = None,
) -> Prepared:
    """Read, split, render, mask and pack.

    Args:
        data: the source and its sizes.
        tokenizer: the verifier's, with its chat template.
        vocab_size: the verifier's vocabulary, V.
        seed: decides which prompts are held out.
        generate: the verifier's own answers; used with data.regenerate.

    Raises:
        ValueError: no usable data, or token ids that the verifier does not have.
    """
    skipped: Counter[str] = Counter()
    conversations = read(data, skipped)
    random.Random(seed).shuffle(conversations)
    conversations = conversations[: data.max_conversations]
    sides = split(conversations, data.heldout_fraction, seed)
    template = ChatTemplate(tokenizer)
    cut: Counter[str] = Counter()
    packed, tokens = [], []
    for side in sides:
        if data.regenerate and generate is not None:
            documents = regenerated(prompts_of(side, template, data.max_length, skipped), generate)
        else:
            documents = rendered(side, template, skipped)
        documents = [limited(d, data.max_length, cut) for d in documents]
        # A prompt that fills the whole length leaves nothing to learn.
        useful = [d for d in documents if any(d.supervised)]
        if len(useful) < len(documents):
            skipped["without an answer inside data.max_length"] += len(documents) - len(useful)
        packed.append(pack(useful, data.max_length))
        tokens.append([t for d in useful for t in d.tokens])
    if not packed[0]:
        raise ValueError(
            f"data: no supervised token at all ({dict(skipped)}); raise data.max_length, or look at the chat template: "
            "do its answers carry the text of the conversations?"
        )
    largest = max(max(side, default=0) for side in tokens)
    if largest >= vocab_size:
        raise ValueError(
            f"verifier.name_or_path: the tokenizer made token id {largest}, but the verifier's vocabulary has only "
            f"{vocab_size}; the tokenizer is another model's"
        )
    supervised = [t for s in packed[0] for d in s for t, m in zip(d.tokens, d.supervised, strict=True) if m]
    heldout_prompts = prompts_of(sides[1], template, data.max_length, Counter())
    report = DataReport(
        conversations=len(conversations),
        skipped=dict(skipped),
        cut=cut["documents"],
        train_sequences=len(packed[0]),
        heldout_sequences=len(packed[1]),
        train_tokens=len(tokens[0]),
        supervised_tokens=len(supervised),
        heldout_prompts=len(heldout_prompts),
    )
    count_V = torch.bincount(torch.tensor(supervised), minlength=vocab_size)
    return Prepared(packed[0], packed[1], heldout_prompts, count_V, report)


def prompts(data: DataSettings, tokenizer: PreTrainedTokenizerBase, seed: int | None) -> list[list[int]]:
    """Distinct prompts of a data source, to decode.

    Args:
        data: the source.
        tokenizer: the verifier's, with its chat template.
        seed: take what training with this seed holds out; None takes all, in the source's order.

    Raises:
        ValueError: no usable data.
    """
    conversations = read(data, Counter())
    if seed is not None:
        random.Random(seed).shuffle(conversations)
        _, conversations = split(conversations[: data.max_conversations], data.heldout_fraction, seed)
    return prompts_of(conversations[: data.max_conversations], ChatTemplate(tokenizer), data.max_length, Counter())


def split(
    conversations: Sequence[Conversation], fraction: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Train and held-out conversations; those with the same prompt stay together.

    Raises:
        ValueError: fewer than two different prompts.
    """
    keys = [repr(c.prompt) for c in conversations]
    distinct = sorted(set(keys))
    if len(distinct) < 2:
        raise ValueError("data: at least two different prompts are needed, one to train on and one to hold out")
    random.Random(seed).shuffle(distinct)
    held = set(distinct[: min(max(1, round(fraction * len(distinct))), len(distinct) - 1)])
    sides: tuple[list[Conversation], list[Conversation]] = ([], [])
    for key, conversation in zip(keys, conversations, strict=True):
        sides[key in held].append(conversation)
    return sides


def rendered(side: Sequence[Conversation], template: ChatTemplate, skipped: Counter[str]) -> list[Document]:
    """Documents of conversations as they are; those that the template refuses are counted."""
    documents: list[Document] = []
    for conversation in side:
        try:
            documents.extend(template.documents(conversation))
        except TemplateRefused:
            skipped["that the chat template refuses"] += 1
    return documents


def regenerated(prompts: list[list[int]], generate: Generate) -> list[Document]:
    """One document a prompt: the verifier's own answer to it, token for token as it wrote it."""
    answers = generate(prompts)
    return [
        Document(prompt + answer, [False] * len(prompt) + [True] * len(answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def limited(document: Document, max_length: int, cut: Counter[str]) -> Document:
    """The first `max_length` tokens of a document."""
    if len(document.tokens) <= max_length:
        return document
    cut["documents"] += 1
    return Document(document.tokens[:max_length], document.supervised[:max_length])


def prompts_of(
    side: Sequence[Conversation], template: ChatTemplate, max_length: int, skipped: Counter[str]
) -> list[list[int]]:
    """Token ids of the distinct prompts, in order; those that leave no room for an answer are counted and left out."""
    distinct: dict[tuple[int, ...], None] = {}
    for conversation in side:
        try:
            prompt = template.prompt(conversation.prompt)
        except TemplateRefused:
            skipped["that the chat template refuses"] += 1
            continue
        if len(prompt) < max_length:
            distinct[tuple(prompt)] = None
        else:
            skipped["without an answer inside data.max_length"] += 1
    return [list(p) for p in distinct]
