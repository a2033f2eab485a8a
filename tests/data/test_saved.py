"""Prepared data from the cache: the same as without it, made again when anything changes that decides it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from speculators.cache.store import LOCKS, Store
from speculators.composition.compose import compose
from speculators.data import answers, saved
from speculators.data.files import sources_of
from speculators.data.prepare import Prepared, prepare
from speculators.data.sources import content
from speculators.data.template import ChatTemplate
from speculators.settings.run_config import RunConfig
from speculators.verifier.in_process import Verifier
from speculators.verifier.loader import VerifierLoader
from speculators.verifier.location import local_path

TINY = Path(local_path("pkg://speculators.assets/tiny"))
VOCAB = 4096


@pytest.fixture(scope="module")
def verifier() -> VerifierLoader:
    """The embedded verifier."""
    return VerifierLoader(compose([]).verifier, torch.device("cpu"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty one."""
    (tmp_path / "cache" / LOCKS).mkdir(parents=True)
    return Store(tmp_path / "cache", None)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The embedded verifier in a folder of its own."""
    folder = tmp_path / "verifier"
    folder.mkdir()
    for file in TINY.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def conversations(file: Path, count: int = 12) -> Path:
    """A file of short ones."""
    turns = [[("user", f"Say {n}."), ("assistant", f"Well then: {n}")] for n in range(count)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turn]} for turn in turns]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def same(a: Prepared, b: Prepared) -> bool:
    """Whether all is equal."""
    return (
        [list(x) for x in (a.train, a.heldout, a.prompts)] == [list(x) for x in (b.train, b.heldout, b.prompts)]
        and a.report == b.report
        and np.array_equal(a.train_prompts, b.train_prompts)
        and a.token_count_V.dtype == b.token_count_V.dtype
        and torch.equal(a.token_count_V, b.token_count_V)
    )


def test_it_is_what_prepare_makes(verifier: VerifierLoader, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value for value, without tokenising; a damaged entry is made again."""
    run = compose(["data.max_conversations=100", "data.max_length=256"])
    expected = prepare(run.data, ChatTemplate.of(run.verifier, run.data), VOCAB, run.seed)
    assert same(saved.prepared(run, store, verifier, VOCAB), expected)
    with monkeypatch.context() as patch:
        patch.setattr(saved, "prepare", None)
        patch.setattr(VerifierLoader, "whole", None)
        assert same(saved.prepared(run, store, verifier, VOCAB), expected)
    (entry,) = store.entries()
    file = entry.path(saved.SEQUENCES)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert same(saved.prepared(run, store, verifier, VOCAB), expected)
    assert store.entries()[0].manifest.extractions == 2 and store.entries()[0].damaged() == []


def test_without_room_a_run_goes_on_uncached(verifier: VerifierLoader, store: Store) -> None:
    """Nobody asked for this cache, so nobody is stopped for it."""
    run = compose(["data.max_conversations=20"])
    small = Store(store.folder, limit=10)
    assert saved.prepared(run, small, verifier, VOCAB).report.conversations == 20
    assert store.entries() == []


def test_whatever_decides_it_names_it(verifier: VerifierLoader, copy: Path, tmp_path: Path) -> None:
    """A tokenizer's file, the chat template, a line of data, a length, the seed; not the weights, nor a place."""
    data = conversations(tmp_path / "data.jsonl")
    overrides = ["data=jsonl", f"data.path={data}", f"verifier.name_or_path={copy}", "data.max_length=128"]

    def words(*more: str) -> str:
        return json.dumps(saved.ingredients(compose([*overrides, *more]), verifier, VOCAB), sort_keys=True)

    before = words()
    known = {before}
    changes: list[Callable[[], str]] = [
        lambda: words("data.max_length=64"),
        lambda: words("data.max_conversations=3"),
        lambda: words("data.heldout_fraction=0.5"),
        lambda: words("seed=1"),
        lambda: words("data.regenerate=true"),
        lambda: appended(data, '{"messages": []}\n', words),
        lambda: appended(copy / "chat_template.jinja", " ", words),
        lambda: appended(copy / "tokenizer_config.json", " ", words),
        lambda: appended(copy / "tokenizer.json", " ", words),
    ]
    for change in changes:
        found = change()
        assert found not in known
        known.add(found)
    assert words() == before

    moved = data.rename(tmp_path / "moved.jsonl")
    assert words(f"data.path={moved}") == before
    assert words(f"data.path={moved}", "verifier_states=cached", f"cache.dir={tmp_path}") == before
    regenerated = words(f"data.path={moved}", "data.regenerate=true")
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes() + b"\0")
    assert words(f"data.path={moved}") == before
    assert words(f"data.path={moved}", "data.regenerate=true") != regenerated


def appended(file: Path, text: str, words: Callable[[], str]) -> str:
    """The words with something behind a file, which is put back."""
    original = file.read_bytes()
    file.write_bytes(original + text.encode())
    found = words()
    file.write_bytes(original)
    return found


def test_a_data_set_of_the_hub_is_known_by_what_was_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a revision too: another line in its files is another data set."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    folder = tmp_path / "data"
    folder.mkdir()
    conversations(folder / "train.jsonl")
    run = compose(["data=hub", f"data.name={folder}"])
    (source,) = sources_of(run.data)
    first = content(source, "data")
    assert content(source, "data") == first
    conversations(folder / "train.jsonl", 13)
    assert content(source, "data") != first
    streamed = source.model_copy(update={"streaming": True})
    first = content(streamed, "data")
    conversations(folder / "train.jsonl", 14)
    assert content(streamed, "data") != first


def regenerating(tmp_path: Path, *more: str) -> RunConfig:
    """A run whose answers are the verifier's own."""
    data = conversations(tmp_path / "data.jsonl")
    regenerate = ["data.regenerate=true", "data.regenerate_max_new_tokens=4", "data.max_length=64"]
    return compose(["data=jsonl", f"data.path={data}", *regenerate, *more])


def test_answers_are_generated_once_for_all_seeds(
    verifier: VerifierLoader, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another seed splits and packs anew, but asks the verifier nothing; the answers are those of its own decoding."""
    asked: list[list[int]] = []

    def counting(verifier: Verifier, prompts: list[list[int]], *sizes: Any) -> list[list[int]]:
        asked.extend(prompts)
        return plain(verifier, prompts, *sizes)

    plain = answers.plain
    monkeypatch.setattr(answers, "plain", counting)
    monkeypatch.setattr(answers, "SHARD", 4)
    run = regenerating(tmp_path)
    tokenizer = ChatTemplate.of(run.verifier, run.data)
    expected = prepare(run.data, tokenizer, VOCAB, 0, lambda some, _: plain(verifier.whole(), some, 4, 1))
    assert same(saved.prepared(run, store, verifier, VOCAB), expected) and len(asked) == 12
    other = saved.prepared(regenerating(tmp_path, "seed=1"), store, verifier, VOCAB)
    assert len(asked) == 12 and other.report.train_tokens + len(other.heldout) > 0
    saved.prepared(regenerating(tmp_path, "data.regenerate_max_new_tokens=5"), store, verifier, VOCAB)
    assert len(asked) == 24


def test_sampled_answers_are_kept_by_their_seed(verifier: Verifier, store: Store, tmp_path: Path) -> None:
    """Another split has the same answers, another seed of sampling others; greedy ones are apart."""

    def answered(*more: str) -> dict[tuple[int, ...], list[int]]:
        run = regenerating(tmp_path, "data.regenerate_temperature=1.5", *more)
        made = saved.prepared(run, store, verifier, VOCAB)
        documents = [d for side in (made.train, made.heldout) for sequence in side for d in sequence]
        first = [list(d.supervised).index(True) for d in documents]
        return {tuple(d.tokens[:n]): list(d.tokens[n:]) for d, n in zip(documents, first, strict=True)}

    sampled = answered()
    assert answered("seed=1") == sampled
    assert answered("data.regenerate_seed=1") != sampled and answered("data.regenerate_temperature=0") != sampled
    assert answered() == sampled


def test_several_samples_are_those_of_as_many_seeds(verifier: Verifier, store: Store, tmp_path: Path) -> None:
    """Seed after seed, for the prompts that are trained on; a held-out prompt has the first one's answer."""

    def answered(*more: str) -> tuple[list[list[int]], list[list[int]]]:
        made = saved.prepared(regenerating(tmp_path, "data.regenerate_temperature=1.5", *more), store, verifier, VOCAB)
        train, heldout = (
            sorted(list(d.tokens) for sequence in side for d in sequence) for side in (made.train, made.heldout)
        )
        return train, heldout

    train, heldout = answered("data.regenerate_seed=7", "data.regenerate_samples=3")
    each = [answered(f"data.regenerate_seed={seed}") for seed in (7, 8, 9)]
    assert train == sorted(tokens for own, _ in each for tokens in own) and heldout == each[0][1]
    assert each[0] != each[1] != each[2]


def test_regeneration_that_was_cut_off_is_gone_on_with(
    verifier: VerifierLoader, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished shards of answers are read, the rest is generated."""
    monkeypatch.setattr(answers, "SHARD", 3)
    run, calls = regenerating(tmp_path), []

    def stopping(verifier: Verifier, prompts: list[list[int]], *sizes: Any) -> list[list[int]]:
        calls.append(len(prompts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(verifier, prompts, *sizes)

    plain = answers.plain
    monkeypatch.setattr(answers, "plain", stopping)
    with pytest.raises(KeyboardInterrupt):
        saved.prepared(run, store, verifier, VOCAB)
    assert sum(calls) == 9
    made = saved.prepared(run, store, verifier, VOCAB)
    assert sum(calls) == 9 + 12 - 6
    (tmp_path / "other" / LOCKS).mkdir(parents=True)
    assert same(made, saved.prepared(run, Store(tmp_path / "other", None), verifier, VOCAB))
