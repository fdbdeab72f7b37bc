"""Tasks asked and scored by EleutherAI's lm-eval: local files, task files by their path, and its own tasks by name."""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hrm.files.digest import data_sha256
from hrm.files.reading import SMALL, UserError, needs, quoted, reason, text_of, yaml_of
from hrm.files.records import Json
from hrm.text.measuring.lm_eval import Reading, lm_eval_adapter
from hrm.text.measuring.published import of_task, published
from hrm.text.measuring.report import OTHER_ROWS
from hrm.text.measuring.tasks import FORMS, Rows, is_file, load, names, unknown
from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Request


class Asked(NamedTuple):
    """What a name given to --tasks stands for: tasks of lm-eval, and the groups that join them."""

    tasks: dict[str, Any]
    groups: dict[str, Any]
    file: Path | None = None
    """The local file of the task."""
    bare: bool = False
    """Asked without examples only, because the tasks' own files say so."""

    @property
    def shots_from(self) -> str:
        """Where examples come from: the name of a part of the data, or `OTHER_ROWS`."""
        return ", ".join(sorted({_shots_from(task) for task in self.tasks.values()}))

    def check(self, shots: int) -> None:
        """UserError where there are not enough rows for that number of examples."""
        for name, task in self.tasks.items():
            rows = len(task.sampler.df) if hasattr(task, "sampler") else shots + 1
            if shots > rows - (_shots_from(task) == OTHER_ROWS) and not self.bare:
                count = "1 row" if rows == 1 else f"{rows:,} rows"
                raise UserError(f"task {name} has {count} to take examples from, and --shots {shots} wants more")


def open_tasks(wanted: Sequence[str], folder: Path | None = None) -> dict[str, Asked]:
    """The tasks of these names: a file in `folder`, the path of a task file or folder of lm-eval's, or a task, group or
    tag that it knows. Nothing is fetched. UserError for an unknown name, a bad row, or a task without its data."""
    known = names(folder) if folder is not None else {}
    rows = {name: load(name, known[name]) for name in wanted if name in known}  # a bad row is found before the work
    try:
        with _alone():
            from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(needs("measuring tasks", "lm-eval", "eval", error)) from error
    found: dict[str, Asked] = {}
    manager = None
    for name in wanted:
        with _alone():
            if name in rows:
                found[name] = Asked({name: _local(name, rows[name])}, {}, known[name])
            elif is_file(name):
                found[name] = _from_path(Path(name))
            else:
                manager = manager or TaskManager()  # reads some 14,000 files
                if name not in manager.task_index:
                    raise unknown(name, folder, known, manager.task_index)
                found[name] = _loaded(manager, [name], name)
    return found


def _local(name: str, rows: Rows) -> Any:
    """lm-eval's task over the rows of a file; examples are other rows of it."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    part = {"test": Dataset.from_list(rows.rows)}
    settings = {"task": name, "custom_dataset": lambda **_: part, "test_split": "test", "fewshot_split": "test"}
    return ConfigurableTask(config=settings | copy.deepcopy(FORMS[rows.form]))


def _from_path(path: Path) -> Asked:
    from lm_eval.tasks import TaskManager

    if not path.exists():
        raise UserError(f"there is no task file {path}")
    manager = TaskManager(include_defaults=False, include_path=path if path.is_dir() else path.parent)
    inside = manager.all_subtasks
    if path.is_file():  # lm-eval takes the path of a task, but not that of a group
        known = ((name, entry.yaml_path) for name, entry in manager.task_index.items())
        inside = [name for name, file in known if file is not None and path.samefile(file)]
    if not inside:
        if path.is_file():
            _check_settings(path)
        raise UserError(f"{path} holds no task of lm-eval: name a task file (.yaml), or a folder of them")
    return _loaded(manager, inside, str(path))


def _check_settings(path: Path) -> None:
    """UserError with what is wrong with a task file that lm-eval passes over in silence, or one that it includes."""
    seen: list[Path] = []
    name: object = path.name
    while isinstance(name, str):
        path = path.parent / name
        if path.resolve() in seen:
            raise UserError(f"{path} includes itself: take that line out")
        seen.append(path.resolve())
        tree = yaml_of(text_of(path, SMALL).replace("!function", ""), path)
        if not isinstance(tree, dict):
            raise UserError(f"{path} is no task of lm-eval: it holds {quoted(tree)} in place of names and values")
        name = tree.get("include")


def _loaded(manager: Any, specs: list[str], name: str) -> Asked:
    try:
        tasks = manager.load(specs)
    except Exception as error:  # whatever a task's own code or a missing data set raises
        hint = "fetch its data set first (datasets keeps it), or give a file of --data-folder"
        raise UserError(f"task {name} cannot be made ready offline ({reason(error)}): {hint}") from error
    for task in tasks["tasks"].values():
        _keep_apart(task)
    bare = all(task.get_config("num_fewshot") == 0 for task in tasks["tasks"].values())
    return Asked(tasks["tasks"], tasks.get("groups", {}), None, bare)


def _shots_from(task: Any) -> str:
    config, few = task.config, getattr(task, "fewshot_cfg", None)
    if few is not None and few.split is None and few.samples is not None:
        return "the task itself"
    split = few.split if few is not None else None
    split = split or config.training_split or config.validation_split or config.test_split
    return OTHER_ROWS if split == (config.test_split or config.validation_split) else str(split)


def _keep_apart(task: Any) -> None:
    """lm-eval leaves the asked row out of the examples only where it is told that both are of the test part."""
    if _shots_from(task) == OTHER_ROWS and hasattr(task, "fewshot_cfg"):
        task.config.test_split = task.fewshot_cfg.split = task.config.test_split or task.config.validation_split


def measure_tasks(
    model: HRMForCausalLM | PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    asked: Asked,
    shots: Sequence[int] = (0,),
    limit: int | None = None,
    batch_size: int = 8,
    progress: Callable[[float], None] | None = None,
    **request: Unpack[Request],
) -> dict[str, Json]:
    """Of each task and group: where its examples and its rows are from, and `shots`, its scores by number of examples.
    Tasks that are asked without examples only are asked once."""
    counts = (0,) if asked.bare else tuple(dict.fromkeys(shots))
    found: dict[str, Json] = {}
    for done, count in enumerate(counts):
        part = None if progress is None else lambda share, at=done: progress((at + share) / len(counts))
        scores = evaluate_tasks(model, tokenizer, asked, count, limit, batch_size, part, **request)
        for name, row in scores.items():
            found.setdefault(name, {"shots": {}})["shots"][str(count)] = row
    for name, row in found.items():
        row |= published(of_task(name))
        if name in asked.tasks:
            row["shots_from"] = _shots_from(asked.tasks[name])
        if asked.file is not None:
            row |= {"data": str(asked.file), "data_sha256": data_sha256(asked.file)}
    return found


def evaluate_tasks(
    model: HRMForCausalLM | PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    asked: Asked,
    shots: int = 0,
    limit: int | None = None,
    batch_size: int = 8,
    progress: Callable[[float], None] | None = None,
    **request: Unpack[Request],
) -> dict[str, Json]:
    """Scores of each task and group under lm-eval's names (`acc`, `acc_norm`, ...) with their standard errors, the
    accuracy of guessing, and the mean depth. `shots` examples stand before each question; `limit` asks the first."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED
    from lm_eval.evaluator import evaluate

    start = time.perf_counter()
    adapter = lm_eval_adapter(model, tokenizer, batch_size, progress, **request)
    for task in asked.tasks.values():
        if task.get_config("num_fewshot") != 0 or not asked.bare:
            task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    try:
        with _alone():
            # Its bootstrap starts processes; means have a formula.
            result: Any = evaluate(adapter, {"tasks": asked.tasks, "groups": asked.groups}, limit, bootstrap_iters=0)
    except UserError:
        raise
    except Exception as error:
        if asked.file is not None:
            raise
        raise UserError(f"lm-eval cannot score {', '.join(asked.tasks)} ({reason(error)}): leave it out") from error
    seconds = time.perf_counter() - start
    return {
        name: _scores(scores, result["samples"].get(name), asked.tasks.get(name), adapter.readings.get(name))
        | {"seconds": seconds}
        for name, scores in result["results"].items()
    }


def _scores(scores: Json, samples: list[Json] | None, task: Any, reading: Reading | None) -> Json:
    """lm-eval's numbers of a task, or of a group of tasks, which has no samples."""
    from lm_eval.api.metrics import mean, mean_stderr

    found: Json = {"n": scores["sample_len"]}
    for key, value in scores.items():
        metric, _, kept = key.partition(",")
        if not kept or metric.endswith("_stderr"):
            continue
        name = metric if kept == "none" else key
        found[name] = float(value)
        if samples and len(samples) > 1 and task.aggregation().get(metric, mean) is mean:
            values = [sample[metric] for sample in samples if sample["filter"] == kept and metric in sample]
            found[f"{name}_stderr"] = mean_stderr(values)
    if samples and task.OUTPUT_TYPE == "multiple_choice":
        found["guessing"] = sum(1 / len(task.doc_to_choice(sample["doc"])) for sample in samples) / len(samples)
    if reading is not None:
        found |= {"mean_segments": reading.segments / reading.tokens} if reading.tokens else {}
        found["cut"] = reading.cut / max(1, reading.asked)
    groups: dict[str, list[float]] = defaultdict(list)
    for sample in samples or ():
        if isinstance(sample["doc"], dict) and (group := sample["doc"].get("group")) and "acc" in sample:
            groups[group].append(sample["acc"])
    if len(groups) > 1:
        found["groups"] = {name: sum(rights) / len(rights) for name, rights in sorted(groups.items())}
    return found


@contextmanager
def _alone() -> Iterator[None]:
    """lm-eval and its packages without a network, warnings, logs and progress bars."""
    import datasets
    import datasets.config
    import lm_eval.api.task
    from huggingface_hub import constants

    loggers = {name: logging.getLogger(name) for name in ("lm_eval", "datasets")}
    levels, bars = {name: logger.level for name, logger in loggers.items()}, not datasets.are_progress_bars_disabled()
    changes: list[tuple[Any, str, Any]] = [
        (constants, "HF_HUB_OFFLINE", True),
        (datasets.config, "HF_HUB_OFFLINE", True),
        (lm_eval.api.task, "tqdm", lambda docs, **_: docs),
    ]
    before = [(where, name, getattr(where, name)) for where, name, _ in changes]
    try:
        for logger in loggers.values():
            logger.setLevel(logging.CRITICAL)
        datasets.disable_progress_bars()
        for where, name, value in changes:
            setattr(where, name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
        if bars:
            datasets.enable_progress_bars()
