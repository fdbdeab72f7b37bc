"""Tasks of multiple choice, last words and minimal pairs from local JSON lines, as lm-eval asks them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from hrm.files.reading import UserError, lines_of, nearest, needs, parsed, quoted, reading, shown
from hrm.files.records import Json

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.xz")
ANSWER = ("piqa", "arc_easy", "arc_challenge", "boolq")
"""Tasks whose questions end in "Answer:" on a new line, as in LLM Foundry; the others' in themselves."""
_CHOICE: Json = {
    "output_type": "multiple_choice",
    "doc_to_text": "query",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [
        {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm", "acc_bytes")
    ],
}
FORMS: dict[str, Json] = {
    "choices": _CHOICE,
    "sentences": _CHOICE | {"target_delimiter": ""},
    # One continuation after several contexts: lm-eval wants the right one's number as the text.
    "contexts": _CHOICE
    | {"doc_to_text": "gold", "doc_to_target": "continuation", "metric_list": _CHOICE["metric_list"][:1]},
    "continuation": {
        "output_type": "loglikelihood",
        "doc_to_text": "context",
        "doc_to_target": "continuation",
        "target_delimiter": "",
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
        ],
    },
    "number": {
        "output_type": "generate_until",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 32, "do_sample": False},
        "filter_list": [
            {
                "name": "none",
                "filter": [
                    {"function": "regex", "regex_pattern": r"-?\d[\d,]*(?:\.\d+)?", "group_select": 0},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [
            {
                "metric": "exact_match",
                "aggregation": "mean",
                "higher_is_better": True,
                "regexes_to_ignore": [",", r"\.0+$"],
            }
        ],
    },
}
"""How lm-eval asks rows of each form: its own settings, over the fields that `load` gives them."""


class Rows(NamedTuple):
    """The rows of a task, which are all of one form of `FORMS`."""

    form: str
    rows: list[Json]


def names(folder: Path) -> dict[str, Path]:
    """The tasks of a folder: a file of JSON lines each."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: --data-folder wants the one with the tasks' .jsonl files")
    return {
        path.name[: -len(ending)]: path
        for ending in ENDINGS
        for path in sorted(folder.iterdir())
        if path.name.endswith(ending)
    }


def is_file(name: str) -> bool:
    """Whether a name is the path of a task file or folder of lm-eval's form."""
    return Path(name).is_dir() or Path(name).suffix == ".yaml"


# What lm-eval's files of settings call a task, a group or a tag, and the members of a group.
_NAMED = re.compile(rb"^(?:\W?(?:task|group|tag)\W?[ \t]*:|[ \t]*-)[ \t\[]+[\"']?(\w[^\s\"',#\[\]]*)", re.MULTILINE)
_OTHERS = (".py", ".pyc", ".md", ".sh", ".json")


def check_names(wanted: Sequence[str], folder: Path | None = None) -> None:
    """UserError for a name that neither `folder` nor lm-eval has a task of. Lm-eval's files are only searched for it,
    which takes a second; to make its index of them takes half a minute."""
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(needs("measuring tasks", "lm-eval", "eval"))
    known = names(folder) if folder is not None else {}
    asked = [name for name in wanted if name not in known and not is_file(name)]
    if not asked:
        return
    word = re.compile(rb"(?<![\w-])(?:%b)(?![\w-])" % b"|".join(re.escape(os.fsencode(name)) for name in asked))
    named, found = set[bytes](), set[bytes]()
    for path in Path(spec.submodule_search_locations[0], "tasks").rglob("*"):
        if path.suffix not in _OTHERS and path.is_file():
            content = path.read_bytes()
            named.update(_NAMED.findall(content))
            found.update(word.findall(content))
    for name in asked:
        if os.fsencode(name) not in found:
            raise unknown(name, folder, known, [other.decode("utf-8", "replace") for other in named])


def unknown(name: str, folder: Path | None, known: Iterable[str], others: Iterable[str]) -> UserError:
    """What is said of a name of no task; `known` are those of the folder, `others` lm-eval's."""
    where = f"{folder} and lm-eval have" if folder is not None else "lm-eval has"
    alike = sorted(others, key=lambda other: (other[:2] != name[:2], other))  # only the first 2,000 are compared
    near = nearest(name, known) or nearest(name, alike)
    return UserError(f"{where} no task '{name}'{near or ': see lm-eval ls tasks'}")


def load(name: str, path: Path) -> Rows:
    """The rows of a task's file; UserError with file and line for one of no known form, or not of the first one's."""
    form, rows = "", []
    for number, line in enumerate(lines_of(path), 1):
        if line.strip():
            where = f"{path}, line {number}"
            own, row = _row(name, line, where)
            if form not in ("", own):
                raise UserError(f"{where}: its form differs from that of the rows before: split the file")
            form = own
            rows.append(row)
    if not rows:
        raise UserError(f"{path} holds no items")
    return Rows(form, rows)


def _row(name: str, line: bytes, where: str) -> tuple[str, Json]:
    row = parsed(line, where, "fetch the file again")
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object with fields: fetch the file again")
    with reading(where, "fetch the file again"):
        form, made = _formed(row, "\nAnswer:" if name in ANSWER else "")
    if not form:
        raise UserError(f"{where}: a row with {shown(row)} is of no known form: see docs/text-measuring.md")
    many = made.get("choices", ["-"])
    if "gold" in made and not 0 <= made["gold"] < len(many):
        raise UserError(f"{where}: choice {made['gold']} is none of {len(many)}: fetch the file again")
    texts = [*many, *(value for key, value in made.items() if key not in ("choices", "gold"))]
    if not all(isinstance(text, str) for text in texts) or not all(many):
        raise UserError(f"{where}: what is asked and answered must be text: fetch the file again")
    return form, made


def _formed(row: Json, asked: str) -> tuple[str, Json]:
    """The form of a row, and its fields as lm-eval is told to read them; "" for fields of no known form."""
    if "sentence_good" in row:
        pair = [row["sentence_good"], row["sentence_bad"]]
        return "sentences", {"query": "", "choices": pair, "gold": 0, "group": str(row.get("UID", ""))}
    if "endings" in row:
        return "choices", {"query": row["ctx"], "choices": _list(row["endings"]), "gold": _which(row["label"])}
    if "choices" in row:
        return "choices", {
            "query": row["query"] + asked,
            "choices": _list(row["choices"]),
            "gold": _which(row["gold"]),
        }
    if "context_options" in row:
        contexts = _list(row["context_options"])
        return "contexts", {"choices": contexts, "continuation": row["continuation"], "gold": _which(row["gold"])}
    if "continuation" in row:
        return "continuation", {"context": row["context"] + asked, "continuation": " " + row["continuation"]}
    if "answer" in row:
        question, answer = row.get("context") or row["question"], row["answer"]
        if not math.isfinite(float(answer)):
            raise ValueError(f"{answer} is no number")
        return "number", {"question": f"Q: {question}\nA:", "answer": str(answer)}
    return "", {}


def _list(value: object) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"{quoted(value)} is no list of choices")
    return value


def _which(value: object) -> int:
    """The number of a choice, as a number or in digits."""
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, str) and value.isdecimal())):
        raise ValueError(f"{quoted(value)} is no number of a choice")
    return int(value)
