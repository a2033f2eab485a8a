"""The verifier's own answers, each generated once for all runs."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from itertools import count
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save

from speculators.cache.entry import Entry, NoRoom
from speculators.cache.store import Store
from speculators.data.ragged import Lists, flat
from speculators.data.regenerate import Generate
from speculators.data.served_answers import Prompt, served_answers
from speculators.data.template import ChatTemplate
from speculators.decoding.generate import greedy, plain
from speculators.decoding.text_sampler import TextSampler
from speculators.proposals.sampler import Sampler
from speculators.settings.answers import ServedAnswers
from speculators.settings.run_config import RunConfig
from speculators.verifier import identity
from speculators.verifier.loader import VerifierLoader

log = logging.getLogger(__name__)
# Answers of a shard. In process, the prompts between two writes: the most that an interrupted run loses.
SHARD = 256
Answers = dict[Prompt, list[int]]
# Generates answers to prompts with a seed, and calls a function with each as it is there.
Answerer = Callable[[Sequence[Prompt], int, Callable[[Prompt, list[int]], None]], None]
_LINE = TypeAdapter(tuple[list[int], list[int]])


@contextmanager
def kept_answers(run: RunConfig, store: Store, verifier: VerifierLoader, template: ChatTemplate) -> Iterator[Generate]:
    """A function that generates the verifier's answers to prompts; cached answers of earlier runs are read.

    Args:
        run: verifier, verifier_answers, data.regenerate_* and evaluation.batch_size are read.
        store: cache of the answers; without room in it they are not stored.
        verifier: generates them in process; loaded if an answer is missing.
        template: the verifier's, whose end tokens a server gets.
    """
    opened: list[Answerer] = []
    with ExitStack() as stack:

        def generate(prompts: list[list[int]], sample: int) -> list[list[int] | None]:
            about, seed = f"of {run.verifier.name_or_path}", run.data.regenerate_seed + sample
            with store.use("answers", _made_of(run, verifier, seed), about) as entry, entry.writing():
                known, pending = _read(entry)
                # In a fixed order, so that an interrupted run resumes with the same batches as an uninterrupted one.
                new = sorted({tuple(p) for p in prompts} - known.keys(), key=lambda p: (len(p), p))
                if new:
                    opened[:] = opened or [stack.enter_context(_answerer(run, verifier, template))]
                    kept = _Kept(entry, store, pending, len(new))
                    opened[0](new, seed, kept.keep)
                    kept.write()
                    known |= kept.answers
            return [known.get(tuple(p)) for p in prompts]

        yield generate


def decisive(run: RunConfig) -> dict[str, Any]:
    """What generates the answers, as far as the answers depend on it."""
    answers = run.verifier_answers
    if isinstance(answers, ServedAnswers):
        return {"vllm": answers.args, "thinking_token_budget": answers.thinking_token_budget}
    return {"transformers": version("transformers")}


def _made_of(run: RunConfig, verifier: VerifierLoader, seed: int) -> dict[str, Any]:
    """All settings that determine an answer."""
    data, budget = run.data, run.data.regenerate_max_new_tokens
    found: dict[str, Any] = {
        "verifier": identity.whole(run.verifier.name_or_path, run.verifier.revision),
        "dtype": verifier.dtype,
        **decisive(run),
    }
    if budget is not None:
        found["max_new_tokens"] = budget
    # A server's answers end where data.max_length does.
    if budget is None or isinstance(run.verifier_answers, ServedAnswers):
        found["max_length"] = data.max_length
    if data.regenerate_temperature:
        found |= {"temperature": data.regenerate_temperature, "seed": seed}
    return found


@contextmanager
def _answerer(run: RunConfig, verifier: VerifierLoader, template: ChatTemplate) -> Iterator[Answerer]:
    """What generates the answers."""
    if isinstance(run.verifier_answers, ServedAnswers):
        with served_answers(run.verifier_answers, run.data, verifier, template) as served:
            yield served
    else:
        yield partial(_in_process, run, verifier)


def _in_process(
    run: RunConfig,
    verifier: VerifierLoader,
    prompts: Sequence[Prompt],
    seed: int,
    keep: Callable[[Prompt, list[int]], None],
) -> None:
    for start in range(0, len(prompts), SHARD):
        chunk = prompts[start : start + SHARD]
        # The shortest prompt comes first; tokens beyond data.max_length are cut later.
        budget = run.data.regenerate_max_new_tokens or run.data.max_length - len(chunk[0])
        sampler = _sampler(run.data.regenerate_temperature, seed, verifier.device, budget)
        for prompt, answer in zip(
            chunk, plain(verifier.whole(), chunk, budget, run.evaluation.batch_size, sampler), strict=True
        ):
            keep(prompt, answer)


class _Kept:
    """Keeps answers in an entry: each in its journal as it is there, and SHARD of them together in a shard.

    Args:
        entry: of the answers, being written.
        store: of the entry.
        pending: answers that are in the journal alone.
        expected: number of answers to come.

    Attributes:
        answers: those that came.
    """

    def __init__(self, entry: Entry, store: Store, pending: Answers, expected: int) -> None:
        self.answers: Answers = {}
        self._entry, self._store, self._pending, self._expected = entry, store, pending, expected
        self._names = [name for name, _ in zip(_free(entry), range(0, len(pending) + expected, SHARD), strict=False)]
        self._room = True
        entry.begin(self._names)

    def keep(self, prompt: Prompt, answer: list[int]) -> None:
        """Keep an answer."""
        self.answers[prompt] = self._pending[prompt] = answer
        if len(self._pending) >= SHARD:
            self.write()
        elif self._room:
            with self._while_room():
                self._entry.append(json.dumps([prompt, answer]).encode())

    def write(self) -> None:
        """Write the pending answers as a shard."""
        log.info("data: %d of %d answers regenerated", len(self.answers), self._expected)
        if self._room and self._pending:
            payload = save(flat("prompts", list(self._pending)) | flat("answers", list(self._pending.values())))
            with self._while_room():
                self._store.make_room(len(payload))
                self._entry.add({self._names.pop(0): payload})
                self._entry.end_journal()
        self._pending.clear()

    @contextmanager
    def _while_room(self) -> Iterator[None]:
        try:
            yield
        except NoRoom as error:
            self._room = False
            log.info("data: the regenerated answers are not cached for later runs: %s", error)


def _sampler(
    temperature: float, seed: int, device: torch.device, length: int
) -> Callable[[Sequence[Sequence[int]]], Sampler]:
    """A function that makes the sampler for given prompts."""
    if not temperature:
        return greedy
    return lambda some: TextSampler(temperature, seed, some, length, device)


def _read(entry: Entry) -> tuple[Answers, Answers]:
    """All answers of an entry, and those of them that are in its journal alone."""
    known, pending = Answers(), Answers()
    entry.forget(entry.damaged())
    for name in entry.whole():
        tensors = load_file(entry.path(name))
        known |= zip(map(tuple, Lists(tensors, "prompts")), Lists(tensors, "answers"), strict=True)
    for line in entry.journal():
        try:
            prompt, answer = _LINE.validate_json(line)
        except ValidationError:
            continue  # the end of a killed process's journal
        pending[tuple(prompt)] = answer
    pending = {prompt: answer for prompt, answer in pending.items() if prompt not in known}
    return known | pending, pending


def _free(entry: Entry) -> Iterable[str]:
    whole = set(entry.whole())
    return (name for n in count() if (name := f"{n:05d}.safetensors") not in whole)
