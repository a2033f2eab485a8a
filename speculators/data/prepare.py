"""Prepares data: from the settings to packed sequences, held-out prompts and a report."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from speculators.data.conversations import Conversation
from speculators.data.mixture import conversations, names, order, sources_among
from speculators.data.regenerate import NO_ROOM, Generate, regenerated
from speculators.data.rendering import limited, rendered
from speculators.data.rendering_processes import processes_for, rendering_processes
from speculators.data.sequences import Columns, Sequences, in_columns, packed
from speculators.data.spool import Spool, hash_of, prompt_key, spooled
from speculators.data.template import ChatTemplate, Document, TemplateRefused
from speculators.data.unused import Unused
from speculators.settings.data import DataSettings
from speculators.verifier.settings import VerifierSettings

# Tokens whose ids are counted at a time.
COUNTED = 2**20
TOO_FEW = "data: it has fewer than two different prompts; one is trained on and one held out for the evaluation"


@dataclass(frozen=True)
class DataReport:
    """Counts of what was used of the data and what was left out.

    Attributes:
        conversations: read and usable.
        skipped: conversations left out, by reason.
        cut: documents longer than data.max_length.
        train_sequences, heldout_sequences: packed.
        train_tokens: tokens to train on.
        supervised_tokens: those of them that are answers.
        heldout_prompts: distinct prompts kept for evaluation.
        first: place of the first occurrence of each reason.
        left_out: answers that are used without a part that the chat template does not render.
        unfinished: regenerated answers that did not end within their budget.
        sources: conversations of each source, where there are several.
    """

    conversations: int
    skipped: dict[str, int]
    cut: int
    train_sequences: int
    heldout_sequences: int
    train_tokens: int
    supervised_tokens: int
    heldout_prompts: int
    first: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    unfinished: int = 0
    sources: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        skipped = "".join(f", {n} skipped {reason} (first: {self.first[reason]})" for reason, n in self.skipped.items())
        cut = f", {self.cut} truncated at data.max_length" if self.cut else ""
        left_out = "".join(f", {n} {what}, which the chat template leaves out" for what, n in self.left_out.items())
        unfinished = (
            f", {self.unfinished} regenerated answers reached data.regenerate_max_new_tokens or data.max_length"
            if self.unfinished
            else ""
        )
        sources = f" ({', '.join(f'{n} of {name}' for name, n in self.sources.items())})" if self.sources else ""
        return (
            f"{self.conversations} conversations{sources}{skipped}{cut}{left_out}{unfinished}; "
            f"{self.train_tokens:,} tokens to train on in {self.train_sequences} sequences, "
            f"{self.supervised_tokens / self.train_tokens:.0%} of them answers; {self.heldout_prompts} prompts held out"
        )


@dataclass(frozen=True)
class Prepared:
    """The prepared data that training and evaluation read.

    Attributes:
        sequences: packed sequences, those to train on first; no prompt is on both sides.
        prompts: token ids of the held-out prompts, each with the start of an answer.
        token_count_V: int64 count of each supervised training token.
        report: counts for the user.
        train_prompts: int64 `Prompt.hash` of the conversations to train on, ascending, without repeats.
    """

    sequences: Sequences
    prompts: Sequence[list[int]]
    token_count_V: Tensor
    report: DataReport
    train_prompts: np.ndarray

    @property
    def train(self) -> Sequences:
        """The sequences to train on."""
        return self.sequences[: self.report.train_sequences]

    @property
    def heldout(self) -> Sequences:
        """The sequences that are held out."""
        return self.sequences[self.report.train_sequences :]

    @property
    def tokens(self) -> int:
        """Tokens of all documents, training and held-out: those whose states the verifier computes."""
        return len(self.sequences.documents.token_N)

    @property
    def answer_tokens(self) -> int:
        """Supervised tokens of all documents, training and held-out."""
        return sum(sum(d.supervised) for side in (self.train, self.heldout) for sequence in side for d in sequence)


def prepare(
    data: DataSettings,
    template: ChatTemplate,
    vocab_size: int,
    seed: int,
    generate: Generate | None = None,
    verifier: VerifierSettings | None = None,
) -> Prepared:
    """Prepare the data of a run: read, split, render, mask and pack.

    Args:
        data: the source and its sizes.
        template: the verifier's.
        vocab_size: the verifier's vocabulary, V.
        seed: decides which prompts are held out.
        generate: generates the verifier's answers; required with data.regenerate, unused otherwise.
        verifier: whose template `template` is; if given, a large source is rendered by several processes.

    Raises:
        ValueError: no usable data, or token ids that the verifier does not have.
    """
    unused, left_out, unfinished, cut = Unused(), Unused(), Unused(), Counter[str]()
    with chosen(data, seed, unused) as sides:
        if data.regenerate:
            assert generate is not None, "data.regenerate=true: no verifier was given to generate the answers"
            author = generate

            def answered(side: Side, samples: int) -> Iterator[Document]:
                for sample in range(samples):
                    # Conversations that are left out are counted once.
                    left = Unused() if sample else unused
                    yield from regenerated(side, template, author, sample, data, left, unfinished)

            found = answered(sides[0], data.regenerate_samples), answered(sides[1], 1)
            documents, ends = in_columns((limited(d, data.max_length, cut) for d in side) for side in found)
        elif verifier is not None and (processes := processes_for(sum(map(len, sides)))) > 1:
            numbers = [side.numbers for side in sides]
            with rendering_processes(sides[0].spool, numbers, verifier, data, processes) as started:
                documents, ends = in_columns(started.documents(i, unused, left_out, cut) for i in range(len(sides)))
        else:
            length = data.max_length
            documents, ends = in_columns(rendered(side, template, length, unused, left_out, cut) for side in sides)
        heldout_prompts = [p.tokens for p in prompts_of(sides[1], template, data.max_length, Unused())]
        used, sources = sum(map(len, sides)), taken(data, sides)
        train_prompts = sides[0].prompt_hashes
    if not ends[0]:
        raise ValueError(nothing(unused))
    if (largest := documents.token_N.max()) >= vocab_size:
        raise ValueError(
            f"verifier.name_or_path: the tokenizer produced token id {largest}, but the verifier's vocabulary has only "
            f"{vocab_size} tokens; use the tokenizer of this verifier"
        )
    sequences, (train_sequences, _) = packed(documents, ends, data.max_length)
    train_tokens = int(documents.start_D[ends[0]])
    count_V = supervised_counts(documents, train_tokens, vocab_size)
    report = DataReport(
        conversations=used,
        skipped=dict(unused.counts),
        cut=cut["documents"],
        train_sequences=train_sequences,
        heldout_sequences=len(sequences) - train_sequences,
        train_tokens=train_tokens,
        supervised_tokens=int(count_V.sum()),
        heldout_prompts=len(heldout_prompts),
        first=unused.first,
        left_out=dict(left_out.counts),
        unfinished=unfinished.counts.total(),
        sources=sources,
    )
    return Prepared(sequences, heldout_prompts, torch.from_numpy(count_V), report, train_prompts)


def supervised_counts(documents: Columns, tokens: int, vocab_size: int) -> np.ndarray:
    """int64 [V] how often each token id is supervised among the first `tokens` tokens."""
    count_V = np.zeros(vocab_size, np.int64)
    for start in range(0, tokens, COUNTED):
        part = slice(start, min(start + COUNTED, tokens))
        count_V += np.bincount(documents.token_N[part][documents.supervised_N[part]], minlength=vocab_size)
    return count_V


class Prompt(NamedTuple):
    """A prompt.

    Attributes:
        tokens: token ids, with the start of an answer.
        category: what kind it is; None if the data names none.
        place: file and line, or data set and row.
        hash: of the key of its conversation's prompt.
    """

    tokens: list[int]
    category: str | None
    place: str
    hash: int


def prompts(data: DataSettings, template: ChatTemplate, seed: int | None) -> list[Prompt]:
    """The distinct prompts of a data source, for decoding.

    Args:
        data: the source.
        template: the verifier's.
        seed: take the prompts that training with this seed holds out; None takes all, in the source's order.

    Raises:
        ValueError: no usable data.
    """
    if seed is not None:
        with chosen(data, seed, Unused()) as (_, heldout):
            return prompts_of(heldout, template, data.max_length, Unused())
    unused = Unused()
    read_in_order = islice(conversations(data, unused, False, []), data.max_conversations)
    found = prompts_of(read_in_order, template, data.max_length, unused)
    if not found:
        raise ValueError(nothing(unused))
    return found


def train_prompts(data: DataSettings, seed: int) -> np.ndarray:
    """`Prompt.hash` of the conversations that training with this seed does not hold out; ValueError without usable data."""
    with chosen(data, seed, Unused()) as (train, _):
        return train.prompt_hashes


@contextmanager
def chosen(data: DataSettings, seed: int, unused: Unused) -> "Iterator[tuple[Side, Side]]":
    """The conversations of a source to train on, and those that are held out.

    Raises:
        ValueError: no usable data.
    """
    counts: list[int] = []
    with spooled(conversations(data, unused, not data.regenerate, counts)) as spool:
        if not len(spool):
            raise ValueError(nothing(unused))
        train, heldout = split(spool, order(data, counts, seed), data.heldout_fraction, seed)
        yield Side(spool, train, counts), Side(spool, heldout, counts)


@dataclass(frozen=True)
class Side:
    """A subset of a spool's conversations, in a given order.

    Attributes:
        spool: all conversations.
        numbers: indices of the subset, in order.
        counts: conversations of the whole spool, by source.
    """

    spool: Spool
    numbers: Sequence[int]
    counts: list[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Conversation]:
        return (self.spool[number] for number in self.numbers)

    @property
    def prompt_hashes(self) -> np.ndarray:
        """int64 hashes of the distinct prompts' keys, ascending."""
        keys = {self.spool.prompt_numbers[number] for number in self.numbers}
        return np.unique(np.fromiter((hash_of(self.spool.prompt_keys[key]) for key in keys), np.int64, len(keys)))


def taken(data: DataSettings, sides: Iterable[Side]) -> dict[str, int]:
    """Number of conversations of each source by its name; empty if there is only one source."""
    called = names(data)
    if len(called) == 1:
        return {}
    found = Counter(source for side in sides for source in sources_among(side.numbers, side.counts))
    return {name: found[number] for number, name in enumerate(called)}


def nothing(unused: Unused, key: str = "data") -> str:
    """The message for a source, by its config key, without any usable conversation."""
    if not unused.counts:
        return f"{key}: the source is empty"
    hint = "" if NO_ROOM not in unused.counts else "; raise data.max_length"
    return f"{key}: no conversation can be used: {unused}{hint}"


def split(spool: Spool, numbers: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the training and held-out conversations; those with the same prompt stay together.

    Raises:
        ValueError: fewer than two different prompts.
    """
    distinct = sorted({spool.prompt_numbers[i] for i in numbers}, key=spool.prompt_keys.__getitem__)
    if len(distinct) < 2:
        raise ValueError(TOO_FEW)
    random.Random(seed).shuffle(distinct)
    held = set(distinct[: min(max(1, round(fraction * len(distinct))), len(distinct) - 1)])
    sides: tuple[list[int], list[int]] = ([], [])
    for number in numbers:
        sides[spool.prompt_numbers[number] in held].append(number)
    return sides


def prompts_of(
    side: Iterable[Conversation], template: ChatTemplate, max_length: int, unused: Unused, most: int | None = None
) -> list[Prompt]:
    """The distinct prompts, in order; those that the template refuses or that leave no room are counted.

    Args:
        side: conversations, of which no more are read once `most` prompts are found.
        template: the verifier's.
        max_length: tokens of a prompt with at least one of its answer.
        unused: counts what is left out.
        most: number of prompts; None is all.
    """
    distinct: dict[tuple[int, ...], Prompt] = {}
    for conversation in side:
        if len(distinct) == most:
            break
        try:
            prompt = template.prompt(conversation.prompt, conversation.tools)
        except TemplateRefused as error:
            unused.add(str(error), conversation.place)
            continue
        if len(prompt) < max_length:
            key = hash_of(prompt_key(conversation))
            made = Prompt(prompt, conversation.category, conversation.place, key)
            distinct.setdefault(tuple(prompt), made)
        else:
            unused.add(NO_ROOM, conversation.place)
    return list(distinct.values())
