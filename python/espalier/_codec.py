"""What travels, coded."""
from __future__ import annotations

from typing import Any, Mapping

from ._engine import Codec as Codec  # its methods are documented in _engine.pyi


def codec(stages: str = "identity", **options: Any) -> Codec:
    """A codec by the stages of a configuration's `[[uplink]]`, as a text: "hadamard,dithered:bits=2".

    `codec("hadamard,quantize:bits=4").encode(array, key)` gives bytes, `.decode(bytes, shape)` the array, `.evaluate(array)` error and size. Options may be given by
    stage as well: `codec("hadamard,quantize", quantize={"bits": 4})`. Raises Error for unknown stages and options.
    """
    parts = []
    for stage in stages.split(","):
        name = stage.split(":")[0].strip()
        given: Mapping[str, Any] = options.pop(name, {})
        parts.append(stage.strip() + "".join(f":{key}={value}" for key, value in given.items()))
    if options:
        raise ValueError(f"no stage {', '.join(options)} in \"{stages}\"")
    return Codec(",".join(parts))
