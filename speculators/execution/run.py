"""run(folder): a folder with a run.yaml becomes a draft that is trained, measured and published in it."""

import logging
import math
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import set_seed
from filelock import FileLock
from transformers.utils.logging import disable_progress_bar

from speculators.cache.store import Store
from speculators.config import SpeculatorModelConfig
from speculators.data import saved
from speculators.data.cached_states import cached_states
from speculators.decoding.tree_mask import check_reads_trees
from speculators.evaluate.evaluate import evaluate
from speculators.evaluate.printout import report
from speculators.execution.input_hashes import check_vocabulary, hashes, vocabulary_map
from speculators.execution.rules import notes
from speculators.export.preflight import plan
from speculators.export.publish import publish
from speculators.format.published import speculator_dict
from speculators.protocols.hidden_states import HiddenStates
from speculators.protocols.initialisation import Initialisation
from speculators.runfolder.run_yaml import complete, load, training_folder
from speculators.train.build import build
from speculators.train.loop import train
from speculators.utils.device import resolve
from speculators.utils.process import first_process
from speculators.verifier.facts import VerifierFacts
from speculators.verifier.in_process import Verifier
from speculators.verifier.tensors import VerifierTensors

log = logging.getLogger(__name__)


def run(folder: Path) -> float:
    """Do everything that the folder's run.yaml asks for; what an earlier, cut-off call finished is not done again.

    Args:
        folder: holds run.yaml, and gets checkpoint/ and result.json; checkpoints/ and metrics.jsonl are where it trains.

    Returns:
        What evaluation.objective names; NaN if evaluation.num_prompts is 0.

    Raises:
        WrongInput: run.yaml is broken, or the data gives another draft vocabulary than the pinned one.
        ValueError: a setting that this machine, the verifier or the data cannot fulfil; the message names it.
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
    verifier = Verifier.load(run.verifier, device)
    if run.proposal.is_tree and run.evaluation.num_prompts:
        check_reads_trees(verifier)  # before training: it is asked for after it

    # 2. data
    set_seed(run.seed)
    # Before the data is read, so that nobody edits it in between; `speculators run` compares before it starts.
    read = hashes(run) if pin.threads is None else None
    prepared = saved.prepared(run, store, verifier, facts.vocab_size)
    log.info("data: %s", prepared.report)

    # 3. the draft; seeded again, for regenerated answers may or may not have drawn random numbers
    set_seed(run.seed)
    given = Initialisation(verifier.head, prepared.token_count_V, partial(VerifierTensors, run.verifier))
    model = build(config, given, device)
    first = first_process()
    if first and read is not None:
        complete(folder, torch.get_num_threads(), read | vocabulary_map(model))
    check_vocabulary(pin, model, folder)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.info("draft: %s, %.1f M trainable parameters on %s", run.algorithm.name, trainable / 1e6, device)

    # 4. training
    training = training_folder(folder)
    training.mkdir(parents=True, exist_ok=True)
    # Another trial of a sweep may be training the same weights: it is waited for, and nothing is left to train then.
    with ExitStack() as stack:
        if first:
            stack.enter_context(FileLock(training / "training.lock"))
        states: HiddenStates = verifier
        if run.data.hidden_states == "cache":
            sequences = [*prepared.train, *prepared.heldout]
            states = stack.enter_context(cached_states(store, run.verifier, verifier, sequences, model.layer_ids))
        trained = train(model, states, prepared, run, training)
    log.info("trained: step %d of %d in %.0f s", trained.step, trained.steps, trained.seconds)

    if not first:
        return math.nan

    # 5. measured by decoding, then published with the measurement in the model card
    result = None
    if run.evaluation.num_prompts:
        result = evaluate(model, verifier, prepared.prompts, run.proposal, run.evaluation, run.seed)
        report(result, folder)
    checkpoint = publish(model, run, facts, result, folder)
    log.info("published: %s", checkpoint)
    return math.nan if result is None else result.objective
