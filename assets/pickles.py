"""Pickles as plain values: an interpreter of our own, which calls nothing that a file names.

Python's own unpickler imports and calls what the file asks for. Here a name is looked up in a
table that the caller gives; the table's makers are our own functions, and any other name is an
error. Work and memory are bounded by the size of the file.
"""

from __future__ import annotations

import codecs
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from assets.errors import AssetError

# A maker gets the arguments that the file gives and returns a value, with no effect besides.
Maker = Callable[[tuple[object, ...]], object]
PersistentMaker = Callable[[object], object]

MAX_STEPS = 3_000_000  # instructions; the largest published checkpoints have tens of thousands
_DAMAGE = (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error)


@dataclass(frozen=True)
class Named:
    """A class or function of the table that was named and not called."""

    name: str


@dataclass(eq=False)
class Instance:
    """What would be an object of a class that is kept inert: its arguments and its state."""

    name: str
    args: tuple[object, ...]
    state: object = None


class Buildable:
    """Base of values that take a state after they were made, as NumPy's arrays do."""

    def build(self, state: object) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Names:
    """What a pickle may name: makers by full name, and names kept as inert instances."""

    makers: Mapping[str, Maker]
    inert: tuple[str, ...] = ()  # a full name, or a package with a final dot

    def __contains__(self, name: str) -> bool:
        return name in self.makers or any(
            name == entry or (entry.endswith(".") and name.startswith(entry))
            for entry in self.inert
        )


def unpickle(
    content: bytes | memoryview,
    names: Names,
    *,
    described: str,
    start: int = 0,
    persistent: PersistentMaker | None = None,
) -> tuple[object, int]:
    """The value of the pickle that begins at `start`, and where it ends.

    Strings of Python 2 become text in Latin-1. Raises AssetError for damage, for names outside of
    `names`, and for features that no data file needs.
    """
    machine = _Machine(content, names, described, start, persistent)
    try:
        value = machine.run()
    except _DAMAGE as error:
        raise AssetError(
            f"{described} is a damaged pickle: it makes no sense at byte {machine.at}; "
            "fetch it again"
        ) from error
    return value, machine.at


class _Machine:
    """Pickle's stack machine (protocols 0 to 5), documented in Python's pickletools."""

    def __init__(
        self,
        content: bytes | memoryview,
        names: Names,
        described: str,
        start: int,
        persistent: PersistentMaker | None,
    ) -> None:
        self.content = memoryview(content)
        self.names = names
        self.described = described
        self.persistent = persistent
        self.at = start
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        for _ in range(MAX_STEPS):
            code = self.content[self.at]
            self.at += 1
            if code == pickle.STOP[0]:
                return self.stack.pop()
            step = _STEPS.get(code)
            if step is None:
                self.refuse_step(code)
            else:
                step(self)
        raise AssetError(
            f"{self.described} has over {MAX_STEPS} pickle instructions, far more than any model; "
            "it is not read further"
        )

    def refuse_step(self, code: int) -> None:
        feature = _REFUSED.get(code)
        if feature is None:
            raise ValueError(f"no pickle instruction {code}")
        raise AssetError(
            f"{self.described} uses {feature} of pickle, which no model file needs; "
            "nothing in it was run; fetch the file from its publisher"
        )

    def take(self, count: int) -> memoryview:
        taken = self.content[self.at : self.at + count]
        if count < 0 or len(taken) < count:
            raise AssetError(
                f"{self.described} is damaged or cut short: its pickle asks for {count} bytes at "
                f"byte {self.at} of {len(self.content)}; fetch it again"
            )
        self.at += count
        return taken

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def line(self) -> bytes:
        # a view has no search, and lines are short but for text pickles' strings
        size = 256
        while True:
            piece = bytes(self.content[self.at : self.at + size])
            end = piece.find(b"\n")
            if end >= 0:
                self.at += end + 1
                return piece[:end]
            if self.at + size >= len(self.content):
                raise ValueError("a line without end")
            size *= 2

    def push(self, value: object) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[object]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def find(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self.names:
            shown = full if len(full) <= 80 and full.isprintable() else ascii(full[:80])
            raise AssetError(
                f"{self.described} names `{shown}`, which is not plain data, and nothing in a "
                "file is ever run; ask its maker for a .safetensors file"
            )
        self.push(Named(full))

    def call(self, target: object, args: object) -> None:
        if not isinstance(target, Named) or not isinstance(args, tuple):
            raise TypeError("a call of what is no name")
        maker = self.names.makers.get(target.name)
        if maker is not None:
            self.push(maker(args))
        else:
            self.push(Instance(target.name, args))

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Buildable):
            target.build(state)
        elif isinstance(target, Instance):
            target.state = state
        elif not isinstance(target, dict):  # attributes of an ordered dict are no data
            raise TypeError("a state for what takes none")

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, Instance):
            return
        if not isinstance(target, dict):
            raise TypeError("items for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, Instance):
            return
        if not isinstance(target, list):
            raise TypeError("elements for what is no list")
        target.extend(items)

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def persist(self, identity: object) -> None:
        if self.persistent is None:
            raise AssetError(
                f"{self.described} refers to data outside of itself (a persistent id), which only "
                "PyTorch's own files may; fetch it from its publisher"
            )
        self.push(self.persistent(identity))

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[len(self.stack) - count :])
        if len(items) < count:
            raise IndexError("too few values")
        self.stack[len(self.stack) - count :] = [items]

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is no text")
        self.find(module, name)

    def object_from_mark(self) -> None:
        target, *args = self.since_mark()
        self.call(target, tuple(args))

    def instance_from_mark(self) -> None:
        module, name = self.line().decode(), self.line().decode()
        args = tuple(self.since_mark())
        self.find(module, name)
        self.call(self.stack.pop(), args)

    def reduce(self) -> None:
        args = self.stack.pop()
        self.call(self.stack.pop(), args)

    def new_with_names(self) -> None:
        self.stack.pop()  # keyword arguments; no data class has them
        self.reduce()

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def text_number(self) -> None:
        line = self.line()
        self.push({b"00": False, b"01": True}.get(line, int(line.rstrip(b"L"))))

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()


def _key(key: object) -> object:
    """A key of a dict or set; hashing nested or long ones could take for ever."""
    if isinstance(key, int) and not -(2**63) <= key < 2**63:
        raise ValueError("a key of over 64 bits")
    if not (key is None or isinstance(key, (str, bytes, int, float, Named))):
        raise TypeError("a key that is no plain value")
    return key


def _added(machine: _Machine) -> None:
    items = machine.since_mark()
    target = machine.stack[-1]
    if not isinstance(target, set):
        raise TypeError("elements for what is no set")
    target.update(_key(item) for item in items)


def _dict_from_mark(machine: _Machine) -> None:
    items = machine.since_mark()
    machine.push({})
    machine.set_items(items)


def _found(machine: _Machine) -> None:
    module = machine.line().decode()
    machine.find(module, machine.line().decode())


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_items([key, value])


def _text(view: memoryview) -> str:
    return str(view, "utf-8", "surrogatepass")


def _quoted_line(line: bytes) -> str:
    if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    decoded: bytes = codecs.escape_decode(line[1:-1])[0]
    return decoded.decode("latin-1")


_Step = Callable[[_Machine], object]
_STEPS: dict[int, _Step] = {
    code[0]: step
    for code, step in {
        pickle.PROTO: lambda m: m.take(1),
        pickle.FRAME: lambda m: m.take(8),
        pickle.MARK: _Machine.mark,
        pickle.POP: _Machine.pop,
        pickle.POP_MARK: _Machine.since_mark,
        pickle.DUP: lambda m: m.push(m.stack[-1]),
        pickle.NONE: lambda m: m.push(None),
        pickle.NEWTRUE: lambda m: m.push(True),
        pickle.NEWFALSE: lambda m: m.push(False),
        pickle.INT: _Machine.text_number,
        pickle.LONG: _Machine.text_number,
        pickle.BININT: lambda m: m.push(m.number("<i")),
        pickle.BININT1: lambda m: m.push(m.number("<B")),
        pickle.BININT2: lambda m: m.push(m.number("<H")),
        pickle.LONG1: lambda m: m.push(
            int.from_bytes(m.take(m.number("<B")), "little", signed=True)
        ),
        pickle.LONG4: lambda m: m.push(
            int.from_bytes(m.take(m.number("<i")), "little", signed=True)
        ),
        pickle.FLOAT: lambda m: m.push(float(m.line())),
        pickle.BINFLOAT: lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        pickle.STRING: lambda m: m.push(_quoted_line(m.line())),
        pickle.BINSTRING: lambda m: m.push(str(m.take(m.number("<i")), "latin-1")),
        pickle.SHORT_BINSTRING: lambda m: m.push(str(m.take(m.number("<B")), "latin-1")),
        pickle.UNICODE: lambda m: m.push(str(m.line(), "raw-unicode-escape")),
        pickle.SHORT_BINUNICODE: lambda m: m.push(_text(m.take(m.number("<B")))),
        pickle.BINUNICODE: lambda m: m.push(_text(m.take(m.number("<I")))),
        pickle.BINUNICODE8: lambda m: m.push(_text(m.take(m.number("<Q")))),
        pickle.SHORT_BINBYTES: lambda m: m.push(bytes(m.take(m.number("<B")))),
        pickle.BINBYTES: lambda m: m.push(bytes(m.take(m.number("<I")))),
        pickle.BINBYTES8: lambda m: m.push(bytes(m.take(m.number("<Q")))),
        pickle.BYTEARRAY8: lambda m: m.push(bytes(m.take(m.number("<Q")))),
        pickle.EMPTY_LIST: lambda m: m.push([]),
        pickle.EMPTY_DICT: lambda m: m.push({}),
        pickle.EMPTY_TUPLE: lambda m: m.push(()),
        pickle.EMPTY_SET: lambda m: m.push(set()),
        pickle.LIST: lambda m: m.push(m.since_mark()),
        pickle.TUPLE: lambda m: m.push(tuple(m.since_mark())),
        pickle.FROZENSET: lambda m: m.push(frozenset(map(_key, m.since_mark()))),
        pickle.DICT: _dict_from_mark,
        pickle.TUPLE1: lambda m: m.tuple_of(1),
        pickle.TUPLE2: lambda m: m.tuple_of(2),
        pickle.TUPLE3: lambda m: m.tuple_of(3),
        pickle.APPEND: lambda m: m.extend([m.stack.pop()]),
        pickle.APPENDS: lambda m: m.extend(m.since_mark()),
        pickle.SETITEM: _set_item,
        pickle.SETITEMS: lambda m: m.set_items(m.since_mark()),
        pickle.ADDITEMS: _added,
        pickle.PUT: lambda m: m.put(int(m.line())),
        pickle.BINPUT: lambda m: m.put(m.number("<B")),
        pickle.LONG_BINPUT: lambda m: m.put(m.number("<I")),
        pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
        pickle.GET: lambda m: m.get(int(m.line())),
        pickle.BINGET: lambda m: m.get(m.number("<B")),
        pickle.LONG_BINGET: lambda m: m.get(m.number("<I")),
        pickle.GLOBAL: _found,
        pickle.STACK_GLOBAL: _Machine.stack_global,
        pickle.REDUCE: _Machine.reduce,
        pickle.NEWOBJ: _Machine.reduce,
        pickle.NEWOBJ_EX: _Machine.new_with_names,
        pickle.OBJ: _Machine.object_from_mark,
        pickle.INST: _Machine.instance_from_mark,
        pickle.BUILD: _Machine.build,
        pickle.PERSID: lambda m: m.persist(m.line().decode()),
        pickle.BINPERSID: lambda m: m.persist(m.stack.pop()),
    }.items()
}
_REFUSED = {
    code[0]: feature
    for code, feature in {
        pickle.EXT1: "the extension registry",
        pickle.EXT2: "the extension registry",
        pickle.EXT4: "the extension registry",
        pickle.NEXT_BUFFER: "out-of-band buffers",
        pickle.READONLY_BUFFER: "out-of-band buffers",
    }.items()
}
