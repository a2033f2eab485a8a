"""From the command line to a validated run: composition by Hydra, and every mistake as one short message.

This file and sweep/ alone import Hydra or OmegaConf, and nothing of either leaves them. What only prints (--help, --cfg,
completion) never gets as far as pydantic.
"""

import hashlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import hydra
import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from speculators.launch import RunFailed, done, launch

if TYPE_CHECKING:
    from speculators.run_config import RunConfig

log = logging.getLogger(__name__)
CONF, NAME = "speculators.conf", "train"
# Beside the arms of a sweep: what they train, each set of weights once.
TRAININGS = "trainings"
# What composing raises; Hydra takes a ValueError for an override that is no option's name.
COMPOSING = (HydraException, OmegaConfBaseException, ValueError)


class WrongInput(Exception):
    """What was asked for cannot be run; each message names a key, its value and the remedy."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = list(messages)


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
    except yaml.YAMLError as error:
        stop([f"broken YAML: {' '.join(str(error).split())}"])
    except COMPOSING as error:
        stop([_explain(error, sys.argv[1:])])


def stop(messages: Sequence[str]) -> NoReturn:
    """Print what is wrong and exit with 2."""
    problems = "1 problem" if len(messages) == 1 else f"{len(messages)} problems"
    print(f"{problems}; nothing was started:", *(f"  {m}" for m in messages), sep="\n", file=sys.stderr)
    sys.exit(2)


@hydra.main(version_base="1.3", config_path=f"pkg://{CONF}", config_name=NAME)
def _entry(config: DictConfig) -> float:
    from speculators.pin import write_pin

    hydra_config = HydraConfig.get()
    folder, run = Path(hydra_config.runtime.output_dir), validate(config)
    if hydra_config.mode != RunMode.MULTIRUN:
        write_pin(run, folder)
        return launch(folder)
    return _arm(folder, run, hydra_config.job.num)


def _arm(folder: Path, run: "RunConfig", number: int) -> float:
    """One arm of a sweep; Hydra goes on with the others if it fails, and raises the failure at the end."""
    from speculators.pin import write_pin
    from speculators.stages import weights_key
    from speculators.sweep.arm import start

    if (objective := done(folder)) is not None:
        log.info("arm %d was done before: %s", number, folder)
        return objective
    write_pin(run, folder, training=f"../{TRAININGS}/{weights_key(run)}")
    log.info("arm %d: %s", number, folder)
    try:
        if run.launch.mode == "inline":
            launch(folder)
        else:
            start(folder, run.launch.timeout, number)
    except RunFailed as error:
        log.info("arm %d failed: %s", number, error)
        if run.launch.on_failure == "stop":
            sys.exit(1)
        raise
    objective = done(folder)
    assert objective is not None
    log.info("arm %d: %.4g", number, objective)
    return objective


class Check(Callback):
    """Looks at a run before Hydra makes its folder, so that wrong input and dry runs leave nothing behind."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Validate; on a dry run print the plan and stop."""
        try:
            # Hydra turns exceptions of callbacks into warnings, and goes on; only an exit gets through.
            run = validate(config)
            if run.dry_run:
                from speculators.plan import print_plan

                print_plan(run)
                sys.exit(0)
        except WrongInput as error:
            stop(error.messages)
        except Exception:
            traceback.print_exc()
            sys.exit(1)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Validate every arm before the first starts; on a dry run list them and stop."""
        from speculators.sweep.points import CAP, duplicates, points, varying

        try:
            arms, more = points(config)
            loader = GlobalHydra.instance().config_loader()
            messages, dry = duplicates(arms), False
            for i, (arm, differing) in enumerate(zip(arms, varying(arms), strict=True)):
                try:
                    dry |= validate(loader.load_configuration(NAME, arm, RunMode.RUN)).dry_run
                except WrongInput as error:
                    messages += [f"arm {i} ({' '.join(differing)}): {m}" for m in error.messages]
                except COMPOSING as error:
                    messages.append(f"arm {i} ({' '.join(differing)}): {_explain(error, arm)}")
        except COMPOSING as error:
            stop([_explain(error, _overrides(config))])
        if messages:
            stop(messages)
        if more:
            print(f"more than {CAP} arms: only the first {CAP} were checked", file=sys.stderr)
        if dry:
            print(
                *(f"arm {i}: {' '.join(o for o in arm if o != 'dry_run=True')}" for i, arm in enumerate(arms)), sep="\n"
            )
            sys.exit(0)


def compose(overrides: Sequence[str] = ()) -> "RunConfig":
    """The run that `python train.py OVERRIDES` would start.

    Args:
        overrides: as on the command line, e.g. `["algorithm=eagle", "optimizer.lr=1e-4"]`.

    Raises:
        WrongInput: with every problem.
    """
    Plugins.instance().register(EntryPointGroups)
    with hydra.initialize_config_module(CONF, version_base="1.3"):
        try:
            return validate(hydra.compose(NAME, list(overrides), return_hydra_config=True))
        except yaml.YAMLError as error:
            raise WrongInput([f"broken YAML: {' '.join(str(error).split())}"]) from error
        except COMPOSING as error:
            raise WrongInput([_explain(error, overrides)]) from error


def validate(config: DictConfig) -> "RunConfig":
    """A composed config, checked whole: values, published config, and what the chosen engine makes of it.

    Raises:
        WrongInput: with every problem, each blamed on who set the value.
    """
    from pydantic import ValidationError

    from speculators.complaints import complaints, set_by
    from speculators.rules import broken
    from speculators.run_config import RunConfig

    overrides = _overrides(config)
    tree: Any = OmegaConf.to_container(config, resolve=False)
    tree.pop("hydra", None)
    own = cast(DictConfig, OmegaConf.create(tree))
    unresolved = [f"{m}{set_by(blame(key, overrides))}" for key, m in _unresolved(own)]
    if unresolved:
        raise WrongInput(unresolved)
    composed: Any = OmegaConf.to_container(own, resolve=True)
    try:
        run = RunConfig.model_validate(composed)
        problems = broken(run)
    except ValidationError as error:
        raise WrongInput(complaints(error, composed, lambda key: blame(key, overrides))) from error
    except ValueError as error:
        raise WrongInput([str(error) + set_by(blame("verifier.name_or_path", overrides))]) from error
    if problems:
        raise WrongInput([f"{p}{set_by(blame(p.key, overrides))}" for p in problems])
    return run


def _overrides(config: DictConfig) -> list[str]:
    """The command line's overrides as they were typed, interpolations in them unresolved."""
    if "hydra" not in config:
        return []
    return cast(list[str], OmegaConf.to_container(config.hydra.overrides.task, resolve=False))


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


def blame(key: str, overrides: Sequence[str]) -> str | None:
    """Who set a key: a command-line override, else the last group file that names it or a key above it.

    Args:
        key: dotted.
        overrides: of the command line.
    """
    for override in reversed(OverridesParser.create().parse_overrides(list(overrides))):
        name = override.key_or_group
        if (key == name or key.startswith(f"{name}.")) and "." in name or key == name:
            return f"the command-line override {override.input_line}"
    loader = GlobalHydra.instance().config_loader()
    defaults = loader.compute_defaults_list(NAME, list(overrides), RunMode.RUN).defaults
    found: tuple[int, str] | None = None
    for default in defaults:
        file = _file(default.config_path)
        if file is None:
            continue
        package = (default.package or "").removeprefix("_global_")
        depth, line = _deepest(file, key, package)
        if depth and (found is None or depth >= found[0]):
            found = (depth, f"{_shown(file)}:{line}")
    return found[1] if found else None


def _file(config_path: str | None) -> Path | None:
    """The YAML file of a group's option, wherever on the search path it is."""
    if config_path is None:
        return None
    for source in GlobalHydra.instance().config_loader().get_sources():
        if source.scheme() == "file":
            root = Path(source.path)
        elif source.scheme() == "pkg" and source.path.startswith(CONF):
            root = _conf()
        else:
            continue
        if (file := root / f"{config_path}.yaml").is_file():
            return file
    return None


def _conf() -> Path:
    """The folder of this package's own groups."""
    return Path(str(files(CONF)))


def _shown(file: Path) -> str:
    """`conf/...` for this package's own files, else the path."""
    root = _conf()
    return str(Path("conf") / file.relative_to(root)) if file.is_relative_to(root) else str(file)


def _deepest(file: Path, key: str, package: str) -> tuple[int, int]:
    """How many parts of a key a file names, and the line of the last of them."""
    parts = key.split(".")
    inside = package.split(".") if package else []
    if parts[: len(inside)] != inside:
        return 0, 0
    node = yaml.compose(file.read_text(encoding="utf-8"))
    # A key that the file of its own group leaves out is that file's fault.
    depth, line = len(inside), 1
    for i, part in enumerate(parts[len(inside) :], start=len(inside) + 1):
        if not isinstance(node, yaml.MappingNode):
            break
        match = next(((k, v) for k, v in node.value if k.value == part), None)
        if match is None:
            break
        depth, line, node = i, match[0].start_mark.line + 1, match[1]
    return depth, line


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's and OmegaConf's own errors, with the nearest name instead of their advice.

    Args:
        error: of composing.
        overrides: what was composed.
    """
    from speculators.complaints import nearest

    text = str(error.__cause__ or error) if isinstance(error.__cause__, OmegaConfBaseException) else str(error)
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, option = match[1].rpartition("/")
        with _loader() as loader:
            options = loader.get_group_options(group)
        return f"{group}={option}: there is no such option{nearest(option, options)} Options: {', '.join(options)}"
    if match := re.search(r"(?:Could not override|Key) '([^']+)'", str(error)) or re.search(r"full_key: (\S+)", text):
        key = match[1]
        with _loader() as loader:
            options = _options_with(key, loader)
            keys = _keys(loader, overrides)
        # A key that another option of its group has is no slip of the fingers.
        return f"{key} is not a setting{f' here; it is one with {options}' if options else nearest(key, keys)}"
    if text.startswith("Config group override must be"):
        return f"a group takes the name of one of its options, and recipe and search also null: {' '.join(overrides)}"
    return " ".join(text.split())


def _options_with(key: str, loader: Any) -> str:
    """Those options of a key's group that have it, as one would type them."""
    group, *path = key.split(".")
    found = []
    for option in loader.get_group_options(group):
        file = _file(f"{group}/{option}")
        node: Any = yaml.safe_load(file.read_text(encoding="utf-8")) if file else None
        for part in path:
            node = node.get(part, ...) if isinstance(node, dict) else ...
        if path and node is not ...:
            found.append(f"{group}={option}")
    return " or ".join(found)


def _keys(loader: Any, overrides: Sequence[str]) -> list[str]:
    """Every group, and every key of the default run with the groups that were chosen."""
    groups = loader.list_groups("")
    chosen = [o for o in overrides if o.partition("=")[0] in groups]
    try:
        config = loader.load_configuration(NAME, chosen, RunMode.RUN)
    except HydraException:
        config = loader.load_configuration(NAME, [], RunMode.RUN)
    keys: list[str] = list(groups)

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                keys.append(f"{prefix}{name}")
                walk(value, f"{prefix}{name}.")

    tree: Any = OmegaConf.to_container(config, resolve=False)
    tree.pop("hydra", None)
    walk(tree, "")
    return keys


class _loader:
    """A config loader of our own: after Hydra failed, it may have none to offer."""

    def __enter__(self) -> Any:
        self.running = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        self.context = hydra.initialize_config_module(CONF, version_base="1.3")
        self.context.__enter__()
        return GlobalHydra.instance().config_loader()

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)
        GlobalHydra.instance().hydra = self.running
