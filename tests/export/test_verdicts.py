"""This project's verdict on 243 good and broken drafts against vLLM's own, which tools/vllm_verdicts.py asked for."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from speculators.export.checklist import judge
from speculators.run_config import ExportSettings

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
from vllm_verdicts import write_folder  # noqa: E402

GOLDEN = json.loads((ROOT / "tests" / "golden" / "vllm_verdicts.json").read_text())
EXPORT = ExportSettings(target="vllm", engine_version=GOLDEN["vllm"], dtype="float32")
CASES = {case["name"]: case for case in GOLDEN["cases"]}
