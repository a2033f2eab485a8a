"""run(folder): a folder with a run.yaml becomes a draft that is trained, measured and published in it."""

import logging
import math
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import set_seed
from filelock import FileLock
from transformers.utils.logging import disable_progress_bar

from speculators.config import SpeculatorModelConfig
from speculators.data.prepare import prepare
from speculators.decoding.generate import plain
from speculators.evaluate.evaluate import evaluate
from speculators.evaluate.report import report
from speculators.export.preflight import plan
from speculators.export.publish import publish
from speculators.inputs import check_vocabulary, hashes, vocabulary_map
from speculators.pin import complete, load, training_folder
from speculators.published import speculator_dict
from speculators.rules import notes
from speculators.train.build import build
from speculators.train.device import resolve
from speculators.train.loop import train
from speculators.verifier.facts import VerifierFacts
from speculators.verifier.in_process import Verifier
from speculators.verifier.tokenizer import load_tokenizer

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
    device = resolve(run.device)
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

    # 2. data
    set_seed(run.seed)
    answer = partial(
        plain,
        verifier,
        max_new_tokens=run.data.regenerate_max_new_tokens,
        batch_size=run.evaluation.batch_size,
    )
    # Before the data is read, so that nobody edits it in between; `speculators run` compares before it starts.
    read = hashes(run) if pin.threads is None else None
    prepared = prepare(run.data, load_tokenizer(run.verifier), facts.vocab_size, run.seed, answer)
    log.info("data: %s", prepared.report)

    # 3. the draft; seeded again, for regenerated answers may or may not have drawn random numbers
    set_seed(run.seed)
    model = build(config, verifier.head, prepared.token_count_V, device)
    if read is not None:
        complete(folder, torch.get_num_threads(), read | vocabulary_map(model))
    check_vocabulary(pin, model, folder)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    log.info("draft: %s, %.1f M trainable parameters on %s", run.algorithm.name, trainable / 1e6, device)

    # 4. training
    training = training_folder(folder)
    training.mkdir(parents=True, exist_ok=True)
    # Another arm of a sweep may be training the same weights: it is waited for, and nothing is left to train then.
    with FileLock(training / "training.lock"):
        trained = train(model, verifier, prepared, run, training)
    log.info("trained: step %d of %d in %.0f s", trained.step, trained.steps, trained.seconds)

    # 5. measured by decoding, then published with the measurement in the model card
    result = None
    if run.evaluation.num_prompts:
        result = evaluate(model, verifier, prepared.prompts, run.proposal, run.evaluation, run.seed)
        report(result, folder)
    checkpoint = publish(model, run, facts, result, folder)
    log.info("published: %s", checkpoint)
    return math.nan if result is None else result.objective
