"""Hashes of a run's inputs: data, verifier, tokenizer and chat template; a changed input makes it another run."""

import json
from collections.abc import Mapping
from pathlib import Path

from speculators.data.evaluation_data import KEY
from speculators.data.files import sources_of
from speculators.data.sources import content, data_content
from speculators.model import SpeculatorModel
from speculators.runfolder.folder import run_yaml_of
from speculators.runfolder.rights import elsewhere
from speculators.runfolder.run_yaml import Pin
from speculators.settings.data import JsonlData
from speculators.settings.run_config import RunConfig
from speculators.train.build import WEIGHTS
from speculators.utils import digest
from speculators.utils.messages import WrongInput
from speculators.verifier import identity
from speculators.verifier.location import SCHEME
from speculators.verifier.tokenizer import load_tokenizer

NAMES = ("data", "verifier", "tokenizer", "chat_template")


def hashes(run: RunConfig) -> dict[str, str]:
    """Hashes of the inputs that are known before anything is computed.

    Args:
        run: its data and verifier settings are used.

    Returns:
        SHA-256 of the data, of the verifier's weights (on the Hub the commit), of its tokenizer and chat template; and, where
        there is one, of the model that a new draft starts from, as of the verifier, of the weights of the published draft that
        training starts from, and of the prompts of evaluation.data.

    Raises:
        ValueError: an input is missing.
    """
    tokenizer, start = load_tokenizer(run.verifier), run.algorithm.starts_from
    starts = {} if start is None else {"starts_from": identity.sampled(start, None)}
    return starts | {
        "data": data_content(run.data),
        "verifier": identity.sampled(run.verifier.name_or_path, run.verifier.revision),
        "tokenizer": identity.of_tokenizer(tokenizer, run.verifier),
        "chat_template": digest.of_parts([json.dumps(tokenizer.chat_template).encode()]),
        **({"init_from": digest.of_file(Path(run.trainer.init_from) / WEIGHTS)} if run.trainer.init_from else {}),
        **({"evaluation_data": content(run.evaluation.data, KEY)} if run.evaluation.data else {}),
    }


def vocabulary_map(model: SpeculatorModel) -> dict[str, str]:
    """SHA-256 of a draft's reduced vocabulary, which follows from the data; empty for the whole vocabulary."""
    if model.kept_D is None:
        return {}
    kept_D = model.kept_D.cpu().numpy()
    # Hashed as offsets, like the published d2t.
    return {"vocabulary_map": digest.of_parts([(kept_D - range(len(kept_D))).tobytes()])}


def check(pin: Pin, path: Path) -> None:
    """Check that the inputs of a run are those that its run.yaml recorded.

    Args:
        pin: of the run; without hashes nothing is compared.
        path: its file or folder, for the message.

    Raises:
        WrongInput: they are not; a message for each input that changed or is missing.
    """
    if pin.read:
        try:
            now = hashes(pin.run)
        except (OSError, ValueError) as error:
            raise WrongInput([f"{error}{elsewhere(error)}"]) from error
        _compare(pin, now, path)


def check_data(run: RunConfig, pin: Pin, file: Path) -> None:
    """Check that an evaluation decodes prompts of the data that a published draft was trained on.

    Args:
        run: of the evaluation.
        pin: of the run that trained the draft.
        file: its run.yaml, for the message.

    Raises:
        WrongInput: it is other data or is missing, or run.yaml has no hash of a file that it names.
    """
    other = "restore it (data.path=...), or choose other prompts: data=jsonl data.path=FILE"
    named = [s.path for s in sources_of(run.data) if s.path is not None and not s.path.startswith(SCHEME)]
    if "data" not in pin.read:
        if named:
            raise WrongInput([f"data.path={named[0]}: {file} records no hash of the data; {other}"])
        return
    try:
        now = data_content(run.data)
    except (OSError, ValueError) as error:
        raise WrongInput([f"{error}; {other}"]) from error
    if now != pin.read["data"]:
        raise WrongInput([f"{_data_key(run)}: {_differs('data', pin.read['data'], now)}; {other}"])


def check_vocabulary(pin: Pin, model: SpeculatorModel, folder: Path) -> None:
    """Check that a new draft has the vocabulary that run.yaml recorded; WrongInput if not."""
    # If one of these was removed from run.yaml, a changed input is accepted, and so is a changed vocabulary.
    if {"data", "tokenizer", "chat_template"} <= pin.read.keys():
        _compare(pin, vocabulary_map(model), folder)


def _compare(pin: Pin, now: Mapping[str, str], path: Path) -> None:
    file = run_yaml_of(path)
    changed = [name for name in now if name in pin.read and now[name] != pin.read[name]]
    if changed:
        raise WrongInput([_changed(name, pin.read[name], now[name], pin.run, file) for name in changed])


def _changed(name: str, was: str, now: str, run: RunConfig, file: Path) -> str:
    key = _data_key(run) if name in ("data", "vocabulary_map") else f"verifier.name_or_path={run.verifier.name_or_path}"
    if name == "init_from":
        key = f"trainer.init_from={run.trainer.init_from}"
    if name == "evaluation_data" and (source := run.evaluation.data):
        key = f"{KEY}={source.path or source.name}"
    revision = f" with verifier.revision={was.removeprefix('commit ')}" if was.startswith("commit ") else ""
    if name == "starts_from":
        key, revision = f"algorithm={run.algorithm.name} starting from {run.algorithm.starts_from}", ""
    return (
        f"{key}: {_differs(name, was, now)}; restore it{revision}, start a new run, or remove {name} under `read` in "
        f"{file} to accept the change"
    )


def _data_key(run: RunConfig) -> str:
    return f"data.path={run.data.path}" if isinstance(run.data, JsonlData) else f"data.source={run.data.source}"


def _differs(name: str, was: str, now: str) -> str:
    return f"the {name.replace('_', ' ')} has changed since run.yaml was written ({was[:19]}, now {now[:19]})"
