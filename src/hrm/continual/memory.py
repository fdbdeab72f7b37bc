"""What a learner keeps of the books it has read, and mixes into the next one."""

from __future__ import annotations

import json
import lzma
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from hrm.models.text import HRMForCausalLM

PIECE = 4
"""Rows of text in a piece that is kept."""


class Memory(Protocol):
    """How old books stay alive while a new one is learned."""

    def remember(self, book: int, tokens: np.ndarray, length: int, seed: int, model: HRMForCausalLM) -> None:
        """Take what is wanted of a book that has just been learned; `length` is that of a row."""
        ...

    def rows(self, uniforms: np.ndarray, length: int) -> np.ndarray | None:
        """A row of `length` + 1 tokens for each row of numbers [rows, 3] in [0, 1), or None while there is nothing."""
        ...

    def pull(self, model: HRMForCausalLM) -> None:
        """Change the gradients before an update, if the memory works that way."""
        ...

    def pack(self) -> dict[str, Tensor]:
        """Everything as tensors for a checkpoint."""
        ...

    def unpack(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `pack` gave."""
        ...


class Nothing:
    """No memory: the naive learner."""

    def remember(self, book: int, tokens: np.ndarray, length: int, seed: int, model: HRMForCausalLM) -> None:
        """Keep nothing."""

    def rows(self, uniforms: np.ndarray, length: int) -> np.ndarray | None:
        """There is nothing."""
        return None

    def pull(self, model: HRMForCausalLM) -> None:
        """Leave the gradients alone."""

    def pack(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def unpack(self, tensors: dict[str, Tensor]) -> None:
        """Nothing."""


class Reservoir(Nothing):
    """A share of every book in pieces spread evenly over it, compressed where it is stored."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.books: dict[int, np.ndarray] = {}
        """Pieces [n, tokens] of each book."""

    def remember(self, book: int, tokens: np.ndarray, length: int, seed: int, model: HRMForCausalLM) -> None:
        """Pieces from stretches of equal length, each at a random place of its stretch."""
        size = min(PIECE * length + 1, len(tokens))
        count = round(self.share * len(tokens) / size) if self.share < 1 else -(-len(tokens) // (size - 1))
        if self.share <= 0 or size < 2:
            return
        rng = np.random.default_rng([seed, book])
        edges = np.linspace(0, len(tokens) - size, max(1, count) + 1)
        spread = 0.0 if self.share >= 1 else 1.0
        starts = (edges[:-1] + spread * rng.random(max(1, count)) * np.diff(edges)).astype(np.int64)
        self.books[book] = np.stack([tokens[start : start + size] for start in starts]).astype(np.int32)

    def rows(self, uniforms: np.ndarray, length: int) -> np.ndarray | None:
        """Each book as likely as another, then each piece of it, then each place."""
        known = [pieces for pieces in self.books.values() if pieces.shape[1] > length]
        if not known:
            return None
        found = np.empty((len(uniforms), length + 1), np.int64)
        for row, (a, b, c) in enumerate(uniforms):
            pieces = known[int(a * len(known))]
            piece = pieces[int(b * len(pieces))]
            start = int(c * (len(piece) - length))
            found[row] = piece[start : start + length + 1]
        return found

    def pack(self) -> dict[str, Tensor]:
        """One compressed array of bytes."""
        shapes = {str(book): list(pieces.shape) for book, pieces in self.books.items()}
        head = json.dumps(shapes).encode()
        body = lzma.compress(b"".join(pieces.astype("<i4").tobytes() for pieces in self.books.values()))
        content = len(head).to_bytes(8, "little") + head + body
        return {"reservoir": torch.frombuffer(bytearray(content), dtype=torch.uint8).clone()}

    def unpack(self, tensors: dict[str, Tensor]) -> None:
        """The same array."""
        content = tensors["reservoir"].numpy().tobytes()
        size = int.from_bytes(content[:8], "little")
        shapes: dict[str, Any] = json.loads(content[8 : 8 + size])
        flat = np.frombuffer(lzma.decompress(content[8 + size :]), "<i4")
        self.books, at = {}, 0
        for book, shape in shapes.items():
            self.books[int(book)] = flat[at : at + shape[0] * shape[1]].reshape(shape).astype(np.int32)
            at += shape[0] * shape[1]
