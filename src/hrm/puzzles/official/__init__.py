"""Weights of other implementations, in and out: the official programs of HRM and TRM."""

from hrm.puzzles.official.settings import Layout
from hrm.puzzles.official.weights import ImportedModel, find, read, write

__all__ = ["ImportedModel", "Layout", "find", "read", "write"]
