"""Wrong input: one message a problem, with the key, what would be right, and who set it."""

import subprocess
import sys
from pathlib import Path

import pytest

from speculators.composition.compose import compose
from speculators.utils.messages import WrongInput

LINE = "the command-line override "

# What is typed, and what the message must hold. Where a message is about one override, it must blame it.
WRONG = [
    # groups and options
    ("algoritm=medusa", ["algoritm", "did you mean algorithm?"]),
    ("algorithm=eagel3", ["algorithm=eagel3", "did you mean eagle3?"]),
    ("proposal=gredy", ["proposal=gredy", "did you mean greedy?"]),
    ("verifier=tinny", ["verifier=tinny", "did you mean tiny?"]),
    ("data=jsnol", ["data=jsnol", "did you mean jsonl?"]),
    ("optimizer=admw", ["optimizer=admw", "did you mean adamw?"]),
    ("schedule=cosin", ["schedule=cosin", "did you mean cosine?"]),
    ("trainer=defualt", ["trainer=defualt", "did you mean default?"]),
    ("evaluation=defaults", ["evaluation=defaults", "did you mean default?"]),
    ("export=vlm", ["export=vlm", "did you mean vllm?"]),
    ("tracker=wandbb", ["tracker=wandbb", "did you mean wandb?"]),
    ("launch=inlin", ["launch=inlin", "did you mean inline?"]),
    ("recipe=quik", ["recipe=quik", "did you mean quick?"]),
    ("output_dir=x", ["output_dir is not a setting; hydra.run.dir=FOLDER"]),
    ("hydra/sweeper=optunaa", ["hydra/sweeper=optunaa", "pip install 'speculators-hydra[sweeps]'"]),
    ("search=lerning_rate", ["search=lerning_rate", "did you mean learning_rate?"]),
    ("trainer=null", ["trainer=null", "name of one of its options"]),
    ("~optimizer", ["optimizer is missing", LINE + "~optimizer"]),
    # keys
    *((text, [f"'{text}' is not an override; write it as key=value"]) for text in ("+=", "=", "~", "+@x=", "++=1")),
    *(
        (text, [f"{text}': a group is set to the name"])
        for text in ("data=[[]]", "recipe=[1]", "+data=[{a:b}]", "data=[null]")
    ),
    ("seeed=1", ["seeed is not a setting", "did you mean seed?"]),
    ("algorithm.ttt_step=3", ["algorithm.ttt_step", "did you mean algorithm.ttt_steps?"]),
    ("algorithm.draft_vocab=3", ["algorithm.draft_vocab", "did you mean algorithm.draft_vocab_size?"]),
    ("algorithm.loss.kll=1", ["algorithm.loss.kll", "did you mean algorithm.loss.kl?"]),
    ("algorithm=medusa algorithm.num_head=2", ["algorithm.num_head is", "did you mean algorithm.num_heads?"]),
    ("algorithm=medusa algorithm.ttt_steps=2", ["algorithm.ttt_steps", "algorithm=eagle or algorithm=eagle3"]),
    ("proposal.speculative_token=3", ["proposal.speculative_token", "did you mean proposal.speculative_tokens?"]),
    ("verifier.name=x", ["verifier.name is", "did you mean verifier.name_or_path?"]),
    ("data.max_len=3", ["data.max_len", "did you mean data.max_length?"]),
    ("data.path=x", ["data.path", "data=jsonl"]),
    ("data.name=x", ["data.name", "data=hub"]),
    ("optimizer.betas=[0.9,0.9]", ["optimizer.betas", "optimizer=adamw"]),
    ("schedule.warmup=0.1", ["schedule.warmup", "did you mean schedule.warmup_ratio?"]),
    ("trainer.epoch=1", ["trainer.epoch", "did you mean trainer.epochs?"]),
    ("evaluation.temprature=1", ["evaluation.temprature", "did you mean evaluation.temperature?"]),
    ("export.tagret=none", ["export.tagret", "did you mean export.target?"]),
    ("tracker.projekt=x", ["tracker.projekt", "did you mean tracker.project?"]),
    ("launch.num_thread=1", ["launch.num_thread", "did you mean launch.num_threads?"]),
    ("+seeed=1", ["seeed is not a setting", "did you mean seed?", LINE + "+seeed=1"]),
    ("+algorithm.ttt_step=3", ["did you mean algorithm.ttt_steps?", LINE + "+algorithm.ttt_step=3"]),
    ("+proposal.speculativ=3", ["did you mean proposal.speculative_tokens?", LINE + "+proposal.speculativ=3"]),
    ("++trainer.max_step=3", ["did you mean trainer.max_steps?", LINE + "++trainer.max_step=3"]),
    ("+optimizer.foo.bar=3", ["optimizer.foo is not a setting"]),
    ("~optimizer.lr", ["optimizer.lr is missing", LINE + "~optimizer.lr"]),
    ("algorithm.loss=3", ["algorithm.loss", "dictionary", LINE + "algorithm.loss=3"]),
    # types
    ("seed=x", ["seed", "integer", "'x'", LINE + "seed=x"]),
    ("seed=1.5", ["seed", "integer", "1.5"]),
    ("dry_run=perhaps", ["dry_run", "boolean", "'perhaps'"]),
    ("algorithm.ttt_steps=two", ["algorithm.ttt_steps", "integer", "'two'"]),
    ("algorithm.loss.kl=", ["algorithm.loss.kl", "number"]),
    ("algorithm.eagle_aux_hidden_state_layer_ids=2", ["algorithm.eagle_aux_hidden_state_layer_ids", "list"]),
    ("algorithm.eagle_aux_hidden_state_layer_ids=[1,x]", ["layer_ids.1", "integer", "'x'"]),
    ("algorithm.norm_output=si", ["algorithm.norm_output", "boolean"]),
    ("proposal.speculative_tokens=three", ["proposal.speculative_tokens", "integer"]),
    ("verifier.trust_remote_code=nope", ["verifier.trust_remote_code", "boolean"]),
    ("optimizer.lr=fast", ["optimizer.lr", "number", "'fast'"]),
    ("optimizer=adamw optimizer.betas=0.9", ["optimizer.betas", "0.9"]),
    ("optimizer=adamw optimizer.betas=[0.9]", ["optimizer.betas.1 is missing"]),
    ("trainer.max_steps=all", ["trainer.max_steps", "integer"]),
    ("evaluation.num_prompts=many", ["evaluation.num_prompts", "integer"]),
    # bounds and choices
    ("seed=-1", ["seed", "greater than or equal to 0", "-1"]),
    ("seed=4294967296", ["seed", "less than 4294967296"]),
    ("device=gpu", ["device", "cuda", "'gpu'"]),
    ("precision=fp16", ["precision", "'fp32', 'tf32' or 'bf16'"]),
    ("algorithm.ttt_steps=0", ["algorithm.ttt_steps", "greater than or equal to 1"]),
    ("algorithm.slot_decay=2", ["algorithm.slot_decay", "less than or equal to 1"]),
    ("algorithm.loss.kl=-1", ["algorithm.loss.kl", "greater than or equal to 0"]),
    ("algorithm.draft_arch=gemma", ["algorithm.draft_arch", "'llama' or 'qwen3'"]),
    ("algorithm.name=eagel", ["algorithm.name", "eagle3"]),
    ("proposal.speculative_tokens=0", ["proposal.speculative_tokens", "greater than or equal to 1"]),
    ("proposal.proposal_type=tree", ["proposal", "greedy"]),
    ("verifier.dtype=fp16", ["verifier.dtype", "'float16'"]),
    ("data.source=csv", ["data", "'chat', 'jsonl', 'hub'"]),
    ("data.max_length=8", ["data.max_length", "greater than or equal to 16"]),
    ("data.heldout_fraction=1", ["data.heldout_fraction", "less than 1"]),
    ("optimizer.lr=0", ["optimizer.lr", "greater than 0"]),
    ("optimizer.lr=30", ["optimizer.lr", "less than 1"]),
    ("schedule.name=step", ["schedule.name", "'cosine'"]),
    ("schedule.warmup_ratio=5", ["schedule.warmup_ratio", "less than or equal to 1"]),
    ("trainer.batch_size=0", ["trainer.batch_size", "greater than or equal to 1"]),
    ("trainer.max_grad_norm=0", ["trainer.max_grad_norm", "greater than 0"]),
    ("evaluation.temperature=-1", ["evaluation.temperature", "greater than or equal to 0"]),
    ("export.target=sglang", ["export.target", "'vllm'"]),
    ("tracker.name=excel", ["tracker.name", "'wandb'"]),
    # values that are not there
    ("data=jsonl", ["data.path must be given", "conf/data/jsonl.yaml:"]),
    ("data=hub", ["data.name must be given", "conf/data/hub.yaml:"]),
    ("verifier=hf", ["verifier.name_or_path must be given", "conf/verifier/hf.yaml:"]),
    ("optimizer.lr=${nothing.here}", ["optimizer.lr=${nothing.here}", "not found", LINE]),
    ("algorithm.eagle_aux_hidden_state_layer_ids=[1,${x}]", ["layer_ids.1=${x}", "not found", LINE]),
    # rules between settings
    ("algorithm.loss.kl=0", ["algorithm.loss", "at least one weight"]),
    ("algorithm.norm_before_fc=true algorithm.fc_norm=true", ["algorithm.norm_before_fc", "mutually exclusive"]),
    ("algorithm=eagle algorithm.layernorms=true", ["algorithm.layernorms", "set it to false"]),
    ("algorithm=eagle algorithm.fusion_bias=true", ["algorithm.fusion_bias", "set it to false"]),
    ("algorithm=eagle algorithm.transformer_layer_architecture=X", ["layer_architecture", "'LlamaDecoderLayer'"]),
    ("algorithm.eagle_aux_hidden_state_layer_ids=[]", ["layer_ids", "at least 1 item"]),
    ("export.engine_version=0.1", ["export.engine_version=0.1", "override export.engine_version=0.1"]),
    ("algorithm=medusa algorithm.truncated_vocab_size=9", ["truncated_vocab_size", "original_lm_head=true"]),
    ("algorithm=medusa proposal.speculative_tokens=6", ["proposal.speculative_tokens=6", "at most 5"]),
    ("proposal.accept_tolerance=0.5", ["proposal.accept_tolerance=0.5", "verifier_accept_k=1"]),
    ("proposal.verifier_accept_k=2 evaluation.temperature=1", ["proposal.verifier_accept_k=2", "temperature=0"]),
    ("launch=torchrun device=cuda:1", ["device='cuda:1'", "set device=cuda to give each its own", LINE]),
    ("launch.sharding=fsdp2", ["launch.sharding='fsdp2'", "has no effect without launch=torchrun"]),
    ("launch=torchrun launch.num_nodes=2", ["launch.num_nodes=2", "need launch.rdzv_endpoint=HOST:PORT"]),
    ("launch=torchrun launch.rdzv_endpoint=a:1", ["launch.rdzv_endpoint='a:1'", "no effect with launch.num_nodes=1"]),
    (
        "launch=torchrun launch.sharding=fsdp2 trainer.keep_best=decoded trainer.eval_every=1",
        ["launch.sharding='fsdp2'", "does not decode during the training; set trainer.keep_best=true"],
    ),
    (
        "trainer.sequences_per_step=4 trainer.gradient_accumulation_steps=2",
        ["trainer.gradient_accumulation_steps=2", "follows from trainer.sequences_per_step=4"],
    ),
    (
        "launch=torchrun launch.num_processes=3 trainer.sequences_per_step=4",
        ["trainer.sequences_per_step=4", "cannot be shared evenly by 3 processes"],
    ),
    ("data=mixture", ["data.sources must be given", "conf/data/mixture.yaml:"]),
    ("data=mixture data.sources=[{path:a,name:b}]", ["data.sources.0", "must have either path or name"]),
    (
        "data=mixture data.sources=[{path:a,weight:1},{path:b}]",
        ["data.sources: either all sources must have a weight, or none"],
    ),
    ("data=mixture data.sources=[{path:a,weight:0}]", ["data.sources.0.weight", "greater than 0"]),
    ("data=mixture data.sources=[{paht:a}]", ["data.sources.0.paht is not a setting"]),
    (
        "recipe=eagle3_8b verifier=tiny data=jsonl data.path=a.jsonl ~data.split",
        [
            "data.name is not a setting",
            "another option of data than the chosen one: remove it, '~data.name'",
            "set by conf/recipe/eagle3_8b.yaml:",
        ],
    ),
    ("data.chat_template_date=yesterday", ["data.chat_template_date", "YYYY-MM-DD", LINE]),
    ("data.chat_template_kwargs={tools:[]}", ["data.chat_template_kwargs", "tools is set by each conversation"]),
    ("trainer.keep_best=true", ["trainer.keep_best=True", "trainer.eval_every"]),
    ("trainer.keep_best=decode", ["trainer.keep_best: input should be True, False or 'decoded' (got 'decode')", LINE]),
    # rules against the verifier
    ("verifier=hf verifier.name_or_path=/nowhere", ["verifier.name_or_path", "does not exist", LINE]),
    ("data.max_length=4096", ["data.max_length=4096", "2048", LINE]),
    ("algorithm.draft_vocab_size=5000", ["algorithm.draft_vocab_size=5000", "4096", LINE]),
    ("algorithm.eagle_aux_hidden_state_layer_ids=[3,1]", ["ascend", "write [1, 3]", LINE]),
    ("algorithm.eagle_aux_hidden_state_layer_ids=[1,1]", ["without duplicates", "write [1]", LINE]),
    ("algorithm.eagle_aux_hidden_state_layer_ids=[1,9]", ["last layer, 6", LINE]),
    ("algorithm.eagle_aux_hidden_state_layer_ids=[-1,2]", ["no id below 0", LINE]),
]


@pytest.mark.parametrize(("typed", "parts"), WRONG, ids=[typed for typed, _ in WRONG])
def test_each_mistake_has_one_message(typed: str, parts: list[str]) -> None:
    """The message names the key, what would be right, and the override that set it."""
    with pytest.raises(WrongInput) as caught:
        compose(typed.split())
    fitting = [m for m in caught.value.messages if all(part in m for part in parts)]
    assert len(fitting) == 1, caught.value.messages
    assert "Traceback" not in str(caught.value) and "pydantic" not in str(caught.value)


def test_all_problems_at_once() -> None:
    """Three mistakes in three groups are three messages, each blamed on its own override."""
    with pytest.raises(WrongInput) as caught:
        compose(["seed=-1", "optimizer.lr=x", "evaluation.num_prompts=-3"])
    assert [m.rsplit("override ")[-1] for m in caught.value.messages] == [
        "seed=-1",
        "optimizer.lr=x",
        "evaluation.num_prompts=-3",
    ]


def test_a_recipe_takes_another_source() -> None:
    """Without what it sets for its own, as the message says."""
    chosen = ["recipe=eagle3_8b", "verifier=tiny", "data=jsonl", "data.path=chat.jsonl", "data.max_length=320"]
    assert compose([*chosen, "~data.name", "~data.split"]).data.source == "jsonl"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line, as a person calls it."""
    command = [sys.executable, "-m", "speculators", "train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["algorithm.ttt_step=1"], ["algorithm.ttt_steps?"]),
        (["algorithm=eagel"], ["eagle?"]),
        (["+trainer.epoch=1"], ["trainer.epochs?", "+trainer.epoch=1"]),
        (["optimizer.lr=30", "seed=-1"], ["2 problems", "optimizer.lr", "seed"]),
        (["optimizer.lr=${nothing}"], ["optimizer.lr=${nothing}"]),
        (["algorithm.ttt_steps=[1"], ["algorithm.ttt_steps=[1: the value cannot be read; close its brackets"]),
        (["data=jsonl", "data.path=/a=b/c"], ["data.path=/a=b/c: the value", "quote it: 'data.path=\"/a=b/c\"'"]),
        (["seed"], ["seed is not an override; write it as key=value"]),
        (["resume=true"], ["resume is not a setting; `speculators run FOLDER` resumes a run"]),
        (["algorithm=eagle,medusa"], ["add -m to run a trial for each", "'algorithm=[eagle,medusa]'"]),
        (["-m", "search=algorithm", "algorithm=eagel"], ["did you mean eagle?"]),
        (["trainer=null"], ["trainer=null"]),
        (["-m", "optimizer.lr=1e-3,30"], ["trial 1", "optimizer.lr", "optimizer.lr=30"]),
        (["-m", "seed=0,1,2,3", "algorithm=eagle,medsua"], ["trial 1", "medusa?"]),
        (["-m", "seed=1,2,1"], ["trial 2 is the same as trial 0: seed=1; give each value once"]),
        (
            ["-m", "optimizer.lr=1e-3,1e-3"],
            ["trial 1 is the same as trial 0: optimizer.lr=0.001; give each value once"],
        ),
        pytest.param(
            ["-m", "hydra/sweeper=optuna", "optimizer.lr=interval(1e-4,30)"],
            ["optimizer.lr", "30"],
            marks=pytest.mark.slow,  # like all that needs the extra `sweeps`
        ),
    ],
)
def test_a_command_exits_with_2_and_leaves_nothing(arguments: list[str], parts: list[str], tmp_path: Path) -> None:
    """No traceback, no folder, exit code 2."""
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert all(part in done.stderr for part in parts), done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_users_own_is_blamed_by_line(tmp_path: Path) -> None:
    """A wrong value and an unknown key of a --config-dir option are found where they stand."""
    (tmp_path / "optimizer").mkdir()
    mine = tmp_path / "optimizer" / "mine.yaml"
    mine.write_text("name: adamw\nlr: fast\nbetas: [0.9, 0.95]\nepsilon: 1.0e-8\nweight_decay: 0\n")
    done = run("--config-dir", str(tmp_path), "optimizer=mine", cwd=tmp_path)
    assert done.returncode == 2
    assert f"set by {mine}:2" in done.stderr
    assert "did you mean optimizer.eps?" in done.stderr and f"set by {mine}:4" in done.stderr
    assert "optimizer.eps is missing" in done.stderr and f"set by {mine}:1" in done.stderr


def test_options_of_the_users_own_are_among_the_nearest(tmp_path: Path) -> None:
    """A slip in an option's name, in a key, and a key that only such an option has, of a run and of a sweep."""
    folder, elsewhere = tmp_path / "mine" / "optimizer", tmp_path / "elsewhere"
    folder.mkdir(parents=True)
    elsewhere.mkdir()
    (folder / "gentle.yaml").write_text("name: adamw\nlr: 1e-3\ndamping: 1\n")
    for where in (["--config-dir", str(folder.parent)], [f"hydra.searchpath=[file://{folder.parent}]"]):
        for flags, swept in (([], []), (["-m"], ["seed=1,2"])):
            done = run(*flags, *where, *swept, "optimizer=gentel", cwd=elsewhere)
            assert done.returncode == 2 and "did you mean gentle?" in done.stderr, done.stderr
            done = run(*flags, *where, *swept, "optimizer.damping=2", cwd=elsewhere)
            assert done.returncode == 2 and "it is one of optimizer=gentle" in done.stderr, done.stderr
    assert list(elsewhere.iterdir()) == []


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    """A file that is no YAML stops the run with its name and line."""
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("name: [adamw\nlr: 1\n")
    done = run("--config-dir", str(tmp_path), "optimizer=mine", cwd=tmp_path)
    assert done.returncode == 2 and "mine.yaml" in done.stderr and "line 2" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, ["run.yaml"]),
        ("a: [", ["run.yaml", "invalid YAML"]),
        ("a: 1", ["it has no key `run`"]),
        ("schema_version: 99\nrun: {}", ["schema_version", "99"]),
        ("schema_version: 1\nrun: {}", ["algorithm"]),
    ],
)
def test_a_wrong_pin_is_refused(text: str | None, parts: list[str], tmp_path: Path) -> None:
    """`speculators run` on a folder without a sound run.yaml exits with 2."""
    if text is not None:
        (tmp_path / "run.yaml").write_text(text)
    command = [sys.executable, "-m", "speculators", "run", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert all(part in done.stderr for part in parts) and "Traceback" not in done.stderr


@pytest.mark.parametrize("typed", [["train", "optimizer.lr=30"], ["train", "-m", "seed=0,-1"], ["run", "nothing"]])
def test_a_refusal_does_not_wait_for_torch(typed: list[str], tmp_path: Path) -> None:
    """Importing it takes seconds."""
    code = (
        "import sys\nfrom speculators.cli.main import main\n"
        f"sys.argv[1:] = {typed}\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    sys.exit(stopped.code + 10 * ('torch' in sys.modules))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=120).returncode == 2


def test_nothing_that_needs_no_weights_imports_torch(tmp_path: Path) -> None:
    """Refusing, checking and dry runs work from config.json files alone."""
    code = (
        "import sys\nfrom speculators.composition.compose import WrongInput, compose\n"
        "compose(['algorithm=eagle'])\n"
        "try:\n    compose(['algorithm.draft_vocab_size=5000'])\nexcept WrongInput:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=120).returncode == 0
