"""Runs the stages of a plan: on this machine, or by handing them to Slurm or Ray."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hrm.files import names
from hrm.files.output import Refused, check_utf8, refused
from hrm.files.reading import UserError, needs
from hrm.files.records import Json
from hrm.progress import counted
from hrm.runs import lock
from hrm.runs.durable import discard
from hrm.text.data.clean.plan import Plan
from hrm.text.data.clean.recipe import Recipe
from hrm.text.data.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from hrm.console import Console
    from hrm.text.data.clean.stages import Stage


@dataclass(frozen=True)
class How:
    """Where the work is done."""

    executor: Literal["local", "slurm", "ray"] = "local"
    workers: int = 0
    """Tasks at once; 0: as many as there are cores."""
    tasks: int = 64
    """Most tasks of a source, each with a share of its files."""
    keep_work: bool = False
    overwrite: bool = False
    partition: str | None = None
    """Of Slurm."""
    time: str = "24:00:00"
    """Of Slurm, for a task."""
    memory: int = 4
    """Of Slurm, GB for a task."""
    dry_run: bool = False
    """Only give the scripts for Slurm."""


def clean(recipe: Recipe, out: Path, how: How | None = None, console: Console | None = None) -> Json:
    """Make the corpus `out` by a recipe, or continue where that was interrupted; returns the facts of its report, or
    what was handed to Slurm."""
    how = how or How()
    _check(recipe, out, how)
    with lock.place(out, "data clean"):
        work = out.with_name(out.name + ".work")
        _free(out, work, how.overwrite)
        plan = Plan.make(recipe, work, how.tasks)
        if how.dry_run:
            return {"scripts": _scripts(plan, how)}
        if how.overwrite:
            discard(work)
        plan.begin()
        if how.executor == "slurm" and not (work / "logs" / "finish" / "completions" / "00000").exists():
            return {"submitted": _submit(plan, how)}  # given again when that has ended, the command continues below
        with refused(f"working in {work}", lambda: "what is complete is kept: the same command continues from there"):
            if how.executor == "ray":
                _ray(plan, how)
            elif how.executor == "local":
                _local(plan, how, console)
        return _put(plan, out, how)


def _free(out: Path, work: Path, overwrite: bool) -> None:
    """UserError for places that are taken; `overwrite` lets ours be replaced."""
    for path, mark in ((out, "train/corpus.json"), (work, "plan.json")):
        ours = (path / mark).is_file() or (path.is_dir() and not any(path.iterdir()))
        if os.path.lexists(path) and not ours:
            raise UserError(f"{path} exists and is no corpus: choose another --out")
    if not overwrite and os.path.lexists(out):
        raise UserError(f"{out} exists: choose another --out, or add --overwrite")
    _check_unread(out, "wait until that has ended, or choose another --out")


def _check_unread(out: Path, hint: str) -> None:
    """UserError where a corpus is being read: a training opens shard after shard, and would soon miss one."""
    if (told := lock.reader(out)) is not None:
        raise UserError(f"{out} is in use: {told}; {hint}")


def _check(recipe: Recipe, out: Path, how: How) -> None:
    for package in ("datatrove", "spacy", "orjson", "zstandard", *(["ftfy"] if recipe.normalise else [])):
        if find_spec(package) is None:
            raise UserError(needs("hrm data clean", package, "pipeline"))
    if recipe.language is not None and find_spec("fasttext") is None:
        raise UserError(needs("language", "fasttext-numpy2-wheel", "pipeline"))
    hubs = [source.hub for source in recipe.sources if source.hub]
    if hubs and find_spec("datasets") is None:
        raise UserError(needs(f"reading {hubs[0]} from the Hub", "datasets", "data"))
    if how.executor == "ray" and find_spec("ray") is None:
        raise UserError("--executor ray needs ray, which is not installed: pip install ray, or use --executor local")
    if how.executor == "slurm":
        if not how.partition:
            raise UserError("--executor slurm needs --partition: the partition of the cluster that the tasks run in")
        if not how.dry_run and shutil.which("sbatch") is None:
            raise UserError(
                "--executor slurm needs sbatch, which this machine has not: run it where jobs are submitted"
            )
    elif how.dry_run:
        raise UserError("--dry-run shows the scripts for Slurm: add --executor slurm")
    if how.executor != "local" or how.overwrite:  # else a process of the pool looks, which has to load it anyway
        _spell(recipe.tokenizer)
    check_utf8(out)
    for mark in ("*", "?", "[", "::"):  # below such a path datatrove would find no duplicates
        if mark in str(out.absolute()):
            raise UserError(f"{out.absolute()} has {mark} in its path, a sign of patterns: choose a place without it")
    names.apart(out, [source.path for source in recipe.sources])


def _put(plan: Plan, out: Path, how: How) -> Json:
    """Give the complete corpus its name, and remove what it was made from."""
    made, before = plan.work / "corpus", plan.work / "before"
    if how.overwrite and os.path.lexists(out):
        _check_unread(out, f"{made} is complete: once that has ended, move it there in its place")
        out.rename(before)  # so that there is no part of a corpus at any time
    made.replace(out)
    discard(before if how.keep_work else plan.work)
    return json.loads((out / "report.json").read_text("utf-8"))


# On this machine


def _local(plan: Plan, how: How, console: Console | None) -> None:
    """Stage after stage, in processes of their own: datatrove's pool would wait for ever for one that was killed."""
    from hrm.text.data.clean.stages import stages

    listed = stages(plan)
    most = max(stage.tasks for stage in listed)
    with _pool(min(most, how.workers or _cores())) as pool:
        pool.submit(_spell, plan.recipe.tokenizer).result()
        for number, stage in enumerate(listed, 1):
            left = _executor(plan, stage).get_incomplete_ranks()
            what, before = f"{number}/{len(listed)} {stage.name}", stage.tasks - len(left)
            with counted(what, stage.tasks, "task", console, before) as advance:
                running = {pool.submit(_task, plan, number - 1, rank) for rank in left}
                try:
                    while running:
                        done, running = wait(running, 1, FIRST_COMPLETED)
                        for task in done:
                            task.result()
                        advance(len(done))
                except BrokenProcessPool as error:
                    raise Refused(
                        f"a task of the stage {stage.name} was killed, perhaps for want of memory; what is complete is "
                        "kept: the same command continues from there, with fewer --workers where memory is short"
                    ) from error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _executor(plan: Plan, stage: Stage, pipeline: Any = ()) -> Any:
    from datatrove.executor import LocalPipelineExecutor  # pyright: ignore[reportMissingImports]

    return LocalPipelineExecutor(list(pipeline), tasks=stage.tasks, logging_dir=str(plan.work / "logs" / stage.name))


def _spell(kind: str) -> None:
    """UserError for a tokenizer that cannot be used, before hours of work."""
    if not kind.startswith("bpe:") and kind != "char" and load_tokenizer(kind).eos_token_id is None:
        raise UserError(f"{kind} has no end token (eos_token), which separates documents: set one")


def _task(plan: Plan, number: int, rank: int) -> None:
    """One task of a stage, in a process of the pool."""
    from hrm.text.data.clean.stages import stages

    stage = stages(plan)[number]
    _executor(plan, stage, stage.pipeline())._run_for_rank(rank, local_rank=1)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one, whatever ends it, and at once where it is interrupted."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_prepare)
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        pool.shutdown(cancel_futures=True)
        raise


def _prepare() -> None:
    """A process of the pool says nothing: datatrove's words are in the log of the task."""
    import signal

    from tqdm import tqdm

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is asked, and ends this process
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a process that is ended leaves behind
    sys.stderr = sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()


# On a cluster


def _slurm(plan: Plan, how: How) -> list[Any]:
    """An executor for each stage, which waits for the one before."""
    from datatrove.executor import SlurmPipelineExecutor  # pyright: ignore[reportMissingImports]

    from hrm.text.data.clean.stages import stages

    found: list[Any] = []
    common: dict[str, Any] = {
        "time": how.time, "partition": how.partition, "mem_per_cpu_gb": how.memory, "workers": how.workers or -1,
        "qos": "", "env_command": "# the environment of the one who submits",
    }  # fmt: skip
    for stage in stages(plan):
        names = {"job_name": f"hrm-{stage.name}", "logging_dir": str(plan.work / "logs" / stage.name)}
        before = found[-1] if found else None
        found.append(SlurmPipelineExecutor(stage.pipeline(), stage.tasks, depends=before, **names, **common))
    return found


def _scripts(plan: Plan, how: How) -> list[str]:
    """What would be submitted."""
    found, begun = [], plan.work.exists()
    for executor in _slurm(plan, how):
        command = f"srun -l -n 1 launch_pickled_pipeline {executor.logging_dir.resolve_paths('executor.pik')}"
        settings = executor.get_sbatch_args(min(executor.tasks, executor.max_array_size))
        found.append(executor.get_launch_file_contents(settings, command))
    if not begun:
        discard(plan.work)
    return found


def _submit(plan: Plan, how: How) -> str:
    """Hand all stages to Slurm; the number of the last job. UserError while those of an earlier command wait or run."""
    note = plan.work / "submitted"
    if note.is_file():
        job = note.read_text("utf-8")
        queue = subprocess.run(["squeue", "--noheader", "--jobs", job], capture_output=True, text=True)
        if queue.stdout.strip():
            raise UserError(f"the tasks for {plan.work} are still in the queue: wait for job {job}, or cancel them")
    executors = _slurm(plan, how)
    executors[-1].run()
    note.write_text(str(executors[-1].job_id), "utf-8")
    return str(executors[-1].job_id)


def _ray(plan: Plan, how: How) -> None:
    from datatrove.executor.ray import RayPipelineExecutor  # pyright: ignore[reportMissingImports]

    from hrm.text.data.clean.stages import stages

    for stage in stages(plan):
        logs = str(plan.work / "logs" / stage.name)
        RayPipelineExecutor(stage.pipeline(), tasks=stage.tasks, workers=how.workers or -1, logging_dir=logs).run()
        # Datatrove gives a task up that fails again and again, and a stage that followed would miss its documents.
        if left := len(_executor(plan, stage).get_incomplete_ranks()):
            raise Refused(
                f"{left} of {stage.tasks} tasks of the stage {stage.name} failed: {logs}/logs says why; what is "
                "complete is kept, and the same command continues from there"
            )
