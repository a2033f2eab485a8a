"""run.yaml: what it holds, what of it is refused and where, what earlier schemas become, what it read."""

import json
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from speculators.composition.compose import compose, pinned
from speculators.composition.moved import moved
from speculators.execution import input_hashes
from speculators.execution.again import load_again, place
from speculators.runfolder.migrations import SCHEMA_VERSION, Added, Step, carry
from speculators.runfolder.run_yaml import complete, load, read_pin, training_folder, write_pin
from speculators.settings.run_config import RunConfig
from speculators.utils.dotted import flat
from speculators.utils.messages import WrongInput

PINS = Path(__file__).parent / "pins"
OLD = PINS / "schema_1.yaml"
TINY = Path(str(files("speculators.assets"))) / "tiny"


def test_a_pin_reads_back_as_the_run(tmp_path: Path) -> None:
    """Every value of a run survives run.yaml, also a string that looks like a number."""
    run = pinned(["algorithm=medusa", "optimizer=adamw", "seed=7", "verifier.revision='1234567e8'"], tmp_path)
    assert read_pin(tmp_path) == run and run.verifier.revision == "1234567e8"
    assert load(tmp_path).overrides == [
        "algorithm=medusa",
        "optimizer=adamw",
        "seed=7",
        "verifier.revision='1234567e8'",
    ]


def test_the_commit_is_git_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory under git is named by its commit, and as dirty once a file of it changed."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("one")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.chdir(tmp_path)
    run = compose([])
    write_pin(run, tmp_path / "run")
    assert load(tmp_path / "run").git["working_directory"] == head
    (tmp_path / "file").write_text("two")
    write_pin(run, tmp_path / "run")
    assert load(tmp_path / "run").git["working_directory"] == f"{head}-dirty"


@pytest.mark.parametrize("attack", ["core.fsmonitor", "filter.x.clean", "filter.x.process"])
def test_the_commit_runs_nothing_of_the_folder(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository may be anybody's; asked plainly, git runs what its configuration names."""
    executed = tmp_path / "executed"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {executed}\ncat\n")
    program.chmod(0o755)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("one")
    (tmp_path / ".gitattributes").write_text("file filter=x\n")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "x"], ["config", attack, str(program)]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / "file").write_text("two")
    monkeypatch.chdir(tmp_path)
    write_pin(compose([]), tmp_path / "run")
    assert load(tmp_path / "run").git["working_directory"] and not executed.exists()
    subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True)
    assert executed.exists()


def edited(folder: Path, old: str, new: str) -> int:
    """Change the one line of a run.yaml that has a text; its number."""
    file = folder / "run.yaml"
    rows = file.read_text().splitlines()
    (number,) = [i for i, row in enumerate(rows) if old in row]
    rows[number] = rows[number].replace(old, new)
    file.write_text("\n".join(rows) + "\n")
    return number + 1


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("    num_heads: 5", "    num_heads: five", ["algorithm.num_heads", "integer", "'five'"]),
        ("    num_heads: 5", "    num_heads: true", ["algorithm.num_heads", "integer", "True"]),
        ("    num_heads: 5", "    num_heds: 5", ["algorithm.num_heds", "did you mean algorithm.num_heads?"]),
        ("  seed: 0", "  seed: -1", ["seed", "greater than or equal to 0"]),
        ("  seed: 0", "  sead: 0", ["sead is not a setting", "did you mean seed?"]),
        ("    verifier_accept_k: 1", "    verifier_acept_k: 1", ["did you mean proposal.verifier_accept_k?"]),
        ("    lr: 0.001", "    lr: 30", ["optimizer.lr", "less than 1"]),
        ("    - 0.95", "    - x", ["optimizer.betas.1", "number", "'x'"]),
        ("training: .", "training: 3", ["training", "string", "3"]),
        ("schema_version: ", "schema_version: 99 #", ["schema_version=99", "newer"]),
        ("schema_version: ", "schema_version: true #", ["schema_version=True"]),
    ],
)
def test_an_edited_pin_is_blamed_by_line(old: str, new: str, parts: list[str], tmp_path: Path) -> None:
    """Type, name, bound, schema: one message with the line of run.yaml that was edited."""
    pinned(["algorithm=medusa", "optimizer=adamw"], tmp_path)
    file = tmp_path / "run.yaml"
    text = file.read_text()
    before, _, after = text.partition(old)
    number = before.count("\n") + 1
    file.write_text(before + new + after)
    with pytest.raises(WrongInput) as caught:
        load(tmp_path)
    fitting = [m for m in caught.value.messages if all(p in m for p in parts)]
    assert len(fitting) == 1, caught.value.messages
    assert fitting[0].endswith(f"set by {file}:{number}"), fitting
    assert len(caught.value.messages) == 1 or "did you mean" in fitting[0]  # then what was meant is missing


def test_a_value_that_stands_twice_must_agree(tmp_path: Path) -> None:
    """The published config's part of a run follows from its groups: editing one place alone is refused at the other."""
    pinned([], tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text(file.read_text().replace("    speculative_tokens: 5", "    speculative_tokens: 4", 1))
    number = next(i for i, row in enumerate(file.read_text().splitlines(), 1) if row.endswith("speculative_tokens: 5"))
    with pytest.raises(WrongInput) as caught:
        load_again(tmp_path)
    (message,) = caught.value.messages
    assert "proposal_methods.0.speculative_tokens=5" in message and "must be 4;" in message
    assert message.endswith(f"{file}:{number}")


def test_a_lossy_run_says_so(tmp_path: Path) -> None:
    """In a line of its own, which other runs do not have, and which an edit of the settings must not leave behind."""
    pinned(["proposal.verifier_accept_k=3", "proposal.accept_tolerance=2"], tmp_path)
    said = "verifier_accept_k=3 with accept_tolerance=2.0 accepts tokens that are not the verifier's best"
    assert yaml.safe_load((tmp_path / "run.yaml").read_text())["lossy"] == said == load(tmp_path).lossy
    number = edited(tmp_path, "lossy: verifier_accept_k=3", "lossy: verifier_accept_k=9")
    with pytest.raises(WrongInput, match=rf"lossy: (.|\n)*remove this line(.|\n)*run.yaml:{number}$"):
        load(tmp_path)
    pinned([], tmp_path / "exact")
    assert "lossy" not in (tmp_path / "exact" / "run.yaml").read_text()


def test_an_edited_pin_must_obey_the_rules(tmp_path: Path) -> None:
    """What only the verifier or another setting forbids is refused before anything is loaded."""
    pinned([], tmp_path)
    number = edited(tmp_path, "draft_vocab_size: null", "draft_vocab_size: 5000")
    assert load(tmp_path)
    with pytest.raises(WrongInput, match=rf"algorithm.draft_vocab_size=5000: (.|\n)*run.yaml:{number}$"):
        load_again(tmp_path)


def test_missing_values_and_doubles_are_refused(tmp_path: Path) -> None:
    """A line taken out is named with the place where it should be; a key that stands twice has no one value."""
    pinned([], tmp_path)
    file = tmp_path / "run.yaml"
    text = file.read_text()
    file.write_text(text.replace("    norm_output: true\n", ""))
    with pytest.raises(WrongInput) as caught:
        load(tmp_path)
    assert caught.value.messages[0].startswith("algorithm.norm_output is missing: run.yaml must hold every value")
    file.write_text(text.replace("  seed: 0\n", "  seed: 0\n  seed: 1\n"))
    with pytest.raises(WrongInput, match="seed is given twice"):
        load(tmp_path)


def test_schema_1_is_migrated(tmp_path: Path) -> None:
    """A pin of the first schema is the run that it was; what it lacks is said. If not, carry.STEPS lacks an entry."""
    shutil.copyfile(OLD, tmp_path / "run.yaml")
    pin, notes = load_again(tmp_path)
    were, now = flat(yaml.safe_load(OLD.read_text())["run"]), flat(pin.run.model_dump(mode="json"))
    assert now["verifier_states.source"] == "in_process"
    assert were == {key: now[key] for key in were}
    assert pin.schema_version == SCHEMA_VERSION and pin.threads is None and pin.read == {}
    said = {note.rpartition(f"migrated to {SCHEMA_VERSION}: ")[2].split()[0] for note in notes}
    assert said >= {"git", "overrides", "searchpath", "sources"}
    assert moved(pin) == ["run.yaml does not record its overrides, so defaults that changed since cannot be reported"]


def test_schema_2_is_migrated(tmp_path: Path) -> None:
    """As for schema 1; a value that is called otherwise now means the same."""
    shutil.copyfile(PINS / "schema_2.yaml", tmp_path / "run.yaml")
    pin, notes = load_again(tmp_path)
    were = flat(yaml.safe_load((PINS / "schema_2.yaml").read_text())["run"])
    now = flat(pin.run.model_dump(mode="json"))
    assert were.pop("data.hidden_states") == "cache" and now["verifier_states.source"] == "cached"
    assert were == {key: now[key] for key in were}
    assert any(note.endswith("data.hidden_states is now verifier_states.source") for note in notes)


def test_the_table_renames_and_fills_in() -> None:
    """Two steps at once: a key is renamed twice, another moves to a group, a third to a new group with another value, a
    fourth is new for one algorithm alone."""
    steps = {
        2: Step(renamed={"run.trainer.clip": "run.trainer.max_norm", "run.lr": "run.optimizer.lr"}),
        3: Step(
            renamed={"run.trainer.max_norm": "run.trainer.max_grad_norm", "run.data.states": "run.states.source"},
            values={"run.states.source": {"cache": "cached", "online": "in_process"}},
            added={
                "run.algorithm.fc_norm": Added(False, where=("run.algorithm.name", "eagle3")),
                "run.algorithm.heads": Added(1, where=("run.algorithm.name", "medusa")),
                "run.seed": Added(0),
            },
        ),
    }
    run = {"trainer": {"clip": 0.5}, "lr": 0.1, "optimizer": {}, "algorithm": {"name": "eagle3"}, "seed": 5}
    run["data"] = {"states": "cache"}
    pin: dict[str, Any] = {"schema_version": 1, "run": run}
    assert carry(pin, steps) == [
        "schema 1 migrated to 3: trainer.clip is now trainer.max_norm",
        "schema 1 migrated to 3: lr is now optimizer.lr",
        "schema 1 migrated to 3: trainer.max_norm is now trainer.max_grad_norm",
        "schema 1 migrated to 3: data.states is now states.source",
        "schema 1 migrated to 3: algorithm.fc_norm is new, set to False, which keeps the earlier behaviour",
    ]
    assert pin == {
        "schema_version": 3,
        "run": {
            "trainer": {"max_grad_norm": 0.5},
            "optimizer": {"lr": 0.1},
            "algorithm": {"name": "eagle3", "fc_norm": False},
            "seed": 5,
            "data": {},
            "states": {"source": "cached"},
        },
    }
    assert carry(pin, steps) == []


def test_a_pin_is_run_where_it_belongs(tmp_path: Path) -> None:
    """In its folder, or copied to a new one; never in a published draft or over another run. A trial alone trains alone."""
    trial = tmp_path / "sweep" / "trial"
    write_pin(compose([]), trial, training="../trainings/0123456789ab")
    assert training_folder(trial).resolve() == (tmp_path / "sweep" / "trainings" / "0123456789ab")
    assert place(trial) == place(trial / "run.yaml") == trial
    new = place(trial / "run.yaml", tmp_path / "new" / "run")
    assert (new / "run.yaml").read_bytes() == (trial / "run.yaml").read_bytes() and training_folder(new) == new
    with pytest.raises(WrongInput, match="it already holds a run"):
        place(trial, new)
    (trial / "config.json").touch()
    with pytest.raises(WrongInput, match="published draft.*--output=FOLDER"):
        place(trial)


def conversations(file: Path, answer: str) -> None:
    """A few prompts, all answered alike."""
    rows = [[{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": answer}] for i in range(4)]
    file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows))


def local(tmp_path: Path) -> RunConfig:
    """A run of a verifier and a data file that may be edited."""
    shutil.copytree(TINY, tmp_path / "verifier")
    conversations(tmp_path / "data.jsonl", "yes")
    named = f"verifier.name_or_path={tmp_path / 'verifier'}"
    return pinned(["data=jsonl", f"data.path={tmp_path / 'data.jsonl'}", named], tmp_path)


def change_template(folder: Path) -> None:
    """Another greeting."""
    (folder / "chat_template.jinja").write_text("Hello. " + (folder / "chat_template.jinja").read_text())


def change_tokenizer(folder: Path) -> None:
    """Another special token."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|endoftext|>"}))


def change_weights(folder: Path) -> None:
    """Other weights of the same shapes."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "change", "setting"),
    [
        ("data", lambda folder: conversations(folder.parent / "data.jsonl", "no"), "data.path="),
        ("chat_template", change_template, "verifier.name_or_path="),
        ("tokenizer", change_tokenizer, "verifier.name_or_path="),
        ("verifier", change_weights, "verifier.name_or_path="),
    ],
)
def test_other_inputs_are_refused(name: str, change: Any, setting: str, tmp_path: Path) -> None:
    """Each is found alone, by its own name, with the remedy; which works."""
    found = input_hashes.hashes(local(tmp_path))
    complete(tmp_path, 1, found)
    assert input_hashes.hashes(read_pin(tmp_path)) == found and load(tmp_path).read == found
    input_hashes.check(load(tmp_path), tmp_path)
    change(tmp_path / "verifier")
    with pytest.raises(WrongInput) as caught:
        input_hashes.check(load(tmp_path), tmp_path)
    (message,) = caught.value.messages
    assert message.startswith(setting) and name.replace("_", " ") in message
    assert f"remove {name} under `read` in {tmp_path / 'run.yaml'}" in message
    file = tmp_path / "run.yaml"
    file.write_text(
        "".join(row for row in file.read_text().splitlines(True) if not row.startswith(f"  {name}: {found[name]}"))
    )
    input_hashes.check(load(tmp_path), tmp_path)


def test_a_file_s_hash_is_sha256sum_s(tmp_path: Path) -> None:
    """Who wonders whether it is the file can ask another program."""
    run = local(tmp_path)
    printed = subprocess.run(["sha256sum", tmp_path / "data.jsonl"], capture_output=True, text=True, check=True).stdout
    assert input_hashes.hashes(run)["data"] == printed.split()[0]


def test_other_versions_are_said_and_no_more(tmp_path: Path) -> None:
    """Another version, commit or number of threads is a line each."""
    pinned([], tmp_path)
    complete(tmp_path, 2, {})
    assert load(tmp_path).drift(threads=2) == []
    installed = load(tmp_path).packages["torch"]
    edited(tmp_path, f"  torch: {installed}", "  torch: 1.0.0")
    edited(tmp_path, "python: ", "python: 2.7.0 # ")
    assert [line.partition("; ")[0] for line in load(tmp_path).drift(threads=1)] == [
        f"python: run.yaml has 2.7.0, now {sys.version.split()[0]}",
        f"torch: run.yaml has 1.0.0, now {installed}",
        "threads: run.yaml has 2, now 1",
    ]
