"""What goes to the engine as JSON."""
from __future__ import annotations

import json
import os
from typing import Any

import numpy as np


def json_text(value: Any) -> str:
    """Of tables, lists, texts and numbers; NumPy's numbers and arrays, and paths, are such."""
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a setting is a number, a text, a list or a table, not {type(value).__name__}")
