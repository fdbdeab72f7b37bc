"""Puzzles on disk: CSV files and HRM's dataset folders, read, written, checked and made."""

from hrm.data.checks import check, problems
from hrm.data.generation import generate, split
from hrm.data.joining import join
from hrm.data.overlap import refuse
from hrm.data.puzzle_set import Located, PuzzleSet
from hrm.data.recognition import infer
from hrm.data.storage import locate, read, read_both, targets, write, write_csv, write_folder

__all__ = [
    "Located",
    "PuzzleSet",
    "check",
    "generate",
    "infer",
    "join",
    "locate",
    "problems",
    "read",
    "read_both",
    "refuse",
    "split",
    "targets",
    "write",
    "write_csv",
    "write_folder",
]
