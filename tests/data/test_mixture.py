"""Several sources in one run: proportions, what streams, and the names of what is wrong."""

import gzip
import json
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speculators.composition.compose import compose
from speculators.data.mixture import conversations, order
from speculators.data.prepare import prepare
from speculators.data.template import ChatTemplate
from speculators.data.unused import Unused
from speculators.settings.data import DataSettings
from tests.data.test_prepare import numbered


def file(path: Path, count: int) -> Path:
    """Conversations that name their file."""
    rows = [numbered(n, f"{path.stem} {n}.") for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mixture(*sources: str, **changes: object) -> DataSettings:
    return compose(
        ["data=mixture", f"data.sources=[{', '.join(sources)}]", *(f"data.{k}={v}" for k, v in changes.items())]
    ).data


@pytest.mark.parametrize(
    ("weights", "most", "expected"),
    [
        ((None, None), None, (100, 50)),
        ((7, 3), None, (100, 43)),  # the first is used up: 100 / 0.7 = 142.86 in all
        ((1, 9), None, (6, 50)),
        ((0.7, 0.3), 40, (28, 12)),
        ((1, 1), 1000, (50, 50)),
    ],
)
def test_proportions(
    weights: tuple[float | None, float | None], most: int | None, expected: tuple[int, int], tmp_path: Path,
    template: ChatTemplate,
) -> None:  # fmt: skip
    """As many as the smallest share allows, none twice, another choice with another seed; counted hand by hand."""
    parts = [f"{{path: {file(tmp_path / f'{n}.jsonl', c)}, weight: {'null' if w is None else w}}}"
             for n, c, w in (("a", 100, weights[0]), ("b", 50, weights[1]))]  # fmt: skip
    data = mixture(*parts, max_conversations="null" if most is None else most)
    counts: list[int] = []
    assert len(list(conversations(data, Unused(), True, counts))) == 150 and counts == [100, 50]
    numbers = order(data, counts, seed=3)
    assert len(set(numbers)) == len(numbers) and order(data, counts, seed=3) == numbers != order(data, counts, seed=4)
    assert Counter(n >= 100 for n in numbers) == {False: expected[0], True: expected[1]}
    report = prepare(data, template, 4096, 0).report
    assert tuple(report.sources.values()) == expected and f"({expected[0]} of {tmp_path / 'a.jsonl'}, " in str(report)


def test_every_conversation_has_the_same_chance(tmp_path: Path) -> None:
    """Over 400 seeds each of 20 conversations is taken 200 times, give or take four standard deviations of 10."""
    data = mixture(*(f"{{path: {file(tmp_path / f'{n}.jsonl', 20)}, weight: {w}}}" for n, w in (("a", 1), ("b", 2))))
    taken = Counter(n for seed in range(400) for n in order(data, [20, 20], seed) if n < 20)
    assert len(taken) == 20 and all(abs(count - 200) < 40 for count in taken.values())


def test_what_streams_is_read_as_far_as_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set in a folder stands for one of the Hub: its broken rows lie behind what a run takes."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [numbered(n, f"set {n}.") if n < 30 else {"messages": []} for n in range(60)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for streaming, unusable in (("true", 0), ("false", 30)):
        source = [f"data.name={folder}", f"data.streaming={streaming}", "data.max_conversations=20"]
        data, unused, counts = compose(["data=hub", *source]).data, Unused(), list[int]()
        found = list(conversations(data, unused, True, counts))
        assert len(found) == (20 if streaming == "true" else 30) and found[19].place == f"{folder}[19]"
        assert sum(unused.counts.values()) == unusable
    mixed = mixture(f"{{path: {file(tmp_path / 'a.jsonl', 50)}, weight: 3}}",
                    f"{{name: {folder}, streaming: true, weight: 1}}", max_conversations=40)  # fmt: skip
    counts = []
    assert len(list(conversations(mixed, Unused(), True, counts))) == 60 and counts == [50, 10]
    assert Counter(n >= 50 for n in order(mixed, counts, 0)) == {False: 30, True: 10}


def test_every_kind_of_source_in_one_run(
    tmp_path: Path, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parquet, compressed lines, and a data set of `datasets`, streamed and whole: what plain files of the same rows give."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    plain = [file(tmp_path / f"{name}.jsonl", count) for name, count in (("a", 40), ("b", 30), ("c", 30), ("d", 20))]
    rows = [[json.loads(line) for line in each.read_text().splitlines()] for each in plain]
    pq.write_table(pa.Table.from_pylist(rows[0]), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(plain[1].read_bytes()))
    for name, own in (("whole", rows[2]), ("streamed", rows[3])):
        datasets.Dataset.from_list(own).to_parquet(tmp_path / name / "train.parquet")
    kinds = [f"path: {tmp_path / 'a.parquet'}", f"path: {tmp_path / 'b.jsonl.gz'}", f"name: {tmp_path / 'whole'}",
             f"name: {tmp_path / 'streamed'}, streaming: true"]  # fmt: skip
    weights = (4, 2, 1, 1)
    made, same = (
        prepare(
            mixture(*(f"{{{part}, weight: {w}}}" for part, w in zip(parts, weights, strict=True))), template, 4096, 0
        )
        for parts in (kinds, [f"path: {each}" for each in plain])
    )
    assert list(made.report.sources.values()) == [40, 20, 10, 10]
    assert list(made.sequences) == list(same.sequences) and made.prompts == same.prompts
    assert len(made.train) == len(same.train)


def test_a_source_that_is_wrong_is_named(tmp_path: Path) -> None:
    """By its number in the list."""
    good = f"{{path: {file(tmp_path / 'a.jsonl', 3)}}}"
    with pytest.raises(ValueError, match=r"data\.sources\.1\.path: no file matches"):
        list(conversations(mixture(good, f"{{path: {tmp_path / 'b.jsonl'}}}"), Unused(), True, []))
    with pytest.raises(ValueError, match=r"data\.sources\.1\.name: .*nothing cannot be loaded"):
        list(conversations(mixture(good, f"{{name: {tmp_path / 'nothing'}}}"), Unused(), True, []))
