"""Write docs/settings.md: every setting of every option, from conf/ and from the classes that check it.

python tools/settings_page.py
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from pydantic import BaseModel, create_model

from speculators.composition.by_verifier import RULE
from speculators.settings.run_config import RunConfig

ROOT = Path(__file__).parents[1]
CONF, PAGE = ROOT / "conf", ROOT / "docs" / "settings.md"
# What stands for a value that must be given, where a word will not do.
EXAMPLES = {"sources": [{"path": "x"}]}
HEAD = """# Every setting

Made by `python tools/settings_page.py` from `conf/` and the classes that check it; do not edit. A value is changed with
`key=value`, an option is chosen with `group=option`; `???` must be given, `null` is no value. In bold: the option that a
run takes unless it is told otherwise. Two rules make a value of the verifier's size, and run.yaml has what they made:
`${inverse_width:PEAK,WIDTH}` is PEAK up to that hidden size and falls in inverse proportion beyond,
`${if_above:SIZE,LIMIT,A,B}` is A where SIZE, hidden_size or vocab_size, is larger than LIMIT, else B.
"""


@dataclass(frozen=True)
class Setting:
    """One row: dotted key, type and bounds, value, meaning."""

    key: str
    kind: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Option:
    """One file of a group: what it is, the class that checks it, and its settings."""

    name: str
    meaning: str
    checked_by: type[BaseModel]
    settings: list[Setting]


def comments(file: Path) -> dict[str, str]:
    """The comment above each key of a YAML file, by dotted key."""
    found: dict[str, str] = {}
    above: list[str] = []
    path: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#"):
            above.append(text.lstrip("# "))
        elif ":" in text and not text.startswith("-"):
            indent = len(line) - len(line.lstrip())
            path = [(i, k) for i, k in path if i < indent] + [(indent, text.partition(":")[0])]
            found[".".join(k for _, k in path)] = " ".join(above)
            above = []
        else:
            above = []
    return found


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def property_of(key: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A dotted key's own JSON schema inside a class's."""
    found = schema
    for part in key.split("."):
        found = resolved(found, schema)["properties"][part]
    return found


def resolved(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """What a reference leads to."""
    return schema["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part


def kind(part: dict[str, Any]) -> str:
    """A JSON schema's type and bounds in words."""
    if "anyOf" in part:
        return " or ".join(kind(p) for p in part["anyOf"])
    if "const" in part or "enum" in part:
        return ", ".join(f"`{v}`" for v in part.get("enum", [part.get("const")]))
    if part["type"] == "array":
        items = part.get("prefixItems", [part.get("items")])
        each = "source" if "$ref" in items[0] else kind(items[0])
        return f"{len(items)} × {each}" if "prefixItems" in part else f"list of {each}"
    bounds = {"minimum": "≥ ", "exclusiveMinimum": "> ", "maximum": "≤ ", "exclusiveMaximum": "< "}
    words = {"null": "null", "boolean": "true or false", "string": "text"}
    name = words.get(part["type"], part["type"])
    return " ".join([name, ", ".join(f"{sign}{part[b]:.15g}" for b, sign in bounds.items() if b in part)]).strip()


def option(group: str, file: Path) -> Option:
    """A group's file, read and checked."""
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    field = RunConfig.model_fields[group]
    # What must be given is given here, so that the class which checks the file shows itself.
    given = {k: EXAMPLES.get(k, "x") if v == "???" else v for k, v in resolved_rules(values).items()}
    only = create_model("Only", **{group: (field.annotation, field)})  # type: ignore[call-overload] # names at run time
    checked_by = type(only.model_validate({group: given}).__dict__[group])
    schema, said = checked_by.model_json_schema(), comments(file)
    settings = []
    # Where there is a choice, the first key says which option it is, and the comment above it what the option is.
    first = next(iter(values)) if len(list(file.parent.glob("*.yaml"))) > 1 else ""
    what = said.pop(first, "")
    for key, value in leaves(values):
        part = property_of(key, schema)
        meaning = said.get(key) or part.get("description", "Which option this is." if key == first else "")
        settings.append(Setting(f"{group}.{key}", kind(resolved(part, schema)), written(value), meaning))
    return Option(file.stem, what, checked_by, settings)


def resolved_rules(values: dict[str, Any]) -> dict[str, Any]:
    """A file's values, rules on the verifier's size resolved for the embedded one."""
    verifier = yaml.safe_load((CONF / "verifier" / "tiny.yaml").read_text(encoding="utf-8"))
    config = OmegaConf.create({"verifier": verifier, "values": values})
    tree: Any = OmegaConf.to_container(config, resolve=False)
    ruled = [key for key, value in tree["values"].items() if isinstance(value, str) and RULE.fullmatch(value)]
    return values | {key: config["values"][key] for key in ruled}


def written(value: Any) -> str:
    """A value as one types it."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...").strip("'")


def groups() -> dict[str, list[Option]]:
    """Every group that a run is made of, in the order of the defaults list."""
    return {
        g: [option(g, f) for f in sorted((CONF / g).glob("*.yaml"))] for g in defaults() if g in RunConfig.model_fields
    }


def defaults() -> dict[str, str]:
    """The defaults list: the option of each group."""
    listed = yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    return {group: option for entry in listed if isinstance(entry, dict) for group, option in entry.items()}


def own() -> list[Setting]:
    """Settings that belong to no group."""
    file = CONF / "train.yaml"
    values, said, schema = (
        yaml.safe_load(file.read_text(encoding="utf-8")),
        comments(file),
        RunConfig.model_json_schema(),
    )
    keys = [k for k, v in values.items() if k in RunConfig.model_fields and not isinstance(v, dict)]
    return [Setting(k, kind(schema["properties"][k]), written(values[k]), said[k]) for k in keys]


def tables(options: list[Option]) -> Iterator[tuple[list[Option], list[Setting]]]:
    """Options that one class checks share a table; a value that they differ in stands once for each."""
    for _, same in groupby(options, key=lambda o: o.checked_by):
        together = list(same)
        rows = []
        for several in zip(*(o.settings for o in together), strict=True):
            first, each = several[0], [f"{o.name}: {s.value}" for o, s in zip(together, several, strict=True)]
            value = first.value if len({s.value for s in several}) == 1 else "\n".join(each)
            meaning = " ".join(dict.fromkeys(s.meaning for s in several))
            rows.append(Setting(first.key, first.kind, value, meaning))
        yield together, rows


def bold(group: str, name: str) -> str:
    """An option as one types it, in bold if it is the group's default."""
    return f"**`{group}={name}`**" if name == defaults()[group] else f"`{group}={name}`"


def table(rows: list[Setting]) -> str:
    """Markdown."""
    cells = [[f"`{r.key}`", r.kind, "<br>".join(f"`{v}`" for v in r.value.split("\n")), r.meaning] for r in rows]
    lines = [" | ".join(c.replace("|", "\\|") for c in row) for row in cells]
    return "\n".join(["| key | type | value | meaning |", "|---|---|---|---|", *(f"| {line} |" for line in lines)])


def page() -> str:
    """docs/settings.md."""
    parts = [HEAD, "## The run itself", table(own())]
    for group, options in groups().items():
        parts.append(f"## {group}")
        for together, rows in tables(options):
            shown = [f"- {bold(group, o.name)}{': ' if o.meaning else ''}{o.meaning}" for o in together]
            parts += ["\n".join(shown), table(rows)]
    for group in ("recipe", "search"):
        parts.append(f"## {group}")
        for file in sorted((CONF / group).glob("*.yaml")):
            lines = file.read_text(encoding="utf-8").splitlines()[1:]
            said = " ".join(
                x.lstrip("# ") for x in lines[: next(i for i, x in enumerate(lines) if not x.startswith("#"))]
            )
            parts.append(f"`{group}={file.stem}`: {said}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
