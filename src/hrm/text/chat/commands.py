"""What can be said to the program instead of to the model: /help, /mode deep, /save FILE."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hrm.files.reading import UserError, nearest, quoted, yaml_of
from hrm.settings import fit
from hrm.text.chat import modes
from hrm.text.chat.session import STOPS, Session

SWITCH = ("on", "off")


class Quit(Exception):
    """The person wants to leave."""


@dataclass
class CommandContext:
    """What commands work on; `progress` gets the share of a measurement that is done, in [0, 1]."""

    session: Session
    progress: Callable[[float], None] | None = None
    known: modes.Modes | None = None
    """The measured scores of the modes."""
    compared: bool = False


@dataclass(frozen=True)
class Command:
    """A command: its argument in words, what it does, and the words it may take (`files`: names of files)."""

    argument: str
    does: str
    run: Callable[[CommandContext, str], str]
    words: tuple[str, ...] = ()
    files: bool = False
    needs: bool = field(default=False, kw_only=True)


def run(talk: CommandContext, line: str) -> str:
    """Run a command and return what to print. UserError for an unknown one or a wrong argument."""
    name, _, argument = line.removeprefix("/").strip().partition(" ")
    name = name.replace("_", "-")
    name, meant = ALIASES.get(name, (name, ""))
    argument = f"{meant} {argument}".strip()
    if name not in COMMANDS:
        near = nearest(f"/{name}", [f"/{known}" for known in (*COMMANDS, *ALIASES)])
        raise UserError(f"there is no command {quoted('/' + name)}{near or '; see /help'}")
    command, argument = COMMANDS[name], argument.strip()
    if argument and not command.argument:
        raise UserError(f"/{name} takes nothing after it, not {quoted(argument)}")
    if not argument and command.needs:
        raise UserError(f"/{name} needs {command.argument}")
    return command.run(talk, argument)


def is_command(line: str) -> bool:
    """Whether a line is a command: / and a word, or `mode deep` alone; two slashes begin a text with one."""
    words = line.split()
    mode = len(words) == 2 and words[0] == "mode" and words[1] in COMMANDS["mode"].words
    return mode or (line.startswith("/") and not line.startswith("//"))


def complete(line: str) -> Iterator[str]:
    """Completions of a command that is being typed, as whole lines; file names are completed by the terminal."""
    name, space, argument = line.partition(" ")
    if not space:
        yield from (f"/{known}" for known in COMMANDS if f"/{known}".startswith(name))
    elif command := COMMANDS.get(name[1:]):
        yield from (f"{name} {word}" for word in command.words if word.startswith(argument))


def mode_notice(talk: CommandContext, measure: bool = True) -> str | None:
    """What the run's held-out text says of the present mode, measured now if it was not yet; None: nothing."""
    session = talk.session
    mode = session.settings.mode
    if len(session.modes) == 1:
        return None
    if talk.known is None:
        talk.known = modes.known_modes(session.loaded)
    if talk.known is None and not talk.compared and measure:
        talk.compared = True
        try:
            talk.known = modes.measure_modes(session.loaded, talk.progress)
        except UserError as error:
            return None if mode == "auto" else str(error)
        except KeyboardInterrupt:
            return "the modes were not compared"
    if talk.known is None:
        return None
    session.know(talk.known)
    return modes.warning(mode, talk.known)


def status(talk: CommandContext) -> str:
    """Run, model, mode, settings and memory."""
    session = talk.session
    loaded, model, settings, conversation = session.loaded, session.model, session.settings, session.conversation
    sampling = settings.sampling
    drawn = "the likeliest token" if sampling.greedy else f"temperature {sampling.temperature:g}"
    more = [
        f"top-k {sampling.top_k}" if sampling.top_k else "",
        f"top-p {sampling.top_p:g}" if sampling.top_p < 1 else "",
        f"min-p {sampling.min_p:g}" if sampling.min_p else "",
        f"repetition penalty {sampling.repetition_penalty:g}" if sampling.repetition_penalty != 1 else "",
        f"seed {sampling.seed}",
    ]
    stop = {
        "natural": f"at a sentence end after {settings.min_characters} characters, or {sampling.max_new_tokens} tokens",
        "length": f"after {sampling.max_new_tokens} tokens",
        "unlimited": "at Ctrl-C",
    }[settings.stop]
    said, unit = len(conversation.messages), "messages" if conversation.talks else "tokens"
    shown = [name for name in ("trace", "debug") if getattr(settings, name)]
    rows = {
        "model": f"{loaded.name}, {sum(p.numel() for p in model.parameters()):,} parameters",
        "runs on": f"{model.device}, {str(model.dtype).removeprefix('torch.')}",
        "mode": f"{settings.mode}: {describe(session, settings.mode)}",
        "draws": ", ".join(filter(None, (drawn, *more))),
        "stops": f"{stop}, or where the model ends",
        "memory": f"{session.remembered:,} of {conversation.most:,} tokens, "
        f"{conversation.forgotten:,} {unit} forgotten, {session.cache_bytes / 1024:,.0f} KiB of keys and values",
        "said": f"{said} message{'' if said == 1 else 's'}, {len(conversation.text):,} characters",
        "form": "questions and answers" if conversation.talks else "a running text, which the model continues",
        "shows": ", ".join(shown) or "the text alone",
    }
    return "\n".join(f"{name:<10}{value}" for name, value in rows.items())


def describe(session: Session, mode: str) -> str:
    """A mode in words."""
    same = [other for other, request in session.modes.items() if other != mode and request is session.modes[mode]]
    if mode == "auto" and same:
        return f"as {same[0]}, the best for its time on this run's held-out text: {describe(session, same[0])}"
    budget = session.model.budget(**session.modes[mode])
    schedule = f"{budget.schedule.h_cycles}x{budget.schedule.l_cycles}"
    if not session.model.config.hierarchy:
        return "a plain Transformer, one pass"
    if not budget.adaptive:
        return f"schedule {schedule}, {budget.limit} segment{'' if budget.limit == 1 else 's'}"
    by = {"q": "the Q head says so", "kl": "the prediction settles", "change": "the state settles"}
    by |= {"readout": "the calibrated readout says that it is settled"}
    when = by.get(budget.halting, "it is sure")
    return f"schedule {schedule}, up to {budget.limit} segments, fewer where {when}"


def _help(talk: CommandContext, argument: str) -> str:
    heads = {f"/{name} {command.argument}".rstrip(): command.does for name, command in COMMANDS.items()}
    width = max(map(len, heads)) + 2
    lines = [f"{head:<{width}}{does}" for head, does in heads.items()]
    empty = "" if talk.session.conversation.talks else "Enter alone lets the model continue; "
    also = ", ".join(f"/{name} for /{f'{command} {meant}'.strip()}" for name, (command, meant) in ALIASES.items())
    keys = f"{empty}Alt-Enter begins a new line; // begins a text with a slash."
    return "\n".join(
        [*lines, f"Also {also}; mode deep without the slash. {keys}", "Ctrl-C stops an answer; Ctrl-D ends."]
    )


def _mode(talk: CommandContext, argument: str) -> str:
    session = talk.session
    if argument:
        session.change(replace(session.settings, mode=argument))
    mode = session.settings.mode
    notice = mode_notice(talk)
    return f"mode {mode}: {describe(session, mode)}" + (f"\n{notice}" if notice else "")


def _modes(talk: CommandContext, argument: str) -> str:
    session, lines = talk.session, []
    talk.known = talk.known or modes.known_modes(session.loaded)
    if talk.known is None:
        try:
            talk.known = modes.measure_modes(session.loaded, talk.progress)
        except UserError as error:
            lines.append(str(error))
    known = talk.known or {}
    session.know(known)
    for name in session.modes:
        facts = known.get(known.get(name, {}).get("takes", name), {})  # auto may be another one
        bits = f"{facts['bits_per_character']:>8.3f} bits a character  " if facts else ""
        worse = facts.get("worse_than")
        lines.append(f"{name:<9}{bits}{describe(session, name)}" + (f"; worse than {worse}" if worse else ""))
    return "\n".join(lines)


def _stop(talk: CommandContext, argument: str) -> str:
    if argument:
        talk.session.change(replace(talk.session.settings, stop=argument))  # type: ignore[arg-type]
    return f"stop {talk.session.settings.stop}"


def _number(name: str, of_sampling: bool = True) -> Callable[[CommandContext, str], str]:
    """A command that sets or shows a number or switch of the settings."""

    def change(talk: CommandContext, argument: str) -> str:
        settings = talk.session.settings
        holder: Any = settings.sampling if of_sampling else settings
        word = name.replace("_", "-")
        kind = type(getattr(holder, name))
        if argument:
            try:
                given = {"on": True, "off": False}[argument] if kind is bool else yaml_of(argument, "/" + word)
                value = fit(kind, given)
            except (ValueError, KeyError, UserError):
                wanted = {int: "a whole number", float: "a number", bool: "on or off"}[kind]
                raise UserError(f"/{word} must be {wanted}, not {quoted(argument)}") from None
            holder = replace(holder, **{name: value})
            try:
                talk.session.change(replace(settings, sampling=holder) if of_sampling else holder)
            except UserError as error:
                raise UserError(str(error).replace("--", "/")) from None
        value = getattr(holder, name)
        shown = ("off", "on")[value] if isinstance(value, bool) else f"{value:g}" if kind is float else str(value)
        return f"{word} {shown}"

    return change


def _save(talk: CommandContext, argument: str) -> str:
    file, conversation = Path(os.path.expanduser(argument)), talk.session.conversation
    conversation.save(file)
    return f"saved {len(conversation.messages)} messages in {file}"


def _load(talk: CommandContext, argument: str) -> str:
    session, file = talk.session, Path(os.path.expanduser(argument))
    session.conversation.load(file)
    said = session.conversation.messages
    shown = [f"> {m.content}" if session.conversation.talks and m.role == "user" else m.content for m in said[-6:]]
    text = ("\n" if session.conversation.talks else "").join(shown)[-600:]
    return f"{text}\nloaded {len(said)} messages of {file}".lstrip("\n")


def _clear(talk: CommandContext, argument: str) -> str:
    talk.session.clear()
    return "everything that was said is forgotten"


def _quit(talk: CommandContext, argument: str) -> str:
    raise Quit


ALIASES = {
    "temp": ("temperature", ""),
    "unlimited": ("stop", "unlimited"),
    "interactive": ("stop", "natural"),
    "exit": ("quit", ""),
}
"""Other names of commands, with the argument that they stand for."""
COMMANDS: dict[str, Command] = {
    "help": Command("", "this list", _help),
    "mode": Command(
        "MODE", "how long to think: fast, normal, deep, extreme or auto", _mode, (*modes.SCHEDULES, "auto")
    ),
    "modes": Command("", "how well each mode predicts this run's held-out text", _modes),
    "status": Command("", "run, model, mode, settings and memory", lambda talk, _: status(talk)),
    "temperature": Command("NUMBER", "below 1 prefers likely tokens, above 1 unlikely ones", _number("temperature")),
    "top-k": Command("N", "draw among the N likeliest tokens; 0: all", _number("top_k")),
    "top-p": Command("NUMBER", "draw among the likeliest tokens with this probability together", _number("top_p")),
    "min-p": Command("NUMBER", "draw among tokens at least this share as likely as the likeliest", _number("min_p")),
    "repetition-penalty": Command("NUMBER", "above 1 avoids tokens that were there", _number("repetition_penalty")),
    "greedy": Command("on|off", "always take the likeliest token", _number("greedy"), SWITCH),
    "seed": Command("N", "another seed draws other answers", _number("seed")),
    "stop": Command(
        "HOW", "natural: at a sentence end; length: after /max-new-tokens; unlimited: at Ctrl-C", _stop, STOPS
    ),
    "max-new-tokens": Command("N", "tokens of an answer, at most", _number("max_new_tokens")),
    "min-characters": Command("N", "the least before a sentence end stops", _number("min_characters", False)),
    "trace": Command("on|off", "colour depth and confidence of every token", _number("trace", False), SWITCH),
    "debug": Command("on|off", "show the likeliest tokens for every token", _number("debug", False), SWITCH),
    "save": Command("FILE", "keep what was said", _save, files=True, needs=True),
    "load": Command("FILE", "resume what was kept", _load, files=True, needs=True),
    "clear": Command("", "forget what was said", _clear),
    "quit": Command("", "end (also Ctrl-D)", _quit),
}
