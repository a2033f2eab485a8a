"""A checkout's own configuration: `conf/` lies beside the package there, and inside it once it is installed. Torch-free."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def use_own_conf(package: Path) -> None:
    """Let `speculators.conf` be the folder beside a checkout's code.

    Otherwise an editable install of another checkout provides it: the code of one would run with the YAML of the other,
    where a checkout is on PYTHONPATH or is the current folder.

    Args:
        package: folder of this package's code.
    """
    name, own = f"{package.name}.conf", package.parent / "conf"
    if (package / "conf").is_dir() or not (own / "train.yaml").is_file():
        return
    spec = spec_from_file_location(name, own / "__init__.py", submodule_search_locations=[str(own)])
    if spec is not None and spec.loader is not None:
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
