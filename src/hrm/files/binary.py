"""What a file that holds no text is, by its first bytes."""

from __future__ import annotations

import re

HEAD = 512
"""First bytes of a file that tell."""

_KINDS = [
    (rb"%PDF-", "a PDF"),
    (rb"\x89PNG\r\n", "a PNG image"),
    (rb"\xff\xd8\xff", "a JPEG image"),
    (rb"GIF8[79]a", "a GIF image"),
    (rb"II\*\0|MM\0\*", "a TIFF image"),
    (rb"BM.{4}\0{4}", "a BMP image"),
    (rb"RIFF.{4}WEBP", "a WebP image"),
    (rb"RIFF.{4}(WAVE|AVI )|ID3[\x02-\x04]|OggS|fLaC|.{4}ftyp|\x1aE\xdf\xa3", "a sound or a film"),
    (rb"PK\x03\x04.{26}mimetypeapplication/epub", "an EPUB book"),
    (rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis", "an OpenDocument file (.odt)"),
    (rb"PK\x03\x04.*word/", "a Word document (.docx)"),
    (rb"PK\x03\x04.*xl/", "an Excel table (.xlsx)"),
    (rb"PK\x03\x04.*ppt/", "a PowerPoint file (.pptx)"),
    (rb"PK\x03\x04.{26}\[Content_Types\]", "an Office document (.docx, .xlsx, .pptx)"),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a zip archive"),
    (rb"\x1f\x8b\x08", "packed with gzip"),
    (rb"BZh[1-9]1AY", "packed with bzip2"),
    (rb"\xfd7zXZ\0", "packed with xz"),
    (rb"\x28\xb5\x2f\xfd", "packed with zstd"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (rb"Rar!\x1a\x07", "a RAR archive"),
    (rb".{257}ustar", "a tar archive"),
    (rb"\{\\rtf", "a rich text document (.rtf)"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document (.doc, .xls)"),
    (rb".{60}BOOKMOBI", "a Kindle book"),
    (rb"AT&TFORM", "a DjVu document"),
    (rb"SQLite format 3\0", "an SQLite database"),
    (rb"PAR1", "a parquet table"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x80[\x02-\x05][\x8c\x94\x95}\](ctX]", "a pickle"),
    (rb".{5}\0{3}\{\"", "a safetensors file"),
    (rb"\x7fELF|\xca\xfe\xba\xbe|[\xce\xcf]\xfa\xed\xfe|\0asm|MZ[^\0]{0,60}\0\0", "a program"),
    (rb"wOF[F2]|\0\x01\0\0\0|OTTO\0", "a font"),
]
_FORMS = [(re.compile(pattern, re.DOTALL), words) for pattern, words in _KINDS]


def kind_of(head: bytes) -> str | None:
    """What a file that begins so is, as in "a PDF"; None for what may be text."""
    return next((words for form, words in _FORMS if form.match(head)), None)
