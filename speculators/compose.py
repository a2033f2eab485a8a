"""From the command line to a validated run: composition by Hydra, and every mistake as one short message.

This file, blame.py, explain.py and sweep/ alone import Hydra or OmegaConf, and nothing of either leaves them. What only
prints (--help, --cfg, completion) never gets as far as pydantic.
"""

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import hydra
import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from speculators.blame import CONF, NAME, Blame
from speculators.complaints import WrongInput, broken_yaml, stop
from speculators.explain import explain
from speculators.launch import STOPPED_BY_SIGNAL, RunFailed, at_work, launch

if TYPE_CHECKING:
    from speculators.pin import Origin, Pin
    from speculators.run_config import RunConfig

# What composing raises; Hydra takes a ValueError for an override that is no option's name.
COMPOSING = (HydraException, OmegaConfBaseException, ValueError)


def _command() -> str:
    """A name for this command, the same when it is typed again; how it is launched is no part of it."""
    typed = sorted(a for a in sys.argv[1:] if not a.startswith(("-m", "--multirun", "launch", "hydra/launcher")))
    return hashlib.sha256("\n".join(typed).encode()).hexdigest()[:12]


def _arm_name(*, _root_: DictConfig) -> str:
    from speculators.stages import result_key

    return result_key(validate(_root_))


# Names of folders, for conf/train.yaml. A sweep's is made once; Hydra hands what is cached to each arm.
OmegaConf.register_new_resolver("command", _command, use_cache=True)
OmegaConf.register_new_resolver("arm", _arm_name)


class EntryPointGroups(SearchPathPlugin):
    """Adds the conf packages that installed distributions name as `speculators.conf` entry points."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for entry in entry_points(group="speculators.conf"):
            search_path.append(entry.name, f"pkg://{entry.value}")


def main() -> None:
    """The command line: `python train.py`, `speculators train`. Exits with 2 on wrong input, 1 if the run failed."""
    # Hydra would print its errors itself, with advice (`use +key`) that is wrong for a closed set of settings.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    Plugins.instance().register(EntryPointGroups)
    try:
        _entry()
    except WrongInput as error:
        stop(error.messages)
    except RunFailed:
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(STOPPED_BY_SIGNAL)
    except yaml.YAMLError as error:
        stop([broken_yaml(error)])
    except COMPOSING as error:
        if Check.passed:
            print(f"the sweep ended: {error}", file=sys.stderr)
            sys.exit(1)
        stop([explain(error, sys.argv[1:])])


@hydra.main(version_base="1.3", config_path=f"pkg://{CONF}", config_name=NAME)
def _entry(config: DictConfig) -> float:
    from speculators.pin import check_free, write_pin

    hydra_config = HydraConfig.get()
    folder, run = Path(hydra_config.runtime.output_dir), validate(config)
    came_from = origin(Blame(hydra_config), run)
    if hydra_config.mode == RunMode.MULTIRUN:
        from speculators.sweep.arm import run_arm

        return run_arm(run, folder, came_from, hydra_config.job.num)
    with at_work(folder):
        # Again: of two runs that were started in the same second, one was here first.
        check_free(run, folder)
        write_pin(run, folder, came_from)
        return launch(folder)


class Check(Callback):
    """Looks at a run before Hydra makes its folder, so that wrong input and dry runs leave nothing behind.

    Attributes:
        passed: the arms of a sweep are fine; what is raised from then on is no wrong input.
    """

    passed: ClassVar[bool] = False

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Validate; on a dry run print the plan and stop."""
        from speculators.pin import check_free

        try:
            # Hydra turns exceptions of callbacks into warnings, and goes on; only an exit gets through.
            run = validate(config)
            if run.dry_run:
                from speculators.plan import print_plan

                print_plan(run)
                sys.exit(0)
            check_free(run, Path(config.hydra.run.dir))
        except WrongInput as error:
            stop(error.messages)
        except Exception:
            traceback.print_exc()
            sys.exit(1)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Validate every arm before the first starts; on a dry run list them and stop."""
        from speculators.sweep.check import check
        from speculators.sweep.points import typed_wins
        from speculators.sweep.study import settle

        try:
            typed_wins(config)
            check(config)
            settle(config)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        Check.passed = True


def compose(overrides: Sequence[str] = ()) -> "RunConfig":
    """The run that `python train.py OVERRIDES` would start.

    Args:
        overrides: as on the command line, e.g. `["algorithm=eagle", "optimizer.lr=1e-4"]`.

    Raises:
        WrongInput: with every problem.
    """
    with _composed(overrides) as config:
        return validate(config)


def pinned(overrides: Sequence[str], folder: Path) -> "RunConfig":
    """Write the `run.yaml` that `python train.py OVERRIDES` would write.

    Args:
        overrides: as on the command line.
        folder: of the run.

    Raises:
        WrongInput: with every problem.
    """
    from speculators.pin import write_pin

    with _composed(overrides) as config:
        run = validate(config)
        write_pin(run, folder, origin(Blame(config.hydra), run))
    return run


@contextmanager
def _composed(overrides: Sequence[str]) -> Iterator[DictConfig]:
    """A composed config with its `hydra` node, and Hydra initialised as long as somebody asks about it."""
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
    """Where the values of a run came from."""
    from speculators.pin import Origin
    from speculators.run_config import flat

    found = {key: blame.source(key) for key in flat(run.model_dump(mode="json"))}
    return Origin(blame.overrides, blame.searchpath, {key: str(source) for key, source in found.items() if source})


def moved(pin: "Pin") -> list[str]:
    """A line for each value that the pinned overrides would not give today; the run keeps the pinned ones.

    Composing is for comparison alone: if it fails, that is a line as well.
    """
    from speculators.run_config import flat

    if pin.overrides is None:
        return ["the overrides were not recorded: defaults that moved since are not looked for"]
    gone = [p for p in pin.searchpath if p.startswith("file://") and not Path(p.removeprefix("file://")).is_dir()]
    try:
        if gone:
            raise WrongInput([f"{' and '.join(gone)} is not there"])
        searched = [f"hydra.searchpath={json.dumps(pin.searchpath)}"] if pin.searchpath else []
        with _composed([*pin.overrides, *searched]) as config:
            tree: Any = OmegaConf.to_container(_own(config), resolve=True)
            return _moved(flat(pin.run.model_dump(mode="json")), flat(tree), Blame(config.hydra))
    except WrongInput as error:
        return [f"defaults that moved since cannot be looked for: {error.messages[0]}"]


def _moved(pinned: dict[str, Any], now: dict[str, Any], blame: Blame) -> list[str]:
    lines = []
    for key in dict.fromkeys([*pinned, *now]):
        source = blame.source(key)
        # What is derived moves with its source, which has a line.
        if pinned.get(key, ...) == now.get(key, ...) or source is not None and source.via:
            continue
        was, today = (_shown(values, key) for values in (pinned, now))
        lines.append(f"{key}: pinned {was}, now {today}{f' ({source})' if source else ''}")
    return lines


def _shown(values: dict[str, Any], key: str) -> str:
    value = values.get(key, "no setting")
    return value if isinstance(value, str) else json.dumps(value)


def validate(config: DictConfig) -> "RunConfig":
    """A composed config, checked whole: values, published config, and what the chosen engine makes of it.

    Raises:
        WrongInput: with every problem, each blamed on who set the value.
    """
    from pydantic import ValidationError

    from speculators.complaints import complaints, key_of, set_by
    from speculators.rules import broken
    from speculators.run_config import RunConfig

    # In a job Hydra keeps its own node apart.
    blame = Blame(config.hydra if "hydra" in config else HydraConfig.get())
    own = _own(config)
    unresolved = [f"{m}{set_by(blame(key))}" for key, m in _unresolved(own)]
    if unresolved:
        raise WrongInput(unresolved)
    composed: Any = OmegaConf.to_container(own, resolve=True)
    try:
        run = RunConfig.model_validate(composed)
        problems = broken(run)
    except ValidationError as error:
        raise WrongInput(complaints(error, composed, blame)) from error
    except ValueError as error:
        raise WrongInput([str(error) + set_by(blame(key_of(error)))]) from error
    if problems:
        raise WrongInput([f"{p}{set_by(blame(p.key))}" for p in problems])
    return run


def _own(config: DictConfig) -> DictConfig:
    """A composed config without its `hydra` node."""
    tree: Any = OmegaConf.to_container(config, resolve=False)
    tree.pop("hydra", None)
    return cast(DictConfig, OmegaConf.create(tree))


def _unresolved(config: DictConfig) -> list[tuple[str, str]]:
    """Keys without a value, and a message for each: mandatory ones that nobody gave, and interpolations to nothing."""
    found: list[tuple[str, str]] = []

    def walk(node: Any, prefix: str) -> None:
        for name in list(node) if isinstance(node, DictConfig) else range(len(node)):
            key = f"{prefix}{name}"
            if OmegaConf.is_missing(node, name):
                found.append((key, f"{key} must be given, e.g. {key}=..."))
                continue
            try:
                value = node[name]
            except InterpolationToMissingValueError:
                continue  # the key that it leads to has its own message
            except OmegaConfBaseException as error:
                reason = str(error).splitlines()[0]
                typed = OmegaConf.to_container(node, resolve=False)[name]  # type: ignore[index]
                found.append((key, f"{key}={typed}: {reason[:1].lower()}{reason[1:]}"))
                continue
            if OmegaConf.is_config(value) and not OmegaConf.is_interpolation(node, name):
                walk(value, f"{key}.")

    walk(config, "")
    return found
