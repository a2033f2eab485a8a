"""Executes the run of a folder: trains, publishes and evaluates the draft that its run.yaml describes."""

import logging
import math
import sys
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import set_seed
from transformers.utils.logging import disable_progress_bar

from speculators.cache.store import Store
from speculators.config import SpeculatorModelConfig
from speculators.data import saved
from speculators.data.evaluation_data import EvaluationData, evaluation_data
from speculators.data.prepare import Prepared
from speculators.data.template import ChatTemplate
from speculators.data.verifier_states import open_states
from speculators.decoding.tree_mask import check_reads_trees
from speculators.evaluate.evaluate import decoded_length, evaluate_both
from speculators.evaluate.printout import report
from speculators.execution.input_hashes import NAMES, check_vocabulary, hashes, vocabulary_map
from speculators.execution.machine import emulated
from speculators.execution.rules import notes
from speculators.export.model_card import add_result
from speculators.export.preflight import plan
from speculators.export.publish import publish
from speculators.format.published import speculator_dict
from speculators.model import SpeculatorModel
from speculators.protocols.initialisation import Initialisation
from speculators.runfolder.folder import RunFolder
from speculators.runfolder.run_yaml import Pin, complete, load, training_folder
from speculators.settings.run_config import RunConfig
from speculators.train.build import build, on_meta, start_from
from speculators.train.loop import TrainResult, finished, train
from speculators.train.sharding import unsharded
from speculators.utils.device import resolve
from speculators.utils.process import first_process, under_torchrun
from speculators.verifier.facts import VerifierFacts
from speculators.verifier.loader import VerifierLoader
from speculators.verifier.tensors import VerifierTensors

log = logging.getLogger(__name__)


class EvaluationFailed(RuntimeError):
    """The draft is trained and published, but its evaluation failed."""


def run(folder: Path) -> float:
    """Train, publish and evaluate the run of a folder; stages that an earlier, interrupted call completed are skipped.

    Args:
        folder: holds run.yaml; checkpoint/ and result.json are written there, checkpoints/ and metrics.jsonl to its
            training folder.

    Returns:
        The value of evaluation.objective; NaN if evaluation.num_prompts is 0, or on a rank other than 0.

    Raises:
        WrongInput: run.yaml is invalid, or the data gives another draft vocabulary than the recorded one.
        ValueError: this machine, the verifier or the data does not support a setting; the message names it.
        EvaluationFailed: the draft is published; the next call resumes with its evaluation.
        speculators.train.interrupt.Interrupted: a signal stopped training; the state is saved.
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

    # 1. the verifier's facts and the published config
    facts = VerifierFacts.read(run.verifier.name_or_path, run.verifier.revision)
    published = speculator_dict(run, facts)
    log.info(plan(run, published, facts).summary)
    for note in notes(run):
        log.info(note)
    if warning := emulated(run, facts):
        log.warning(warning)
    config = SpeculatorModelConfig.from_dict(published)
    verifier = VerifierLoader(run.verifier, device)
    if run.proposal.is_tree and (run.evaluation.num_prompts or run.trainer.keep_best == "decoded"):
        check_reads_trees(verifier.whole())  # before training, although only decoding needs it

    # 2. data
    set_seed(run.seed)
    # Hashed before the data is read, so that a later change is detected; `speculators run` compares before it starts.
    read = pin.read if pin.read.keys() >= set(NAMES) else hashes(run)
    prepared = saved.prepared(run, store, verifier, facts.vocab_size)
    log.info("data: %s", prepared.report)
    own = evaluation_data(run, ChatTemplate.of(run.verifier, run.data), prepared.train_prompts)
    if own is not None:
        log.info("evaluation.data: %s", own)

    # 3. training
    model, training = trained(pin, folder, config, prepared, store, verifier, read)
    with closing(training.tracking):
        if not first_process():
            return math.nan
        return finish(model, run, facts, folder, verifier, prepared, own, training)


def finish(
    model: SpeculatorModel,
    run: RunConfig,
    facts: VerifierFacts,
    folder: Path,
    verifier: VerifierLoader,
    prepared: Prepared,
    own: EvaluationData | None,
    training: TrainResult,
) -> float:
    """Publish and evaluate a trained draft.

    Args:
        model: the trained draft.
        run: the run.
        facts: of the verifier.
        folder: of the run.
        verifier: loaded whole for the evaluation.
        prepared: the data, whose held-out prompts are decoded.
        own: prompts of evaluation.data, which are decoded as well.
        training: the step that is published, and the tracker that gets the measurements.

    Returns, Raises: as `run`.
    """
    # 4. export, before the evaluation, so that a failed evaluation does not lose the draft
    checkpoint = publish(model, run, facts, folder)
    log.info("published: %s", checkpoint)

    # 5. evaluation by decoding, which needs the whole verifier
    if not run.evaluation.num_prompts:
        return math.nan
    try:
        result = evaluate_both(model, verifier.whole(), prepared.prompts, own, run)
        report(result, run, folder)
        training.tracking.report(training.step, result)
        add_result(folder, result, run)
    except Exception as error:
        raise EvaluationFailed(
            f"the draft is published in {checkpoint}, but its evaluation failed; repeat it with "
            f"`speculators run {folder}`: {error}"
        ) from error
    return result.objective


def start_of(run: RunConfig) -> VerifierTensors | None:
    """Tensors of the model that a new draft starts from; None if it starts without one."""
    name = run.algorithm.starts_from
    return (
        None
        if name is None
        else VerifierTensors(run.verifier.model_copy(update={"name_or_path": name, "revision": None}))
    )


def trained(
    pin: Pin,
    folder: Path,
    config: SpeculatorModelConfig,
    prepared: Prepared,
    store: Store,
    verifier: VerifierLoader,
    read: dict[str, str],
) -> tuple[SpeculatorModel, TrainResult]:
    """Train the run's draft, or load its final weights if an earlier call completed the training.

    Args:
        pin: contents of the folder's run.yaml.
        folder: of the run.
        config: of the draft.
        prepared: the data.
        store: the cache, which holds cached states.
        verifier: loads only what its states need.
        read: hashes of the run's inputs; added to a run.yaml that has none.
    """
    run, first, training = pin.run, first_process(), training_folder(folder)
    training.mkdir(parents=True, exist_ok=True)
    done = finished(training, run, len(prepared.train))
    sequences = [] if done else prepared.sequences
    with open_states(run, store, verifier, sequences, on_meta(config).layer_ids) as states:
        # Seeded again: regenerating answers consumes random numbers, reading cached ones does not.
        set_seed(run.seed)
        given = Initialisation(
            states.head, prepared.token_count_V, partial(VerifierTensors, run.verifier), start_of(run)
        )
        model = build(config, given, states.device)
        if run.trainer.init_from:
            start_from(model, Path(run.trainer.init_from))
        if first and pin.threads is None:
            complete(folder, torch.get_num_threads(), read | vocabulary_map(model))
        check_vocabulary(pin, model, folder)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        log.info("draft: %s, %.1f M trainable parameters on %s", run.algorithm.name, trainable / 1e6, states.device)
        decoded = None
        if run.trainer.keep_best == "decoded" and not done:
            decoded = partial(decoded_length, model, verifier, prepared.prompts, run)
        # Another trial of a sweep may be training the same weights: wait for it, and then load its result. Of several processes
        # their parent waits, before it starts them: a process that waits alone would keep the others in a collective operation.
        with nullcontext() if under_torchrun() else RunFolder(training).training_lock():
            result = train(model, states, prepared, run, training, read, decoded)
        model = unsharded(model)
    log.info("trained: step %d of %d in %.0f s", result.step, result.steps, result.seconds)
    return model, result
