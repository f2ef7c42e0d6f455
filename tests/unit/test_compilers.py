"""Who is taken for a compiler, by the path of the executable."""

import pytest

from stubs.wire.compilers import is_compiler


@pytest.mark.parametrize(
    "path",
    [
        b"/usr/bin/gcc",
        b"/usr/bin/x86_64-linux-gnu-gcc-12",
        b"/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus",
        b"/opt/arm-none-eabi-g++-13.2.1",
        b"/usr/bin/clang++-14",
        b"/usr/bin/x86_64-linux-gnu-ld.bfd",
        b"as",
    ],
)
def test_compilers_assemblers_and_linkers_are(path: bytes) -> None:
    assert is_compiler(path)


@pytest.mark.parametrize(
    "path",
    [
        b"/usr/bin/ar",
        b"/usr/bin/strip",
        b"/usr/bin/ccache",
        b"/bin/sh",
        b"/gcc/x",
        b"",
        b"/a/gcc-x",
    ],
)
def test_who_reads_what_it_replaces_is_not(path: bytes) -> None:
    assert not is_compiler(path)
