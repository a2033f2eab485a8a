"""ClassRegistryMixin: a base class with a registry of implementations by name."""

from collections.abc import Callable
from typing import Any, ClassVar

from speculators.utils.auto_importer import AutoImporterMixin


class ClassRegistryMixin(AutoImporterMixin):
    """Gives each class that derives from it a registry of its own: name -> implementation.

    With `registry_auto_discovery`, the first call of `registered_classes` imports the modules of `auto_package`, whose
    decorators fill the registry.

    ```python
    class Shape(ClassRegistryMixin): ...

    @Shape.register("round")
    class Circle(Shape): ...

    Shape.registry["round"] is Circle
    ```

    Attributes:
        registry: the registered classes by name; None before the first.
        registry_auto_discovery: whether `registered_classes` imports the modules of `auto_package` first.
        registry_populated: whether it has done so.
    """

    registry: ClassVar[dict[str, type[Any]] | None] = None
    registry_auto_discovery: ClassVar[bool] = False
    registry_populated: ClassVar[bool] = False

    @classmethod
    def register(cls, name: str | None = None) -> Callable[[type[Any]], type[Any]]:
        """A class decorator that registers the class.

        Args:
            name: the key; None takes the class's own name.

        Raises:
            ValueError: the name is not a string.
        """
        if name is not None and not isinstance(name, str):
            raise ValueError(f"ClassRegistryMixin.register() name must be a string or None. Got {name}.")
        return lambda clazz: cls.register_decorator(clazz, name=name)

    @classmethod
    def register_decorator(cls, clazz: type[Any], name: str | None = None) -> type[Any]:
        """Register a class; used as a decorator without parentheses, it takes the class's own name.

        Args:
            clazz: the class.
            name: the key; None takes the class's own name.

        Raises:
            TypeError: `clazz` is not a class.
            ValueError: the name is not a string, or is taken.
        """
        if not isinstance(clazz, type):
            raise TypeError(
                "ClassRegistryMixin.register_decorator must be used as a class decorator and without invocation."
                f"Got improper clazz arg {clazz}."
            )
        key = name or clazz.__name__
        if not isinstance(key, str):
            raise ValueError(
                "ClassRegistryMixin.register_decorator must be used as a class decorator and without invocation. "
                f"Got imporoper name arg {name}."  # the seed's spelling: its messages are part of the format
            )
        # Looked up in this class alone: an inherited registry would be shared with the parent.
        if cls.__dict__.get("registry") is None:
            cls.registry = {}
        registry: dict[str, type[Any]] = cls.__dict__["registry"]
        if key in registry:
            raise ValueError(
                f"ClassRegistryMixin.register_decorator cannot register a class {clazz} with the name {key} "
                "because it is already registered."
            )
        registry[key] = clazz
        return clazz

    @classmethod
    def auto_populate_registry(cls) -> bool:
        """Import the modules of `auto_package`, once.

        Returns:
            Whether this call imported them; False if an earlier one did.

        Raises:
            ValueError: `registry_auto_discovery` is False, or `auto_package` is not set.
        """
        if not cls.registry_auto_discovery:
            raise ValueError(
                f"{cls.__name__}.auto_populate_registry() imports nothing: registry_auto_discovery is set to False"
            )
        # Looked up in this class alone: a parent may have been populated from another package.
        if cls.__dict__.get("registry_populated", False):
            return False
        cls.auto_import_package_modules()
        cls.registry_populated = True
        return True

    @classmethod
    def registered_classes(cls) -> tuple[type[Any], ...]:
        """All registered classes in order of registration; with `registry_auto_discovery` also the discovered ones.

        Raises:
            ValueError: nothing was registered yet.
        """
        if cls.registry_auto_discovery:
            cls.auto_populate_registry()
        if cls.registry is None:
            raise ValueError(
                "ClassRegistryMixin.registered_classes() must be called after registering classes "
                "with ClassRegistryMixin.register()."
            )
        return tuple(cls.registry.values())
