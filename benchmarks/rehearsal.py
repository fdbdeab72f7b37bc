"""From raw text to a fine-tuned model in one command, with the commands that a cluster runs: the road in small.

    python benchmarks/rehearsal.py [--data HRM_DATA] [--tokens 300000] [--work FOLDER]
        [--out FILE.json] [--table FILE.md] [--plot FILE.png]

Some 8 MB of raw text with planted duplicates and questions of a test are cleaned, deduplicated, decontaminated and
packed; the training is planned, begun by two processes of which one is killed, and ended by one; the model is measured
beside a plain Transformer and two smaller ones on the same tokens, then fine-tuned. Finished steps are kept in --work,
so that an interrupted rehearsal resumes. Under an hour on two cores; needs the extras [pipeline] and [eval].
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pipeline
from hrm.files.output import write_json
from hrm.runs import checkpoint

LENGTH, BATCH, WIDTH, BLOCKS = 256, 8, 192, 2
"""Tokens of a row, rows of a step, width of the model, and blocks of each of its modules."""
TASKS = ("copa", "piqa", "lambada_openai")
ITEMS, SHOTS = 100, (0, 5)
POSED, POSED_SHOTS = 20, (0, 1)
LINES, PAIRS = 600, 300
"""Items of each task, puzzles as text, examples before each; lines of WikiText-2's test, and pairs of answers."""
HRM = [sys.executable, "-m", "hrm"]
Result = dict[str, Any]


class Rehearsal:
    """The steps in their order; each returns the facts that the table shows, and runs once."""

    def __init__(self, data: Path, work: Path, tokens: int) -> None:
        self.data, self.work, self.steps = data, work, max(10, tokens // (BATCH * LENGTH))
        self.corpus, self.runs = work / "corpus", work / "runs"
        self.commands: list[str] = []

    def __call__(self) -> Result:
        """All that is not yet done; what each step found, the seconds it took and the commands it ran."""
        found: Result = {}
        (self.work / "steps").mkdir(parents=True, exist_ok=True)
        parts: list[Callable[[], Result]] = [
            self.raw, self.clean, self.plan, self.killed, self.resumed, self.plain, self.sizes, self.measured,
            self.tuned, self.preferred, self.published, self.meta, self.reported,
        ]  # fmt: skip
        for number, part in enumerate(parts, 1):
            file = self.work / "steps" / f"{part.__name__}.json"
            if not file.is_file():
                print(f"{number}/{len(parts)} {part.__name__}", flush=True)
                self.commands, start = [], time.perf_counter()
                facts = part()
                facts |= {"seconds": round(time.perf_counter() - start, 1), "commands": self.commands}
                write_json(file, facts)
            found[part.__name__] = json.loads(file.read_text("utf-8"))
            print(f"    {found[part.__name__]['seconds']:.0f} s", flush=True)
        return found

    # Steps

    def raw(self) -> Result:
        """Sources with planted copies, a test with planted questions, and the recipe of the corpus."""
        raw = self.work
        facts = pipeline.make(self.data / "text", raw)
        write_json(self.work / "planted.json", facts)
        tests = [self.data / "text/wikitext2_tokenized_test.txt.gz", self.data / "instruct/gsm8k_test.jsonl.gz"]
        (raw / "recipe.yaml").write_text(
            "sources:\n  - {name: wiki, path: wiki.jsonl, licence: CC BY-SA 4.0}\n"
            "  - {name: books, path: books, licence: public domain}\n  - {name: planted, path: planted.jsonl}\n"
            f"decontaminate: {{files: [test.jsonl, {', '.join(map(str, tests))}]}}\n"
            "tokenizer: bpe:4096\nholdout: 0.01\nshard_tokens: 500000\n"
        )
        files = [raw / "wiki.jsonl", *raw.glob("books/*"), raw / "planted.jsonl"]
        rows = sum(len(path.read_text("utf-8").splitlines()) for path in files)
        return {"files": len(files), "bytes": sum(path.stat().st_size for path in files), "documents": rows}

    def clean(self) -> Result:
        """The corpus, and what became of what was planted."""
        out = ["--out", str(self.corpus), "--keep-work", "--overwrite"]
        self.hrm("data", "clean", "recipe.yaml", *out, folder=self.work)
        self.hrm("data", "check", str(self.corpus))
        report = json.loads((self.corpus / "report.json").read_text("utf-8"))
        planted = json.loads((self.work / "planted.json").read_text("utf-8"))
        found = pipeline.found(self.work / "corpus.work", self.corpus, planted)
        keys = ("read", "kept", "held_out", "tokens")
        shards = len(list((self.corpus / "train").glob("**/tokens.bin")))
        return {**{key: report[key] for key in keys}, "shards": shards, "planted": found}

    def plan(self) -> Result:
        """Of the model at full size on a cluster, and what this one takes here."""
        big = self.hrm("plan", "gpt2-1.5b", "--gpus", "64", "--gpu", "h100", "--price", "2.5", "--json")
        small = self.hrm("train", *self.recipe(), "--dry-run", "--json")
        return {"gpt2-1.5b": {key: value for key, value in big.items() if key != "sbatch"}, "here": small}

    def killed(self) -> Result:
        """The training in two processes; one is killed, and what torchrun then says."""
        run = self.runs / "hrm"
        shutil.rmtree(run, ignore_errors=True)
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = [sys.executable, *launch, "-m", "hrm", "train", *self.recipe(), "--out", str(run), "--overwrite"]
        self.note(command)
        with self.log().open("ab") as log:
            started = psutil.Popen(command, stdout=log, stderr=log, env=environment())
            wanted = max(1, self.steps // 3)
            while started.poll() is None and self.newest(run) < wanted:
                time.sleep(0.2)
            ranks = [one for one in started.children(recursive=True) if one.ppid() == started.pid]
            victim = random.Random(0).choice(ranks)
            victim.send_signal(signal.SIGKILL)
            killed = time.perf_counter()
            code = started.wait(120)
        return {
            "processes": len(ranks), "killed_after_step": self.newest(run), "exit_code": code,
            "seconds_until_all_had_ended": round(time.perf_counter() - killed, 1),
        }  # fmt: skip

    def resumed(self) -> Result:
        """The same training, ended by one process."""
        at = self.newest(self.runs / "hrm")
        return {"from_step": at, **self.train("--resume", str(self.runs / "hrm"), run=self.runs / "hrm")}

    def plain(self) -> Result:
        """A Transformer of as many blocks, shaped as GPT-2, on the same tokens."""
        run = self.runs / "plain"
        off = ["--arch.no-hierarchy", "--halting.kind", "fixed", "--halting.max-segments", "1"]
        found = self.train(*self.recipe(), *off, "--out", str(run), "--overwrite", run=run)
        return found | self.size(WIDTH, run, found["loss"])

    def sizes(self) -> Result:
        """Loss of held-out text at three sizes, and the line through them: loss = a x parameters ** -b."""
        main = json.loads((self.work / "steps/resumed.json").read_text("utf-8"))
        found = [self.size(WIDTH, self.runs / "hrm", main["loss"])]
        for width in (WIDTH // 2, WIDTH // 4):
            run = self.runs / f"hrm-{width}"
            loss = self.train(*self.recipe(width), "--out", str(run), "--overwrite", run=run)["loss"]
            found.append(self.size(width, run, loss))
        found.reverse()
        x, y = ([math.log(one[key]) for one in found] for key in ("parameters", "loss"))
        middle = sum(x) / len(x), sum(y) / len(y)
        slope = sum((a - middle[0]) * (b - middle[1]) for a, b in zip(x, y, strict=True))
        slope /= sum((a - middle[0]) ** 2 for a in x)
        off = [b - middle[1] - slope * (a - middle[0]) for a, b in zip(x, y, strict=True)]
        return {
            "sizes": found, "exponent": -slope, "factor": math.exp(middle[1] - slope * middle[0]),
            "farthest_from_the_line": max(map(abs, off)),
        }  # fmt: skip

    def measured(self) -> Result:
        """WikiText-2 per word, tasks, and puzzles as text, of both models."""
        puzzles = self.work / "puzzles.csv"
        self.hrm("data", "build", "--box", "2", "2", "--puzzles", "40", "--out", str(puzzles), "--overwrite")
        ask = ["--task", "puzzles", "--data", str(puzzles), "--limit", str(POSED)]
        text = self.work / "wiki.test.tokens"
        whole = pipeline.read(self.data / "text/wikitext2_tokenized_test.txt.gz")
        text.write_text("".join(whole.splitlines(keepends=True)[:LINES]), "utf-8")
        wiki = ["--data", str(text), "--words", "wikitext"]
        shots = ["--shots", *map(str, SHOTS)]
        found: Result = {}
        for name in ("hrm", "plain"):
            run = str(self.runs / name)
            found[name] = {
                "wiki": self.hrm("eval", run, *wiki, "--json"),
                "tasks": self.hrm("eval", run, "--tasks", *TASKS, *shots, "--limit", str(ITEMS), "--json"),
                "puzzles": self.hrm("eval", run, *ask, "--shots", *map(str, POSED_SHOTS), "--json"),
            }
        return found

    def tuned(self) -> Result:
        """Fine-tuned on instructions: what held-out answers cost before and after."""
        out, raw = self.runs / "tuned", self.work / "instructions.jsonl"
        rows = pipeline.read(self.data / "instruct/llms_from_scratch_1100.jsonl.gz").splitlines()
        raw.write_text("\n".join(rows[:1000]) + "\n", "utf-8")
        held = raw.with_name("held.jsonl")
        held.write_text("\n".join(rows[1000:]) + "\n", "utf-8")
        flags = ["--text.kind", "chat", "--text.template", "alpaca", "--data", str(raw), "--validation", str(held)]
        course = [*self.course(max(10, self.steps // 2)), "--optim.lr", "5e-4"]
        base = str(self.runs / "hrm")
        found = self.train("gpt2-1.5b", "--model", base, *flags, *course, "--out", str(out), "--overwrite", run=out)
        before = self.hrm("eval", base, "--data", str(held), "--template", "alpaca", "--json")
        after = self.hrm("eval", str(out), "--data", str(held), "--json")
        pairs = self.hrm("eval", str(out), "--data", str(held), "--task", "pairs", "--limit", "50", "--json")
        said = {key: value for key, value in pairs.items() if key != "answers"}
        return {**found, "before": before["loss"], "after": after["loss"], "answers": said}

    def preferred(self) -> Result:
        """Chosen answers before rejected ones (DPO), then the Q head fitted to what came of it."""
        pairs, runs = self.work / "preferences.jsonl", [self.runs / "preferred", self.runs / "refitted"]
        rows = pipeline.read(self.data / "instruct/llms_from_scratch_preference_1100.jsonl.gz").splitlines()
        pairs.write_text("\n".join(rows[:PAIRS]) + "\n", "utf-8")
        recipe, course = ["gpt2-1.5b", "--model", str(self.runs / "tuned")], self.course(max(10, self.steps // 4))
        kind = ["--text.kind", "preference", "--text.template", "alpaca", "--data", str(pairs), "--text.holdout", "0.1"]
        kind += ["--optim.lr", "1e-4"]
        found = self.train(*recipe, *kind, *course, "--out", str(runs[0]), "--overwrite", run=runs[0])
        recipe[-1] = str(runs[0])
        kind = ["--text.kind", "chat", "--text.template", "alpaca", "--data", str(self.work / "instructions.jsonl")]
        kind += ["--validation", str(self.work / "held.jsonl")]
        self.train(*recipe, *kind, *course, "--train.learn", "q", "--out", str(runs[1]), "--overwrite", run=runs[1])
        held = ["--data", str(self.work / "held.jsonl"), "--template", "alpaca", "--json"]
        # What it learned to say: whether a second segment would bring little, known of the first.
        before, after = (self.hrm("eval", str(run), *held)["fixed"][0]["ece_q_target"] for run in runs)
        return {"best": found["best"], "calibration_before": before, "calibration_after": after}

    def published(self) -> Result:
        """Its weights in 8 bits, and the folder that would be published."""
        small = self.runs / "int8"
        shutil.rmtree(small, ignore_errors=True)
        quantised = ["--to", "hrm_lm", "--quantize", "int8", "--json"]
        self.hrm("convert", str(self.runs / "refitted"), str(small), *quantised)
        told = self.hrm("push", str(self.runs / "refitted"), "me/small", "--licence", "mit", "--dry-run", "--json")
        size = sum(path.stat().st_size for path in small.glob("*.safetensors"))
        return {"bytes_in_8_bits": size, "files": told["files"]}

    def meta(self) -> Result:
        """The model at full size without memory for its numbers: built, a batch learned, read and told apart."""
        import torch

        from hrm.settings import load_preset
        from hrm.text.config import TextConfig, groups_of
        from hrm.text.model import HRMConfig, HRMForCausalLM

        config = load_preset("gpt2-1.5b", TextConfig)
        tokens: Result = {"vocab_size": 50257, "bos_token_id": 50256, "eos_token_id": 50256}
        with torch.device("meta"):
            model = HRMForCausalLM(HRMConfig.of(**groups_of(config), **tokens)).train()
            ids = torch.zeros(1, config.text.length, dtype=torch.long)
        loss = model(input_ids=ids, labels=ids, halting="fixed").loss
        loss.backward()
        shaped = all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
        with torch.no_grad():
            logits = model.eval()(input_ids=ids, use_cache=False, halting="fixed").logits
        return {
            "parameters": sum(p.numel() for p in model.parameters()), "every_weight_has_a_gradient": shaped,
            "logits": list(logits.shape), "steps": config.train.steps,
            "tokens": config.train.steps * config.train.batch_size * config.text.length,
        }  # fmt: skip

    def reported(self) -> Result:
        """How far the states move, and one page about the runs."""
        page = self.work / "report.html"
        self.hrm("analyze", "steps", str(self.runs / "hrm"), "--limit", "8", "--json")
        told = [str(self.runs / name) for name in ("hrm", "plain", "tuned")]
        self.hrm("report", *told, "--out", str(page))
        return {"bytes": page.stat().st_size, "runs": len(told)}

    # What they share

    def recipe(self, width: int = WIDTH) -> list[str]:
        """The preset of the model at full size, made small."""
        return [
            "gpt2-1.5b", "--data", str(self.corpus), "--arch.dim", str(width), "--arch.heads", str(max(1, width // 32)),
            "--arch.fast-layers", str(BLOCKS), "--arch.slow-layers", str(BLOCKS), "--halting.max-segments", "2",
            "--arch.max-position-embeddings", "512", "--optim.lr", "3e-3", *self.course(self.steps),
        ]  # fmt: skip

    def course(self, steps: int) -> list[str]:
        """How long it trains, and on what."""
        every = max(1, steps // 6)
        return [
            "--text.length", str(LENGTH), "--train.steps", str(steps), "--train.batch-size", str(BATCH),
            "--train.accumulate", "1", "--train.precision", "float32", "--train.device", "cpu",
            "--train.no-checkpoint-activations", "--optim.warmup-steps", str(max(1, steps // 20)),
            "--train.checkpoint-every", str(every), "--train.eval-every", str(every), "--train.eval-puzzles", "16",
            "--train.log-every", "5",
        ]  # fmt: skip

    def train(self, *args: str, run: Path) -> Result:
        """Train in one process; what was measured at its end on held-out text, at full depth."""
        found = self.hrm("train", *args, "--json")
        best = json.loads((run / "best.json").read_text("utf-8"))
        kept = ("n", "loss", "perplexity", "bits_per_byte", "training_seconds")
        return {"steps": self.newest(run), "best": best} | {key: found[key] for key in kept if key in found}

    def size(self, width: int, run: Path, loss: float) -> Result:
        """A run's parameters beside its loss on held-out text."""
        import torch

        from hrm.text.load import form_of
        from hrm.text.model import HRMForCausalLM

        with torch.device("meta"):
            parameters = HRMForCausalLM(form_of(run)).num_parameters()
        return {"width": width, "parameters": parameters, "loss": loss}

    @staticmethod
    def newest(run: Path) -> int:
        """The step of the newest complete checkpoint; 0: none."""
        found = checkpoint.complete(run / "checkpoints") if (run / "checkpoints").is_dir() else []
        return max(map(checkpoint.step_of, found), default=0)

    def hrm(self, *args: str, folder: Path | None = None) -> Result:
        """What a command prints as JSON."""
        self.note([*HRM, *args])
        with self.log().open("ab") as log:
            done = subprocess.run([*HRM, *args], cwd=folder, stdout=subprocess.PIPE, stderr=log, env=environment())
            log.write(done.stdout)
        if done.returncode:
            raise SystemExit(f"'{shlex.join(args)}' ended with exit code {done.returncode}: see {self.log()}")
        return _placeless(json.loads(done.stdout)) if "--json" in args else {}

    def note(self, command: list[str]) -> None:
        """Keep a command as a user would type it."""
        said = shlex.join(command).replace(shlex.join(HRM), "hrm")
        said = said.replace(f"{sys.executable} -m torch.distributed.run", "torchrun")
        said = said.replace(str(self.work), "WORK").replace(str(self.data), "HRM_DATA")
        self.commands.append(said)
        print(f"    {said}", flush=True)

    def log(self) -> Path:
        return self.work / "log"


def _placeless(told: Any) -> Any:
    """A result without the places of this machine."""
    if isinstance(told, list):
        return [_placeless(one) for one in told]
    places = ("checkpoint", "data") if isinstance(told, dict) else ()
    return {key: _placeless(one) for key, one in told.items() if key not in places} if places else told


def environment() -> dict[str, str]:
    """Two processes share two cores."""
    return os.environ | {"HF_HUB_OFFLINE": "1"}


def table(found: Result) -> str:
    """What the steps found, as Markdown."""
    clean, plan, killed, sizes = (found[name] for name in ("clean", "plan", "killed", "sizes"))
    big, planted = plan["gpt2-1.5b"], clean["planted"]
    lines = ["| step | what came out | seconds |", "|---|---|---|"]

    def row(name: str, step: str, text: str) -> None:
        lines.append(f"| {name} | {text} | {found[step]['seconds']:,.0f} |")

    row("raw text", "raw", f"{found['raw']['documents']:,} documents, {found['raw']['bytes'] / 1e6:.1f} MB")
    twins = ", ".join(
        f"{planted[key]['found']} of {planted[key]['planted']} {said} out" for key, said in PLANTED.items()
    )
    row(
        "cleaned", "clean", f"{clean['kept']:,} kept, {clean['tokens']:,} tokens, {clean['held_out']} held out; {twins}"
    )
    memory = big["memory"][big["activations"]]["total"]
    row(
        "planned", "plan",
        f"gpt2-1.5b, {big['parameters'] / 1e9:.2f} B parameters, {big['tokens'] / 1e9:.1f} B tokens: 64 H100 for "
        f"{big['days'] * 24:.1f} hours at {big['utilisation']:.0%}, {memory / 2**30:.0f} GiB each",
    )  # fmt: skip
    row(
        "killed", "killed",
        f"1 of {killed['processes']} processes after step {killed['killed_after_step']}; all had ended "
        f"{killed['seconds_until_all_had_ended']} s later, exit code {killed['exit_code']}",
    )  # fmt: skip
    row("resumed", "resumed", f"by 1 process, from step {found['resumed']['from_step']} to {found['resumed']['steps']}")
    row("plain Transformer", "plain", f"as many blocks, the same {found['plain']['steps']} steps")
    each = ", ".join(f"{one['loss']:.3f} ({one['parameters'] / 1e6:.2f} M)" for one in sizes["sizes"])
    row("three sizes", "sizes", f"held-out loss {each}; loss = {sizes['factor']:.2f} N^-{sizes['exponent']:.3f}")
    tuned = found["tuned"]
    row("fine-tuned", "tuned", f"loss of held-out answers {tuned['before']:.3f} -> {tuned['after']:.3f} nats a token")
    preferred, files = found["preferred"], found["published"]["files"]
    row(
        "preferred", "preferred",
        f"held-out chosen answers first: {preferred['best']['reward_accuracy']:.0%}; calibration error of the "
        f"Q head {preferred['calibration_before']:.3f} -> {preferred['calibration_after']:.3f} once fitted again",
    )  # fmt: skip
    big = files["model.safetensors"] / 1e6
    eight = found["published"]["bytes_in_8_bits"] / 1e6
    row("ready to publish", "published", f"{len(files)} files; {big:.1f} MB of weights, {eight:.1f} MB in 8 bits")
    meta, page = found["meta"], found["reported"]
    row("told", "reported", f"{page['runs']} runs on one page of {page['bytes'] / 1e6:.1f} MB")
    row("full size, no numbers", "meta", f"{meta['parameters']:,} parameters, each with a gradient")
    row("measured", "measured", "below")
    lines += ["", "| measured | HRM | plain Transformer |", "|---|---|---|"]
    held = " | ".join(f"{found[arm]['bits_per_byte']:.3f}" for arm in ("resumed", "plain"))
    lines.append(f"| held-out text, bits per byte | {held} |")
    for name, value in MEASURED.items():
        lines.append(f"| {name} | " + " | ".join(value(found["measured"][arm]) for arm in ("hrm", "plain")) + " |")
    return "\n".join(lines) + "\n"


def draw(found: Result, path: Path) -> None:
    """Loss against parameters: three sizes, the line through them, and the plain Transformer."""
    from matplotlib.figure import Figure

    sizes, plain = found["sizes"], found["plain"]
    x, y = ([one[key] for one in sizes["sizes"]] for key in ("parameters", "loss"))
    line = [sizes["factor"] * value ** -sizes["exponent"] for value in (x[0] * 0.8, x[-1] * 1.25)]
    figure = Figure((5.5, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.plot((x[0] * 0.8, x[-1] * 1.25), line, color="0.6", label=f"{sizes['factor']:.2f} N^-{sizes['exponent']:.3f}")
    axes.plot(x, y, "o", color="#2a5db0", label="HRM, three widths")
    axes.plot([plain["parameters"]], [plain["loss"]], "s", color="#c05a00", label="plain Transformer")
    axes.set(xscale="log", xlabel="parameters N", ylabel="held-out loss, nats a token")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path)


def _accuracy(task: str, shots: str, one: Result) -> str:
    found = one["tasks"]["tasks"][task]["shots"][shots]
    return f"{found['acc']:.0%}" + (f", guessing {found['guessing']:.0%}" if "guessing" in found else "")


def _solved(shots: str, one: Result) -> str:
    found = one["puzzles"]["shots"][shots]
    return f"{found['solved']:.0%}, {found['fits']:.0%} fit the context"


PLANTED = {"equal": "exact copies", "near": "near ones", "asked": "planted questions"}
MEASURED: dict[str, Callable[[Result], str]] = {
    "beginning of WikiText-2's test, perplexity per word": lambda one: f"{one['wiki']['perplexity_per_word']:,.0f}",
    **{
        f"{task}, {shots} shots, accuracy of {ITEMS}": partial(_accuracy, task, str(shots))
        for task in TASKS for shots in SHOTS
    },
    **{
        f"4x4 Sudoku as text, {shots} shots, solved of {POSED}": partial(_solved, str(shots)) for shots in POSED_SHOTS
    },
}  # fmt: skip


def main() -> None:
    """Do what is not yet done, write the result and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("HRM_DATA", "data")))
    parser.add_argument("--work", type=Path, default=Path("rehearsal"), help="folder of all that is made")
    parser.add_argument("--tokens", type=int, default=300_000, help="that each model is trained on")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rehearsal.json"))
    parser.add_argument("--table", type=Path, default=Path("benchmarks/results/rehearsal.md"))
    parser.add_argument("--plot", type=Path, help="picture of loss against parameters")
    args = parser.parse_args()
    found = Rehearsal(args.data.resolve(), args.work.resolve(), args.tokens)()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    seconds = sum(step["seconds"] for step in found.values())
    write_json(args.out, {"machine": machine, "tokens": args.tokens, "seconds": seconds, **found})
    args.table.write_text(table(found), "utf-8")
    if args.plot:
        draw(found, args.plot)
    print(f"\n{args.table.read_text('utf-8')}\n{seconds / 60:.0f} minutes")


if __name__ == "__main__":
    main()
