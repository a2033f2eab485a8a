"""Pushes a published draft to a repository of the Hub, with its measurements and without this machine's paths. Torch-free."""

import json
import logging
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils.logging import set_verbosity_error
from pydantic import ValidationError

from speculators.export.checklist import CONFIG, VERIFIER, judge
from speculators.export.config_rules import lookup
from speculators.export.model_card import CARD_NAME, model_card
from speculators.export.preflight import ExportPlan
from speculators.format.strict import read_config
from speculators.format.tensors import INDEX
from speculators.runfolder.folder import RUN_YAML, RunFolder
from speculators.runfolder.result import EvaluationResult
from speculators.runfolder.run_yaml import read_pin
from speculators.settings.export import ExportSettings
from speculators.settings.run_config import RunConfig
from speculators.utils.hub import unreachable
from speculators.utils.messages import WrongInput, complaints
from speculators.utils.secrets import masked
from speculators.utils.strict import read_as
from speculators.utils.untrusted import inside, read_bytes, read_json
from speculators.verifier.location import HUB_ID, local_path, public_name

log = logging.getLogger(__name__)
TOKEN = "set HF_TOKEN in the environment, or run `hf auth login`"
TEXTS = (".json", ".md", ".yaml")
MOST_TEXT = 2**24  # bytes of a file that is searched for secrets


class PushFailed(RuntimeError):
    """The Hub did not take the draft; a repetition does not send again what has arrived."""


@dataclass(frozen=True)
class Push:
    """What is pushed.

    Attributes:
        repo: repository, as OWNER/NAME.
        folder: the published folder.
        names: its files, sorted.
        written: contents of those that are pushed with other contents than they have in the folder, by name.
    """

    repo: str
    folder: Path
    names: tuple[str, ...]
    written: Mapping[str, str]

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by name."""
        return {
            name: len(self.written[name].encode()) if name in self.written else (self.folder / name).stat().st_size
            for name in self.names
        }

    def front_matter(self) -> str:
        """The YAML at the head of the model card."""
        return self.written[CARD_NAME].split("---\n")[1].rstrip("\n")

    def operations(self) -> list[CommitOperationAdd]:
        """The files as the Hub's client takes them."""
        return [
            CommitOperationAdd(name, self.written[name].encode() if name in self.written else self.folder / name)
            for name in self.names
        ]


def prepare(path: Path, repo: str, license: str | None = None, base_model: str | None = None) -> Push:
    """Check a published draft, and write the model card and the config that are pushed with it; nothing is sent.

    Args:
        path: a run's folder, or its published folder.
        repo: repository, as OWNER/NAME.
        license: of the draft, as the Hub abbreviates it; None is export.license of its run.
        base_model: the verifier's name on the Hub; None is export.base_model of its run, or the name that is known.

    Raises:
        WrongInput: there is no sound, measured draft, or its licence or verifier is not known; one message for each problem.
    """
    own = RunFolder(path)
    folder = own.checkpoint if own.checkpoint.is_dir() else path
    try:
        config = read_config(folder)
        if not (folder / RUN_YAML).is_file():
            raise ValueError(f"{folder}: it has no {RUN_YAML}, from which its model card is written; export it again")
        if not (file := RunFolder(folder).result).is_file():
            raise ValueError(f"{folder}: {_not_measured(path)}")
        run, result = read_pin(folder), read_as(file, EvaluationResult)
        export = _checked(folder, run)
    except ValueError as error:
        raise WrongInput([str(error)]) from error
    run = run.model_copy(update={"export": _chosen(run.export, repo, license, base_model)})
    named = str(lookup(config, VERIFIER))
    if problems := [f"{key}: {reason}" for key, reason in lacking(run, named)]:
        raise WrongInput(problems)
    verifier = hub_name(run, named) or ""
    written = {CARD_NAME: model_card(run, config, verifier, export, result, repo)}
    if named != verifier:
        config["speculators_config"]["verifier"]["name_or_path"] = verifier
        written[CONFIG] = json.dumps(config, indent=2) + "\n"
    try:
        push = Push(repo, folder, tuple(sorted({*_names(folder), *written})), written)
        problems = [*_private(push)]
    except (OSError, ValueError) as error:
        raise WrongInput([str(error)]) from error
    if problems:
        raise WrongInput(problems)
    return push


def lacking(run: RunConfig, verifier: str) -> Iterator[tuple[str, str]]:
    """What a push has to know and does not: the keys to set, each with the reason.

    Args:
        run: of the draft.
        verifier: name or folder of its verifier.
    """
    if run.export.license is None:
        yield (
            "export.license",
            "the model card needs the draft's licence, which those of the verifier and the data must allow; set it, such as "
            "export.license=apache-2.0, or `speculators push ... --license=apache-2.0`",
        )
    if hub_name(run, verifier) is None:
        yield (
            "export.base_model",
            f"{verifier} is a folder of this machine whose config.json has no name on the Hub; set that, such as "
            "export.base_model=Qwen/Qwen3-8B, or `speculators push ... --base-model=Qwen/Qwen3-8B`",
        )


def hub_name(run: RunConfig, verifier: str) -> str | None:
    """The name of a run's verifier on the Hub; None if it is not known.

    Args:
        run: its export.base_model comes first.
        verifier: its name or folder.
    """
    if run.export.base_model is not None:
        return run.export.base_model
    place = Path(local_path(verifier))
    if not place.is_dir() and not place.is_absolute():
        return verifier
    known = public_name(str(place.resolve()))
    return known if HUB_ID.fullmatch(known) else None


def push(push: Push) -> str:
    """Send a draft to the Hub, as one commit; files that are there already are not sent again.

    Args:
        push: from `prepare`. Tensors that the repository has and the draft has not are deleted there, since engines read them.

    Returns:
        The address of the repository.

    Raises:
        WrongInput: there is no token, or the repository holds another model.
        PushFailed: the Hub cannot be reached, refused the draft, or the connection was lost.
    """
    check_token()
    if reason := unreachable():
        raise PushFailed(f"{constants.ENDPOINT} cannot be reached: {reason}")
    api = HfApi()
    set_verbosity_error()  # without a line for each repeated request, with its address
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        api.create_repo(push.repo, exist_ok=True)
        deletions = [CommitOperationDelete(name) for name in _left_over(api, push)]
        api.create_commit(push.repo, [*push.operations(), *deletions], commit_message="Push of a draft model")
    except WrongInput:
        raise
    except Exception as error:  # the client's HTTP library, and so the exception, differs between its versions
        raise PushFailed(f"{push.repo}: {_said(error)}") from error
    return f"{api.endpoint}/{push.repo}"


def check_token() -> None:
    """Check that there is a token for the Hub; WrongInput if not."""
    if get_token() is None:
        raise WrongInput([f"there is no token for the Hub: {TOKEN}"])


def _said(error: Exception) -> str:
    """An error of the Hub's client as one line."""
    # Where an upload fails, the client names the file, and as the cause what happened.
    texts = [str(error) or type(error).__name__]
    if isinstance(error, RuntimeError) and error.__cause__:
        texts.append(str(error.__cause__) or type(error.__cause__).__name__)
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        texts.append(f"The token must be one that may write there: {TOKEN}")
    return " ".join(masked(" ".join(texts)).split())


def push_finished(folder: Path, run: RunConfig) -> None:
    """Push the draft of a finished run to `export.hub_repo`; a failure is logged with the command that repeats it.

    Args:
        folder: of the run.
        run: its settings.
    """
    repo = str(run.export.hub_repo)
    try:
        log.info("pushed: %s", push(prepare(folder, repo)))
    except Exception as error:
        log.warning(
            "the run is finished, but its draft was not pushed: %s\nrepeat it with `%s`", error, command(folder, repo)
        )


def command(path: Path, repo: str, license: str | None = None, base_model: str | None = None) -> str:
    """The shell command that pushes a draft; arguments as of `prepare`."""
    options = {"--license": license, "--base-model": base_model}
    given = [f"{option}={value}" for option, value in options.items() if value is not None]
    return shlex.join(["speculators", "push", str(path), repo, *given])


def _chosen(export: ExportSettings, *chosen: str | None) -> ExportSettings:
    """The settings of a run with those that were given instead: repository, licence and name of the verifier."""
    keys = ("hub_repo", "license", "base_model")
    values = export.model_dump() | {key: value for key, value in zip(keys, chosen, strict=True) if value is not None}
    try:
        return ExportSettings.model_validate(values)
    except ValidationError as error:
        raise WrongInput(complaints(error, {"export": values}, lambda key: None)) from error


def _not_measured(path: Path) -> str:
    where = path if (path / RUN_YAML).is_file() and RunFolder(path).checkpoint.is_dir() else "its run"
    return (
        f"it was not measured, and the model card needs a result; `speculators run {where}` completes the run, with "
        "evaluation.num_prompts above 0 in its run.yaml"
    )


def _checked(folder: Path, run: RunConfig) -> ExportPlan:
    """The engine that serves a sound draft; one that no engine serves is pushed if no engine was asked for by name."""
    plan = judge(folder, run.export)
    if _bad(plan) and run.export.target == "auto":
        sound = judge(folder, run.export.model_copy(update={"target": "none"}))
        plan = plan if _bad(sound) else sound
    if _bad(plan):
        raise ValueError(plan.summary)
    return plan if plan.engine else replace(plan, summary="it is valid in the published format")


def _bad(plan: ExportPlan) -> bool:
    return any(finding.bad for finding in plan.findings)


def _names(folder: Path) -> Iterator[str]:
    """The files of a published folder, without hidden ones; ValueError if a link leads out of it."""
    for file in folder.rglob("*"):
        name = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            inside(folder, str(name))
            yield name.as_posix()


def _private(push: Push) -> Iterator[str]:
    """What must not be pushed: secrets in texts, and paths of this machine in configs."""
    for name in push.names:
        if not name.endswith(TEXTS):
            continue
        text = push.written.get(name) or read_bytes(push.folder / name, MOST_TEXT).decode(errors="replace")
        if masked(text) != text:
            yield f"{push.folder / name}: it holds a secret; remove it"
        if Path(name).name == CONFIG:
            values = json.loads(text) if name in push.written else read_json(push.folder / name)
            for key, value in _paths(values):
                yield f"{push.folder / name}: {key}={value} is a path of this machine; remove it, or name a model of the Hub"


def _paths(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and Path(value).expanduser().is_absolute():
        yield key, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for inner, item in pairs:
        yield from _paths(item, f"{key}.{inner}".lstrip("."))


def _left_over(api: HfApi, push: Push) -> list[str]:
    """Files of tensors that the repository has of an earlier draft; WrongInput if it holds a model that is no draft."""
    there = api.list_repo_files(push.repo)
    if CONFIG in there:
        with TemporaryDirectory() as folder:
            config = read_json(Path(api.hf_hub_download(push.repo, CONFIG, local_dir=folder)))
        if "speculators_model_type" not in config:
            raise WrongInput(
                [f"{push.repo}: it holds a model that is no draft, which a push would replace; name another"]
            )
    return [name for name in there if name.endswith((".safetensors", INDEX)) and name not in push.names]
