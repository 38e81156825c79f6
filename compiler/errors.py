"""Errors a user can cause: each has a code, one paragraph of cause and mend, and an exit code."""

from __future__ import annotations

import errno
import linecache
import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import FrameType


class TilewrightError(Exception):
    """A mistake that the user can mend.

    Args:
        message: who, what is wrong with both values, and the next step; one paragraph.
        code: ``TW-E0123``; each raise site of one cause uses one code, see CODES.

    Attributes:
        exit_code: what the command line returns for it.
    """

    exit_code = 2

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ModelError(TilewrightError):
    """The model file is damaged or breaks its own standard (TW-E01xx)."""


@dataclass(frozen=True, slots=True)
class Gap:
    """One thing of a model that is not supported.

    Attributes:
        what: the operator and the reason ("Unique: outputs depend on data").
        nodes: the names of the nodes concerned.
    """

    what: str
    nodes: tuple[str, ...]


class UnsupportedError(TilewrightError):
    """The model needs something that is not there yet; lists every gap at once (TW-E02xx)."""

    exit_code = 3

    def __init__(self, gaps: Sequence[Gap], *, code: str = "TW-E0200", model: str = "") -> None:
        self.gaps = tuple(gaps)
        lines = [f"  {g.what} ({len(g.nodes)} nodes: {_few(g.nodes)})" for g in self.gaps]
        head = f"{model or 'the model'} needs {len(self.gaps)} things that are not supported:"
        super().__init__("\n".join([head, *lines]), code=code)


class InputError(TilewrightError):
    """A call's arguments do not fit the model: missing, wrong dtype, shape or range (TW-E03xx).

    Attributes:
        place: the user's line that the call stands in; empty where there is none.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message, code=code)
        self.place = user_line()

    def __str__(self) -> str:
        return super().__str__() + (self.place and f", at {self.place}")


class TargetError(TilewrightError):
    """An unknown target, or code for a CPU that this one is not (TW-E04xx)."""


class ArtifactError(TilewrightError):
    """A saved artefact is damaged, foreign or of another version (TW-E05xx)."""


class OutputError(TilewrightError):
    """A file could not be written: unwritable place, full disk (TW-E06xx)."""

    @classmethod
    def of(cls, what: str, error: OSError) -> OutputError:
        """The error of something that could not be written: TW-E0602 where the disk is full."""
        full = is_full(error)
        return cls(
            f"{what}: cannot be written: {error.strerror or error}; nothing was left behind"
            + (", free some space or choose another disk" if full else ""),
            code="TW-E0602" if full else "TW-E0601",
        )


class ScheduleError(TilewrightError):
    """A schedule step does not apply to this loop nest (TW-E07xx)."""


class OptionError(TilewrightError):
    """An option or argument is not understood (TW-E08xx)."""


class InternalError(TilewrightError):
    """A defect of the compiler itself (TW-E09xx)."""

    exit_code = 4


_LIBRARIES = frozenset({"tilewright", "torch", "numpy"})
_COMMANDS = ("tilewright.cli", "tilewright.commands", "tilewright.__main__")


def user_line() -> str:
    """``path:12 `code```, of the innermost frame that is the user's; empty without one.

    Below the command line, no frame is.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
    while frame is not None:
        if is_users(frame):
            return line_text(frame, frame.f_lineno)
        if str(frame.f_globals.get("__name__")).startswith(_COMMANDS):
            return ""
        frame = frame.f_back
    return ""


def is_users(frame: FrameType) -> bool:
    """Whether a frame is of no installed package, nor of code that one of them has generated."""
    path = frame.f_code.co_filename
    if path.startswith("<"):
        return path == "<stdin>"
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    return package not in _LIBRARIES and not is_installed(path)


def is_installed(path: str) -> bool:
    """Whether a file belongs to Python, to a package beside it, or to this one."""
    return os.path.abspath(path).startswith(_installed())


@cache
def _installed() -> tuple[str, ...]:
    """The folders of what is installed; Python takes 5 ms to find them, and few ask."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    ours = os.path.dirname(os.path.abspath(__file__))
    return tuple({folder + os.sep for folder in (ours, *(sysconfig.get_path(k) for k in kinds))})


def line_text(frame: FrameType, line: int) -> str:
    """``path:12 `code``` of a line in a frame's file."""
    path = frame.f_code.co_filename
    code = linecache.getline(path, line).strip()
    return f"{path}:{line}" + (code and f" `{code}`")


_FULL_DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def is_full(error: OSError) -> bool:
    """Whether an error says that a disk, or what there is of it for this user, is full."""
    return error.errno in _FULL_DISK


def first_line(error: Exception) -> str:
    """What an error of another library says, in one line: its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _few(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(names[:limit])
    return shown + (f", ... {len(names) - limit} more" if len(names) > limit else "")


CODES: Mapping[str, str] = {
    "TW-E0100": "the source is nothing that compile takes",
    "TW-E0101": "the model file is missing or cannot be read",
    "TW-E0102": "the model file is larger than an ONNX file can be",
    "TW-E0103": "the file is no ONNX model, or is cut off",
    "TW-E0104": "a name in the model is not text",
    "TW-E0105": "the installed onnx package lacks a network of the zoo",
    "TW-E0106": "a package that the source needs is not installed",
    "TW-E0110": "the model has no outputs",
    "TW-E0111": "the model's graph is cyclic",
    "TW-E0112": "a name is defined twice",
    "TW-E0113": "a name is used and not defined",
    "TW-E0114": "a body has other inputs than it is given",
    "TW-E0115": "functions or graphs are nested without end",
    "TW-E0120": "a node breaks its operator's rules",
    "TW-E0121": "an axis or a scalar is not what the operator needs",
    "TW-E0122": "a node has more outputs than its operator",
    "TW-E0123": "operands or attributes are not what the operator takes",
    "TW-E0130": "external data leads out of the model's folder",
    "TW-E0131": "external data is missing or cannot be read",
    "TW-E0132": "external data is shorter than its tensor needs",
    "TW-E0133": "a shape is negative or fits in no memory",
    "TW-E0134": "a tensor's data does not fit its shape",
    "TW-E0150": "operands do not fit an op",
    "TW-E0151": "there is no such op",
    "TW-E0152": "an op has other attributes",
    "TW-E0160": "the source is nothing that the PyTorch importer takes",
    "TW-E0161": "torch.export does not take the module",
    "TW-E0162": "torch cannot state the program in core operators",
    "TW-E0163": "what a module does depends on the values of tensors",
    "TW-E0164": "the file of an exported program cannot be read",
    "TW-E0200": "the model needs things that are not supported",
    "TW-E0201": "the model needs operators that its target does not have",
    "TW-E0240": "a traced function needs an op on these sizes that is not supported",
    "TW-E0241": "a traced function uses a part of NumPy that is not supported",
    "TW-E0242": "a traced function needs the data of an array before it runs",
    "TW-E0243": "a traced function iterates over an axis of symbolic size",
    "TW-E0244": "a traced function writes to memory in a way that is not supported",
    "TW-E0245": "a traced function gives arguments that are not supported",
    "TW-E0246": "a traced function uses types that are not supported",
    "TW-E0250": "a graph of torch.compile needs gradients",
    "TW-E0251": "a kernel is asked for gradients",
    "TW-E0260": "a parameter of a kernel is not declared as one can be",
    "TW-E0261": "a kernel gives something that is no array or scalar of it",
    "TW-E0262": "scalars of a kernel have types that do not go together",
    "TW-E0263": "a kernel needs the value of a scalar before it runs",
    "TW-E0264": "a kernel uses a function that scalars do not have",
    "TW-E0265": "an array of a kernel is not read element by element",
    "TW-E0266": "an axis of a kernel has no size, or no possible one",
    "TW-E0267": "a read of a kernel may lie outside its array",
    "TW-E0301": "an input is missing or unknown",
    "TW-E0302": "an input has another dtype",
    "TW-E0303": "an input has another rank",
    "TW-E0304": "an input has another size",
    "TW-E0305": "one symbol is given different sizes",
    "TW-E0306": "a symbol is outside its range",
    "TW-E0307": "there is no memory for a call of these sizes",
    "TW-E0308": "an argument is no tensor",
    "TW-E0309": "a size that the model computes is outside its range",
    "TW-E0310": "a file with inputs is damaged or of the other kind",
    "TW-E0311": "no input settles a symbol",
    "TW-E0312": "a model is not compiled for sizes like these",
    "TW-E0313": "a call of these sizes needs more blocks than a launch can have",
    "TW-E0314": "an index is outside of the tensor that it indexes",
    "TW-E0320": "the arguments do not go with the traced function",
    "TW-E0321": "an array of another traced call is used",
    "TW-E0322": "a traced function returns what is no array",
    "TW-E0323": "an argument of a traced function is no array",
    "TW-E0324": "a parameter of a kernel is missing, unknown or of another type",
    "TW-E0401": "the target is not known",
    "TW-E0402": "this CPU is older than any target, or of another kind than native code is for",
    "TW-E0403": "the code needs features that this CPU lacks",
    "TW-E0404": "the backend is not known",
    "TW-E0405": "the code is for another kind of machine",
    "TW-E0406": "code for the target is not exported as such a file",
    "TW-E0407": "there is no GPU, or no driver for it, to run the code on",
    "TW-E0408": "a tool of NVIDIA's toolkit is not installed",
    "TW-E0409": "kernels for the target are not profiled",
    "TW-E0410": "a kernel needs more of a GPU than the target has",
    "TW-E0411": "the target lacks an instruction that a kernel uses",
    "TW-E0501": "the file is no artefact",
    "TW-E0502": "the artefact has another format version",
    "TW-E0503": "the artefact is damaged",
    "TW-E0504": "the artefact's header or program is not understood",
    "TW-E0505": "the artefact cannot be read",
    "TW-E0520": "the text of a function is not understood",
    "TW-E0521": "the text of a graph is not understood",
    "TW-E0522": "the text of a schedule is not understood",
    "TW-E0530": "the file holds no records of schedules",
    "TW-E0531": "the records are of a newer format",
    "TW-E0532": "the records are damaged",
    "TW-E0533": "the records cannot be read",
    "TW-E0534": "a line is no exported record",
    "TW-E0601": "a file cannot be written there",
    "TW-E0602": "the disk is full",
    "TW-E0701": "a schedule step does not apply",
    "TW-E0702": "a schedule computes something else than its kernel",
    "TW-E0703": "no code can be made of a nest that was scheduled by hand",
    "TW-E0801": "an option has a value that it cannot have",
    "TW-E0802": "there is no such option",
    "TW-E0803": "there is no such stage",
    "TW-E0804": "shapes and ranges do not go with this source",
    "TW-E0805": "there is not enough memory for a command",
    "TW-E0806": "example inputs go with a module only",
    "TW-E0807": "the model's file has changed since it was compiled",
    "TW-E0810": "the range of a symbolic dim is not possible",
    "TW-E0811": "the shape given for an input is not possible",
    "TW-E0820": "there is no such network in the zoo",
    "TW-E0821": "the model is compiled already",
    "TW-E0822": "a compiled model does not hold its graph",
    "TW-E0823": "there is no such symbolic dim",
    "TW-E0824": "a runtime to compare with is not installed",
    "TW-E0825": "a runtime to compare with does not take the model",
    "TW-E0826": "a framework does not take an operator under this name",
    "TW-E0827": "a nest is scheduled by hand for a machine that is no CPU",
    "TW-E0828": "no framework of that name has operators of users' own",
    "TW-E0829": "kernels do not take the place of operators of this source",
    "TW-E0830": "a baseline cannot be read",
    "TW-E0831": "a baseline cannot be compared with",
    "TW-E0832": "a compiled model is pickled",
    "TW-E0840": "a search is given no time",
    "TW-E0841": "what a search on many machines needs is not installed",
    "TW-E0842": "no scheduler of a fleet answers",
    "TW-E0843": "the workers of a fleet cannot take the jobs",
    "TW-E0844": "what a ranking that learns needs is not installed",
    "TW-E0900": "an exception that nobody expected",
    "TW-E0901": "fused groups form a cycle",
    "TW-E0902": "memory planning met a tensor that is in no one buffer",
    "TW-E0903": "an op has neither a compute nor loops",
    "TW-E0904": "an op was left outside all groups",
    "TW-E0906": "a group that is lowered alone has a known operand of symbolic shape",
    "TW-E0910": "object code does not link",
    "TW-E0911": "a program that cannot be emitted",
    "TW-E0912": "a program that cannot be called",
    "TW-E0913": "a program that is not well-formed",
    "TW-E0914": "an expression that cannot be evaluated",
    "TW-E0915": "a function that is not well-formed",
    "TW-E0920": "a reference does not return what its type rule says",
    "TW-E0921": "a graph that is not well-formed",
    "TW-E0922": "an attribute has no text form",
    "TW-E0923": "a function has no text form",
    "TW-E0930": "sizes of a traced function cannot be made to agree",
    "TW-E0931": "the self-test gives a wrong result",
    "TW-E0932": "a process for measuring ended",
    "TW-E0933": "a converter gives another type than torch",
    "TW-E0934": "a converter does not take what torch gives it",
    "TW-E0935": "a process of a search does not start",
    "TW-E0936": "a compiled model has no entry",
    "TW-E0938": "a candidate of a search ends with a status",
    "TW-E0940": "no instruction for an operation on a dtype",
    "TW-E0941": "no expansion of a function",
    "TW-E0942": "lanes of a vector are stored to one element",
    "TW-E0943": "registers are indexed by a variable",
    "TW-E0944": "an unrolled loop has a symbolic extent",
    "TW-E0945": "a vector loop has a symbolic extent or is inside another",
    "TW-E0946": "registers are shared by a parallel loop",
    "TW-E0947": "an expression that a function cannot hold",
    "TW-E0948": "LLVM refuses the emitted code",
    "TW-E0951": "blocks and threads of a scheduled function do not fit a launch",
    "TW-E0952": "generated CUDA C++ is refused, or its threads part, on the host",
    "TW-E0953": "a function has no form in CUDA C++",
    "TW-E0954": "NVIDIA's tools refuse generated code",
    "TW-E1001": "a GPU kernel reads or writes outside its memory",
    "TW-E1002": "a GPU kernel reads or writes at a misaligned address",
    "TW-E1003": "memory of a GPU is read that nobody has written",
    "TW-E1004": "threads of a block part at a barrier",
    "TW-E1005": "threads of a block race for shared memory",
    "TW-E1006": "bytes of an asynchronous copy are touched before it is waited for",
    "TW-E1007": "blocks of a launch race for global memory",
    "TW-E1008": "a GPU kernel does not end",
    "TW-E1009": "lanes of a warp part at an instruction that they execute together",
    "TW-E1010": "a GPU kernel writes what is read-only, or reads as read-only what it writes",
    "TW-E1011": "PTX text is not understood",
    "TW-E1012": "a PTX instruction is not modelled",
    "TW-E1013": "a launch does not fit the kernel",
    "TW-E1014": "there is no such GPU kernel",
    "TW-E1015": "a GPU kernel executes a trap",
    "TW-E1016": "an address of the host's is in no allocation of the GPU",
}
"""Every code and the one cause that it stands for."""
