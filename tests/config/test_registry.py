"""Registries, and families of models built from a discriminator."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, ValidationError

from speculators import (
    ClassRegistryMixin,
    PydanticClassRegistryMixin,
    ReloadableBaseModel,
    TokenProposalConfig,
    reload_schemas,
)
from speculators.proposals import GreedyTokenProposalConfig


def test_each_class_has_a_registry_of_its_own() -> None:
    class Shape(ClassRegistryMixin):
        pass

    class Colour(ClassRegistryMixin):
        pass

    @Shape.register()
    class Circle:
        pass

    @Shape.register("box")
    class Square:
        pass

    @Colour.register_decorator
    class Red:
        pass

    assert Shape.registry == {"Circle": Circle, "box": Square}
    assert Colour.registered_classes() == (Red,)
    assert ClassRegistryMixin.registry is None


def test_a_child_does_not_register_with_its_parent() -> None:
    class Parent(ClassRegistryMixin):
        pass

    class Child(Parent):
        pass

    Parent.register("text")(str)
    Child.register("number")(int)
    assert Parent.registry == {"text": str}
    assert Child.registry == {"number": int}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[ClassRegistryMixin]]:
    """Two packages on the path, `round_shapes` and `flat_shapes`, whose modules register with the class that is yielded."""
    files = {
        "round_shapes/__init__.py": "",
        "round_shapes/circle.py": "from registering import Shape\n@Shape.register('circle')\nclass Circle: pass\n",
        "round_shapes/deep/__init__.py": "",
        "round_shapes/deep/ball.py": "from registering import Shape\n@Shape.register()\nclass Ball: pass\n",
        "flat_shapes/__init__.py": "",
        "flat_shapes/square.py": "from registering import Shape\n@Shape.register()\nclass Square: pass\n",
        "flat_shapes/broken.py": "raise RuntimeError('this module must not be imported')\n",
        "registering.py": "from speculators import ClassRegistryMixin\nclass Shape(ClassRegistryMixin): pass\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("registering").Shape
    for name in [n for n in sys.modules if n.partition(".")[0] in ("round_shapes", "flat_shapes", "registering")]:
        del sys.modules[name]


def test_a_package_is_discovered_at_the_first_use_and_once(packages: type[ClassRegistryMixin]) -> None:
    packages.registry_auto_discovery, packages.auto_package = True, "round_shapes"
    assert packages.registry is None and not packages.registry_populated
    assert [c.__name__ for c in packages.registered_classes()] == ["Circle", "Ball"]
    assert packages.registry_populated and packages.auto_imported_modules == [
        "round_shapes.circle",
        "round_shapes.deep.ball",
    ]
    assert packages.registry is not None and list(packages.registry) == ["circle", "Ball"]
    del sys.modules["round_shapes.circle"]
    assert len(packages.registered_classes()) == 2  # a second import would register twice, which is refused
    assert packages.auto_populate_registry() is False


def test_several_packages_without_the_ignored_module(packages: type[ClassRegistryMixin]) -> None:
    packages.registry_auto_discovery, packages.auto_package = True, ("flat_shapes", "round_shapes")
    packages.auto_ignore_modules = ("flat_shapes.broken",)
    assert packages.auto_populate_registry() is True
    assert [c.__name__ for c in packages.registered_classes()] == ["Square", "Circle", "Ball"]
    assert packages.auto_imported_modules is not None and "flat_shapes.broken" not in packages.auto_imported_modules


def test_a_module_that_cannot_be_imported_is_not_passed_over(packages: type[ClassRegistryMixin]) -> None:
    packages.registry_auto_discovery, packages.auto_package = True, "flat_shapes"
    with pytest.raises(RuntimeError, match="must not be imported"):
        packages.registered_classes()
    assert not packages.registry_populated


def test_a_child_of_a_populated_class_discovers_its_own_package(packages: type[ClassRegistryMixin]) -> None:
    packages.registry_auto_discovery, packages.auto_package = True, "round_shapes"
    packages.registered_classes()

    class Child(packages):
        auto_package = "flat_shapes"
        auto_ignore_modules = ("flat_shapes.broken",)

    assert Child.auto_populate_registry() is True
    assert Child.auto_imported_modules == ["flat_shapes.square"]


def test_discovery_needs_a_package_and_to_be_switched_on() -> None:
    class Off(ClassRegistryMixin):
        auto_package = "json"

    class Nowhere(ClassRegistryMixin):
        registry_auto_discovery = True

    with pytest.raises(ValueError, match="registry_auto_discovery is set to False"):
        Off.auto_populate_registry()
    with pytest.raises(ValueError, match="auto_package must be set"):
        Nowhere.registered_classes()


class Animal(PydanticClassRegistryMixin):
    schema_discriminator: ClassVar[str] = "kind"

    kind: str

    @classmethod
    def __pydantic_schema_base_type__(cls) -> type[Any]:
        return cls if cls.__name__ == "Animal" else Animal


@Animal.register("cat")
class Cat(Animal):
    kind: Literal["cat"] = "cat"
    lives: int = 9


@Animal.register("lion")
class Lion(Cat):
    kind: Literal["lion"] = "lion"  # pyright: ignore[reportIncompatibleVariableOverride]  another tag
    mane: bool = True


class Zoo(ReloadableBaseModel):
    favourite: Animal
    cages: list[Animal] = []
    by_name: dict[str, Animal] = {}
    perhaps: Animal | None = None


Animal.reload_schema()
Zoo.reload_schema()


def test_the_base_builds_the_named_class() -> None:
    assert Animal.model_validate({"kind": "lion", "mane": False}) == Lion(mane=False)
    assert type(Animal.model_validate({"kind": "cat"})) is Cat
    assert Lion.model_validate({"mane": False}) == Lion(mane=False)


def test_members_nest_anywhere_and_come_back() -> None:
    given = {
        "favourite": {"kind": "cat", "lives": 1},
        "cages": [{"kind": "lion"}, {"kind": "cat"}],
        "by_name": {"leo": {"kind": "lion", "mane": False}},
        "perhaps": {"kind": "cat"},
    }
    zoo = Zoo.model_validate(given)
    assert [type(a) for a in zoo.cages] == [Lion, Cat]
    assert type(zoo.by_name["leo"]) is Lion and type(zoo.perhaps) is Cat
    dump = zoo.model_dump()
    assert dump["by_name"] == {"leo": {"kind": "lion", "mane": False, "lives": 9}}
    assert Zoo.model_validate(dump) == zoo
    assert Zoo.model_validate_json(zoo.model_dump_json()) == zoo
    assert Zoo.model_validate({"favourite": Lion()}).favourite == Lion()


@pytest.mark.parametrize(
    ("value", "kind"),
    [({"kind": "dog"}, "union_tag_invalid"), ({}, "union_tag_not_found"), (3, "model_attributes_type")],
)
def test_what_names_no_member_is_refused(value: Any, kind: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Animal.model_validate(value)
    assert [e["type"] for e in caught.value.errors()] == [kind]


def test_a_family_without_members_takes_anything() -> None:
    class Alone(PydanticClassRegistryMixin):
        @classmethod
        def __pydantic_schema_base_type__(cls) -> type[Any]:
            return cls

    class Holder(BaseModel):
        alone: Alone

    assert Holder.model_validate({"alone": 3}).alone == 3


def test_a_family_must_name_its_base() -> None:
    class Nameless(PydanticClassRegistryMixin):
        kind: str

    class Member(Nameless):
        pass

    for family in (Nameless, Member):
        with pytest.raises(TypeError, match="__pydantic_schema_base_type__"):
            family(kind="member")


def test_a_proposal_of_the_users_own() -> None:
    given = {"proposal_type": "own_tree", "width": 3}
    with pytest.raises(ValidationError):
        TokenProposalConfig.model_validate(given)

    @TokenProposalConfig.register("own_tree")
    class OwnTree(TokenProposalConfig):
        proposal_type: Literal["own_tree"] = "own_tree"
        width: int

    try:
        reload_schemas()
        assert TokenProposalConfig.model_validate(given) == OwnTree(width=3)
        assert OwnTree in TokenProposalConfig.registered_classes()
    finally:
        assert TokenProposalConfig.registry is not None
        del TokenProposalConfig.registry["own_tree"]
        reload_schemas()


@pytest.mark.parametrize(
    "wrong",
    [{"speculative_tokens": 0}, {"verifier_accept_k": 0}, {"accept_tolerance": -0.1}, {"proposal_type": "tree"}],
)
def test_greedy_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GreedyTokenProposalConfig(**wrong)
