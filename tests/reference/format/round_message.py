"""Tasks and updates of a round, version 4 (docs/format.md, "Messages of a round")."""
import math
from dataclasses import dataclass, field

from codec_message import CodecMessage, read_difference
from mask import compact_layout, decode_mask, expand
from reading import Reader, require
from xxh3 import checksum

OWN_LAYOUT, DIFFERENCE, MASKED, EXACT = 1, 2, 4, 8


@dataclass
class Payload:
    name: str
    weight: float
    layout: list
    tensors: list
    version: int = None  # of the model's state, under delta_downlink
    is_difference: bool = False


@dataclass
class Task:
    kind: int
    id: tuple  # round, exchange, client
    state_version: int
    client_key: int
    keeps_state: bool
    algorithm: str
    options: dict
    step: dict
    scalars: dict
    units: list
    training: dict = field(default_factory=dict)
    widths: list = field(default_factory=list)
    mask_round: int = None
    masks: list = None
    payloads: dict = None


@dataclass
class Update:
    id: tuple
    num_samples: float
    scalars: dict
    mask_round: int = None
    masks: list = None
    payloads: dict = None


def read_stream(stream):
    reader = Reader(stream)
    head, bodies = reader.take(reader.u32()), []
    while reader.remaining() > 0:
        bodies.append(reader.take(reader.u64()))
    require(len(bodies) <= 1025, "too many bodies")
    return head, bodies


def read_record(reader):
    count = reader.u16()
    require(count <= 1024, f"a record of {count} entries")
    record = {}
    for _ in range(count):
        name, kind = reader.string(), reader.u8()
        require(kind <= 3, f"unknown value type of '{name}'")
        record[name] = [lambda: reader.u8() != 0, reader.i64, reader.f64, reader.string][kind]()
    return record


def read_scalars(reader):
    scalars = read_record(reader)
    require(all(type(value) in (int, float) for value in scalars.values()), "a scalar that is no number")
    return scalars


def read_units(reader):
    count = reader.varint()
    require(count <= 65536, f"units of {count} groups")
    units = [reader.varint() for _ in range(count)]
    require(all(1 <= value <= 2**40 for value in units), "impossible units")
    return units


def read_layout(reader):
    count = reader.u32()
    require(count <= 65536, f"a layout of {count} tensors")
    layout = []
    for _ in range(count):
        name, role, rank = reader.string(), reader.u8(), reader.u8()
        require(role <= 5 and rank <= 8, f"an impossible role or rank of '{name}'")
        shape = tuple(reader.i64() for _ in range(rank))
        require(min(shape, default=0) >= 0 and math.prod(shape) <= 2**31, f"an impossible shape of '{name}'")
        layout.append((name, role, shape))
    return layout


def open_head(head, magic):
    require(len(head) >= 4 and int.from_bytes(head[-4:], "little") == checksum(head[:-4]), "the head's checksum does not match")
    reader = Reader(head[:-4])
    require(reader.take(4) == magic, "this is not such a message")
    version = reader.u8()
    require(version == 4, f"expected version 4, got {version}")
    return reader


def read_id(reader):
    return reader.u32(), reader.u32(), reader.u64()


def read_rest(reader, bodies, message, layout, held_masks):
    """Mask and payloads. `held_masks` gives the masks of a round that the receiver has."""
    place = reader.u8()
    require(place <= 2, f"unknown place {place} of the mask")
    if place > 0:
        message.mask_round = reader.u32()
        if place == 1:
            require(bodies, "the mask is missing")
            message.masks = decode_mask(bodies[-1], layout)
            bodies = bodies[:-1]
        else:
            require(held_masks is not None, "a mask that was not sent")
            message.masks = held_masks(message.mask_round)
    count = reader.u16()
    require(count == len(bodies) and count <= 1024, f"expected {count} payloads, got {len(bodies)}")
    message.payloads = {}
    for body in bodies:
        name, weight, flags = reader.string(), reader.f64(), reader.u8()
        require(flags < 16 and (not flags & MASKED or (message.masks is not None and flags & ~EXACT == MASKED))
                and flags & (DIFFERENCE | EXACT) != DIFFERENCE | EXACT, "unknown flags")
        own = read_layout(reader) if flags & OWN_LAYOUT else layout
        require(reader.u64() == len(body), f"payload '{name}' has another size")
        payload = Payload(name, weight, own, None)
        if flags & DIFFERENCE:
            payload.is_difference, payload.version, coded = read_difference(body)
        else:
            coded = CodecMessage(body)
        coded.check_layout(compact_layout(own, message.masks) if flags & MASKED else own)
        payload.tensors = coded.decode()
        if flags & MASKED:
            payload.tensors = expand(message.masks, payload.tensors)
        message.payloads[name] = payload
    reader.finish()
    return message


def decode_task(stream, layout, held_masks=None):
    """`layout`: what the task's model looks like, (name, role, shape) of every tensor."""
    head, bodies = read_stream(stream)
    reader = open_head(head, b"ESPT")
    kind = reader.u8()
    require(kind <= 2, f"unknown kind {kind} of a task")
    task = Task(kind, read_id(reader), reader.u32(), reader.u64(), reader.u8() != 0, reader.string(), read_record(reader),
                read_record(reader), read_scalars(reader), read_units(reader))
    if task.units:
        task.training = read_record(reader)
        count = reader.u8()
        require(count <= 64, f"{count} widths")
        task.widths = [read_units(reader) for _ in range(count)]
    return read_rest(reader, bodies, task, layout, held_masks)


def decode_update(stream, layout, held_masks=None):
    head, bodies = read_stream(stream)
    reader = open_head(head, b"ESPU")
    update = Update(read_id(reader), reader.f64(), read_scalars(reader))
    return read_rest(reader, bodies, update, layout, held_masks)
