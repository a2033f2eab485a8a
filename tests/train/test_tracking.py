import json

import pytest
from accelerate import Accelerator

from speculators.train.tracking import Tracking


def test_lines_after_the_first_step_and_a_line_that_was_cut_off_are_made_again(make_run, tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "kind": "train", "loss": 1.0}) + "\n" for step in (2, 4, 6)]
    file.write_text("".join(lines) + '{"step": 8, "kin')
    tracking = Tracking(Accelerator(cpu=True), make_run(), tmp_path, first=4)
    assert file.read_text() == "".join(lines[:2])
    tracking.log(6, "train", {"loss": 0.5})
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [2, 4, 6]


@pytest.mark.parametrize(
    "line",
    [b"", b"\xff\xfe\x00", b"null", b"[1]", b'{"step": "x"}', b'{"step": null}', b'{"step": NaN}', b'{"kind": "train"}',
     b'{"step": 1' + b"0" * 400 + b"}", b'{"step": ' + b"9" * 5000 + b"}", b"[" * 10**5, b'{"step": 2, "kin']
)  # fmt: skip
def test_a_bad_line_does_not_block_a_resume(line, make_run, tmp_path):
    """It is dropped, wherever it stands; the good ones stay."""
    file = tmp_path / "metrics.jsonl"
    good = [json.dumps({"step": step, "kind": "train", "loss": 1.0}).encode() + b"\n" for step in (2, 4)]
    for place in range(3):
        file.write_bytes(b"".join([*good[:place], line + b"\n", *good[place:]]))
        Tracking(Accelerator(cpu=True), make_run(), tmp_path, first=4)
        assert file.read_bytes() == b"".join(good)
