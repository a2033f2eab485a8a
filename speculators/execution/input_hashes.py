"""Hashes of a run's inputs: data, verifier, tokenizer and chat template; a changed input makes it another run."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from speculators.data.files import key_of, sources_of
from speculators.data.sources import content, from_hub
from speculators.model import SpeculatorModel
from speculators.runfolder.folder import run_yaml_of
from speculators.runfolder.rights import elsewhere
from speculators.runfolder.run_yaml import Pin
from speculators.settings.run_config import DataSettings, JsonlData, RunConfig
from speculators.utils.messages import WrongInput
from speculators.verifier.location import SCHEME, config_file, local_path
from speculators.verifier.settings import VerifierSettings
from speculators.verifier.tokenizer import load_tokenizer

# Blocks of a weights file that are hashed instead of all of it: 64 of 4 KiB, evenly spaced.
BLOCKS, BLOCK = 64, 4096
NAMES = ("data", "verifier", "tokenizer", "chat_template")


def hashes(run: RunConfig) -> dict[str, str]:
    """Hashes of the inputs that are known before anything is computed.

    Args:
        run: its data and verifier settings are used.

    Returns:
        SHA-256 of the data, of the verifier's weights (on the Hub the commit), of its tokenizer and chat template; of the
        model that a new draft starts from, if there is one, as of the verifier.

    Raises:
        ValueError: an input is missing.
    """
    tokenizer, start = load_tokenizer(run.verifier), run.algorithm.starts_from
    starts = {} if start is None else {"starts_from": _model(start, None)}
    return starts | {
        "data": _data(run.data),
        "verifier": _model(run.verifier.name_or_path, run.verifier.revision),
        "tokenizer": _tokenizer(tokenizer, run.verifier),
        "chat_template": _hash([json.dumps(tokenizer.chat_template).encode()]),
    }


def vocabulary_map(model: SpeculatorModel) -> dict[str, str]:
    """SHA-256 of a draft's reduced vocabulary, which follows from the data; empty for the whole vocabulary."""
    if model.kept_D is None:
        return {}
    kept_D = model.kept_D.cpu().numpy()
    # Hashed as offsets, like the published d2t.
    return {"vocabulary_map": _hash([(kept_D - range(len(kept_D))).tobytes()])}


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
        now = _data(run.data)
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


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        # The length prefix makes the concatenation unambiguous.
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _data(settings: DataSettings) -> str:
    """Hash of the data files; for a data set of the Hub, of its rows, which is the same on every machine."""
    found = []
    for number, source in enumerate(sources_of(settings)):
        key = key_of(settings, number)
        if source.path is None and not source.streaming:
            rows = (json.dumps(row, sort_keys=True, default=str).encode() for row in from_hub(source, key))
            found.append(_hash(rows))
        else:
            found.append(content(source, key))
    return found[0] if len(found) == 1 else _hash(map(str.encode, found))


def _model(name_or_path: str, revision: str | None) -> str:
    """Hash of a folder's config.json and of its weights' headers, sizes and sampled blocks; on the Hub, the commit."""
    config = config_file(name_or_path, revision)
    if not Path(local_path(name_or_path)).is_dir():
        return f"commit {config.parent.name}"  # the Hub's cache: .../snapshots/COMMIT/config.json
    weights = sorted([*config.parent.glob("*.safetensors"), *config.parent.glob("*.bin")])
    return _hash([config.read_bytes(), *(block for file in weights for block in _blocks(file))])


def _blocks(file: Path) -> Iterable[bytes]:
    size = file.stat().st_size
    yield size.to_bytes(8, "little")
    with file.open("rb") as opened:
        if file.suffix == ".safetensors":
            yield opened.read(min(int.from_bytes(opened.read(8), "little"), size))
        for i in range(BLOCKS):
            opened.seek(i * max(size - BLOCK, 0) // (BLOCKS - 1))
            yield opened.read(BLOCK)


def _tokenizer(tokenizer: PreTrainedTokenizerBase, settings: VerifierSettings) -> str:
    """Hash of the vocabulary files and special tokens; the tokenizer object has no canonical serialisation."""
    names = sorted(name for name in set(tokenizer.vocab_files_names.values()) if isinstance(name, str))
    where, revision = local_path(settings.name_or_path), settings.revision
    found = [cached_file(where, n, revision=revision, _raise_exceptions_for_missing_entries=False) for n in names]
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return _hash([json.dumps(special, sort_keys=True).encode(), *(Path(f).read_bytes() for f in found if f)])
