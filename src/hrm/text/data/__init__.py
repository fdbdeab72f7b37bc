"""Text on disk: documents from files or the Hub, tokenizers, and packed token files that a training reads from."""

from hrm.text.data.corpus import MANIFEST, Corpus, SourceFacts, seal
from hrm.text.data.hold_out import doubts, hold_out
from hrm.text.data.packed import Batch, Example, Packed, begun, encode
from hrm.text.data.rows import Rows, Tokens, held_out, is_packed, open_text, tokenizer_of, write_rows
from hrm.text.data.sources import Again, DocumentPart, ReadOptions, documents, texts
from hrm.text.data.tokenizers import load_tokenizer, make_tokenizer, tokenizer_hash, train_bpe

__all__ = [
    "MANIFEST", "Again", "Batch", "Corpus", "DocumentPart", "Example", "Packed", "ReadOptions", "Rows", "SourceFacts",
    "Tokens", "begun", "documents", "doubts", "encode", "held_out", "hold_out", "is_packed", "load_tokenizer",
    "make_tokenizer", "open_text", "seal", "texts", "tokenizer_hash", "tokenizer_of", "train_bpe", "write_rows",
]  # fmt: skip
