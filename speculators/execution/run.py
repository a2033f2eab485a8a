"""run(folder): a folder with a run.yaml becomes a draft that is trained, measured and published in it."""

import logging
import math
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import set_seed
from transformers.utils.logging import disable_progress_bar

from speculators.cache.store import Store
from speculators.config import SpeculatorModelConfig
from speculators.data import saved
from speculators.data.prepare import Prepared
from speculators.data.verifier_states import open_states
from speculators.decoding.tree_mask import check_reads_trees
from speculators.evaluate.evaluate import evaluate
from speculators.evaluate.printout import report
from speculators.execution.input_hashes import NAMES, check_vocabulary, hashes, vocabulary_map
from speculators.execution.rules import notes
from speculators.export.model_card import add_result
from speculators.export.preflight import plan
from speculators.export.publish import publish
from speculators.format.published import speculator_dict
from speculators.model import SpeculatorModel
from speculators.protocols.initialisation import Initialisation
from speculators.runfolder.folder import RunFolder
from speculators.runfolder.run_yaml import Pin, complete, load, training_folder
from speculators.train.build import build, on_meta
from speculators.train.loop import finished, train
from speculators.utils.device import resolve
from speculators.utils.process import first_process
from speculators.verifier.facts import VerifierFacts
from speculators.verifier.loader import VerifierLoader
from speculators.verifier.tensors import VerifierTensors

log = logging.getLogger(__name__)


class EvaluationFailed(RuntimeError):
    """The draft is trained and published, but could not be measured."""


def run(folder: Path) -> float:
    """Do everything that the folder's run.yaml asks for; what an earlier, cut-off call finished is not done again.

    Args:
        folder: holds run.yaml, and gets checkpoint/ and result.json; checkpoints/ and metrics.jsonl are where it trains.

    Returns:
        What evaluation.objective names; NaN if evaluation.num_prompts is 0.

    Raises:
        WrongInput: run.yaml is broken, or the data gives another draft vocabulary than the pinned one.
        ValueError: a setting that this machine, the verifier or the data cannot fulfil; the message names it.
        EvaluationFailed: the draft is published; the next call goes on with its evaluation.
        speculators.train.interrupt.Interrupted: a signal stopped training; all is saved.
    """
    pin = load(folder)
    run = pin.run
    if run.launch.num_threads is not None:
        torch.set_num_threads(run.launch.num_threads)
    if not sys.stderr.isatty():
        disable_progress_bar()
    device, store = resolve(run.device), Store.of(run.cache)
    for line in pin.drift(torch.get_num_threads()):
        log.info(line)

    # 1. what the verifier is, and what it makes of the published config
    facts = VerifierFacts.read(run.verifier.name_or_path, run.verifier.revision)
    published = speculator_dict(run, facts)
    log.info(plan(run, published, facts).summary)
    for note in notes(run):
        log.info(note)
    config = SpeculatorModelConfig.from_dict(published)
    verifier = VerifierLoader(run.verifier, device)
    if run.proposal.is_tree and run.evaluation.num_prompts:
        check_reads_trees(verifier.whole())  # before training: it is asked for after it

    # 2. data
    set_seed(run.seed)
    # Before the data is read, so that nobody edits it in between; `speculators run` compares before it starts.
    read = pin.read if pin.read.keys() >= set(NAMES) else hashes(run)
    prepared = saved.prepared(run, store, verifier, facts.vocab_size)
    log.info("data: %s", prepared.report)

    # 3. the draft, trained
    model = trained(pin, folder, config, prepared, store, verifier, read)
    if not first_process():
        return math.nan

    # 4. published before it is measured, so that nothing that fails in between takes it away
    checkpoint = publish(model, run, facts, folder)
    log.info("published: %s", checkpoint)

    # 5. measured by decoding, for which the whole verifier is needed
    if not run.evaluation.num_prompts:
        return math.nan
    try:
        result = evaluate(model, verifier.whole(), prepared.prompts, run.proposal, run.evaluation, run.seed)
        report(result, folder)
        add_result(checkpoint, result, run)
    except Exception as error:
        raise EvaluationFailed(
            f"the draft is published in {checkpoint}, but its evaluation failed, with which "
            f"`speculators run {folder}` goes on: {error}"
        ) from error
    return result.objective


def trained(
    pin: Pin,
    folder: Path,
    config: SpeculatorModelConfig,
    prepared: Prepared,
    store: Store,
    verifier: VerifierLoader,
    read: dict[str, str],
) -> SpeculatorModel:
    """The run's draft with its final weights, those of an earlier call if that finished its training.

    Args:
        pin: contents of the folder's run.yaml.
        folder: of the run.
        config: of the draft.
        prepared: the data.
        store: where cached states are.
        verifier: loaded as far as its states need it.
        read: hashes of what the run read; added to a run.yaml that has none.
    """
    run, first, training = pin.run, first_process(), training_folder(folder)
    training.mkdir(parents=True, exist_ok=True)
    done = finished(training, run, len(prepared.train))
    sequences = [] if done else [*prepared.train, *prepared.heldout]
    with open_states(run, store, verifier, sequences, on_meta(config).layer_ids) as states:
        # Seeded again, for regenerated answers may or may not have drawn random numbers.
        set_seed(run.seed)
        given = Initialisation(states.head, prepared.token_count_V, partial(VerifierTensors, run.verifier))
        model = build(config, given, states.device)
        if first and pin.threads is None:
            complete(folder, torch.get_num_threads(), read | vocabulary_map(model))
        check_vocabulary(pin, model, folder)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        log.info("draft: %s, %.1f M trainable parameters on %s", run.algorithm.name, trainable / 1e6, states.device)
        # Another trial of a sweep may be training the same weights: it is waited for, and nothing is left to train then.
        with RunFolder(training).training_lock() if first else nullcontext():
            result = train(model, states, prepared, run, training, read)
    log.info("trained: step %d of %d in %.0f s", result.step, result.steps, result.seconds)
    return model
