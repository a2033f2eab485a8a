"""Hashes that identify a verifier independent of its location: all of its files, a sample of its weights, its tokenizer.

On the Hub the commit identifies all files. Of a folder, `whole` reads every byte: results that are computed with the
weights and shared through the cache are stored under it. `sampled` reads 256 KiB of each file of weights: run.yaml records
it, and every start compares it.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from transformers import PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from speculators.utils import digest
from speculators.verifier.location import commit_of, config_file, local_path
from speculators.verifier.settings import VerifierSettings

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")
# Blocks of a file of weights that `sampled` reads: 64 of 4 KiB, evenly spaced.
BLOCKS, BLOCK = 64, 4096
HEADER = 10**8  # the longest that the safetensors library reads


def whole(name_or_path: str, revision: str | None) -> str:
    """`commit:` and the Hub's commit, or `sha256:` and the hash of all files of the folder, weights included."""
    return _of_files(name_or_path, revision, lambda file: True)


def without_weights(name_or_path: str, revision: str | None) -> str:
    """As `whole`, but leaves out the weights: config, generation config, tokenizer and chat template stay."""
    return _of_files(name_or_path, revision, lambda file: file.suffix not in WEIGHTS)


def sampled(name_or_path: str, revision: str | None) -> str:
    """`commit ` and the Hub's commit, or a hash of config.json and of the weights' headers, sizes and sampled blocks."""
    config = config_file(name_or_path, revision)
    if (commit := commit_of(config, name_or_path)) is not None:
        return f"commit {commit}"
    weights = sorted(f for f in config.parent.iterdir() if f.suffix in (".safetensors", ".bin") and f.is_file())
    return digest.of_parts([config.read_bytes(), *(block for file in weights for block in _blocks(file))])


def of_tokenizer(tokenizer: PreTrainedTokenizerBase, settings: VerifierSettings) -> str:
    """Hash of the vocabulary files and special tokens; the tokenizer object has no canonical serialisation."""
    names = sorted(name for name in set(tokenizer.vocab_files_names.values()) if isinstance(name, str))
    where, revision = local_path(settings.name_or_path), settings.revision
    found = [cached_file(where, n, revision=revision, _raise_exceptions_for_missing_entries=False) for n in names]
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return digest.of_parts([json.dumps(special, sort_keys=True).encode(), *(Path(f).read_bytes() for f in found if f)])


def _of_files(name_or_path: str, revision: str | None, read: Callable[[Path], bool]) -> str:
    config = config_file(name_or_path, revision)
    if (commit := commit_of(config, name_or_path)) is not None:
        return f"commit:{commit}"
    return f"sha256:{digest.of_files(f for f in config.parent.iterdir() if f.is_file() and read(f))}"


def _blocks(file: Path) -> Iterable[bytes]:
    size = file.stat().st_size
    yield size.to_bytes(8, "little")
    with file.open("rb") as opened:
        if file.suffix == ".safetensors":
            yield opened.read(min(int.from_bytes(opened.read(8), "little"), HEADER))
        for i in range(BLOCKS):
            opened.seek(i * max(size - BLOCK, 0) // (BLOCKS - 1))
            yield opened.read(BLOCK)
