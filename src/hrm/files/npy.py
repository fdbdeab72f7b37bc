"""Arrays of HRM's dataset folders, of puzzles and of tokens: `dataset.json` with the facts, `NAME__FIELD.npy`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from hrm.files import names
from hrm.files.reading import SMALL, UserError, json_of, quoted, reading
from hrm.files.records import Json

IGNORE = -100
"""Label of a cell or token that does not count."""
RESTORE = "restore it or build the data set again"


def metadata(folder: Path) -> Json:
    """The facts in a split's `dataset.json`; UserError where one is missing or of the wrong type."""
    where = folder / "dataset.json"
    facts = json_of(names.regular(where), SMALL, RESTORE)
    numbers = ("pad_id", "vocab_size", "seq_len", "num_puzzle_identifiers", "blank_identifier_id")
    for name in numbers:
        if not isinstance(facts, dict) or type(facts.get(name)) is not int or not 0 <= facts[name] < 2**31:
            raise UserError(f"{where} has no whole number '{name}' below 2 to the power of 31: {RESTORE}")
    sets, ignored = facts.get("sets"), facts.get("ignore_label_id")
    if not isinstance(sets, list) or not sets or not all(isinstance(name, str) for name in sets):
        raise UserError(f"{where} has no list of 'sets', each a name: {RESTORE}")
    if len(set(sets)) < len(sets):
        raise UserError(f"{where} lists the set {quoted(Counter(sets).most_common(1)[0][0])} twice: {RESTORE}")
    if ignored is not None and (type(ignored) is not int or abs(ignored) >= 2**31):
        raise UserError(f"{where}: 'ignore_label_id' must be a whole number, not {quoted(ignored)}: {RESTORE}")
    return facts


def read_array(folder: Path, name: str, field: str, mapped: bool = False) -> np.ndarray:
    """The whole numbers of a set in a split's folder; mapped from the disk, or in memory."""
    path = names.file_in(folder, f"{name}__{field}.npy")
    with reading(path, RESTORE):
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # so that its header promises no more than it has
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
        raise UserError(f"{path} does not hold whole numbers: {RESTORE}")
    return array if mapped else np.array(array)
