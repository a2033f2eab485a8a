"""Caches prepared data, so that runs with the same data settings tokenise it once."""

import json
import logging
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from speculators.cache.entry import Entry, NoRoom
from speculators.cache.store import Store
from speculators.data.answers import decisive, kept_answers
from speculators.data.prepare import DataReport, Prepared, prepare
from speculators.data.ragged import Lists, flat
from speculators.data.sequences import Columns, Sequences, mapped
from speculators.data.sources import data_content
from speculators.data.template import ChatTemplate
from speculators.settings.run_config import RunConfig
from speculators.utils import digest
from speculators.verifier import identity
from speculators.verifier.loader import VerifierLoader

log = logging.getLogger(__name__)
# Settings that are locations; they do not determine the content.
PLACES = {"path", "name", "revision", "streaming"}
ELSEWHERE = {**dict.fromkeys(PLACES, True), "sources": {"__all__": PLACES}}
# The columns of all documents as they are in memory, so that they are mapped and not read.
TOKENS, SUPERVISED = "tokens.bin", "supervised.bin"
SEQUENCES, REPORT = "sequences.safetensors", "report.json"
FILES = (TOKENS, SUPERVISED, SEQUENCES, REPORT)


def prepared(run: RunConfig, store: Store, verifier: VerifierLoader, vocab_size: int) -> Prepared:
    """The result of `prepare` for a run's data, read from the cache if present.

    Args:
        run: data, verifier and seed are read.
        store: the cache; without room in it the result is not stored.
        verifier: answers prompts with data.regenerate; otherwise not loaded.
        vocab_size: the verifier's vocabulary, V.

    Raises:
        ValueError: as `prepare`.
    """
    about = f"{run.data.source} data for {run.verifier.name_or_path}"
    with store.use("tokenised", ingredients(run, verifier, vocab_size), about) as entry, entry.writing():
        if not entry.missing(FILES) and not entry.damaged():
            return _read(entry)
        template = ChatTemplate.of(run.verifier, run.data)
        with kept_answers(run, store, verifier, template) as answers:
            made = prepare(run.data, template, vocab_size, run.seed, answers, run.verifier)
        payloads = _payloads(made)
        try:
            store.make_room(sum(map(len, payloads.values())))
            entry.begin(payloads)
            entry.add(payloads)
        except NoRoom as error:
            log.info("data: the tokenised data is not cached for later runs: %s", error)
            return made
        return _read(entry)


def ingredients(run: RunConfig, verifier: VerifierLoader, vocab_size: int) -> dict[str, Any]:
    """All inputs that determine the result of `prepare`; locations are excluded."""
    name, revision = run.verifier.name_or_path, run.verifier.revision
    made_of = {
        "settings": run.data.model_dump(mode="json", exclude=ELSEWHERE),
        "conversations": data_content(run.data),
        "tokenizer": identity.without_weights(name, revision),
        "vocab_size": vocab_size,
        "seed": run.seed,
        "code": digest.of_files(Path(__file__).parent.glob("*.py")),
        "transformers": version("transformers"),
    }
    if run.data.chat_template_date is None:
        made_of["today"] = date.today().isoformat()
    if run.data.regenerate:
        made_of |= {"verifier": identity.whole(name, revision), "dtype": verifier.dtype, "answers": decisive(run)}
    return made_of


def _payloads(prepared: Prepared) -> dict[str, bytes | memoryview]:
    sequences = prepared.sequences
    documents = sequences.documents
    arrays = {"start_D": documents.start_D, "order_D": sequences.order_D, "start_S": sequences.start_S}
    tensors = {
        name: torch.tensor(array) for name, array in (arrays | {"train_prompts": prepared.train_prompts}).items()
    }
    tensors |= {"token_count_V": prepared.token_count_V} | flat("prompts", prepared.prompts)
    return {
        TOKENS: documents.token_N.data.cast("B"),
        SUPERVISED: documents.supervised_N.view(np.uint8).data,
        SEQUENCES: save(tensors),
        REPORT: json.dumps(asdict(prepared.report), indent=1).encode(),
    }


def _read(entry: Entry) -> Prepared:
    tensors = load_file(entry.path(SEQUENCES))
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    columns = mapped(entry.path(TOKENS), np.int32), mapped(entry.path(SUPERVISED), np.bool_)
    return Prepared(
        Sequences(Columns(*columns, arrays["start_D"]), arrays["order_D"], arrays["start_S"]),
        Lists(tensors, "prompts"),
        tensors["token_count_V"],
        DataReport(**json.loads(entry.path(REPORT).read_bytes())),
        arrays["train_prompts"],
    )
