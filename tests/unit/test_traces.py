"""What home remembers of programs: keys, merging, bounds; and a linker's cache that is nonsense."""

from pathlib import Path

from stubs.abi import elf
from stubs.home.files.traces import (
    LASTING,
    MAX_BYTES,
    MAX_FILES,
    MAX_MISSED,
    Trace,
    Traces,
    key_of,
)

GCC = (b"/usr/bin/gcc", b".c", b"/src")


def trace(*paths: str, length: int = 100) -> Trace:
    made = Trace()
    for path in paths:
        made.files[path.encode()] = (0, [(0, length)] if length else [])
    return made


def test_the_kind_of_argument_is_its_extension() -> None:
    assert key_of(b"/bin/cc", [b"cc", b"-O2", b"-I.h", b"-c", b"a.c"], b"/w")[1] == b".c"
    assert key_of(b"/bin/cc", [b"cc", b"a.much-too-long"], b"/w")[1] == b""
    assert key_of(b"/bin/true", [b"true"], b"/w") == (b"/bin/true", b"", b"/w")


def test_a_trace_comes_back_as_it_was(tmp_path: Path) -> None:
    recorded = trace("/a", "/b\udcff".encode("utf-8", "surrogateescape").decode("latin-1"))
    recorded.dirs[b"/\xff"] = 0
    Traces(str(tmp_path)).record(GCC, recorded)
    found = Traces(str(tmp_path)).recall(GCC)
    assert (found.dirs, found.files) == (recorded.dirs, recorded.files)


def test_another_directory_has_what_does_not_lie_in_the_old_one(tmp_path: Path) -> None:
    store = Traces(str(tmp_path))
    store.record(GCC, trace("/usr/include/stdio.h", "/src/own.h", "/srcs/x.h"))
    found = store.recall((GCC[0], GCC[1], b"/elsewhere"))
    assert list(found.files) == [b"/usr/include/stdio.h", b"/srcs/x.h"]
    assert not store.recall((GCC[0], b".cc", GCC[2])).files


def test_what_is_touched_no_more_is_forgotten_after_some_runs(tmp_path: Path) -> None:
    store = Traces(str(tmp_path))
    store.record(GCC, trace("/old"))
    for _ in range(MAX_MISSED):
        store.record(GCC, trace("/new"))
        assert b"/old" in store.recall(GCC).files
    store.record(GCC, trace("/new"))
    assert list(store.recall(GCC).files) == [b"/new"]


def test_a_file_read_from_the_nodes_page_cache_keeps_its_ranges(tmp_path: Path) -> None:
    store = Traces(str(tmp_path))
    store.record(GCC, trace("/a"))
    store.record(GCC, trace("/a", length=0))
    assert store.recall(GCC).files == {b"/a": (0, [(0, 100)])}


def test_what_others_had_to_ask_for_is_not_forgotten(tmp_path: Path) -> None:
    store = Traces(str(tmp_path))
    store.record(GCC, trace("/first"))
    asked = trace("/theirs")
    asked.dirs[b"/names"] = 0
    store.extend(GCC, asked)
    for _ in range(2 * MAX_MISSED):
        store.record(GCC, trace("/other"))
    found = store.recall(GCC)
    assert found.files == {b"/other": (0, [(0, 100)]), b"/theirs": (LASTING, [(0, 100)])}
    assert found.dirs == {b"/names": LASTING}


def test_of_what_is_asked_for_again_all_ranges_are_kept(tmp_path: Path) -> None:
    store = Traces(str(tmp_path))
    store.record(GCC, trace("/cc1"))
    for part in ([(500, 10)], [(500, 10), (900, 10)]):
        more = Trace()
        more.files[b"/cc1"] = (0, part)
        store.extend(GCC, more)
    whole = [(0, 100), (500, 10), (900, 10)]
    assert store.recall(GCC).files == {b"/cc1": (LASTING, whole)}
    store.record(GCC, trace("/cc1"))
    assert store.recall(GCC).files == {b"/cc1": (LASTING, whole)}


def test_a_trace_is_bounded() -> None:
    many = Trace().merge(trace(*(f"/{number}" for number in range(MAX_FILES + 10))))
    assert len(many.files) == MAX_FILES
    assert len(many.extended(trace("/more")).files) == MAX_FILES
    large = Trace().merge(trace("/a", "/b", "/c", length=MAX_BYTES // 2))
    assert list(large.files) == [b"/a", b"/b"]


def test_what_is_no_elf_file_needs_nothing() -> None:
    for data in (b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\2\1" + b"\xff" * 4096):
        found = elf.needs(lambda offset, size, data=data: data[offset : offset + size])  # type: ignore[misc]
        assert (found.interpreter, found.libraries) == (b"", [])


def test_a_program_needs_its_interpreter_and_libraries() -> None:
    data = Path("/bin/true").read_bytes()
    found = elf.needs(lambda offset, size: data[offset : offset + size])
    assert found.interpreter == b"/lib64/ld-linux-x86-64.so.2"
    assert b"libc.so.6" in found.libraries


def test_the_linkers_cache_says_where_a_library_is() -> None:
    cache = Path("/etc/ld.so.cache").read_bytes()
    place = elf.libraries(cache)[b"libc.so.6"]
    assert Path(place.decode()).exists()
    for cut in (0, 10, 48, 60, len(cache) // 2):
        elf.libraries(cache[:cut])
    assert elf.libraries(elf.CACHE_MAGIC + b"\xff" * 100) == {}
