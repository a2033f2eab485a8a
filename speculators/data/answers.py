"""The verifier's own answers, each generated once for all runs."""

import logging
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from itertools import count
from typing import Any

import torch
from safetensors.torch import load_file, save

from speculators.cache.entry import Entry, NoRoom
from speculators.cache.store import Store
from speculators.data.ragged import Lists, flat
from speculators.data.regenerate import Generate
from speculators.decoding.generate import greedy, plain
from speculators.decoding.text_sampler import TextSampler
from speculators.proposals.sampler import Sampler
from speculators.settings.data import DataSettings
from speculators.settings.run_config import RunConfig
from speculators.verifier import identity
from speculators.verifier.loader import VerifierLoader

log = logging.getLogger(__name__)
# Prompts between two writes: the most that an interrupted run loses.
SHARD = 256
Answers = dict[tuple[int, ...], list[int]]


def kept_answers(run: RunConfig, store: Store, verifier: VerifierLoader) -> Generate:
    """A function that generates the verifier's answers to prompts; cached answers of earlier runs are read.

    Args:
        run: verifier, data.regenerate_* and evaluation.batch_size are read.
        store: cache of the answers; without room in it they are not stored.
        verifier: generates them; loaded if an answer is missing.
    """

    def generate(prompts: list[list[int]]) -> list[list[int]]:
        made_of = {
            "verifier": identity.whole(run.verifier.name_or_path, run.verifier.revision),
            "dtype": verifier.dtype,
            **_decoding(run.data),
            "transformers": version("transformers"),
        }
        with store.use("answers", made_of, f"of {run.verifier.name_or_path}") as entry, entry.writing():
            known = _read(entry)
            # In a fixed order, so that an interrupted run resumes with the same batches as an uninterrupted one.
            new = sorted({tuple(p) for p in prompts} - known.keys(), key=lambda p: (len(p), p))
            known |= _answered(run, store, verifier, entry, new)
        return [known[tuple(p)] for p in prompts]

    return generate


def _decoding(data: DataSettings) -> dict[str, Any]:
    """The settings that determine an answer."""
    budget = data.regenerate_max_new_tokens
    found: dict[str, Any] = {"max_length": data.max_length} if budget is None else {"max_new_tokens": budget}
    if data.regenerate_temperature:
        found |= {"temperature": data.regenerate_temperature, "seed": data.regenerate_seed}
    return found


def _answered(
    run: RunConfig, store: Store, verifier: VerifierLoader, entry: Entry, prompts: list[tuple[int, ...]]
) -> Answers:
    chunks = [prompts[i : i + SHARD] for i in range(0, len(prompts), SHARD)]
    names = [name for name, _ in zip(_free(entry), chunks, strict=False)]
    if chunks:
        entry.begin(names)
    answers: Answers = {}
    for name, chunk in zip(names, chunks, strict=True):
        # The shortest prompt comes first; tokens beyond data.max_length are cut later.
        budget = run.data.regenerate_max_new_tokens or run.data.max_length - len(chunk[0])
        sampler = _sampler(run.data, verifier.device, budget)
        got = plain(verifier.whole(), chunk, budget, run.evaluation.batch_size, sampler)
        answers |= dict(zip(chunk, got, strict=True))
        log.info("data: %d of %d answers regenerated", len(answers), len(prompts))
        payload = save(flat("prompts", chunk) | flat("answers", got))
        try:
            store.make_room(len(payload))
            entry.add({name: payload})
        except NoRoom as error:
            log.info("data: the regenerated answers are not cached for later runs: %s", error)
    return answers


def _sampler(data: DataSettings, device: torch.device, length: int) -> Callable[[Sequence[Sequence[int]]], Sampler]:
    """A function that makes the sampler for given prompts."""
    if not data.regenerate_temperature:
        return greedy
    return lambda some: TextSampler(data.regenerate_temperature, data.regenerate_seed, some, length, device)


def _read(entry: Entry) -> Answers:
    known: Answers = {}
    entry.forget(entry.damaged())
    for name in entry.whole():
        tensors = load_file(entry.path(name))
        known |= zip(map(tuple, Lists(tensors, "prompts")), Lists(tensors, "answers"), strict=True)
    return known


def _free(entry: Entry) -> Iterable[str]:
    whole = set(entry.whole())
    return (name for n in count() if (name := f"{n:05d}.safetensors") not in whole)
