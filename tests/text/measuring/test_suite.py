"""Tasks through lm-eval: the same scores as its own command, examples from other rows, and what is refused."""

from __future__ import annotations

import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from hrm.cli.main import main as hrm
from hrm.files.reading import UserError
from hrm.text.load import load_text
from hrm.text.measuring import suite
from hrm.text.measuring.plain import is_plain, load_plain
from hrm.text.measuring.tasks import check_names
from tests.text.measuring.small import pair, saved, saved_gpt2

lm_eval: Any = pytest.importorskip("lm_eval", reason="needs the extra [eval]")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

WORDS = (("cat", "sat"), ("dog", "mat"), ("log", "on the"), ("mer", "la"), ("sat", "dog"), ("on", "the cat"))
ROWS: dict[str, list[dict[str, Any]]] = {
    "choose": [
        {"query": f"the {a}", "choices": [b, "mat and dog", a + b], "gold": i % 3} for i, (a, b) in enumerate(WORDS)
    ],
    "ends": [{"ctx": f"the {a}", "endings": [b, "mat on"], "label": str(i % 2)} for i, (a, b) in enumerate(WORDS)],
    "pairs": [
        {"sentence_good": f"the {a} {b}", "sentence_bad": f"{b} {a} the", "UID": "xy"[i % 2]}
        for i, (a, b) in enumerate(WORDS)
    ],
    "schema": [
        {"context_options": [f"the {a} and the dog", f"the {b}"], "continuation": "sat on", "gold": i % 2}
        for i, (a, b) in enumerate(WORDS)
    ],
    "last": [{"context": f"the {a} sat on", "continuation": b} for a, b in WORDS],
    "sums": [{"context": f"the {a} {b}", "answer": str(i)} for i, (a, b) in enumerate(WORDS)],
}
_ACCURACY = [
    {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm", "acc_bytes")
]
TEMPLATES: dict[str, dict[str, Any]] = {
    "choose": {"doc_to_text": "{{query}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}"},
    "ends": {"doc_to_text": "{{ctx}}", "doc_to_choice": "{{endings}}", "doc_to_target": "{{label}}"},
    "pairs": {
        "doc_to_text": "",
        "target_delimiter": "",
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "doc_to_target": 0,
    },
    "schema": {
        "doc_to_text": "{{gold}}",
        "doc_to_choice": "{{context_options}}",
        "doc_to_target": "{{continuation}}",
        "metric_list": _ACCURACY[:1],
    },
    "last": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + continuation}}",
        "target_delimiter": "",
        "metric_list": [
            _ACCURACY[0],
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
        ],
    },
    "sums": {
        "output_type": "generate_until",
        "doc_to_text": "{{'Q: ' + context + '\nA:'}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 32, "do_sample": False},
        "filter_list": [
            {
                "name": "none",
                "filter": [{"function": "regex", "regex_pattern": r"-?\d[\d,]*"}, {"function": "take_first"}],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows as files of a folder, and the task files with which lm-eval itself reads them."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, rows in ROWS.items():
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        data = {"data_files": {"test": str(path)}, "cache_dir": str(folder / "cache")}
        task = {"task": name, "dataset_path": "json", "dataset_kwargs": data}
        task |= {"test_split": "test", "fewshot_split": "test", "output_type": "multiple_choice"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task | {"metric_list": _ACCURACY} | TEMPLATES[name]))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("saved"), max_position_embeddings=128)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_gpt2(tmp_path_factory.mktemp("gpt2"))


def opened(folder: Path) -> Any:
    return load_plain(folder) if is_plain(folder) else load_text(folder)


def ours(model: Path, names: list[str], folder: Path | None, shots: int, **settings: Any) -> dict[str, Any]:
    loaded = opened(model)
    found: dict[str, Any] = {}
    for asked in suite.open_tasks(names, folder).values():
        found |= suite.measure_tasks(loaded.model, loaded.tokenizer, asked, (shots,), **settings)
    return {name: task["shots"][str(shots)] for name, task in found.items()}


def theirs(model: Path, files: Path, shots: int, limit: int | None = None) -> dict[str, Any]:
    """lm-eval's own scores with its own model of transformers, as its command `run --model hf` computes them."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=files, include_defaults=False)
    how = {"tasks": list(ROWS), "num_fewshot": shots, "limit": limit, "task_manager": manager, "bootstrap_iters": 0}
    with suite._alone():
        # Its cache takes "the cat" + " sat" for "the cat sa" + "t", which short tokens bring about.
        arguments = {"pretrained": str(model), "logits_cache": False}
        given: dict[str, Any] = {"model_args": arguments, "batch_size": 4, "device": "cpu"}
        return lm_eval.simple_evaluate(model="hf", **given, **how)["results"]


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("kind", ["model", "gpt2"])
def test_scores_equal_those_of_lm_eval(files: Path, request: pytest.FixtureRequest, kind: str, shots: int):
    model = request.getfixturevalue(kind)
    own, other = ours(model, list(ROWS), files, shots, limit=5), theirs(model, files, shots, 5)
    for name in ROWS:
        scores = {key.split(",")[0]: value for key, value in other[name].items() if key.endswith(",none")}
        scores = {key: value for key, value in scores.items() if not key.endswith("_stderr")}
        assert scores and own[name]["n"] == 5
        for key, value in scores.items():
            assert own[name][key] == pytest.approx(value, rel=1e-5), (name, key)


def test_the_command_says_what_the_command_of_lm_eval_says(
    files: Path, gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    own = ["eval", str(gpt2), "--tasks", "choose", "last", "--data-folder", str(files), "--shots", "0", "2", "--json"]
    assert hrm(own) == 0
    found = json.loads(capsys.readouterr().out)["tasks"]
    # Its thousands of other tasks need not be found, and errors that nobody compares need not be exact.
    from lm_eval import tasks
    from lm_eval.__main__ import cli_evaluate

    monkeypatch.setattr(tasks, "TaskManager", partial(tasks.TaskManager, include_defaults=False))
    monkeypatch.setattr(lm_eval, "simple_evaluate", partial(lm_eval.simple_evaluate, bootstrap_iters=10))
    others = ["lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={gpt2}", "--device", "cpu"]
    others += ["--include_path", str(files), "--tasks", "choose,last", "--num_fewshot", "2"]
    monkeypatch.setattr(sys, "argv", [*others, "--output_path", str(tmp_path)])
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    with suite._alone():
        cli_evaluate()
    (file,) = tmp_path.rglob("results*.json")
    results = json.loads(file.read_text())["results"]
    for name, key in (("choose", "acc"), ("choose", "acc_norm"), ("last", "acc"), ("last", "perplexity")):
        assert found[name]["shots"]["2"][key] == pytest.approx(results[name][f"{key},none"], rel=1e-5), (name, key)
    assert found["choose"]["shots"]["2"]["acc_stderr"] == pytest.approx(results["choose"]["acc_stderr,none"])


@pytest.mark.parametrize("kind", ["model", "gpt2"])
def test_what_is_written_equals_what_lm_eval_writes(request: pytest.FixtureRequest, kind: str):
    model = request.getfixturevalue(kind)
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    other: Any = HFLM
    loaded = opened(model)
    asked = [(f"the {a} {b}", {"until": ["t."], "max_gen_toks": 24, "do_sample": False}) for a, b in WORDS]
    requests: Any = [Instance("generate_until", {}, each, i, metadata=("x", i, 1)) for i, each in enumerate(asked)]
    adapter = suite.lm_eval_adapter(loaded.model, loaded.tokenizer, batch_size=4)
    written = adapter.generate_until(requests)
    assert written == other(pretrained=str(model), device="cpu", batch_size=4).generate_until(requests)
    reading = adapter.readings["x"]
    assert reading.asked == 6 and reading.tokens and 1 <= reading.segments / reading.tokens <= 3


def test_task_files_are_read_by_their_path(files: Path, model: Path):
    local = ours(model, ["choose", "last"], files, 2)
    for name, inside in ((str(files / "choose.yaml"), ["choose"]), (str(files), sorted(ROWS))):
        found = ours(model, [name], None, 2)
        assert sorted(found) == inside and found["choose"]["acc"] == local["choose"]["acc"]
    assert found["last"]["perplexity"] == pytest.approx(local["last"]["perplexity"])


def test_examples_are_other_rows_and_never_the_asked_one(files: Path, monkeypatch: pytest.MonkeyPatch):
    model, tokenizer = pair(max_position_embeddings=128)
    asked = []
    make = suite.lm_eval_adapter

    def listen(*args: Any, **settings: Any) -> Any:
        adapter = make(*args, **settings)
        answer = adapter.loglikelihood

        def loglikelihood(requests: Any, **kwargs: Any) -> Any:
            asked.extend(request.args[0] for request in requests)
            return answer(requests, **kwargs)

        adapter.loglikelihood = loglikelihood
        return adapter

    monkeypatch.setattr(suite, "lm_eval_adapter", listen)
    task = yaml.safe_load((files / "choose.yaml").read_text())
    # A task whose only part is for validation, where lm-eval alone would not leave the asked row out.
    only = task | {"task": "only", "validation_split": "test", "test_split": None, "fewshot_split": None}
    (files.parent / "only").mkdir()
    (files.parent / "only" / "only.yaml").write_text(yaml.safe_dump(only))
    for name, folder in (("choose", files), (str(files.parent / "only"), None)):
        (given,) = suite.open_tasks([name], folder).values()
        assert given.shots_from == suite.OTHER_ROWS
        asked.clear()
        (found,) = suite.measure_tasks(model, tokenizer, given, (5,)).values()
        assert found["shots_from"] == suite.OTHER_ROWS and len(asked) == 18
        for prompt in asked:
            *shots, question = prompt.split("\n\n")
            assert len(shots) == 5 and not any(shot.startswith(question + " ") for shot in shots)
    with pytest.raises(UserError, match="has 6 rows to take examples from, and --shots 6 wants more"):
        given.check(6)


def test_scores_are_those_of_the_likelihoods(files: Path):
    from hrm.text.measuring.scoring import Scorer

    model, tokenizer = pair(max_position_embeddings=128)
    found = suite.open_tasks(["choose", "pairs", "last"], files)
    rows = {name: suite.evaluate_tasks(model, tokenizer, asked)[name] for name, asked in found.items()}
    scorer = Scorer(model, tokenizer)
    right, norm, depths = 0, 0, []
    for row in ROWS["choose"]:
        scores = scorer.continuations([(row["query"], " " + choice) for choice in row["choices"]])
        sums = [score.log_probability for score in scores]
        per = [value / len(choice) for value, choice in zip(sums, row["choices"], strict=True)]
        right, norm = right + (sums.index(max(sums)) == row["gold"]), norm + (per.index(max(per)) == row["gold"])
        depths += [(score.depth * score.tokens, score.tokens) for score in scores]
    own = rows["choose"]
    assert (own["acc"], own["acc_norm"]) == (right / 6, norm / 6) and own["guessing"] == pytest.approx(1 / 3)
    assert own["acc_stderr"] == pytest.approx(math.sqrt(own["acc"] * (1 - own["acc"]) / 5))
    segments, tokens = map(sum, zip(*depths, strict=True))
    assert own["mean_segments"] == pytest.approx(segments / tokens) and own["cut"] == 0
    assert rows["pairs"]["groups"].keys() == {"x", "y"}
    assert sum(rows["pairs"]["groups"].values()) / 2 == pytest.approx(rows["pairs"]["acc"])
    scores = scorer.continuations([(row["context"], " " + row["continuation"]) for row in ROWS["last"]])
    mean = sum(score.log_probability for score in scores) / 6
    assert rows["last"]["perplexity"] == pytest.approx(math.exp(-mean))


def test_a_number_is_right_in_any_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from hrm.text.measuring.subject import Thinking, Written

    answers = (("1200", " 1,200."), (5, "5.0 apples"), (5.0, "it is 5"), ("-3", "-3"), ("4", "14"), ("4", "none"))
    rows = [{"question": "q", "answer": answer} for answer, _ in answers]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = [Written(text, 1, 1, True) for _, text in answers]
    monkeypatch.setattr(Thinking, "write", lambda self, prompts, sampling: said[: len(prompts)])
    model, tokenizer = pair()
    (asked,) = suite.open_tasks(["sums"], tmp_path).values()
    assert suite.evaluate_tasks(model, tokenizer, asked)["sums"]["exact_match"] == pytest.approx(4 / 6)


def test_a_group_of_task_files_is_measured_as_one(files: Path, tmp_path: Path):
    for name in ("choose", "ends"):
        (tmp_path / f"{name}.yaml").write_text((files / f"{name}.yaml").read_text())
    metric = [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}]
    group = {"group": "both", "task": ["choose", "ends"], "aggregate_metric_list": metric}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(group))
    model, tokenizer = pair()
    (asked,) = suite.open_tasks([str(tmp_path / "both.yaml")]).values()
    found = suite.evaluate_tasks(model, tokenizer, asked)
    assert found.keys() == {"both", "choose", "ends"} and found["both"]["n"] == 12
    assert found["both"]["acc"] == pytest.approx((found["choose"]["acc"] + found["ends"]["acc"]) / 2)


@pytest.fixture
def some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only two of lm-eval's thousands of tasks, which are quick to find, and an empty cache of data sets."""
    import datasets.config
    from lm_eval import tasks

    own = Path(tasks.__file__).parent
    manager = tasks.TaskManager(include_path=[own / "super_glue/copa", own / "hellaswag"], include_defaults=False)
    every: Any = tasks.TaskManager
    monkeypatch.setattr(tasks, "TaskManager", lambda **how: every(**how) if how else manager)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_a_task_of_lm_eval_is_asked_where_its_data_is_at_hand(some: None, tmp_path: Path, monkeypatch: Any):
    import datasets
    from huggingface_hub import constants

    rows = [
        {"premise": f"The {a} sat.", "choice1": "The cat", "choice2": "A dog", "question": "cause", "label": i % 2}
        for i, (a, _) in enumerate(WORDS)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {part: str(tmp_path / "rows.jsonl") for part in ("train", "validation")}
    builder = datasets.load_dataset_builder("json", data_files=files)
    builder.download_and_prepare()
    # As if it had been fetched from the Hub.
    kept = tmp_path / "cache/aps___super_glue/copa/0.0.0" / ("0" * 40)
    kept.mkdir(parents=True)
    for file in Path(builder.cache_dir).glob("*.arrow"):
        (kept / file.name.replace("json-", "super_glue-")).write_bytes(file.read_bytes())
    facts = json.loads((Path(builder.cache_dir) / "dataset_info.json").read_text())
    facts |= {"config_name": "copa", "builder_name": "super_glue", "dataset_name": "super_glue"}
    (kept / "dataset_info.json").write_text(json.dumps(facts))
    # Nothing is asked of a network, wherever it would be asked.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    model, tokenizer = pair(max_position_embeddings=128)
    (asked,) = suite.open_tasks(["copa"]).values()
    found = suite.measure_tasks(model, tokenizer, asked, (0, 2))["copa"]
    assert found["shots_from"] == "train" and found["shots"]["2"]["n"] == 6 and "data" not in found
    assert constants.HF_HUB_OFFLINE is False
    asked.check(6)  # all of another part
    with pytest.raises(UserError, match="has 6 rows to take examples from, and --shots 7 wants more"):
        asked.check(7)


def test_an_unknown_name_is_refused_before_the_model_is_loaded(
    files: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    from lm_eval import tasks

    def late(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(tasks, "TaskManager", late)
    monkeypatch.setattr("hrm.text.load.load_text", late)
    names = ["choose", "hellaswag", "mmlu", "ai2_arc", "arab_culture_egypt"]  # a file, tasks, a group and a tag
    check_names(names, files)
    with pytest.raises(UserError, match="no task 'choos'; did you mean 'choose'"):
        check_names([*names, "choos"], files)
    (tmp_path / "config.json").touch()  # as of a saved model
    assert hrm(["eval", str(tmp_path), "--tasks", "hellaswg", "--data-folder", str(files)]) == 2
    assert "did you mean 'hellaswag'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("choos", "no task 'choos'; did you mean 'choose'"),
        ("cop", "no task 'cop'; did you mean 'copa'"),
        ("hellaswag", "task hellaswag cannot be made ready offline"),
        ("nowhere.yaml", "there is no task file nowhere.yaml"),
        ("empty", "empty holds no task of lm-eval"),
    ],
)
def test_what_cannot_be_asked_gets_a_sentence(some: None, files: Path, tmp_path: Path, name: str, words: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        suite.open_tasks([name], files)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task: [x\n", "bad.yaml is not valid YAML, line 2, column 1: "),
        ("task: &a [*a]\n", "bad.yaml is not valid YAML, line 1, column 11: an alias of what it stands in"),
        ("- 1\n- 2\n", r"bad.yaml is no task of lm-eval: it holds \[1, 2\] in place"),
        ("", "bad.yaml is no task of lm-eval: it holds None in place"),
        ("include: bad.yaml\ntask: inc\n", "bad.yaml includes itself"),
        ("include: [a.yaml]\ndoc_to_text: !function some.thing\n", "bad.yaml holds no task of lm-eval"),
    ],
)
def test_a_broken_task_file_is_refused_with_its_reason(tmp_path: Path, text: str, words: str):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        suite.open_tasks([str(tmp_path / "bad.yaml")])


def test_one_row_is_a_row(tmp_path: Path):
    (tmp_path / "one.jsonl").write_text(json.dumps({"query": "a", "choices": ["b", "c"], "gold": 0}))
    with pytest.raises(UserError, match="task one has 1 row to take"):
        suite.open_tasks(["one"], tmp_path)["one"].check(1)
