"""From raw text to a corpus: datatrove reads, filters and finds duplicates; what it keeps is packed and sealed here."""

from hrm.text.data.clean.recipe import Recipe, Source
from hrm.text.data.clean.run import How, clean

__all__ = ["How", "Recipe", "Source", "clean"]
