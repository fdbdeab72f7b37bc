"""Puzzles on disk: CSV files and HRM's dataset folders, read, written, checked and made."""

from hrm.puzzles.data.checks import check, problems
from hrm.puzzles.data.csv_file import save as write_csv
from hrm.puzzles.data.generation import generate, split
from hrm.puzzles.data.npy_folder import save as write_folder
from hrm.puzzles.data.overlap import refuse
from hrm.puzzles.data.puzzle_set import LocatedPuzzles, PuzzleSet
from hrm.puzzles.data.recognition import Unrecognised, infer
from hrm.puzzles.data.storage import join, locate, read, read_both, targets, write

read_puzzles = read
"""The same under the name that it has in `hrm` itself."""

__all__ = [
    "LocatedPuzzles", "PuzzleSet", "Unrecognised", "check", "generate", "infer", "join", "locate", "problems", "read",
    "read_both", "read_puzzles", "refuse", "split", "targets", "write", "write_csv", "write_folder",
]  # fmt: skip
