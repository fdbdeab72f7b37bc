"""A run as a folder of the Hugging Face Hub: model, tokenizer, card and licence, and its upload."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hrm.files import names
from hrm.files.reading import UserError, json_of, nearest, quoted, reading, reason, text_of
from hrm.files.records import Json
from hrm.puzzles.config import Config
from hrm.runs import Run, durable
from hrm.text.config import is_text

LICENCES = {
    name.lower(): name
    for name in (
        "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MPL-2.0", "GPL-2.0", "GPL-3.0", "AGPL-3.0",
        "LGPL-3.0", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0",
        "CDLA-Permissive-2.0", "Unlicense",
    )
}  # fmt: skip
"""What the Hub calls the usual licences, and what SPDX calls them."""
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PLACE = re.compile(r"(?<![\w/:.<~-])(?:~?/[\w.~-]+/[^\s`'\")>]+|[A-Za-z]:\\\\?[^\s`'\")>]+)")
"""A path from the root of a disk or of a home, and no part of an address."""


class Licence(NamedTuple):
    """What others may do with a model."""

    name: str
    text: str | None = None

    @classmethod
    def of(cls, name: str, file: Path | None = None) -> Licence:
        """UserError for a licence that the Hub does not know and whose text is not given."""
        known = name.lower() in LICENCES
        if not known and (file is None or not re.fullmatch(r"[\w.+-]{1,100}", name)):
            other = nearest(name.lower(), LICENCES) or f": it is one of {', '.join(LICENCES)}"
            raise UserError(
                f"the Hub has no licence {quoted(name)}{other}; give the text of another with --licence-file"
            )
        return cls(name.lower() if known else name, None if file is None else text_of(file))

    @property
    def facts(self) -> Json:
        """What the head of a card says of it."""
        if self.name in LICENCES:
            return {"license": self.name}
        return {"license": "other", "license_name": self.name.lower(), "license_link": "LICENSE"}

    @property
    def file(self) -> str:
        """Its text, or where that is."""
        known = LICENCES.get(self.name)
        return self.text or f"SPDX-License-Identifier: {known}\n\nhttps://spdx.org/licenses/{known}.html\n"


def write(folder: Path, source: Path, name: str, licence: Licence, which: str = "best") -> list[str]:
    """Fill a new folder with all that the repository `name` is to hold; returns a sentence for each line of a kept card
    that a person should look at first. UserError for what is no model."""
    doubts: list[str] = []
    if is_text(source):
        _write_text(folder, source, name, licence, which)
        doubts = _places(source / "README.md") if not (source / "run.json").is_file() else []
    elif (source / "run.json").is_file():
        _write_puzzles(folder, source, name, licence, which)
    else:
        raise UserError(f"{source} is neither a run nor a folder that save_pretrained wrote: name one of them")
    durable.write(folder / "LICENSE", licence.file)
    for file in files(folder):
        file.chmod(0o644)
    return doubts


def _places(card: Path) -> list[str]:
    """A sentence for each line of a card with a path of a machine in it."""
    lines = names.read_text(card).splitlines() if card.is_file() else []
    found = ((number, _PLACE.search(line)) for number, line in enumerate(lines, 1))
    told = "is published with the card: change it there if it is private"
    return [f"{card}, line {number}: the path {quoted(place[0])} {told}" for number, place in found if place]


def _saved_files(source: Path) -> list[str]:
    """The files of a model that `save_pretrained` wrote, without its code and tokenizer."""
    if (source / _WEIGHTS).is_file():
        return ["config.json", _WEIGHTS]
    index = source / _INDEX
    with reading(index, "save the model again"):
        parts = sorted({*json_of(index)["weight_map"].values()})
        if not all(part == Path(part).name for part in parts):
            raise ValueError("it names files of other folders")
    return ["config.json", _INDEX, *parts]


def _write_text(folder: Path, source: Path, name: str, licence: Licence, which: str) -> None:
    from hrm.text import hrm_text, learned
    from hrm.text.load import load_text, silent
    from hrm.text.measuring.card import card_of, model_card

    if not (source / "run.json").is_file():
        loaded, card = load_text(source, which, device="cpu"), source / "README.md"
        for file in _saved_files(source):
            shutil.copy(names.regular(source / file), folder / file)
        loaded.model.write_code(folder)
        hrm_text.copy_tokenizer(source, folder)
        said = card_of(loaded, name, licence.facts, names.read_text(card) if card.is_file() else "")
    else:
        loaded = load_text(source, which, device="cpu", precision="float32")
        with silent():
            loaded.model.save_pretrained(folder)
        loaded.save_tokenizer(folder)
        if loaded.run is not None:
            said = model_card(loaded.run, name, licence.facts)
        else:
            books = learned.load(Path(loaded.name))[1].books
            rows = [
                f"- `{Path(book.name).name}`, {book.characters:,} characters, SHA-256 `{book.sha256}`" for book in books
            ]
            read = "\n".join(["It read, one after another:", "", *rows])
            said = card_of(loaded, name, licence.facts, data=read)
    durable.write(folder / "README.md", said)


def _write_puzzles(folder: Path, source: Path, name: str, licence: Licence, which: str) -> None:
    from hrm.puzzles.official import of_run, write_run

    run = Run.open(source, Config)
    model = of_run(run, which)
    shutil.rmtree(folder)
    written = write_run(folder, model, run.best)
    durable.write(
        folder / "README.md", _card(run, written, name, licence, sum(t.numel() for t in model.weights.values()))
    )


def _card(run: Run[Config], written: Run[Config], name: str, licence: Licence, numbers: int) -> str:
    """The card of a model of puzzles."""
    config, best, parts, board = run.config, written.best or {}, name.rpartition("/"), run.board
    head: Json = {**licence.facts, "library_name": "hrm", "tags": ["hrm", "puzzles", "adaptive-computation"]}
    measured = "Not measured: nothing was held out."
    if "exact_accuracy" in best:
        measured = (
            f"{best['exact_accuracy']:.2%} of {best['n']:,} held-out puzzles were solved exactly, in one attempt."
        )
    data = ", ".join(f"`{Path(part.strip()).name}`" for part in (config.data or "").split(",") if part.strip())
    listed = run.listed if isinstance(run.listed, dict) else {}
    digests = [f"| `{file}` | `{facts[1]}` |" for file, facts in sorted(listed.items()) if isinstance(facts, list)]
    table = "\n".join(["| file | SHA-256 |", "| --- | --- |", *digests]) if digests else ""
    return f"""\
---
{yaml.safe_dump(head, sort_keys=False).strip()}
---

# {parts[2]}

A hierarchical reasoning model for puzzles ({config.task.kind}) with {numbers:,} numbers: it reads {board["cells"]}
cells of {board["vocabulary"]} symbols, and thinks for up to {config.halting.max_segments} segments.

## Data

{f"Trained on {data}." if data else "Trained on puzzles that were made for it."}

{table}

## Results

{measured}

## Use

```python
import hrm
from huggingface_hub import snapshot_download

solver = hrm.load(snapshot_download("{name}"))
print(solver.solve("..."))
```

Every answer is verified by the rules of the puzzle, or marked as unsolved.

## Limits

- It knows one kind of puzzle of one size.
- Only its weights are here: the training cannot be resumed from them.
"""


def files(folder: Path) -> Iterator[Path]:
    """The files of a folder, by name."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def tree(folder: Path) -> str:
    """The files of a folder with their sizes, as lines."""
    rows = [(path.stat().st_size, path.relative_to(folder).as_posix()) for path in files(folder)]
    total = sum(size for size, _ in rows)
    return "\n".join([*(f"{size:>15,}  {name}" for size, name in rows), f"{total:>15,}  bytes in all"])


def check_name(name: str) -> None:
    """UserError for what cannot be the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(
            f"{quoted(name)} is no name of a repository, such as somebody/my-model: {reason(error)}"
        ) from None


def check_access() -> None:
    """UserError where nothing can be uploaded: offline, or not logged in."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set: unset it to upload, or look at the folder with --dry-run")
    if get_token() is None:
        raise UserError("the Hub does not know who you are: log in with `hf auth login`, or set HF_TOKEN")


def upload(folder: Path, name: str, private: bool = False) -> str:
    """Upload a folder in one commit, which is complete or absent; the address. UserError where it fails."""
    from huggingface_hub import HfApi

    api: Any = HfApi()
    try:
        repository = api.create_repo(name, private=private, exist_ok=True).repo_id
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model, tokenizer and card")
    except Exception as error:  # the ways of a network are many
        raise UserError(f"nothing was uploaded to {name} ({reason(error)}): try again, or check the name") from error
    return f"https://huggingface.co/{repository}"
