"""Flags of a verb: a frozen dataclass of options, read by tyro, with one-sentence errors and help in plain text.

    options = parse("solve", Options, args, example="hrm solve runs/sudoku puzzles.csv")

The string below a field is its help. A verb that takes every setting of a run has the field `config: Settings =
field(default_factory=Config)` and passes `base`, which says where the settings start:

    options = parse("train", Options, args, example="hrm train sudoku-4x4 --optim.lr 1e-3",
                    main=("optim.lr", "train.steps"), base=lambda options: load_preset(options.preset))

Flags override `base(options)`, and `options.config` has passed `hrm.settings.check`. A verb with actions
(`hrm data build ...`) ends in `return choose("data", {"build": build, "check": check}, args)`.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import io
import itertools
import os
import re
import shlex
import shutil
import sys
import textwrap
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import Positional as Positional

from hrm.files.ranges import ABOVE_ZERO, BELOW_ONE, MANY, Range
from hrm.files.reading import UserError, nearest
from hrm.puzzles.config import Config, Strategy
from hrm.settings import check, describe, fit, lay_over, load_preset, without_lists
from hrm.text import names
from hrm.text.config import PAIRS, Decoding, LearnConfig, TextConfig

T = TypeVar("T")
Settings = Annotated[Config, tyro.conf.arg(name="")]
"""All settings of a run as flags without a prefix: --arch.l-cycles, not --config.arch.l-cycles."""
TextSettings = Annotated[TextConfig, tyro.conf.arg(name="")]
"""All settings of a text run, likewise."""
Tries = Annotated[Strategy, tyro.conf.arg(name="")]
"""What is tried at test time, as flags without a prefix; --help shows those of TRIES."""
Draws = Annotated[Decoding, tyro.conf.arg(name="")]
"""How text is drawn, as flags without a prefix; --help shows all of them with DRAWS."""


@dataclass(frozen=True)
class Device:
    """Where a model runs, and how precisely."""

    device: str | None = None
    """cpu, cuda, mps ...; default: the accelerator, if there is one."""
    precision: str | None = None
    """float32, bfloat16 or float16; default: as in training."""


@dataclass(frozen=True)
class Machine(Device):
    """The same, with the threads of a CPU."""

    threads: int = 0
    """On a CPU; 0: one for a small model, else as many as cores are free. OMP_NUM_THREADS overrides it."""


OnDevice = Annotated[Device, tyro.conf.arg(name="")]
"""The flags of Device without a prefix; --help shows them with DEVICE."""
OnMachine = Annotated[Machine, tyro.conf.arg(name="")]
"""The flags of Machine without a prefix; --help shows them with MACHINE."""
DEVICE, MACHINE = (tuple(item.name for item in fields(kind)) for kind in (Device, Machine))
_NO_SUCH = "; --help-all lists all flags"
_WRITTEN = ("out", "html", "gif")
"""Flags for what is written, also where they are text."""
_MAY_BE_EMPTY = ("prompt", "stop")
"""Text that is no name; what an empty one means is said where it is used."""
DRAWS = tuple(item.name for item in fields(Decoding) if item.name != "min_p")
TRIES = ("max_segments", "restarts", "views", "guesses", "budget", "stop")


class Option(NamedTuple):
    """One flag or positional argument; `default` is MISSING where a value must be given."""

    name: str
    kind: Any
    default: Any
    doc: str
    positional: bool
    range: Range | None = None
    """Of a setting; those of flags of verbs are below."""

    @property
    def flag(self) -> str:
        return self.name.upper() if self.positional else "--" + self.name.replace("_", "-")

    @property
    def off(self) -> str:
        """The flag that turns a switch off: --arch.no-hierarchy."""
        group, dot, last = self.flag[2:].rpartition(".")
        return f"--{group}{dot}no-{last}"


def parse(
    verb: str,
    options: type[T],
    args: Sequence[str],
    *,
    example: str,
    main: Collection[str] = (),
    rare: Collection[str] = (),
    base: Callable[[T], Config | TextConfig | LearnConfig] | None = None,
    preset: str = "",
) -> T:
    """The options that `args` set; UserError for whatever is wrong. Prints help and raises SystemExit(0) when asked: it
    shows the settings in `main` and the verb's own flags except the `rare` ones. `base` gives the settings to start
    from, `preset` their name for --help."""
    if {"-h", "--help", "--help-all"} & set(args):
        print(help_text(verb, options, example, main, rare, "--help-all" in args, preset))
        raise SystemExit(0)
    known = list(options_of(options))
    args = _json_file(known, _typed_settings(known, args))
    _check_switches(known, args)
    values = _places(_read(verb, options, args, None), args)
    for option in options_of(options, values=values):
        if (allowed := range_of(option, verb)) is not None:
            allowed.check(option.name, option.default)
    if base is not None:
        below: Any = base(values)
        below = below.under({"model": getattr(values.config, "model", None)})  # type: ignore[attr-defined]
        values: Any = _read(verb, options, args, replace(values, config=without_lists(below)))  # type: ignore[type-var]
        values = _places(replace(values, config=lay_over(below, values.config)), args)
        check(values.config)
    return values


def choose(verb: str, actions: Mapping[str, Callable[[list[str]], int]], args: Sequence[str]) -> int:
    """Run the named action; help lists each action with the first line of its docstring."""
    if not args or args[0] in ("-h", "--help", "--help-all"):
        print(f"usage: hrm {verb} ACTION ...\n")
        width = shutil.get_terminal_size().columns
        for name, action in actions.items():
            print(*entry(name, (action.__doc__ or "").splitlines()[0], 13, width), sep="\n")
        print(f"\n`hrm {verb} ACTION --help` shows the flags of an action.")
        return 0 if args else 2
    if args[0] not in actions:
        raise UserError(f"unknown action '{args[0]}'{nearest(args[0], actions) or ': use ' + ', '.join(actions)}")
    return actions[args[0]](list(args[1:]))


def first_named(kinds: Sequence[type], args: Sequence[str]) -> str:
    """The first argument that is neither a flag of these classes nor a flag's value; "" if there is none."""
    flags = {option.flag: option for kind in kinds for option in options_of(kind) if not option.positional}
    words = list(args)
    while words:
        word = words.pop(0)
        if not re.match(r"-[^\d.]", word):
            return word
        option = flags.get(word.replace("_", "-"))
        _values(words, 0 if option is None else _arity(option.kind)[1])
    return ""


def options_of(options: type, prefix: str = "", values: Any = None) -> Iterator[Option]:
    """All options of a dataclass in order, nested ones included; `values` overrides the defaults."""
    kinds, docs = get_type_hints(options, include_extras=True), _docs(options)
    for item in fields(options):
        kind, marks = kinds[item.name], ()
        if get_origin(kind) is Annotated:
            kind, *marks = get_args(kind)
        default = item.default if item.default_factory is MISSING else item.default_factory()
        default = default if values is None else getattr(values, item.name)
        if is_dataclass(kind):
            # Settings carry no prefix of their own; their groups do.
            yield from options_of(kind, prefix if marks else f"{prefix}{item.name}.", default)  # type: ignore[arg-type]
        else:
            allowed, doc = next((mark for mark in marks if isinstance(mark, Range)), None), docs.get(item.name, "")
            yield Option(prefix + item.name, kind, default, doc, tyro.conf.Positional in marks, allowed)


def help_text(
    verb: str,
    options: type,
    example: str,
    main: Collection[str] = (),
    rare: Collection[str] = (),
    everything: bool = False,
    preset: str = "",
) -> str:
    """The help of a verb: usage, description, an example, and the main flags or all of them. Defaults are those of
    `preset`."""
    values: Any = None
    with contextlib.suppress(UserError):
        if preset:
            named = {"preset": preset} if "preset" in {item.name for item in fields(options)} else {}
            values = replace(at := options(**named), config=load_preset(preset, type(at.config)))
    # Positional and required ones first, which a class derived from another cannot say by its order.
    known = sorted(options_of(options, values=values), key=lambda o: (not o.positional, o.default is not MISSING))
    own = {item.name for item in fields(options)} - set(rare)
    shown = [option for option in known if everything or option.name in own or option.name in main]
    asked = [option for option in known if option.positional]
    usage = [option.flag if option.default is MISSING else f"[{option.flag}]" for option in asked]
    width = shutil.get_terminal_size().columns
    first = f"usage: hrm {' '.join([verb, *usage])} [flags]"
    about = [
        line for text in (inspect.getdoc(options) or "").splitlines() for line in textwrap.wrap(text, width) or [""]
    ]
    lines = textwrap.wrap(first, width, subsequent_indent="    ", break_on_hyphens=False)
    lines += ["", *about, "", "example:", f"  {example}", ""]
    heads = [
        option.flag if option.positional else f"{option.flag} {_metavar(option.kind)}".rstrip() for option in shown
    ]
    indent = min(34, width // 2, max(map(len, heads), default=0) + 4)
    for option, head in zip(shown, heads, strict=True):
        lines += entry(head, f"{option.doc} {_default(option)}".strip(), indent, width)
    named = verb if values is None else f"{verb} {shlex.quote(preset)}"
    more = f"`hrm {named} --help-all` lists all {len(known) - len(asked)} flags. " if len(shown) < len(known) else ""
    more += "--quiet leaves only results and errors; --debug shows the traceback of an error."
    return "\n".join([*lines, "", *textwrap.wrap(more, width)])


def entry(head: str, text: str, indent: int, width: int) -> list[str]:
    """A name and its description side by side in lines of at most `width` characters, or one below the other."""
    body = textwrap.wrap(text, max(20, width - indent), break_on_hyphens=False) or [""]
    lines = textwrap.wrap(head, width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
    if len(lines) == 1 and len(lines[0]) < indent:
        lines = [lines[0].ljust(indent) + body.pop(0)]
    return [line.rstrip() for line in [*lines, *(" " * indent + rest for rest in body)]]


def _read(verb: str, options: type[T], args: Sequence[str], default: T | None) -> T:
    messages = io.StringIO()
    given = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.cli(options, prog=f"hrm {verb}", args=list(args), add_help=False, **given)  # type: ignore[call-overload]
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro draws a box; the person gets one sentence.
        said = _complaint(list(options_of(options)), args) or " ".join(messages.getvalue().split())
        raise UserError(_with_owner(said, verb)) from None


def _check_switches(known: Sequence[Option], args: Sequence[str]) -> None:
    """UserError for --switch=VALUE, of which the value would be read as an argument of its own."""
    switches = [option for option in known if option.kind is bool and not option.positional]
    for word in args:
        name, equals, _ = word.replace("_", "-").partition("=")
        for option in switches:
            if equals and name in (option.flag, option.off):
                raise UserError(f"{name} takes no value: use {option.flag} or {option.off}")


def _with_owner(complaint: str, verb: str) -> str:
    """A complaint about an unknown flag, with the verbs that do have the flag."""
    found = re.fullmatch(rf"unknown flag '(.+)'{_NO_SUCH}", complaint)
    if not found:
        return complaint
    from hrm.cli.completion import _words

    owners = [f"hrm {name.strip()}" for name, words in _words().items() if found[1] in words]
    owners = [name for name in owners if name != f"hrm {verb}"]
    if not owners:
        return complaint
    *first, last = owners
    have = f"{', '.join(first)} and {last} have it" if first else f"{last} has it"
    return f"{found[1]} is no flag of {verb}: {have}"


def _places(values: T, args: Sequence[str]) -> T:
    """Expand a leading ~ in output paths; UserError for an empty name."""
    changed: dict[str, Any] = {}
    for option in options_of(type(values)):  # type: ignore[arg-type]
        value, place = getattr(values, option.name, None), option.kind in (Path, Path | None)
        given = "" in args or f"{option.flag}=" in args
        empty = value == "" or (value == Path() and place) or (isinstance(value, tuple) and "" in value)
        if given and empty and option.name not in _MAY_BE_EMPTY:
            named = place or option.positional or option.name in _WRITTEN
            raise UserError(f"{option.flag} is empty: {'name a file or folder' if named else 'leave it out'}")
        if (place or option.name in _WRITTEN) and str(value).startswith("~"):
            home = os.path.expanduser(str(value))
            changed[option.name] = Path(home) if isinstance(value, Path) else home
    return replace(values, **changed)  # type: ignore[type-var]


def _json_file(known: Sequence[Option], args: Sequence[str]) -> list[str]:
    """Translate the older form `--json FILE` for verbs that have --json-file now."""
    args = list(args)
    if "--json-file" not in {option.flag for option in known}:
        return args
    for i, arg in enumerate(args):
        flag, equals, file = arg.partition("=")
        after = args[i + 1 : i + 2]
        if flag != "--json" or not (equals or after):
            continue
        if not equals:
            file = after[0]
            rest = args[:i] + args[i + 2 :]
            # Not a word that the verb itself still needs: hrm eval --json RUN.
            taken = file.startswith("--") or (_complaint(known, rest) or "").partition(" ")[0].isupper()
            if file != "-" and not file.endswith(".json") and taken:
                continue
        new = ["--json"] if file == "-" else ["--json-file", file]
        print(f"--json is a switch now: read as {' '.join(new)}", file=sys.stderr)
        return args[:i] + new + args[i + (1 if equals else 2) :]
    return args


def _typed_settings(known: Sequence[Option], args: Sequence[str]) -> list[str]:
    """Translate the older form `--settings NAME=VALUE ...` of text models into flags."""
    args, flags = list(args), {option.flag for option in known}
    if "--settings" in flags or "--arch.prefix-lm" not in flags:
        return args
    new: list[str] = []
    while args:
        word, equals, value = args.pop(0).partition("=")
        if word != "--settings":
            new.append(word + equals + value)
            continue
        changes = [value] if equals else []
        while args and not args[0].startswith("--"):
            changes.append(args.pop(0))
        if not changes or not all(changes):
            raise UserError("--settings needs NAME=VALUE, such as max_segments=4; today --halting.max-segments 4")
        places = names.typed(changes)
        given = names.shown({place: value for place, value in places.items() if value is not None})
        print(f"--settings is an older form: read as {shlex.join(given)}", file=sys.stderr)
        new += names.shown(places)
    return new


def _complaint(known: Sequence[Option], args: Sequence[str]) -> str | None:
    """What is wrong with the arguments; None if nothing is."""
    positionals = [option for option in known if option.positional]
    flags = {option.flag: option for option in known if not option.positional}
    flags |= {option.off: option for option in flags.values() if option.kind is bool}
    missing = [option for option in known if option.default is MISSING]
    words = list(args)
    while words:
        word = words.pop(0)
        values: list[str] = []
        if re.match(r"-[^\d.]", word):
            name, equals, value = word.partition("=")
            name = name.replace("_", "-")
            if name not in flags:
                ours = names.here(name.rpartition(".")[2].removeprefix("--").replace("-", "_")) or ""
                ours = "--" + ours.replace("_", "-")
                return f"unknown flag '{name}'{f': use {ours}' if ours in flags else nearest(name, flags) or _NO_SUCH}"
            option = flags[name]
            values = [value] if equals else []
        elif positionals:
            option = positionals[0]
            name, values = option.flag, [word]
        else:
            return f"unexpected argument '{word}'; a flag starts with --"
        least, most = _arity(option.kind)
        values += _values(words, most - len(values))
        if len(values) < least:
            return f"{name} needs {_describe(option.kind)}"
        try:
            fit(*_typed(option.kind, values))
        except ValueError as error:
            return f"{name} {str(error).replace(' or null', ' or None')}"
        if option.positional:
            positionals.pop(0)
        missing = [other for other in missing if other is not option]
    return f"{missing[0].flag} is missing: {_sentence(missing[0].doc)}" if missing else None


def _values(words: list[str], most: int) -> list[str]:
    """Take up to `most` values of a flag from the front of `words`."""
    count = next((i for i, word in enumerate(words[:most]) if word.startswith("--")), len(words[:most]))
    taken, words[:] = words[:count], words[count:]
    return taken


def _typed(kind: Any, words: Sequence[str]) -> tuple[Any, Any]:
    """A type, and the words converted to the values they look like, for `fit`."""
    if get_origin(kind) in (Union, types.UnionType):
        inner = next(argument for argument in get_args(kind) if argument is not types.NoneType)
        return (kind, None) if list(words) == ["None"] else _typed(inner, words)
    if get_origin(kind) is tuple:
        members = itertools.cycle(_members(kind))
        return kind, [_typed(member, [word])[1] for member, word in zip(members, words, strict=False)]
    if get_origin(kind) is Literal:
        return kind, next((known for known in get_args(kind) if str(known) == words[0]), words[0])
    if kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind, kind(words[0])
    return (str if kind is Path else kind), (True if kind is bool else words[0])


def _members(kind: Any) -> tuple[Any, ...]:
    return tuple(member for member in get_args(kind) if member is not ...)


def _arity(kind: Any) -> tuple[int, int]:
    """How many words a value takes: at least and at most."""
    if kind is bool:
        return 0, 0
    if get_origin(kind) is tuple:
        count = len(get_args(kind))
        return (0, 1_000_000) if get_args(kind)[-1] is ... else (count, count)
    return 1, 1


def _describe(kind: Any) -> str:
    return describe(kind).replace(" or null", " or None")


def _metavar(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return _metavar(next(argument for argument in get_args(kind) if argument is not types.NoneType))
    if get_origin(kind) is tuple:
        members = " ".join(_metavar(member) for member in _members(kind))
        return f"[{members} ...]" if get_args(kind)[-1] is ... else members
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    return {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH", bool: ""}[kind]


def _default(option: Option) -> str:
    default = option.default
    if default is MISSING or default is None or default is False or default == ():
        return ""
    if default is True:
        return f"(on; {option.off} turns it off)"
    values = default if isinstance(default, tuple) else (default,)
    return "(" + " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values) + ")"


def _sentence(doc: str) -> str:
    return doc[:1].lower() + doc[1:].rstrip(".")


@functools.cache
def _docs(options: type) -> dict[str, str]:
    """The string below each field, including fields of base classes."""
    bases = [base for base in options.__bases__ if is_dataclass(base)]
    inherited = {name: doc for base in bases for name, doc in _docs(base).items()}
    body = ast.parse(textwrap.dedent(inspect.getsource(options))).body[0].body  # type: ignore[attr-defined]
    return inherited | {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def range_of(option: Option, verb: str) -> Range | None:
    """The range of a setting or flag; None if it has none."""
    return option.range or _RANGES.get(f"{verb}.{option.name}", _RANGES.get(option.name))


_RANGES: dict[str, Range] = {
    "seed": Range(0, MANY), "max_new_tokens": Range(1, 10**7), "temperature": Range(ABOVE_ZERO, 1000),
    "top_k": Range(0, 10**9), "top_p": Range(ABOVE_ZERO, 1), "min_p": Range(0, 1),
    "repetition_penalty": Range(0.01, 100),
    "max_segments": Range(1, 100_000), "batch_size": Range(1, 1 << 16), "best_of": Range(1, 10_000),
    "block": Range(200, 10**6), "box": Range(2, 8), "characters": Range(1, 10**8), "copies": Range(1, 100_000),
    "count": Range(1, MANY), "delay": Range(0, 60), "price": Range(0, 10**6), "exit_threshold": Range(-(10**6), 10**6),
    "fresh": Range(1, 10**7), "largest": Range(1, 30), "length": Range(2, 1 << 20), "limit": Range(1, MANY),
    "memory": Range(2, MANY), "min_characters": Range(0, 10**9), "min_path": Range(1, 1 << 20),
    "puzzles": Range(1, 10**9), "row": Range(1, MANY), "rows": Range(2, 1 << 20), "schedule": Range(1, 1000),
    "segments": Range(1, 1000), "shape": Range(1, 1024), "size": Range(1, 1024), "skip": Range(0, MANY),
    "steps": Range(1, 10**9), "stride": Range(1, 1 << 20), "tasks": Range(1, 10**6), "test": Range(0, 10**9),
    "shots": Range(0, 10_000), "threads": Range(0, 1024), "workers": Range(0, 4096),
    "top_k_table": Range(1, 10**6), "vocabulary": Range(2, 1_000_000), "data pack.holdout": Range(0, BELOW_ONE),
    "port": Range(0, 65_535), "max_concurrent": Range(1, 4096), "max_waiting": Range(1, 1 << 20),
    "request_seconds": Range(ABOVE_ZERO, 10**6), "grace_seconds": Range(0, 10**5),
    "weights_gb": Range(ABOVE_ZERO, 10**6), "max_tokens": Range(1, 10**6),
    "data tokenizer.vocabulary": PAIRS, "generate.max_segments": Range(1, 1000),
    "analyze text.max_segments": Range(1, 1000),
}  # fmt: skip
"""Of flags that several verbs have; where one name means two things, the verb stands before it."""
