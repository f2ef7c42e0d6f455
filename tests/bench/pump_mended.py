"""Mends Debian 12's distcc-pump: three functions of its C module fail on every call.

That module was written before Python 3.10 asked for PY_SSIZE_T_CLEAN, so pump mode silently is
plain distcc there. This file takes the module's name in a throw-away copy of the directory, loads
the module that it covers from `native/`, and replaces the three.
"""

import ctypes
import importlib.machinery
import importlib.util
import os
import sys

_NAME = "distcc_pump_c_extensions"
(_file,) = os.listdir(f"{os.path.dirname(os.path.abspath(__file__))}/native")
_path = f"{os.path.dirname(os.path.abspath(__file__))}/native/{_file}"
_loader = importlib.machinery.ExtensionFileLoader(_NAME, _path)
_ours = sys.modules[__name__]
_spec = importlib.util.spec_from_loader(_NAME, _loader)
assert _spec is not None
_native = importlib.util.module_from_spec(_spec)
# Creating such a module puts it into sys.modules, in the place of this one.
sys.modules[__name__] = _ours
_loader.exec_module(_native)

Error = _native.Error
Realpath = _native.Realpath
RTokenString = _native.RTokenString
RArgv = _native.RArgv
RCwd = _native.RCwd
XArgv = _native.XArgv
OsPathExists = os.path.exists
OsPathIsFile = os.path.isfile

_lzo = ctypes.CDLL("liblzo2.so.2")
_WORK = 16384 * ctypes.sizeof(ctypes.c_void_p)  # LZO1X_1_MEM_COMPRESS


def CompressLzo1xAlloc(data: bytes | str) -> bytes:  # noqa: N802 # the name it stands for
    """Return `data` compressed as distcc's protocol has it."""
    raw = data.encode() if isinstance(data, str) else data
    # The most that LZO makes of data that cannot be compressed.
    out = ctypes.create_string_buffer(len(raw) + len(raw) // 16 + 64 + 3)
    size = ctypes.c_size_t(len(out))
    work = ctypes.create_string_buffer(_WORK)
    if _lzo.lzo1x_1_compress(raw, ctypes.c_size_t(len(raw)), out, ctypes.byref(size), work):
        raise Error("lzo1x_1_compress")
    return out.raw[: size.value]
