"""Reads single tensors of a verifier's checkpoint from its safetensors files, without loading the rest."""

from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open
from torch import Tensor

from speculators.utils.untrusted import MOST_LIST_BYTES, inside, read_json
from speculators.verifier.location import local_path
from speculators.verifier.settings import VerifierSettings

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class NotInSafetensors(ValueError):
    """The checkpoint has no safetensors files, or no tensor of the requested name in them."""


class VerifierTensors:
    """Reads tensors of a verifier by their names in the checkpoint.

    Of a checkpoint on the Hub only the files that hold a requested tensor are downloaded.

    Args:
        settings: where the verifier is.

    Attributes:
        names: names of all tensors.

    Raises:
        NotInSafetensors: the checkpoint has another format.
        ValueError: its index cannot be read, or a file is outside its folder.
    """

    def __init__(self, settings: VerifierSettings) -> None:
        self._settings = settings
        # The same order of preference as from_pretrained's.
        if whole := self._local(WHOLE):
            with safe_open(whole, framework="pt") as file:
                self._files: dict[str, str] = dict.fromkeys(file.keys(), WHOLE)
        elif index := self._local(INDEX):
            self._files = _weight_map(index)
        else:
            raise NotInSafetensors(
                f"verifier.name_or_path: {settings.name_or_path} has neither {WHOLE} nor {INDEX}; convert it to safetensors: "
                "other formats may run code when they are read"
            )
        self.names = tuple(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from its file's header.

        Raises:
            NotInSafetensors: there is no such tensor.
        """
        with safe_open(self._file_of(name), framework="pt") as file:
            return tuple(file.get_slice(name).get_shape())

    def read(self, name: str, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """Read one tensor.

        Args:
            name: in the checkpoint.
            device: where it goes.
            dtype: what it becomes; None keeps the stored one.

        Returns:
            A copy that does not depend on the file.

        Raises:
            NotInSafetensors: there is no such tensor.
        """
        with safe_open(self._file_of(name), framework="pt") as file:
            return file.get_tensor(name).to(device=device, dtype=dtype, copy=True)

    def _file_of(self, name: str) -> Path:
        file = self._files.get(name)
        path = self._local(file) if file else None
        if path is None:
            raise NotInSafetensors(f"{self._settings.name_or_path} has no tensor {name} in its safetensors files")
        return path

    def _local(self, file: str) -> Path | None:
        """A file of the checkpoint on the local disk, downloaded if needed; None if there is none."""
        folder = Path(local_path(self._settings.name_or_path))
        if folder.is_dir():
            return inside(folder, file) if (folder / file).is_file() else None
        try:
            return Path(hf_hub_download(self._settings.name_or_path, file, revision=self._settings.revision))
        except EntryNotFoundError:
            return None


def _weight_map(index: Path) -> dict[str, str]:
    """File by tensor, of an index; ValueError if it has none, or names a file outside its folder."""
    found = read_json(index, MOST_LIST_BYTES).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise ValueError(f"{index}: weight_map must name a file for each tensor")
    for file in set(found.values()):
        inside(index.parent, file)
    return found
