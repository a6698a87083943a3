"""What goes on in threads of the engine ends before the interpreter does: it may need the interpreter."""
from __future__ import annotations

import atexit
import weakref
from typing import Any, TypeVar

_Engine = TypeVar("_Engine")
_running: "weakref.WeakSet[Any]" = weakref.WeakSet()


def keep_track(engine: _Engine) -> _Engine:
    """Of an object with end(), which stops it and returns when it is over."""
    _running.add(engine)
    return engine


@atexit.register
def _end() -> None:
    for engine in list(_running):
        engine.end()
