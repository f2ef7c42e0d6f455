"""Which command lines cost alike, and which do not."""

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaunch.shape import LONGEST, shape
from mlaunch.tools import canonical, tool, words

CC1 = "/usr/lib/gcc/x86_64-linux-gnu/12/cc1"


def of(line: str, exe: str = "") -> str:
    argv = shlex.split(line)
    return shape(exe or f"/usr/bin/{argv[0]}", argv, "/nowhere/project")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gcc -O2 -Wall -Iinclude -c -o x.o src/x.c", "-c c -O2"),
        ("gcc -c x.cc", "-c c++"),
        ("g++ -c -O3 -g x", "-c c++ -O3 -g"),
        ("g++ -std=c++20 -O3 -g -c x.cpp", "-c c++ -O3 -g"),
        ("x86_64-linux-gnu-gcc-12 -E -x c -", "-E c stdin"),
        ("gcc -S x.c", "-S c"),
        ("gcc -MM x.c", "-E c"),
        ("gcc -MD -MF .x.d -c x.c", "-c c"),
        ("gcc -c head.S", "-c asm"),
        ("gcc -o prog a.o b.o libx.a -lm", "link objects"),
        ("gcc -flto=auto -O2 -o prog a.o", "link objects -O2 -flto"),
        ("gcc -o prog a.c", "build c"),
        ("gcc --version", "query"),
        ("gcc -v", "query"),
        ("gcc -print-file-name=plugin", "query"),
        ("gcc -dumpmachine", "query"),
        ("gcc -Werror -c -x c /dev/null -o .tmp/x", "-c c trial"),
        ("gcc -c -g -O2 conftest.c", "-c c -O2 -g trial"),
        ("clang++ -fsanitize=address -c a.cxx", "-c c++ -fsanitize"),
        ("cc1 -quiet -imultiarch x86_64-linux-gnu a.c -dumpbase a.c -O2 -o /tmp/a.s", "-c c -O2"),
        ("gfortran -c solver.f90", "-c fortran"),
        (
            "rustc --crate-name serde --edition=2021 lib.rs -C opt-level=3",
            "crate serde opt-level=3",
        ),
        ("rustc -vV", "query"),
        ("ld -shared -o x.so a.o", "link shared"),
        ("ld.lld -r -o x.o a.o", "link partial"),
        ("collect2 -plugin liblto_plugin.so -o x a.o", "link lto"),
    ],
)
def test_a_compile_is_its_mode_its_language_its_level(line: str, expected: str) -> None:
    assert of(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python3.11 -u build.py --fast x", "/nowhere/project/build.py --fast"),
        ("python3 /opt/none/x.py", "/opt/none/x.py"),
        ("python3 -W error -m pytest -n4 tests", "-m pytest -n"),
        ("perl -Ilib -w gen.pl --out=x", "/nowhere/project/gen.pl --out"),
        ("perl -I lib gen.pl", "/nowhere/project/gen.pl"),
        ("node --max-old-space-size=4096 bundle.js", "/nowhere/project/bundle.js"),
        ("ruby -rset x.rb", "/nowhere/project/x.rb"),
        ("bash ./configure --prefix=/usr", "/nowhere/project/configure --prefix"),
        ("java -cp a.jar -Xmx1g org.example.Main x", "org.example.Main"),
        ("java -jar tool.jar --all", "/nowhere/project/tool.jar --all"),
        ("sh -ec 'gcc -c a.c; true'", "-c gcc"),
        ("bash", ""),
    ],
)
def test_an_interpreter_is_what_it_interprets(line: str, expected: str) -> None:
    assert of(line) == expected


def test_code_is_told_apart_but_for_its_numbers() -> None:
    first, again, other = (of(f"python3 -c {text}") for text in ("f(1)", "f(23)", "g(1)"))
    assert first == again != other
    assert of("perl -ne print") == of("perl -ne print x y") != of("perl -e print")[:0]


def test_a_script_is_known_by_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "real.py").touch()
    (tmp_path / "link.py").symlink_to("real.py")
    found = {shape("/usr/bin/python3", ["python3", name], str(tmp_path)) for name in
             ("real.py", "./real.py", "link.py", f"{tmp_path}/link.py")}  # fmt: skip
    assert found == {f"{tmp_path.resolve()}/real.py"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tar czf x.tar.gz dir", "c gzip"),
        ("tar -xJf x.tar.xz -C dir", "x xz"),
        ("tar --create --zstd -f x dir", "c zstd"),
        ("tar tf x", "t"),
        ("gzip -9 x", "compress -9"),
        ("gzip x", "compress"),
        ("gzip --best x", "compress -9"),
        ("gunzip x.gz", "decompress"),
        ("gzip -dc x.gz", "decompress"),
        ("xz -T4 -9e x", "compress -9 -e"),
        ("zstd --ultra -22 x", "compress -22 --ultra"),
        ("git -C x -c a=b commit -m text", "commit -m"),
        ("git status", "status"),
        ("cmake --build . -j4", "--build -j"),
        ("cmake -S . -B build -DX=1", "configure -B -D -S"),
        ("cmake -E touch x", "-E touch"),
        ("openssl speed -evp aes", "speed -evp"),
        ("go -C x build ./...", "build"),
        ("sort -k1,1 -S50% --parallel=4 x", "--parallel -S -k"),
        ("make -j8 V=1 all", "-j"),
        ("ls -l /a /b", "-l"),
    ],
)
def test_other_tools_are_their_modes_and_options(line: str, expected: str) -> None:
    assert of(line) == expected


def test_operands_and_values_are_not_in_it() -> None:
    assert of("john --format=raw-md5 a") == of("john --format=bcrypt b c")


def test_a_multi_call_binary_is_the_program_that_is_called() -> None:
    assert of("gzip -9 x", exe="/bin/busybox") == "gzip compress -9"
    assert of("busybox gzip", exe="/bin/busybox").startswith("gzip")
    assert (
        tool("/bin/busybox", ["busybox", "sort"]) == tool("/bin/busybox", ["/bin/sort"]) == "sort"
    )


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("python3.11", "python"),
        ("gcc-12", "gcc"),
        ("aarch64-none-elf-ld", "ld"),
        ("x86_64-linux-gnu-g++-12", "g++"),
        ("bzip2", "bzip2"),
        ("cc1", "cc1"),
        ("perl5.36.0", "perl"),
        ("7z", "7z"),
        ("my-own-tool-2", "my-own-tool-2"),
        ("clang-14", "clang"),
    ],
)
def test_versions_and_targets_are_no_part_of_a_name(base: str, name: str) -> None:
    assert canonical(base) == name


arguments = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=300), max_size=40
)
names = st.sampled_from(
    sorted(
        words("gcc cc1 rustc ld tar xz git cmake python3 perl sh busybox node java sort unknown")
    )
)


@given(names, arguments)
def test_it_is_bounded_and_repeatable_whatever_the_arguments(
    name: str, arguments: list[str]
) -> None:
    argv = [name, *arguments]
    found = shape(f"/usr/bin/{name}", argv, "/nowhere")
    assert len(found) <= LONGEST
    assert found == shape(f"/usr/bin/{name}", argv, "/nowhere")


def test_no_arguments_at_all_and_bytes_that_are_no_text_do_no_harm() -> None:
    assert shape("/usr/bin/gcc", []) == "query"
    assert shape("/bin/busybox", []) == "busybox"
    shape("/usr/bin/python3", ["python3", "/x/\udcff.py"]).encode()
