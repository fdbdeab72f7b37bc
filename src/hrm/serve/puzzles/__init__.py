"""Puzzles behind HTTP: requests of many callers in one batch."""
