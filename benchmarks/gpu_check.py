"""Everything that touches a device, in one run of about four minutes: does it work, and are the numbers the CPU's?

    python benchmarks/gpu_check.py --out /tmp/check [--device cuda] [--official /tmp/HRM] [--only NAME ...]

Prints a table with a row a check, and writes OUT/check.json (the table), OUT/NAME.log (what a check printed) and
OUT/runs. The checks run one after the other in a process of their own, which is replaced where one of them crashes it
or takes longer than its time; the others continue. Exits with 1 if one failed or differs. With --device cpu --tiny
the same checks run in a minute or two without an accelerator, at sizes that say nothing about speed.

`--official` is a clone of github.com/sapientinc/HRM, beside which a step of the 27M puzzle model is timed then.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import math
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
RECIPE = """
parent: sudoku-4x4
task: {{puzzles: {puzzles}, holdout: {holdout}}}
arch: {{dim: {width}, heads: 4, shared: false, fast_layers: {layers}, slow_layers: {layers}, h_cycles: 2, l_cycles: 2,
       horizon: last_step, mixer: attention, tokens: cells, positions: rope, task_positions: 1, q_from: first}}
halting: {{max_segments: {segments}, q_continue: true}}
loss: {{kind: stablemax}}
optim: {{name: adam_atan2, lr: 1e-3, warmup_steps: 4, schedule: constant, ema: 0.99}}
train: {{steps: {steps}, batch_size: {rows}, log_every: 1, eval_every: {steps}, checkpoint_every: {half}}}
"""
TEXT = (
    "text-char --arch.dim {width} --arch.heads 4 --arch.fast-layers {layers} --arch.slow-layers {layers} "
    "--arch.intermediate-size {inner} --halting.max-segments {segments} "
    "--text.length {length} --train.batch-size {rows} "
    "--train.steps {steps} --train.log-every 1 --train.checkpoint-every {half} --train.eval-every {steps} "
    "--train.eval-puzzles 4 --optim.warmup-steps 4 --optim.schedule constant --optim.ema 0.9"
)
SHAPE = {
    "width": 64, "inner": 128, "layers": 2, "segments": 3, "length": 64, "rows": 64, "steps": 20, "half": 10,
    "puzzles": 300, "holdout": 60,
}  # fmt: skip
TINY = {
    "width": 16, "inner": 32, "layers": 1, "segments": 2, "length": 16, "rows": 4, "steps": 8, "half": 4,
    "puzzles": 40, "holdout": 8,
}  # fmt: skip
LEARNER = "--arch.dim 32 --arch.heads 4 --arch.fast-layers 1 --arch.slow-layers 1 --arch.intermediate-size 64"
CLOSE = {"float32": (1e-3, 0.05), "bfloat16": (0.03, 0.15), "float16": (0.03, 0.15)}
"""How far losses may be from the CPU's in float32, relatively: those of the first three steps, and all of them, since
what differs in the last bits differs more with each step. Float16 may begin with updates that are left out."""


class Differs(Exception):
    """It works, and says something else than it should."""


class Skip(Exception):
    """It cannot be checked here."""


class Check:
    """What the checks share: the device, the folder, and runs that several of them need."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch

        self.torch, self.tiny, self.official, self.out = torch, args.tiny, args.official, Path(args.out)
        self.device = torch.device(args.device)
        self.runs = self.out / "runs"
        self.runs.mkdir(parents=True, exist_ok=True)
        self.shape = TINY if self.tiny else SHAPE
        (self.runs / "recipe.yaml").write_text(RECIPE.format(**self.shape))
        pages = [HERE.parent / "README.md", *sorted((HERE.parent / "docs").glob("*.md"))]
        text = "".join(page.read_text("utf-8") for page in pages)[: 3000 if self.tiny else 200_000]
        (self.runs / "book.txt").write_text(text, "utf-8")

    def hrm(self, *args: str) -> str:
        """What a command printed; RuntimeError with its sentence where it failed."""
        from hrm.cli.main import main

        printed, said = io.StringIO(), io.StringIO()
        print("$ hrm", *args)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            code = main([*args, "--debug"])
        print(said.getvalue(), printed.getvalue())
        if code:
            raise RuntimeError((said.getvalue().strip() or f"exit code {code}").splitlines()[-1])
        return printed.getvalue()

    def trained(self, name: str, *flags: str, device: str | None = None) -> Path:
        """A run of a recipe on a device, trained once: puzzle-NAME or text-NAME."""
        run = self.runs / name
        if not (run / "result.json").is_file():
            where = ("--out", str(run), "--overwrite", "--train.device", device or self.device.type)
            if name.startswith("puzzle"):
                self.hrm("train", str(self.runs / "recipe.yaml"), *where, *flags)
            else:
                self.hrm(
                    "train", *TEXT.format(**self.shape).split(), "--data", str(self.runs / "book.txt"), *where, *flags
                )
        return run

    def wait(self) -> None:
        """Until the device has done what it was asked."""
        if self.device.type != "cpu":
            self.torch.accelerator.synchronize()

    def seconds(self, step: Callable[[], Any], rounds: int = 5) -> float:
        """Median time of a step, after two to warm up."""
        times = []
        for _ in range(2 + (1 if self.tiny else rounds)):
            start = time.perf_counter()
            step()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times[2:])

    def peak(self, reset: bool = False) -> float:
        """GiB that the device held at most since the last reset; on a CPU what the process holds; 0: it cannot say."""
        if self.device.type == "cpu":
            import psutil

            return psutil.Process().memory_info().rss / 2**30
        with contextlib.suppress(AttributeError, RuntimeError, NotImplementedError):  # not every device counts
            if reset:
                self.torch.accelerator.reset_peak_memory_stats()
            return self.torch.accelerator.max_memory_allocated() / 2**30
        return 0.0


def losses(run: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records if "loss" in record and "event" not in record}


def apart(run: Path, other: Path, most: tuple[float, float], whose: str = "the CPU's") -> str:
    """How far the losses of two runs are apart at most, in words; Differs where that is too far."""
    one, two = losses(run), losses(other)
    if one.keys() != two.keys():
        raise Differs(f"logged steps {sorted(one)} beside {sorted(two)}")
    if not all(math.isfinite(loss) for loss in one.values()):
        raise Differs(f"losses are not finite: {one}")
    away = {step: abs(one[step] - two[step]) / abs(two[step]) for step in one}
    early, all_of_them = max(away[step] for step in sorted(away)[:3]), max(away.values())
    said = f"losses within {early:.0e} of {whose} in three steps and {all_of_them:.0e} in {len(away)}"
    if early > most[0] or all_of_them > most[1]:
        raise Differs(f"{said}: expected were {most[0]:g} and {most[1]:g}")
    return said


def machine(check: Check) -> str:
    torch, device = check.torch, check.device
    said = [f"torch {torch.__version__}", str(device)]
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        said += [facts.name, f"{facts.total_memory / 2**30:.0f} GiB", f"sm_{facts.major}{facts.minor}"]
        said += [f"CUDA {torch.version.cuda or torch.version.hip}", f"{torch.cuda.device_count()} of them"]
        said += ["TF32 on" if torch.backends.cuda.matmul.allow_tf32 else "TF32 off"]
    ones = torch.ones(256, 256, device=device, dtype=torch.bfloat16)
    if float((ones @ ones).float().mean()) != 256:
        raise Differs("a product of ones in bfloat16 is wrong")
    return ", ".join(said)


def attention(check: Check) -> str:
    """Which kernels of scaled_dot_product_attention work at the sizes of both families, and how fast they are."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch, device = check.torch, check.device
    rows = 2 if check.tiny else 256
    said = []
    for kind, length, causal in (("puzzle", 82, False), ("text", 64 if check.tiny else 512, True)):
        q, k, v = (
            torch.randn(rows, 8, length, 64, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
        )

        def step(q: Any = q, k: Any = k, v: Any = v, causal: bool = causal) -> None:
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal).sum().backward()

        found = {"default": check.seconds(step)}
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION):
            with contextlib.suppress(RuntimeError), sdpa_kernel(backend):
                found[backend.name.split("_")[0].lower()] = check.seconds(step)
        said.append(f"{kind}: " + ", ".join(f"{name} {seconds * 1e3:.2f} ms" for name, seconds in found.items()))
    return "; ".join(said)


def puzzle_float32(check: Check) -> str:
    here = check.trained("puzzle-cpu", "--train.precision", "float32", device="cpu")
    return apart(check.trained("puzzle-float32", "--train.precision", "float32"), here, CLOSE["float32"])


def text_float32(check: Check) -> str:
    here = check.trained("text-cpu", "--train.precision", "float32", device="cpu")
    return apart(check.trained("text-float32", "--train.precision", "float32"), here, CLOSE["float32"])


def resumed(check: Check, kind: str) -> str:
    """Half the steps, and the other half in a new start, beside all in one."""
    flags = ("--train.precision", "float32")
    whole = check.trained(f"{kind}-float32", *flags)
    half = check.trained(f"{kind}-half", *flags, "--train.steps", str(check.shape["half"]))
    check.hrm("train", "--resume", str(half), "--train.steps", str(check.shape["steps"]))
    return apart(half, whole, (1e-4, 1e-3), "those without a break")


def low(check: Check, kind: str, precision: str, *flags: str) -> str:
    """A training in 16 bits beside the CPU's in float32."""
    here = check.trained(f"{kind}-cpu", "--train.precision", "float32", device="cpu")
    name = "-".join((kind, precision, *(flag.rpartition(".")[2] for flag in flags)))
    run = check.trained(name, "--train.precision", precision, *flags)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    skipped = max(line.get("skipped_updates", 0) for line in lines)
    return apart(run, here, CLOSE[precision]) + (f"; {skipped} updates left out" if skipped else "")


def compiled(check: Check, kind: str) -> str:
    if check.tiny:
        raise Skip("compiling takes a minute")
    return low(check, kind, "bfloat16", "--train.compile")


def demo(check: Check) -> str:
    """The demo learns, and its answers are verified."""
    run = check.runs / "demo"
    steps = ("--train.steps", "20", "--task.puzzles", "100", "--task.holdout", "10") if check.tiny else ()
    where = ("--out", str(run), "--overwrite", "--train.device", check.device.type)
    result = json.loads(check.hrm("train", "sudoku-4x4", *where, *steps, "--json"))
    said = f"{result['exact']:.1%} exact after {result['training_seconds']:.1f} s of training"
    if result["exact"] < 0.9 and not check.tiny:
        raise Differs(f"{said}: at least 90 % were expected")
    return said


def evaluated(check: Check, kind: str) -> str:
    """The same run measured on both devices."""
    run = check.trained(f"{kind}-float32", "--train.precision", "float32")
    data = ("--data", str(run / "data")) if kind == "puzzle" else ("--limit", "1000")
    found = [
        json.loads(check.hrm("eval", str(run), *data, "--json", "--device", device, "--precision", "float32"))
        for device in (check.device.type, "cpu")
    ]
    name, most = ("token_accuracy", 0.02) if kind == "puzzle" else ("bits_per_character", 0.01)
    said = f"{name} {found[0][name]:.4f}, on the CPU {found[1][name]:.4f}"
    if abs(found[0][name] - found[1][name]) > most:
        raise Differs(said)
    return said


def solved(check: Check) -> str:
    """A hard puzzle by the solver that comes with the package, on both devices."""
    answers = []
    for device in (check.device.type, "cpu"):
        start = time.perf_counter()
        answer = json.loads(check.hrm("solve", "sudoku", PUZZLE, "--json", "--device", device))
        answers.append((answer["status"], answer["answer"], time.perf_counter() - start))
    said = f"{answers[0][0]} in {answers[0][2]:.1f} s, on the CPU {answers[1][0]} in {answers[1][2]:.1f} s"
    if answers[0][:2] != answers[1][:2]:
        raise Differs(said)
    return said


def generated(check: Check) -> str:
    """The likeliest text from the same weights on both devices, and one that is drawn."""
    run = check.trained("text-float32", "--train.precision", "float32")
    greedy = ("--greedy", "--max-new-tokens", "40", "--json", "--precision", "float32")
    texts = [
        json.loads(check.hrm("generate", str(run), "The ", *greedy, "--device", device))["text"]
        for device in (check.device.type, "cpu")
    ]
    check.hrm("generate", str(run), "The ", "--max-new-tokens", "20", "--seed", "1", "--device", check.device.type)
    same = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), len(texts[1]))
    if texts[0] != texts[1] and same < 10:  # a tie may be broken otherwise later on
        raise Differs(f"{texts[0]!r}, on the CPU {texts[1]!r}")
    return f"{same} of {len(texts[1])} characters are the CPU's"


def chatted(check: Check) -> str:
    run = check.trained("text-float32", "--train.precision", "float32")
    (check.runs / "said.txt").write_text("What is a run?\nAnd a step?\n")
    flags = ("--batch", str(check.runs / "said.txt"), "--json", "--device", check.device.type)
    answers = check.hrm("chat", str(run), *flags, "--max-new-tokens", "20").splitlines()
    if len(answers) != 2:
        raise Differs(f"{len(answers)} answers to two lines")
    return "two lines answered"


def learned(check: Check) -> str:
    """A book of a few dozen updates on both devices."""
    bits = []
    flags = (*LEARNER.split(), "--epochs", "1", "--log-every", "1", "--eval-characters", "400", "--json")
    flags += ("--stride", "80", "--length", "80")
    for device in (check.device.type, "cpu"):
        folder = check.runs / f"learner-{device}"
        if device == "cpu" and device == check.device.type:
            folder = check.runs / "learner-again"
        books = check.hrm("learn", str(folder), str(check.runs / "book.txt"), *flags, "--device", device, "--fresh")
        bits.append(json.loads(books)["books"][0]["bits_per_character_then"])
    said = f"{bits[0]:.3f} bits a character, on the CPU {bits[1]:.3f}"
    if abs(bits[0] - bits[1]) > 0.1:
        raise Differs(said)
    return said


def beside_transformers(check: Check) -> str:
    """A step of 80 M parameters and ten tokens written, beside transformers' hrm_text with the same weights."""
    import text

    torch, device = check.torch, check.device
    small: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 512, "num_attention_heads": 1}
    theirs, mine = text.models(**(small if check.tiny else {}))
    rows, length = (1, 32) if check.tiny else (8, 512)
    ids = torch.randint(0, 512, (rows, length), generator=torch.Generator().manual_seed(1)).to(device)
    found = {}
    both: tuple[Any, Any] = (theirs, mine)
    for model in both:
        model.to(device).float()
    ours, published = (model(ids, labels=ids, use_cache=False).loss.item() for model in (mine, theirs))
    if abs(ours - published) > 1e-3 * abs(published):
        raise Differs(f"loss {ours:.5f} in float32, and transformers' is {published:.5f}")
    for name, model in (("hrm", mine), ("transformers", theirs)):
        model.bfloat16()

        def step(model: Any = model) -> None:
            model.train()
            model(ids, labels=ids, use_cache=False).loss.backward()
            model.zero_grad(set_to_none=True)
            model.eval()

        def write(model: Any = model) -> None:
            model.generate(ids[:, :32], max_new_tokens=10, min_new_tokens=10, do_sample=False, pad_token_id=0)

        check.peak(reset=True)
        found[name] = check.seconds(step), check.peak(), check.seconds(write, 2)
    parts = [f"{n} {s * 1e3:.0f} ms a step, {p:.1f} GiB, ten tokens {w * 1e3:.0f} ms" for n, (s, p, w) in found.items()]
    ratio = found["transformers"][0] / found["hrm"][0]
    return f"loss {ours:.4f} and {published:.4f}; " + "; ".join(parts) + f"; ratio of the steps {ratio:.2f}"


def beside_official(check: Check) -> str:
    """A training step of the 27M puzzle model, alone or beside the official code."""
    import train_step

    size = 2 if check.tiny else 768 if _memory(check) > 60 else 128
    modes = [(False, "")] if check.tiny else [(False, ""), (True, " compiled")]
    said = []
    for compiles, name in modes:
        check.peak(reset=True)
        step = train_step.our_step(size, compiles, q_continue=True, device=check.device.type)
        mine, peak = check.seconds(step), check.peak()
        del step
        gc.collect()
        said.append(f"hrm{name} {mine * 1e3:.0f} ms and {peak:.1f} GiB")
        if check.official is not None:
            check.peak(reset=True)
            step = train_step.official_step(Path(check.official), size, compiles, device=check.device.type)
            theirs, peak = check.seconds(step), check.peak()
            del step
            gc.collect()
            said.append(f"official{name} {theirs * 1e3:.0f} ms and {peak:.1f} GiB, ratio {theirs / mine:.2f}")
    return f"{size} puzzles: " + "; ".join(said)


def _memory(check: Check) -> float:
    """GiB of the device."""
    return check.torch.cuda.get_device_properties(0).total_memory / 2**30 if check.device.type == "cuda" else 0.0


def processes(check: Check) -> str:
    """Two processes on two devices."""
    if check.device.type == "cpu" or check.torch.accelerator.device_count() < 2:
        raise Skip("it takes two devices; two processes on CPUs are among the tests")
    run = check.runs / "puzzle-two"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hrm", "train"]
    flags = [str(check.runs / "recipe.yaml"), "--out", str(run), "--overwrite", "--train.precision", "float32"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, *command, *flags], capture_output=True, text=True, env=environment)
    print(done.stdout, done.stderr)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return apart(run, check.trained("puzzle-float32", "--train.precision", "float32"), (1e-3, 1e-2), "one process's")


CHECKS: dict[str, tuple[Callable[[Check], str], float]] = {
    "machine": (machine, 60),
    "attention": (attention, 40),
    "puzzle float32": (puzzle_float32, 60),
    "text float32": (text_float32, 60),
    "puzzle bfloat16": (lambda check: low(check, "puzzle", "bfloat16"), 40),
    "puzzle float16": (lambda check: low(check, "puzzle", "float16"), 40),
    "text bfloat16": (lambda check: low(check, "text", "bfloat16"), 40),
    "text float16": (lambda check: low(check, "text", "float16"), 40),
    "puzzle resumed": (lambda check: resumed(check, "puzzle"), 60),
    "text resumed": (lambda check: resumed(check, "text"), 60),
    "recomputation": (lambda check: low(check, "puzzle", "bfloat16", "--train.checkpoint-activations"), 40),
    "puzzle eval": (lambda check: evaluated(check, "puzzle"), 40),
    "text eval": (lambda check: evaluated(check, "text"), 40),
    "solve": (solved, 40),
    "generate": (generated, 40),
    "chat": (chatted, 40),
    "learn": (learned, 90),
    "beside transformers": (beside_transformers, 60),
    "beside official": (beside_official, 200),
    "demo": (demo, 60),
    "puzzle compiled": (lambda check: compiled(check, "puzzle"), 120),
    "text compiled": (lambda check: compiled(check, "text"), 120),
    "two processes": (processes, 60),
}
"""Every check with the seconds after which it is stopped; a CPU gets four times as many."""


def work(args: argparse.Namespace) -> None:
    """In a process of its own: one check after the other; a line in the journal before and after each."""
    check, journal = Check(args), Path(args.out) / "journal.jsonl"

    def note(**facts: Any) -> None:
        with journal.open("a") as file:
            file.write(json.dumps(facts) + "\n")

    for name in args.only:
        note(name=name, begun=time.time())
        start, facts = time.perf_counter(), {"state": "ok", "says": ""}
        with (Path(args.out) / f"{name.replace(' ', '-')}.log").open("w") as log, contextlib.redirect_stdout(log):
            check.peak(reset=True)
            try:
                facts["says"] = CHECKS[name][0](check)
            except Skip as reason:
                facts = {"state": "left out", "says": str(reason)}
            except Differs as difference:
                facts = {"state": "DIFFERS", "says": str(difference)}
            except Exception as error:
                traceback.print_exc(file=log)
                facts = {"state": "FAILED", "says": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        note(name=name, seconds=time.perf_counter() - start, peak_gib=check.peak(), **facts)
        gc.collect()


def watch(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The result of each check, as it comes; a process that crashes or hangs is replaced."""
    journal, end = Path(args.out) / "journal.jsonl", time.time() + 60 * args.minutes
    journal.write_text("")
    left, read, longer = list(args.only), 0, 4 if args.device == "cpu" else 1
    while left:
        command = [sys.executable, str(Path(__file__).absolute()), *sys.argv[1:], "--worker", "--only", *left]
        with (Path(args.out) / "worker.log").open("a") as log:
            worker = subprocess.Popen(command, stderr=log, stdout=log)
        now: dict[str, Any] | None = None
        ended = False
        while left and not ended:
            ended = worker.poll() is not None
            lines = journal.read_text().split("\n")[:-1]
            for line in lines[read:]:
                facts = json.loads(line)
                now = facts if "begun" in facts else None
                if now is None:
                    left.remove(facts["name"])
                    yield facts
            read = len(lines)
            over = time.time() > end
            late = now is not None and time.time() - now["begun"] > CHECKS[now["name"]][1] * longer
            if left and (ended or over or late):
                worker.kill()
                name = now["name"] if now else left[0]
                reason = "the time of the whole run is up" if over else f"no end after {CHECKS[name][1] * longer:.0f} s"
                if ended:
                    reason = f"the process ended with code {worker.returncode}: see worker.log"
                for lost in left[:] if over else [name]:
                    left.remove(lost)
                    yield {"name": lost, "state": "left out" if over else "FAILED", "says": reason}
                ended = True
            time.sleep(0.1)
        worker.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the table, the logs and the runs")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    parser.add_argument("--official", type=Path, help="clone of github.com/sapientinc/HRM")
    parser.add_argument("--minutes", type=float, default=8.0, help="what has not begun by then is left out")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="NAME")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.worker:
        work(args)
        return 0
    start, results = time.perf_counter(), []
    for facts in watch(args):
        results.append(facts)
        seconds, peak = facts.get("seconds", 0.0), facts.get("peak_gib", 0.0)
        print(f"{facts['name']:20} {facts['state']:9}{seconds:6.1f} s {peak:6.2f} GiB  {facts['says']}", flush=True)
        whole = {"device": args.device, "tiny": args.tiny, "seconds": time.perf_counter() - start, "checks": results}
        (args.out / "check.json").write_text(json.dumps(whole, indent=1) + "\n")
    bad = [facts["name"] for facts in results if facts["state"] in ("FAILED", "DIFFERS")]
    ends = f"bad: {', '.join(bad)}" if bad else "all well"
    print(f"{len(results)} checks in {time.perf_counter() - start:.0f} s; {ends}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
