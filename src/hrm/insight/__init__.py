"""Seeing inside: figures of what a model's states do, for puzzles and for text."""
