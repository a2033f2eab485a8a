"""Writes a copy of a verifier in which some tensors are replaced."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file
from torch import Tensor

from speculators.verifier.location import local_path
from speculators.verifier.settings import VerifierSettings


def stitch(verifier: VerifierSettings, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Copy a verifier, with its config, tokenizer and code as they are, and replace tensors of its safetensors files.

    Args:
        verifier: a folder, or a repository of the Hub, which is downloaded if it is not in the cache.
        tensors: by their names in the verifier's checkpoint; each takes the dtype of the one that it replaces.
        folder: is written anew.

    Raises:
        ValueError: the checkpoint has no tensor of one of the names, or of another shape.
    """
    source = Path(local_path(verifier.name_or_path))
    if not source.is_dir():
        source = Path(snapshot_download(verifier.name_or_path, revision=verifier.revision))
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(source, folder)
    missing = set(tensors)
    # One file at a time: a verifier may be larger than the memory.
    for file in sorted(folder.glob("*.safetensors")):
        stored = load_file(file)
        own = stored.keys() & tensors.keys()
        if not own:
            continue
        for name in own:
            if stored[name].shape != tensors[name].shape:
                raise ValueError(
                    f"{file}: {name} has the shape {list(stored[name].shape)}, not {list(tensors[name].shape)}"
                )
            stored[name] = tensors[name].to(stored[name].dtype)
        save_file(stored, file, metadata={"format": "pt"})
        missing -= own
    if missing:
        raise ValueError(f"{source}: has no tensor {', '.join(sorted(missing))} to be replaced")
