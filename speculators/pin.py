"""`run.yaml`: a run, pinned. Every value resolved, so that no default that moves later reaches it. Torch-free."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from speculators.complaints import complaints
from speculators.run_config import RunConfig

SCHEMA_VERSION = 1
FILE = "run.yaml"
PACKAGES = ("accelerate", "datasets", "hydra-core", "omegaconf", "pydantic", "safetensors", "torch", "transformers")


def write_pin(run: RunConfig, folder: Path, training: str = ".") -> Path:
    """Write `folder/run.yaml`; an existing one is replaced.

    Args:
        run: what was composed.
        folder: of the run.
        training: where the weights are trained, relative to `folder`: runs that differ in nothing else share it.
    """
    pin = {
        "schema_version": SCHEMA_VERSION,
        "speculators_hydra": version("speculators-hydra"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "training": training,
        "run": run.model_dump(mode="json"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    path.write_text(yaml.safe_dump(pin, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def training_folder(folder: Path) -> Path:
    """Where the run of a folder with a sound run.yaml trains."""
    pin = yaml.safe_load((folder / FILE).read_text(encoding="utf-8"))
    return folder / pin.get("training", ".")


def read_pin(path: Path) -> RunConfig:
    """The run that a folder, or a `run.yaml` itself, pins.

    Raises:
        ValueError: there is none, it is broken, or its schema is newer than this version knows; a line a problem.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{path}: there is no {FILE}; give a run's folder")
    try:
        pin: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: broken YAML: {' '.join(str(error).split())}") from error
    if not isinstance(pin, dict) or "run" not in pin:
        raise ValueError(f"{file}: it pins no run; it must have a key `run`")
    if pin.get("schema_version", 0) > SCHEMA_VERSION:
        raise ValueError(f"{file}: its schema_version is {pin['schema_version']}, newer than {SCHEMA_VERSION}; upgrade")
    try:
        return RunConfig.model_validate(pin["run"])
    except ValidationError as error:
        raise ValueError("\n".join(f"{file}: {m}" for m in complaints(error, pin["run"], lambda key: None))) from error
