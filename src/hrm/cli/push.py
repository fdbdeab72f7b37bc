"""`hrm push RUN NAME`: publish a model on the Hugging Face Hub."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hrm.cli.options import Positional, parse
from hrm.files import names
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.terminal import clean


@dataclass(frozen=True)
class Options:
    """Publish a model on the Hugging Face Hub: its weights, tokenizer, card and licence. Data stay here."""

    run: Positional[Path]
    """Run folder, or a folder that save_pretrained wrote with a tokenizer in it."""
    name: Positional[str]
    """Repository of the Hub: somebody/my-model."""
    licence: str | None = None
    """What others may do with the model: apache-2.0, mit, cc-by-4.0 ... It is yours to choose."""
    licence_file: Path | None = None
    """Its text; needed for a licence that the Hub has no name for."""
    dry_run: bool = False
    """Show the files and the card, and upload nothing."""
    out: Path | None = None
    """Keep what is uploaded in this new folder."""
    private: bool = False
    """A new repository is for you alone."""
    checkpoint: str = "best"
    """Of a run: best, latest or a step."""
    json: bool = False
    """Print the result as JSON."""


def main(args: list[str]) -> int:
    options = parse("push", Options, args, example="hrm push runs/shakespeare me/shakespeare --licence mit --dry-run")
    from hrm import publishing

    if options.licence is None:
        raise UserError("a model needs a licence, which is yours to choose: --licence apache-2.0, mit, cc-by-4.0 ...")
    licence = publishing.Licence.of(options.licence, options.licence_file)
    publishing.check_name(options.name)
    if not options.dry_run:
        publishing.check_access()
    with _folder(options) as folder:
        for doubt in publishing.write(folder, options.run, options.name, licence, options.checkpoint):
            print(doubt, file=sys.stderr)
        shown = publishing.tree(folder)
        card = (folder / "README.md").read_text("utf-8")
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in publishing.files(folder)}
        where = None if options.dry_run else publishing.upload(folder, options.name, options.private)
    if options.json:
        print(to_json({"repository": options.name, "uploaded": where, "files": sizes}))
    elif where is not None:
        print(where)
    else:
        print(f"{options.name}\n{shown}\n\n{clean(card)}")
        print("nothing was uploaded (--dry-run)", file=sys.stderr)
    return 0


@contextmanager
def _folder(options: Options) -> Iterator[Path]:
    """A folder to fill; it is kept, once it is complete, where --out says so."""
    if options.out is None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            yield _made(Path(place) / "model")
        return
    from hrm.runs import lock

    names.apart(options.out, [options.run], "--out")
    with lock.complete(options.out, "push", "--out") as place:
        yield _made(place)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
