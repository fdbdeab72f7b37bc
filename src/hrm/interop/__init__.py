"""Weights of other implementations, in and out: the official programs of HRM and TRM."""

from hrm.interop.official import Imported, find, read, write
from hrm.interop.settings import Layout

__all__ = ["Imported", "Layout", "find", "read", "write"]
