"""Docstrings as the tables of the reference need them, handed to Griffe, which reads the source."""

from __future__ import annotations

import sys
from pathlib import Path

from griffe import Extension, Object

sys.path.insert(0, str(Path(__file__).parent))

from recognise import rows


class Rows(Extension):
    """Griffe's way to hand docstrings over."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        """Called for everything that is read."""
        if obj.docstring is not None:
            obj.docstring.value = rows(obj.docstring.value)
