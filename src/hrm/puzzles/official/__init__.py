"""Weights of other implementations, in and out: the official programs of HRM and TRM."""

from hrm.puzzles.official.runs import of_run, write_run
from hrm.puzzles.official.settings import Layout
from hrm.puzzles.official.weights import ImportedModel, find, read, write

__all__ = ["ImportedModel", "Layout", "find", "of_run", "read", "write", "write_run"]
