"""AutoImporterMixin: imports every module of a package, so that their registrations take effect."""

import importlib
import pkgutil
from typing import ClassVar


class AutoImporterMixin:
    """Imports the modules of the packages that a subclass lists in `auto_package`.

    Attributes:
        auto_package: full name of a package, or several; None until a subclass sets it.
        auto_ignore_modules: full names of modules that are not imported.
        auto_imported_modules: full names of the modules that the last call imported or found imported.
    """

    auto_package: ClassVar[str | tuple[str, ...] | None] = None
    auto_ignore_modules: ClassVar[tuple[str, ...] | None] = None
    auto_imported_modules: ClassVar[list[str] | None] = None

    @classmethod
    def auto_import_package_modules(cls) -> None:
        """Import every module of `auto_package`, at any depth.

        Raises:
            ValueError: `auto_package` is not set.
        """
        if cls.auto_package is None:
            raise ValueError(f"{cls.__name__}: the class variable auto_package must be set to the name of a package")
        packages = (cls.auto_package,) if isinstance(cls.auto_package, str) else cls.auto_package
        imported: list[str] = []
        for name in packages:
            package = importlib.import_module(name)
            for _, module, is_package in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                if not is_package and module not in (*(cls.auto_ignore_modules or ()), *imported):
                    importlib.import_module(module)
                    imported.append(module)
        cls.auto_imported_modules = imported
