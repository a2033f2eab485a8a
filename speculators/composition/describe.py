"""Every setting of an option: key, type and bounds, value and meaning, from its YAML file and the class that checks it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from pydantic import BaseModel, create_model

from speculators.composition.by_verifier import RULE
from speculators.settings.run_config import RunConfig
from speculators.utils.yaml_lines import comments

# Examples for mandatory values that are not text.
EXAMPLES = {"sources": [{"path": "x"}]}


@dataclass(frozen=True)
class Setting:
    """One setting: dotted key, type and bounds, value, meaning."""

    key: str
    kind: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Option:
    """One file of a group: its name, what it is, the class that checks it, and its settings."""

    name: str
    meaning: str
    checked_by: type[BaseModel]
    settings: list[Setting]


def option(group: str, file: Path, verifier: Path) -> Option:
    """Read an option's file.

    Args:
        group: one whose options have a class.
        file: of the option.
        verifier: an option of the group `verifier`, for whose size rules are resolved.

    Raises:
        pydantic.ValidationError: the file's values are not valid.
    """
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    field = RunConfig.model_fields[group]
    # What must be given is given here, so that the class which checks the file shows itself.
    given = {k: EXAMPLES.get(k, "x") if v == "???" else v for k, v in _resolved_rules(values, verifier).items()}
    only = create_model("Only", **{group: (field.annotation, field)})  # type: ignore[call-overload] # names at run time
    checked_by = type(only.model_validate({group: given}).__dict__[group])
    schema, said = checked_by.model_json_schema(), comments(file.read_text(encoding="utf-8"))
    settings = []
    # Where there is a choice, the first key says which option it is, and the comment above it what the option is.
    first = next(iter(values)) if len(list(file.parent.glob("*.yaml"))) > 1 else ""
    what = said.pop(first, "")
    for key, value in leaves(values):
        part = _property(key, schema)
        meaning = said.get(key) or part.get("description", "Which option this is." if key == first else "")
        settings.append(Setting(f"{group}.{key}", kind(_resolved(part, schema)), written(value), meaning))
    return Option(file.stem, what, checked_by, settings)


def of_the_run(file: Path) -> list[Setting]:
    """The settings that belong to no group, from the root config."""
    text = file.read_text(encoding="utf-8")
    values, said, schema = yaml.safe_load(text), comments(text), RunConfig.model_json_schema()
    keys = [k for k, v in values.items() if k in RunConfig.model_fields and not isinstance(v, dict)]
    return [Setting(k, kind(schema["properties"][k]), written(values[k]), said[k]) for k in keys]


def kind(part: dict[str, Any]) -> str:
    """A JSON schema's type and bounds in words."""
    if "anyOf" in part:
        return " or ".join(kind(p) for p in part["anyOf"])
    if "const" in part or "enum" in part:
        return ", ".join(f"`{written(v)}`" for v in part.get("enum", [part.get("const")]))
    if "type" not in part:
        return "object"
    if part["type"] == "array":
        items = part.get("prefixItems", [part.get("items")])
        each = "source" if "$ref" in items[0] else kind(items[0])
        return f"{len(items)} × {each}" if "prefixItems" in part else f"list of {each}"
    bounds = {"minimum": "≥ ", "exclusiveMinimum": "> ", "maximum": "≤ ", "exclusiveMaximum": "< "}
    words = {"null": "null", "boolean": "true or false", "string": "text"}
    name = str(words.get(part["type"], part["type"]))
    return " ".join([name, ", ".join(f"{sign}{part[b]:.15g}" for b, sign in bounds.items() if b in part)]).strip()


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def written(value: Any) -> str:
    """A value as one types it."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...").strip("'")


def _property(key: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A dotted key's own JSON schema inside a class's."""
    found = schema
    for part in key.split("."):
        found = _resolved(found, schema)["properties"][part]
    return found


def _resolved(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """What a reference leads to."""
    return schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part


def _resolved_rules(values: dict[str, Any], verifier: Path) -> dict[str, Any]:
    """A file's values, rules on the verifier's size resolved."""
    chosen = yaml.safe_load(verifier.read_text(encoding="utf-8"))
    config = OmegaConf.create({"verifier": chosen, "values": values})
    tree: Any = OmegaConf.to_container(config, resolve=False)
    ruled = [key for key, value in tree["values"].items() if isinstance(value, str) and RULE.fullmatch(value)]
    return values | {key: config["values"][key] for key in ruled}
