"""`run.yaml`: the resolved settings of a run, independent of later changes of defaults. Torch-free."""

import platform
import re
import subprocess
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from speculators.runfolder.folder import RUN_YAML, TRAININGS, RunFolder, run_yaml_of
from speculators.runfolder.migrations import SCHEMA_VERSION, carry
from speculators.settings.run_config import RunConfig
from speculators.utils import files
from speculators.utils.messages import Blame, WrongInput, complaints, set_by
from speculators.utils.strict import Strict
from speculators.utils.yaml_lines import dump, read_yaml

# Packages whose version can change the weights or the data.
PACKAGES = (
    "accelerate", "datasets", "hydra-core", "numpy", "omegaconf", "pydantic", "safetensors", "tokenizers", "torch",
    "transformers",
)  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """Provenance of a composed run.

    Attributes:
        overrides: as given on the command line.
        searchpath: folders and packages of options that the command line added, as `file://...` or `pkg://...`.
        sources: dotted key -> provenance of its value.
    """

    overrides: list[str]
    searchpath: list[str]
    sources: dict[str, str]


def check_training(where: str) -> str:
    """`training` of a `run.yaml`; ValueError if it leads out of the run and its sweep."""
    if where != "." and not re.fullmatch(rf"\.\./{TRAININGS}/[0-9a-f]{{12}}", where):
        raise ValueError(f"must be . or ../{TRAININGS}/HASH of the run's own sweep")
    return where


class Pin(Strict):
    """The contents of a `run.yaml`."""

    schema_version: int
    speculators_hydra: str = Field(description="version of this package")
    git: dict[str, str] = Field(description="commits, with the suffix -dirty if files had uncommitted changes")
    python: str
    packages: dict[str, str] = Field(description="versions")
    training: Annotated[str, AfterValidator(check_training)] = Field(
        description="folder of the training, relative to the run's: the run's own, or one that trials of a sweep share"
    )
    overrides: list[str] | None = Field(description="as given on the command line; null if they were not recorded")
    searchpath: list[str] = Field(description="folders and packages of options that the command line added")
    lossy: str | None = Field(
        default=None, description="why the text is not the verifier's own, for readers; only where it is not"
    )
    run: RunConfig
    sources: dict[str, str] = Field(description="dotted key of `run` -> provenance of its value")
    # Known only to the job, which appends them at its first start.
    threads: int | None = Field(default=None, description="CPU threads of torch")
    read: dict[str, str] = Field(default={}, description="hashes of what the run read")

    @model_validator(mode="after")
    def check_lossy(self) -> "Pin":
        """Refuse a remark that the settings contradict, as after an edit."""
        due = self.run.proposal.lossy(self.run.evaluation.temperature)
        if self.lossy not in (None, due):
            raise ValueError(f"lossy: the settings of proposal and evaluation say {due!r}; remove this line")
        return self

    def drift(self, threads: int) -> list[str]:
        """A line for each difference of the environment from the recorded one that may change the result."""
        now = _environment()
        pairs: list[tuple[str, Any, Any]] = [
            ("code", self.git.get("package"), now["git"].get("package")),
            *((n, was, now[n]) for n, was in (("speculators_hydra", self.speculators_hydra), ("python", self.python))),
            *((name, was, now["packages"].get(name)) for name, was in self.packages.items()),
            ("threads", self.threads, threads),
        ]
        return [
            f"{n}: run.yaml has {a}, now {b}; the weights may not be bit-equal"
            for n, a, b in pairs
            if None not in (a, b) and a != b
        ]


def write_pin(run: RunConfig, folder: Path, origin: Origin | None = None, training: str = ".") -> Path:
    """Write `folder/run.yaml`; an existing one is replaced.

    Args:
        run: the composed run.
        folder: of the run.
        origin: its provenance; None if unknown.
        training: where the weights are trained, relative to `folder`; runs that train the same weights share it.
    """
    pin = Pin(
        schema_version=SCHEMA_VERSION,
        **_environment(),
        training=training,
        overrides=origin.overrides if origin else None,
        searchpath=origin.searchpath if origin else [],
        lossy=run.proposal.lossy(run.evaluation.temperature),
        run=run,
        sources=origin.sources if origin else {},
    )
    (folder / training).mkdir(parents=True, exist_ok=True)
    file = RunFolder(folder).run_yaml
    files.write(file, _text(pin))
    return file


def rewrite(folder: Path, pin: Pin) -> None:
    """Write a pin to a folder's `run.yaml` if it differs from the pin there."""
    if load(folder) != pin:
        files.write(RunFolder(folder).run_yaml, _text(pin))


def _text(pin: Pin) -> str:
    """A pin as YAML, without the optional keys that have no value."""
    values = pin.model_dump(mode="json")
    return dump({key: value for key, value in values.items() if value or key not in ("lossy", "threads", "read")})


def complete(folder: Path, threads: int, read: dict[str, str]) -> None:
    """Append threads and hashes to a run.yaml that has none; existing lines keep their numbers.

    Args:
        folder: of the run.
        threads: CPU threads of torch.
        read: hashes.
    """
    file = RunFolder(folder).run_yaml
    found = {"threads": threads, "read": read}
    files.write(file, file.read_text(encoding="utf-8").rstrip("\n") + "\n" + dump(found))


def training_folder(folder: Path) -> Path:
    """The folder in which a run trains; its run.yaml must be valid. WrongInput if there are symbolic links in it."""
    shared = folder / load(folder).training
    # A trial that was copied out of its sweep trains in its own folder.
    training = shared if shared.is_dir() else folder
    if training != folder and (training.is_symlink() or training.parent.is_symlink()):
        raise WrongInput(
            [f"{training}: it is a symbolic link, and a run writes only to its own folder; remove the link"]
        )
    RunFolder(training).check_links()
    return training


def read_pin(path: Path) -> RunConfig:
    """The run of a folder or `run.yaml`; WrongInput as for `load`."""
    return load(path).run


def load(path: Path) -> Pin:
    """Load the pin of a folder or `run.yaml`.

    Raises:
        WrongInput: there is none, or it is invalid; one message per problem, with its line.
    """
    return read(path)[0]


def read(path: Path) -> tuple[Pin, list[str], Blame]:
    """Read a pin, a line for each migrated key, and a function that gives the file and line of a key."""
    file = run_yaml_of(path)
    if not file.is_file():
        raise WrongInput([f"{path}: no {RUN_YAML} found; give a run's folder, or a {RUN_YAML}"])
    try:
        lines = read_yaml(file)
    except ValueError as error:
        raise WrongInput([str(error)]) from error
    pin: Any = lines.value
    if not isinstance(pin, dict) or not isinstance(pin.get("run"), dict):
        raise WrongInput([f"{file}: it has no key `run` with the settings of a run; give the {RUN_YAML} of a run"])

    def blame(key: str) -> str:
        return f"{file}:{lines.find(key.split('.')).line}"

    schema = pin.get("schema_version")
    if type(schema) is not int or not 1 <= schema <= SCHEMA_VERSION:
        known = f"must be 1 to {SCHEMA_VERSION}; a newer schema needs a newer version of this package"
        raise WrongInput([f"schema_version={schema!r}: {known}{set_by(blame('schema_version'))}"])
    notes = [f"{file}: {note}" for note in carry(pin)]
    return _validated(pin, blame), notes, blame


def _validated(pin: dict[str, Any], blame: Blame) -> Pin:
    complain = partial(complaints, missing_remedy="run.yaml must hold every value; add it, or compose the run again")
    messages = []
    # Validated separately: messages name the run's keys without the prefix `run.`, and the file's own keys as they are.
    try:
        pin["run"] = RunConfig.model_validate(pin["run"])
    except ValidationError as error:
        messages += complain(error, pin["run"], lambda key: blame(f"run.{key}"))
        del pin["run"]
    try:
        return Pin.model_validate(pin)
    except ValidationError as error:
        messages += [m for m in complain(error, pin, blame) if not m.startswith("run is missing")]
    raise WrongInput(messages)


def _environment() -> dict[str, Any]:
    """Versions and commits that the result of a run may depend on; keys of `Pin`."""
    here = Path(__file__).parents[2]
    # An installed package may be inside a repository, e.g. in its .venv, without being part of it.
    folders = {"package": here if (here / ".git").exists() else None, "working_directory": Path.cwd()}
    commits = {name: commit for name, folder in folders.items() if folder and (commit := _commit(folder))}
    return {
        "speculators_hydra": version("speculators-hydra"),
        "git": commits,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _commit(folder: Path) -> str | None:
    """The commit that is checked out in a folder; None if that is not known."""
    # The folder may be untrusted, and its git configuration can name programs: fsmonitor, hooks, content filters.
    git = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]
    filters = [*git, "config", "--local", "--includes", "--name-only", "--get-regexp", r"^filter\."]
    try:
        filtered = subprocess.run(filters, capture_output=True, text=True).stdout.strip()
        # Filters run only when git looks for changed files.
        dirty = [] if filtered else ["--dirty"]
        command = [*git, "describe", "--always", *dirty, "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
