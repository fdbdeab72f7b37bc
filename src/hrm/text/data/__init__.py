"""Text on disk: documents from files or the Hub, tokenizers, and packed token files that a training reads from."""

from hrm.text.data.hold_out import doubts, hold_out
from hrm.text.data.packed import Batch, Example, Packed, begun, encode
from hrm.text.data.rows import Rows, is_packed, open_text, write_rows
from hrm.text.data.sources import Again, DocumentPart, ReadOptions, documents, texts
from hrm.text.data.tokenizers import load_tokenizer, make_tokenizer, tokenizer_hash, train_bpe

__all__ = [
    "Again", "Batch", "DocumentPart", "Example", "Packed", "ReadOptions", "Rows", "begun", "documents", "doubts",
    "encode", "hold_out", "is_packed", "load_tokenizer", "make_tokenizer", "open_text", "texts", "tokenizer_hash",
    "train_bpe", "write_rows",
]  # fmt: skip
