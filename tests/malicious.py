"""Files made to harm or to deceive, by name: their bytes and words of the refusal they meet."""

from __future__ import annotations

import pickle
import pickle as p
import struct

from crafted import (
    Canary,
    called,
    doubling,
    dtype,
    named,
    ndarray,
    nest,
    number,
    raw_bytes,
    stack_named,
    text,
    under,
)
from malicious_files import Case, other_cases, torch_cases

# Functions of modules that are installed with us and that run, read, write or connect.
WEAPONS = (
    *("os.system", "posix.system", "nt.system", "os.popen", "os.execv", "pty.spawn"),
    *("builtins.eval", "builtins.exec", "__builtin__.eval", "__builtin__.execfile"),
    *("builtins.getattr", "builtins.__import__", "builtins.open", "builtins.compile", "io.open"),
    *("subprocess.Popen", "subprocess.check_output", "commands.getoutput", "runpy.run_path"),
    *("importlib.import_module", "ctypes.CDLL", "marshal.loads", "types.FunctionType"),
    *("pickle.loads", "_pickle.loads", "shutil.rmtree", "socket.create_connection", "pip.main"),
    *("functools.partial", "operator.attrgetter", "operator.methodcaller", "webbrowser.open"),
    *("numpy.load", "numpy.testing._private.utils.runstring", "numpy.core.multiarray.fromfile"),
    *("torch.load", "torch.hub.load", "torch.jit.load", "torch.ops.load_library"),
    *("torch.utils.collect_env.run", "torch._inductor.codecache.compile_file"),
    *("scipy.io.loadmat", "chumpyx.ch.Ch", "scipy.sparse.csc_matrix.__reduce__", "timeit.main"),
    *("joblib.numpy_pickle.NumpyArrayWrapper", "dill._dill._create_function", "cloudpickle.loads"),
    *("collections.OrderedDict.__init__", "numpy.ndarray.tofile", "code.interact", "bdb.Bdb"),
)


def corpus(mark: str) -> dict[str, Case]:
    """Every case; `mark` is a file that appears if any of them gets to run."""
    command = text(f"touch {mark}")
    runs = "nothing in a file is ever run"
    bomb, damaged = "bomb", "damaged|cut short"
    cases: dict[str, Case] = {}
    for weapon in WEAPONS:
        cases[f"call of {weapon}"] = under(called(weapon, command)), runs
    for protocol in range(6):
        content = pickle.dumps({"f": Canary(mark)}, protocol)
        cases[f"__reduce__ in protocol {protocol}"] = content, runs
    open_args = [command, text("w")]
    cases |= {
        "INST": (p.PROTO + b"\2" + p.MARK + command + p.INST + b"os\nsystem\n.", runs),
        "OBJ": (under(p.MARK + named("os.system") + command + p.OBJ), runs),
        "NEWOBJ": (under(named("subprocess.Popen") + command + p.TUPLE1 + p.NEWOBJ), runs),
        "NEWOBJ_EX": (
            under(named("subprocess.Popen") + p.EMPTY_TUPLE + p.EMPTY_DICT + p.NEWOBJ_EX),
            runs,
        ),
        "name by stack": (under(stack_named("os", "system") + command + p.TUPLE1 + p.REDUCE), runs),
        "dotted name by stack": (
            under(stack_named("collections", "OrderedDict.__init__.__globals__")),
            runs,
        ),
        "name with line breaks": (under(stack_named("os\nsystem", "x\x1b[2J" * 99)), runs),
        "allowed prefix": (under(called("chumpy_evil.run", command)), runs),
        "old text pickle": (b"cos\nsystem\n(S'touch " + mark.encode() + b"'\ntR.", runs),
        "state of an array": (
            under(ndarray("f8", p.EMPTY_TUPLE, called("builtins.open", *open_args))),
            runs,
        ),
        "state that sets a class": (
            under(
                called("collections.OrderedDict")
                + p.EMPTY_DICT
                + text("__class__")
                + named("os.system")
                + p.SETITEM
                + p.BUILD
            ),
            runs,
        ),
        "state of a number": (under(p.NONE + p.EMPTY_DICT + p.BUILD), damaged),
        "__setstate__ in chumpy": (
            under(
                named("chumpy.ch.Ch")
                + p.EMPTY_TUPLE
                + p.NEWOBJ
                + p.EMPTY_DICT
                + text("__setstate__")
                + named("os.system")
                + p.SETITEM
                + p.BUILD
            ),
            runs,
        ),
        "chumpy without array": (
            under(named("chumpy.ch.Ch") + p.EMPTY_TUPLE + p.NEWOBJ + p.EMPTY_DICT + p.BUILD),
            "no plain array|no named tensors",
        ),
        "chumpy without end": (
            under(
                nest(
                    p.NONE,
                    lambda v: (
                        named("chumpy.ch.Ch")
                        + p.EMPTY_TUPLE
                        + p.NEWOBJ
                        + p.EMPTY_DICT
                        + text("x")
                        + v
                        + p.SETITEM
                        + p.BUILD
                    ),
                    40,
                )
            ),
            "wraps an array|no named tensors",
        ),
        "call of a result": (under(p.NONE + p.EMPTY_TUPLE + p.REDUCE), damaged),
        "extension registry": (under(p.EXT1 + b"\1"), "extension registry"),
        "extension registry, large": (under(p.EXT4 + b"\1\0\0\0"), "extension registry"),
        "persistent id": (under(text("x") + p.BINPERSID), "persistent id"),
        "persistent id in text": (under(p.PERSID + b"x\n"), "persistent id"),
        "buffers": (under(p.NEXT_BUFFER, protocol=5), "out-of-band"),
        "memo far out": (under(p.NONE + p.LONG_BINPUT + b"\xff" * 4), "no |missing"),
        "stack from nothing": (p.PROTO + b"\2" + p.TUPLE3 + p.STOP, damaged),
        "memo from nothing": (under(p.BINGET + b"\7"), damaged),
        "no instruction": (under(b"\xff"), damaged),
        "text without end": (p.PROTO + b"\2" + p.UNICODE + b"x" * 100_000, damaged),
        "integer of a million digits": (under(p.LONG + b"9" * 1_000_000 + b"L\n"), damaged),
        "bytes of 2^60": (under(p.BINBYTES8 + struct.pack("<Q", 2**60)), damaged),
        "text of 2^60": (under(p.BINUNICODE8 + struct.pack("<Q", 2**60)), damaged),
        "bytearray of 2^60": (under(p.BYTEARRAY8 + struct.pack("<Q", 2**60), protocol=5), damaged),
        "integer of 2^31 bytes": (under(p.LONG4 + struct.pack("<i", 2**31 - 1)), damaged),
        "text of negative length": (under(p.BINSTRING + struct.pack("<i", -1)), damaged),
        "frame of 2^63": (p.PROTO + b"\4" + p.FRAME + struct.pack("<Q", 2**63), damaged),
        "tuples that double as a key": (
            p.PROTO + b"\2" + p.EMPTY_DICT + doubling(p.NONE, 200) + p.NONE + p.SETITEM + p.STOP,
            damaged,
        ),
        "tuples that double as a value": (under(doubling(p.NONE, 200)), "no |missing"),
        "lists in lists, 2500 deep": (
            under(p.EMPTY_LIST * 2_500 + p.APPEND * 2_499),
            "no |missing",
        ),
        "tuples in a key, 2500 deep": (
            p.PROTO
            + b"\2"
            + p.EMPTY_DICT
            + p.NONE
            + p.TUPLE1 * 2_500
            + p.NONE
            + p.SETITEM
            + p.STOP,
            damaged,
        ),
        "instructions without end": (
            under(p.NONE + p.POP + (p.NONE + p.POP) * 3_500),
            "instructions",
        ),
        "marks without end": (p.PROTO + b"\2" + p.MARK * 2_500 + p.STOP, damaged),
        "colliding keys": (
            p.PROTO
            + b"\2"
            + p.EMPTY_DICT
            + number((2**61 - 1) * 2**7)
            + p.NONE
            + p.SETITEM
            + p.STOP,
            damaged,
        ),
        "one text encoded a thousand times": (
            under(
                text("x" * 1_000_000)
                + p.BINPUT
                + b"\1"
                + p.POP
                + p.EMPTY_LIST
                + p.MARK
                + (
                    named("_codecs.encode")
                    + p.BINGET
                    + b"\1"
                    + text("latin1")
                    + p.TUPLE2
                    + p.REDUCE
                )
                * 1000
                + p.APPENDS
            ),
            bomb,
        ),
        "array of 10^12 numbers": (
            under(ndarray("f8", number(10**11) + p.TUPLE1, raw_bytes(b""))),
            "said to have",
        ),
        "array of negative shape": (
            under(ndarray("f8", number(-1) + number(-1) + p.TUPLE2, raw_bytes(bytes(8)))),
            "impossible shape",
        ),
        "array of a hundred axes": (
            under(ndarray("f8", p.MARK + number(1) * 100 + p.TUPLE, raw_bytes(bytes(8)))),
            "impossible shape",
        ),
        "array of objects": (
            under(ndarray("O8", number(2) + p.TUPLE1, p.NONE + p.NONE + p.TUPLE2)),
            "Python objects",
        ),
        "array of structures": (under(ndarray("V8", p.EMPTY_TUPLE, raw_bytes(bytes(8)))), damaged),
        "array with fields": (
            under(
                ndarray(
                    "f8",
                    p.EMPTY_TUPLE,
                    raw_bytes(bytes(8)),
                    made_dtype=dtype(
                        "f8", p.MARK + number(3) + text("<") + p.NONE + text("a") + p.NONE + p.TUPLE
                    ),
                )
            ),
            damaged,
        ),
        "number of objects": (
            under(called("numpy.core.multiarray.scalar", dtype("O8"), raw_bytes(bytes(8)))),
            "Python objects",
        ),
        "sparse matrix of 2^80 numbers": (
            under(
                named("scipy.sparse.csc.csc_matrix")
                + p.EMPTY_TUPLE
                + p.NEWOBJ
                + p.EMPTY_DICT
                + text("_shape")
                + number(2**30)
                + number(2**30)
                + p.TUPLE2
                + p.SETITEM
                + p.BUILD,
                "J_regressor",
            ),
            "sparse matrix|no named tensors",
        ),
        "set of what is no list": (under(called("builtins.set", number(10**9))), damaged),
        "ordered dict of a text": (under(called("collections.OrderedDict", command)), damaged),
    }
    cases |= torch_cases(mark)
    cases |= other_cases(mark)
    return cases
