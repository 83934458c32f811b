"""Characters that nobody sees: texts of nothing else are empty, and labels that differ in them alone look the same."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pyarrow.compute as pc

# Zero-width space, word joiner, byte order mark, marks of the direction of writing, soft hyphen. Joiners of emoji, of
# Indic scripts and of Persian are not among them: they change what is seen.
_MARKS = "\u200b\u2060\ufeff\u200e\u200f\u00ad"
# All spaces of Unicode are below this.
_LAST_SPACE = 0x3000
_INVISIBLE = _MARKS + "".join(char for char in map(chr, range(_LAST_SPACE + 1)) if char.isspace())


def is_blank(cells: pa.Array) -> pa.Array:
    """Return which texts are missing, or hold nothing that is seen.

    Args:
        cells: Texts.
    """
    return pc.fill_null(pc.equal(pc.utf8_trim(cells, characters=_INVISIBLE), ""), True)


def as_seen(text: str) -> str:
    """Return what is seen of a text: without invisible characters at its ends or marks within, accents in one form.

    Args:
        text: The text.
    """
    composed = unicodedata.normalize("NFC", text)
    return composed.translate(dict.fromkeys(map(ord, _MARKS))).strip()
