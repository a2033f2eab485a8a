"""Composes overrides into a validated run with Hydra, and reports each error as one message.

Only `cli/hydra_app.py`, this folder and `sweep/` import Hydra or OmegaConf; no function returns their types elsewhere.
Commands that only print (--help, --cfg, completion) do not import pydantic.
"""

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict

from speculators.composition.hydra_errors import beyond_hydra, explain
from speculators.composition.provenance import NAME, Blame
from speculators.composition.validate import COMPOSING, check_data, check_machine, validate
from speculators.utils.discovery import CONF
from speculators.utils.messages import WrongInput, broken_yaml

if TYPE_CHECKING:
    from speculators.runfolder.run_yaml import Origin
    from speculators.settings.run_config import RunConfig


def _command() -> str:
    """A hash of this command's overrides, without those that choose the launcher."""
    typed = sorted(a for a in sys.argv[1:] if not a.startswith(("-m", "--multirun", "launch", "hydra/launcher")))
    return hashlib.sha256("\n".join(typed).encode()).hexdigest()[:12]


def _trial_name(*, _root_: DictConfig) -> str:
    from speculators.runfolder.keys import result_key

    return result_key(validate(_root_))


# Names of folders, for conf/train.yaml. A sweep's is computed once; Hydra passes the resolver cache to each trial.
OmegaConf.register_new_resolver("command", _command, use_cache=True)
OmegaConf.register_new_resolver("trial", _trial_name)


class EntryPointGroups(SearchPathPlugin):
    """Adds the conf packages that installed distributions name as `speculators.conf` entry points."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for entry in entry_points(group=CONF):
            search_path.append(entry.name, f"pkg://{entry.value}")


def compose(overrides: Sequence[str] = (), taken_over: Mapping[Path, Mapping[str, Any]] = {}) -> "RunConfig":
    """Compose and validate the run that `python train.py OVERRIDES` would start.

    Args:
        overrides: as on the command line, e.g. `["algorithm=eagle", "optimizer.lr=1e-4"]`.
        taken_over: by file, values by key (`group.key`, or `key`) that replace those of conf/, where no override sets the
            key; of several files the last one counts. They may be untrusted: nothing in them is interpolated.

    Raises:
        WrongInput: with every problem.
    """
    with composed(overrides) as config:
        blame, places = Blame(config.hydra), dict[str, str]()
        for file, values in taken_over.items():
            for key, value in values.items():
                if blame.is_typed(key):
                    continue
                group, _, name = key.rpartition(".")
                node = config[group] if group else config
                with open_dict(node):
                    node[name] = inert(value)
                places[key] = str(file)
        return validate(config, places)


def inert(value: Any) -> Any:
    """A value with the `${` of its texts escaped, so that OmegaConf resolves them to the texts themselves."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, Mapping):
        return {key: inert(v) for key, v in value.items()}
    return [inert(v) for v in value] if isinstance(value, list | tuple) else value


def checked(overrides: Sequence[str] = ()) -> "tuple[RunConfig, list[str]]":
    """Compose and validate a run, and check its data and whether this machine has what it needs.

    Args:
        overrides: as on the command line.

    Returns:
        The run, and a message for each thing that this machine lacks, a data set of the Hub included.

    Raises:
        WrongInput: with every problem of the values or the data.
    """
    # With dry_run=true a tokenizer that cannot be downloaded is not an error.
    with composed([*overrides, "dry_run=true"]) as config:
        run = validate(config)
        lacking = check_data(config, run)
        try:
            check_machine(config, run, Path(config.hydra.run.dir))
        except WrongInput as error:
            lacking += error.messages
        return run, lacking


def listed(key: str, text: str) -> list[Any]:
    """The items of a list in the grammar of Hydra's overrides, or of a single value.

    Args:
        key: with its `=`, for the message.
        text: as on the command line, e.g. `[greedy,{proposal_type: dynamic_tree, depth: 4}]`.

    Raises:
        WrongInput: it cannot be read.
    """
    try:
        value: Any = OverridesParser.create().parse_override(f"{key}{text}").value()
    except COMPOSING as error:
        reason = str(error).splitlines()[0]
        raise WrongInput([f"{key}{text}: is no list that Hydra can read: {reason}"]) from error
    return list(value) if isinstance(value, list) else [value]


def pinned(overrides: Sequence[str], folder: Path) -> "RunConfig":
    """Write the `run.yaml` that `python train.py OVERRIDES` would write.

    Args:
        overrides: as on the command line.
        folder: of the run.

    Raises:
        WrongInput: with every problem.
    """
    from speculators.runfolder.run_yaml import write_pin

    with composed(overrides) as config:
        run = validate(config)
        write_pin(run, folder, origin(Blame(config.hydra), run))
    return run


@contextmanager
def composed(overrides: Sequence[str]) -> Iterator[DictConfig]:
    """A composed config with its `hydra` node; Hydra stays initialised inside the block."""
    if messages := beyond_hydra(overrides):
        raise WrongInput(messages)
    Plugins.instance().register(EntryPointGroups)
    with hydra.initialize_config_module(CONF, version_base="1.3"):
        try:
            config = hydra.compose(NAME, list(overrides), return_hydra_config=True)
        except yaml.YAMLError as error:
            raise WrongInput([broken_yaml(error)]) from error
        except COMPOSING as error:
            raise WrongInput([explain(error, overrides)]) from error
        yield config


def origin(blame: Blame, run: "RunConfig") -> "Origin":
    """Provenance of the values of a run: overrides, search path, and the source of each key."""
    from speculators.runfolder.run_yaml import Origin
    from speculators.utils.dotted import flat

    found = {key: blame.source(key) for key in flat(run.model_dump(mode="json"))}
    return Origin(blame.overrides, blame.searchpath, {key: str(source) for key, source in found.items() if source})
