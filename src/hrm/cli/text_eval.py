"""`hrm eval RUN` where RUN is a model of text."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from hrm.cli import facts
from hrm.cli.generate import budget_of
from hrm.cli.options import MACHINE, Machine, OnMachine, Positional, parse
from hrm.console import Console
from hrm.files import output
from hrm.files.digest import data_sha256
from hrm.files.output import to_json
from hrm.files.ranges import Range
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.progress import share
from hrm.puzzles.data.recognition import are_puzzles
from hrm.text import data as corpus
from hrm.text.data import Packed, ReadOptions, Tokens, chat
from hrm.text.data import hops as made
from hrm.text.data.hops import Hops

if TYPE_CHECKING:
    from hrm.text.measuring.plain import Loaded

_HERE = Machine()
_OF_DEPTH = {
    "fresh": None,
    "plot": None,
    "max_segments": None,
    "halting": None,
    "exit_threshold": (),
    "schedule": (),
    "state": "reset",
    "best_of": 1,
}
"""Options for what only a model that thinks in segments has, or a run; with the values that ask for nothing."""
_NOT_OF_HOPS = (
    "task", "fresh", "words", "template", "encoding", "split", "field", "length", "stride", "state", "max_new_tokens",
    "best_of", "temperature", "shots", "data_folder",
)  # fmt: skip
_SHARES = ("exact_match", "ended", "q", "q-drawn", "likelihood", "one", "any")


@dataclass(frozen=True)
class TextOptions:
    """Measure a model of text: loss and calibration at every depth, answers to questions, or tasks."""

    run: Positional[str]
    """Run folder of a text model, or any folder of a causal model that save_pretrained wrote with its tokenizer; also
    as --model FOLDER."""
    data: str | None = None
    """Text, JSON lines (of conversations the answers count), parquet, a folder of them or packed; default: what the run
    held out."""
    fresh: int | None = None
    """Instead: this many new questions of the run's Reasoning Gym data set, none of them seen in training."""
    hops: Annotated[tuple[int, ...], Range(1, 1000)] = ()
    """Of a run that learned questions with hops (--text.kind hops): ask those with these numbers of hops; default: 1 to
    half as many again as it was trained on."""
    task: Literal["text", "pairs", "puzzles"] = "text"
    """text reads; pairs answers questions with known answers: exact match, BLEU, chrF, ROUGE-L, METEOR; puzzles answers
    Sudokus, mazes or ARC written as text, judged by their rules."""
    tasks: tuple[str, ...] = ()
    """Instead: tasks, scored by lm-eval: files of --data-folder by name (or all), task files by path, which may run
    code (give only those you trust), and lm-eval's own tasks whose data is at hand."""
    shots: tuple[int, ...] = (0,)
    """How many answered examples stand before each question of --tasks or puzzle; several are measured in turn."""
    data_folder: Path | None = None
    """Folder with a .jsonl, .jsonl.gz or .jsonl.xz per task; default: eval_tasks in the folder HRM_DATA names."""
    json: bool = False
    """Print the result as JSON instead of the table."""
    json_file: Path | None = None
    """File to write the result to as JSON."""
    plot: Path | None = None
    """File for a picture of loss against mean depth: fixed, adaptive at several thresholds, and at random."""
    limit: int | None = None
    """Measure about this many tokens only, or the first questions or items of a task."""
    field: str = "text"
    """Field of JSON lines or parquet that holds the text."""
    words: Literal["wikitext", "ptb"] | None = None
    """--data is a set of words in this form: join them as people write, and give the perplexity per word of the set."""
    template: str | None = None
    """How questions of --data are written (alpaca, roles, or a text with {question} and {answer}); default: as in the
    run's training."""
    encoding: str | None = None
    """Encoding of --data, such as cp1251 or gb18030; default: detected, and said where it is not UTF-8."""
    split: str = "validation"
    """Which split of a folder of packed text."""
    length: int | None = None
    """Tokens of a window; default: as in training, or the longest that the model reads."""
    stride: int | None = None
    """Tokens from one window to the next: fewer give every token more context and take longer."""
    max_segments: int | None = None
    """Segments a token may take; default: the model's own."""
    halting: Literal["fixed", "q", "kl", "change", "readout"] | None = None
    """When a token stops thinking: after all segments, by the Q head, when its prediction or state settles, or by what
    hrm calibrate has fitted."""
    exit_threshold: tuple[float, ...] = ()
    """Threshold of that criterion; several are measured in turn."""
    schedule: tuple[int, ...] = ()
    """Cycles and steps of a segment, as in 2 2; default: the model's own."""
    state: Literal["reset", "carry"] = "reset"
    """carry: read token by token, each starting from the last one's state; fresh states are measured as well (slow)."""
    max_new_tokens: int = 128
    """Longest answer to a question, in tokens."""
    best_of: int = 1
    """Draw this many answers to each question: does the Q head pick better ones than likelihood?"""
    temperature: float = 0.8
    """Temperature of these answers."""
    seed: int = 0
    """Seed of the drawn answers and of fresh questions."""
    batch_size: int = 8
    """Windows, questions or options in a batch."""
    checkpoint: str = "best"
    """best, latest or a step."""
    on: OnMachine = _HERE


def main(args: list[str]) -> int:
    example = "hrm eval runs/shakespeare --data test.txt --plot depth.png"
    options = parse("eval", TextOptions, args, example=example, main=MACHINE)
    if options.fresh is not None and options.data is not None:
        raise UserError("--fresh makes questions and --data names some: use one of them")
    for name in ("fresh", "limit", "length", "batch_size", "max_new_tokens", "best_of"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value} leaves nothing to measure: use 1 or more")
    puzzles = options.task == "puzzles"
    if not options.shots or (options.shots != (0,) and not (options.tasks or puzzles)):
        raise UserError("--shots counts the examples before a question: give numbers, with --tasks or --task puzzles")
    read = (options.run, options.data, options.data_folder)
    output.check("--json-file", options.json_file, read)
    output.check_picture("--plot", options.plot, read)
    if options.plot is not None and (options.tasks or options.task != "text"):
        raise UserError("--plot shows loss against depth: measure running text, without --tasks and --task")
    if options.state == "carry" and options.tasks:
        raise UserError("--tasks reads its items at once and --state carry token by token: leave one of them out")
    if options.state == "carry" and (options.exit_threshold[1:] or options.plot is not None or options.stride):
        raise UserError("--state carry measures one budget: leave out --plot, --stride and further thresholds")
    if options.words and (options.data is None or options.limit or options.state == "carry" or options.tasks):
        raise UserError("--words counts the words of all of --data: name a text, without --limit, --state and --tasks")
    if puzzles and options.data is None:
        raise UserError("--task puzzles asks those of a file: name it with --data")
    if options.data is not None and not puzzles and are_puzzles(options.data):
        given = f"{options.run} is a model of text and {options.data} holds puzzles"
        raise UserError(f"{given}: --task puzzles asks them as text")
    threshold = options.exit_threshold[0] if options.exit_threshold else None
    request = budget_of(options.max_segments, options.halting, threshold, options.schedule)
    request |= {"state": "carry"} if options.state == "carry" and options.task != "text" else {}

    if options.tasks:
        from hrm.text.measuring.tasks import check_names

        check_names(*_wanted(options))  # before the model is loaded
    from hrm.runs import threads
    from hrm.text.load import load_text
    from hrm.text.measuring.plain import is_plain, load_plain
    from hrm.text.measuring.subject import longest

    if is_plain(options.run):
        for name, none in _OF_DEPTH.items():
            if getattr(options, name) != none:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{options.run} is a model without depth, a Q head or a run: leave out {flag}")
        loaded: Loaded = load_plain(options.run, options.on.device, options.on.precision)
    else:
        loaded = load_text(options.run, options.checkpoint, options.on.device, options.on.precision)
    length = options.length or loaded.length or longest(loaded.model, loaded.tokenizer)
    threads.settle_for(loaded.model, options.batch_size * length, options.on.threads)
    kind = None if loaded.run is None else loaded.run.config.text.kind
    if options.hops and kind != "hops":
        raise UserError(f"--hops needs a run trained with --text.kind hops, and {options.run} is none: leave it out")
    if options.hops and options.data is not None:
        raise UserError("--hops makes questions and --data names some: use one of them")
    if kind == "hops" and options.data is None and not options.tasks:
        for name in _NOT_OF_HOPS:
            if getattr(options, name) != getattr(TextOptions, name):
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{options.run} learned questions with hops, which are made fresh: leave out {flag}")
        if options.exit_threshold[1:]:
            raise UserError("--hops measures one budget: give one --exit-threshold")
        measure = _hops
    else:
        measure = _tasks if options.tasks else {"text": _text, "pairs": _pairs, "puzzles": _puzzles}[options.task]
    result, table = measure(loaded, options, request)
    if options.json_file is not None:
        output.write_json(options.json_file, result)
    print(to_json(result, indent=2) if options.json else table)
    return 0


def _text(loaded: Loaded, options: TextOptions, request: Json) -> tuple[Json, str]:
    from hrm.text.measuring import published
    from hrm.text.measuring.losses import THRESHOLDS, evaluate
    from hrm.text.measuring.plain import PlainModel, evaluate_plain
    from hrm.text.measuring.report import draw, states_table, table
    from hrm.text.measuring.state import evaluate_states
    from hrm.text.measuring.subject import longest
    from hrm.text.measuring.words import per_word

    most, words = longest(loaded.model, loaded.tokenizer), list[int]()
    with text_to_measure(loaded, options, words.append) as (packed, source), share("", Console(stderr=True)) as report:
        assert not isinstance(packed, Hops)  # measured by --hops
        rows = getattr(packed, "length", None)  # rows of a fixed length
        length = options.length or rows or min(loaded.length or most, max(1, packed.count - 1))
        if length > most:
            raise UserError(f"--length {length} is more than the {most} tokens the model reads: use fewer")
        data, told = (loaded.tokenizer, packed, length), {"progress": report, "limit": options.limit}
        if isinstance(loaded, PlainModel):
            measured = evaluate_plain(loaded.model, *data, options.stride, options.batch_size, **told)
        elif options.state == "carry":
            result = evaluate_states(loaded.model, *data, options.batch_size, **told, **request)
            return result | _origin(loaded, source), states_table(result)
        else:
            curve = THRESHOLDS.get(loaded.model.budget(**request).halting, ()) if options.plot is not None else ()
            how = (options.stride, options.batch_size, options.exit_threshold or curve)
            measured = evaluate(loaded.model, *data, *how, **told, **request)
        result = measured.plain() | _origin(loaded, source)
    lines = [table(measured)]
    if options.words:
        result |= per_word(measured, sum(words))
        lines.append(f"{sum(words):,} words: perplexity per word {result['perplexity_per_word']:.2f}")
    sets = published.of_text(str(source and source.name), options.words, sum(words))
    result |= published.published(sets)
    lines += published.lines(sets)
    if options.plot is not None:
        draw(measured, options.plot)
    return result, "\n".join(lines)


def _hops(loaded: Loaded, options: TextOptions, request: Json) -> tuple[Json, str]:
    from hrm.text.measuring.hops import by_hops, draw, table
    from hrm.text.measuring.plain import PlainModel

    assert loaded.run is not None and not isinstance(loaded, PlainModel)
    config = loaded.run.config
    name, most = str(config.data), config.text.hops
    task = made.task_of(name)
    asked = tuple(dict.fromkeys(options.hops)) or tuple(range(1, min(task.most, most + -(-most // 2)) + 1))
    for hops in asked:
        Range(1, task.most).check("hops", hops)
        if (tokens := task.length(hops, alone=True)) > (positions := loaded.model.config.max_position_embeddings):
            raise UserError(
                f"a question with {hops} hops has {tokens} tokens and the model reads {positions}: ask fewer"
            )
    budget = loaded.model.budget(**request)
    with share("asking", Console(stderr=True)) as report:
        how = (options.limit or 1000, options.seed, 32 * options.batch_size, report)
        found = by_hops(loaded.model, name, asked, budget, *how)
    if options.plot is not None:
        draw(found, options.plot)
    rows = [one.plain() for one in found]
    result = {"questions": name, "trained_on": most, "max_segments": budget.max_segments, "halting": budget.halting}
    way = "every token takes all segments"
    if budget.adaptive:
        way = f"tokens halt by {budget.halting}, threshold {budget.exit_threshold:g}"
    said = f"{name}, up to {budget.max_segments} segments; {way}\n{table(found)}"
    return result | {"hops": rows, "seed": options.seed} | _origin(loaded, None), said


def _pairs(loaded: Loaded, options: TextOptions, request: Json) -> tuple[Json, str]:
    from hrm.text.measuring.best_of import compare_ranks
    from hrm.text.measuring.fresh import trained_on
    from hrm.text.measuring.pairs import Pair, evaluate_pairs, packed_pairs, pairs_of
    from hrm.text.measuring.plain import PlainModel
    from hrm.text.measuring.report import ranks_table
    from hrm.text.writing.generation import Sampling

    tokenizer, template = loaded.tokenizer, options.template or loaded.template
    if options.fresh is not None:
        source, made = None, _fresh(loaded, options)[: options.limit]
        pairs = [Pair(chat.chat_prompt(tokenizer, item[:1], template), item[1]["content"]) for item in made]
    elif options.data is None or corpus.is_packed(options.data):
        packed, source = _folder(loaded, options)
        if not isinstance(packed, Packed):
            raise UserError(f"{source} does not say what is a question and what an answer: give JSON lines")
        pairs = packed_pairs(packed, tokenizer, options.limit)
    else:
        source = Path(options.data)
        pairs = pairs_of(source, tokenizer, template, options.limit, _way(options))
    if known := trained_on(loaded, [pair.prompt for pair in pairs]):
        said = f"{known:,} of the {len(pairs):,} questions were trained on"
        print(f"{said}: exact match says more of memory than of skill", file=sys.stderr)
    with share("", Console(stderr=True)) as report:
        how = {"progress": report, "batch_size": options.batch_size, **request}
        if options.best_of > 1 and not isinstance(loaded, PlainModel):
            sampling = Sampling(options.max_new_tokens, options.temperature, seed=options.seed)
            result = compare_ranks(loaded.model, tokenizer, pairs, options.best_of, sampling, **how)
        else:
            sampling = Sampling(options.max_new_tokens, greedy=True)
            result = evaluate_pairs(loaded.model, tokenizer, pairs, sampling=sampling, **how)
    result |= ({} if known is None else {"trained_on": known}) | _origin(loaded, source)
    if "best_of" in result:
        return result, ranks_table(result)
    told = {name: value for name, value in result.items() if name != "answers"}
    return result, facts.lines(told, lambda name: name in _SHARES)


def _puzzles(loaded: Loaded, options: TextOptions, request: Json) -> tuple[Json, str]:
    from hrm.posed import evaluate_posed, pose

    assert options.data is not None
    posed, found, lines = pose(options.data), dict[str, Json](), list[str]()
    for shots in options.shots:
        with share(f"{shots} shots", Console(stderr=True)) as report:
            how = {"progress": report, "batch_size": options.batch_size, "seed": options.seed, **request}
            row = evaluate_posed(loaded.model, loaded.tokenizer, posed, shots, options.limit, **how)
        found[str(shots)] = row
        low, high = row["solved_interval"]
        solved = f"{row['solved']:.1%} of {row['n']:,} puzzles solved ({low:.1%} to {high:.1%})"
        lines.append(f"{shots} {'shot' if shots == 1 else 'shots'}: {solved}, {row['fits']:.1%} fit the context")
    return {"shots": found, "shots_from": "other puzzles"} | _origin(loaded, Path(options.data)), "\n".join(lines)


def _fresh(loaded: Loaded, options: TextOptions) -> list[chat.Messages]:
    """Questions that the run has not seen; says how many were left out because it has."""
    from hrm.text.measuring.fresh import fresh_questions

    items, out = fresh_questions(loaded, options.fresh or 0, options.seed)
    more = f"{out:,} more were made that the run was trained on or held out, and left out"
    print(f"{len(items):,} fresh questions; {more}", file=sys.stderr)
    return items


def _wanted(options: TextOptions) -> tuple[Sequence[str], Path | None]:
    """The names given to --tasks, and the folder with local ones, where there is one."""
    from hrm.text.measuring.tasks import names

    folder = options.data_folder
    if folder is None and (data := os.environ.get("HRM_DATA")):
        folder = Path(data) / "eval_tasks"
    wanted: Sequence[str] = options.tasks
    if wanted == ("all",):
        if folder is None:
            where = "name their folder with --data-folder, or its parent in HRM_DATA"
            raise UserError(f"--tasks all reads local files: {where}")
        wanted = sorted(names(folder))
    return wanted, folder if options.data_folder or (folder and folder.is_dir()) else None


def _tasks(loaded: Loaded, options: TextOptions, request: Json) -> tuple[Json, str]:
    from importlib.metadata import version

    from hrm.core import devices
    from hrm.text.measuring.report import tasks_table
    from hrm.text.measuring.subject import longest
    from hrm.text.measuring.suite import measure_tasks, open_tasks

    wanted, folder = _wanted(options)
    asked = open_tasks(wanted, folder)
    for task in asked.values():
        for count in options.shots:
            task.check(count)
    found: Json = {}
    for name, task in asked.items():
        with share(name, Console(stderr=True)) as report:
            how = {"progress": report, "batch_size": options.batch_size, **request}
            found |= measure_tasks(loaded.model, loaded.tokenizer, task, options.shots, options.limit, **how)
    rows = [row for task in found.values() for row in task["shots"].values()]
    result: Json = {"n": sum(row["n"] for row in rows), "tasks": found, "shots": list(options.shots)}
    result |= {"scored_by": f"lm-eval {version('lm-eval')}", "seconds": sum(row["seconds"] for row in rows)}
    result |= {"device": str(loaded.model.device), "dtype": devices.named(loaded.model.dtype)}
    result |= {"checkpoint": loaded.name, "data": None if folder is None else str(folder)}
    return result, tasks_table(found, longest(loaded.model, loaded.tokenizer))


@contextmanager
def text_to_measure(
    loaded: Loaded, options: TextOptions, count: Callable[[int], object]
) -> Iterator[tuple[Tokens | Hops, Path | None]]:
    """The text to measure on, packed into a temporary folder where it is not yet, and where it came from; `count` hears
    of the words of a set of words."""
    tokenizer, source = loaded.tokenizer, options.data
    if loaded.run is not None and loaded.run.config.text.kind == "hops":
        if source is None:
            from hrm.text.training.source import made as made_of

            yield made_of(loaded.run.config, held_out=True, alone=True), None
            return
        if source in made.TASKS and not Path(source).exists():
            name = loaded.run.config.data
            raise UserError(f"{options.run} makes its questions of {name} by itself: leave --data out")
    if options.fresh is None and (source is None or corpus.is_packed(source)):
        if options.words:
            raise UserError(f"{source} holds tokens: --words wants the text of the set")
        yield _folder(loaded, options)
        return
    if source is None:
        items = chat.examples(tokenizer, _fresh(loaded, options), options.template or loaded.template)
    elif chat.are_conversations(source, options.encoding):
        items = chat.examples(tokenizer, chat.conversations(source, _way(options)), options.template or loaded.template)
    else:
        documents: Iterable[str] = corpus.documents(source, options.field, way=_way(options))
        if options.words:
            from hrm.text.measuring.words import joined

            documents = joined(documents, options.words, count)
        items = corpus.encode(tokenizer, documents)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Packed.write(Path(folder) / "packed", tokenizer, items), Path(source) if source else None


def _way(options: TextOptions) -> ReadOptions:
    return ReadOptions(lambda sentence: print(sentence, file=sys.stderr), options.encoding)


def _folder(loaded: Loaded, options: TextOptions) -> tuple[Tokens, Path]:
    """A packed folder, or what the run held out."""
    held = loaded.held_out
    if options.data is None and (many := len(held)) > 1:
        raise UserError(f"{options.run} held out a part of each of its {many} books: name one, as --data {held[-1]}")
    source = Path(options.data) if options.data else held[0] if held else None
    if source is None or not source.is_dir():
        raise UserError(f"{options.run} holds no text to measure on: name some with --data")
    packed = corpus.open_text(source, loaded.tokenizer, options.split)
    return packed, packed.folder


def _origin(loaded: Loaded, source: Path | None) -> dict[str, str | None]:
    if source is None:
        return {"checkpoint": loaded.name, "data": "fresh"}
    return {"checkpoint": loaded.name, "data": str(source), "data_sha256": data_sha256(source)}
