"""`hrm completion bash|zsh`: a script with which a shell completes verbs, actions, presets and flags."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

from hrm.cli.options import Positional, parse
from hrm.settings import presets

_SCRIPT = """\
_hrm() {
    local words current="${COMP_WORDS[COMP_CWORD]}"
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="%s"
    else
        case "${COMP_WORDS[1]} ${COMP_WORDS[2]}" in
%s
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _hrm hrm
"""
_ZSH = """\
autoload -U +X compinit && compinit
autoload -U +X bashcompinit && bashcompinit
"""
"""zsh's own stand-in for bash's way of completing."""


@dataclass(frozen=True)
class Options:
    """Print a script for a shell that completes verbs, actions, presets and flags of hrm, and else names of files.

    bash: hrm completion bash > ~/.local/share/bash-completion/completions/hrm
    zsh: hrm completion zsh > ~/.hrm-completion, and in ~/.zshrc: source ~/.hrm-completion
    """

    shell: Positional[Literal["bash", "zsh"]]
    """bash or zsh."""


def main(args: list[str]) -> int:
    """Run the verb."""
    options = parse("completion", Options, args, example="hrm completion bash > hrm-completion")
    from hrm.cli.main import VERBS

    cases = [f'            "{name}"*) words="{" ".join(words)}" ;;' for name, words in _words().items()]
    script = _SCRIPT % (" ".join(VERBS), "\n".join(cases))
    print((_ZSH if options.shell == "zsh" else "") + script, end="")
    return 0


def _words() -> dict[str, list[str]]:
    """What may follow a verb, or a verb and its action; read from their own help, so that nothing is said twice."""
    from hrm.cli.main import VERBS

    named = presets()
    found: dict[str, list[str]] = {}
    for verb in VERBS:
        text = _help(verb)
        if "ACTION" in text.splitlines()[0]:
            actions = re.findall(r"^  (\w+)", text, re.MULTILINE)
            for action in actions:
                presets_too = named if verb == "config" and action != "list" else []
                found[f"{verb} {action}"] = [*presets_too, *_flags(verb, action)]
            found[f"{verb} "] = actions
        else:
            # Puzzles and text have flags of their own; which ones apply depends on what is named.
            text_too = {"train": ("train", "text-char"), "eval": ("text_eval",)}.get(verb)
            both = dict.fromkeys([*_flags(verb), *(_flags(*text_too) if text_too else ())])
            found[f"{verb} "] = [*(named if verb == "train" else ()), *both]
    return found


def _flags(*words: str) -> list[str]:
    return [*re.findall(r"^  (--[\w.-]+)", _help(*words), re.MULTILINE), "--help", "--quiet", "--debug"]


def _help(verb: str, *words: str) -> str:
    shown = io.StringIO()
    with redirect_stdout(shown), suppress(SystemExit):
        import_module(f"hrm.cli.{verb}").main([*words, "--help-all"])
    return shown.getvalue()
