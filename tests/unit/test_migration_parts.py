import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stubs.abi import x86_64 as nr
from stubs.migration import zstd
from stubs.migration.cpu import check_flags, cpu_flags, fit_xstate
from stubs.migration.errors import RestoreError
from stubs.migration.executor import ROWS_AT, SCRATCH_BYTES, Room, Table
from stubs.migration.interrupted import EINTR, NO_CALL, UnknownCallError, for_elsewhere
from stubs.migration.intervals import merged, within, without
from stubs.migration.pages import Packer, Unpacker, blocks
from stubs.migration.stream import BLOCK_BYTES, RAW, ZLIB, ZSTD

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8))).map(
    lambda pairs: merged([(start, start + size) for start, size in pairs])
)
ACTIONS = bytes(64 * 32)


def numbers(ranges: list[tuple[int, int]]) -> set[int]:
    return {number for start, end in ranges for number in range(start, end)}


@given(RANGES, RANGES)
def test_ranges_are_sets_of_numbers(
    ranges: list[tuple[int, int]], others: list[tuple[int, int]]
) -> None:
    assert numbers(without(ranges, others)) == numbers(ranges) - numbers(others)
    assert numbers(within(ranges, others)) == numbers(ranges) & numbers(others)
    assert numbers(merged(ranges + others)) == numbers(ranges) | numbers(others)


@given(st.lists(st.integers(1, 600), max_size=20))
def test_blocks_hold_all_that_is_to_be_sent_and_are_not_too_large(pages: list[int]) -> None:
    ranges = [(number << 32, size << 12) for number, size in enumerate(pages)]
    found = list(blocks(ranges))
    assert all(sum(size for _, size in block) <= BLOCK_BYTES for block in found)
    flat = [(start, start + size) for block in found for start, size in block]
    assert merged(flat) == [(start, start + size) for start, size in ranges]


def test_a_table_points_to_what_it_carries() -> None:
    table = Table()
    room = Room(b"room")
    table.call(nr.NR_chdir, b"path")
    table.call(nr.NR_recvmsg, 3, [[b"nested", 1], room, -1])
    image = table.lay_out(0x10000, (0, 2))

    def word(at: int) -> int:
        return int.from_bytes(image[at : at + 8], "little")

    def pointed(at: int) -> int:
        return word(at) - 0x10000 - ROWS_AT

    assert word(0) == nr.NR_chdir
    assert image[pointed(8) :].startswith(b"path\0")
    array = pointed(64 + 16)
    nested = pointed(array)
    assert image[pointed(nested) :].startswith(b"nested\0")
    assert word(nested + 8) == 1
    assert image[pointed(array + 8) :].startswith(b"room")
    assert word(array + 16) == NO_CALL


def test_tables_are_cut_to_fit_the_scratch() -> None:
    table = Table()
    for _ in range(100):
        table.call(nr.NR_getrandom, Room(9999), 9999, 0)
    parts = table.parts()
    assert [first for first, _ in parts[1:]] == [last for _, last in parts[:-1]]
    assert parts[-1][1] == 100
    assert all(len(table.lay_out(0, part)) <= SCRATCH_BYTES - ROWS_AT for part in parts)


def test_blocks_are_compressed_when_that_is_faster_than_the_link() -> None:
    packer = Packer(use_zstd=False)
    data = b"abcdefgh" * 10000
    packer.note(1_000_000, 100.0)
    encoding, packed = packer.pack(data)
    assert encoding == ZLIB
    assert Unpacker().unpack(encoding, len(data), packed) == data
    packer.note(10**15, 0.1)
    assert packer.pack(data) == (RAW, data)
    noise = os.urandom(80000)
    packer.note(1_000_000, 100.0)
    assert packer.pack(noise) == (RAW, noise)


def test_zstd_is_used_where_both_sides_have_it() -> None:
    if zstd.load() is None:
        pytest.skip("needs libzstd.so.1")
    data = b"abcdefgh" * 10000
    encoding, packed = Packer(use_zstd=True).pack(data)
    assert encoding == ZSTD
    assert Unpacker().unpack(encoding, len(data), packed) == data


@pytest.mark.parametrize(
    ("encoding", "size", "data"),
    [
        (RAW, 5, b"four"),
        (RAW, 0, b""),
        (RAW, BLOCK_BYTES + 1, bytes(BLOCK_BYTES + 1)),
        (ZLIB, 100, b"not compressed"),
        (ZLIB, 100, zlib.compress(b"short")),
        (ZSTD, 100, b"not compressed"),
        (9, 4, b"four"),
    ],
)
def test_a_broken_block_is_refused(encoding: int, size: int, data: bytes) -> None:
    with pytest.raises(RestoreError):
        Unpacker().unpack(encoding, size, data)


def test_a_processor_that_lacks_something_is_refused() -> None:
    check_flags(cpu_flags() + b" smep hypervisor constant_tsc")
    with pytest.raises(RestoreError, match="avx4096"):
        check_flags(cpu_flags() + b" avx4096")


def state(size: int, features: int, used: int) -> bytes:
    data = bytearray(os.urandom(size))
    data[464:472] = features.to_bytes(8, "little")
    data[512:520] = used.to_bytes(8, "little")
    return bytes(data)


def test_the_state_of_a_processor_is_fitted_or_refused() -> None:
    ours = state(1000, 0x207, 0)
    same = state(1000, 0x207, 0x207)
    assert fit_xstate(same, ours) == same
    larger = state(2696, 0x2E7, 0x7)
    fitted = fit_xstate(larger, ours)
    assert len(fitted) == len(ours)
    assert fitted[464:472] == ours[464:472]
    assert fitted[512:832] == larger[512:832]
    with pytest.raises(RestoreError):
        fit_xstate(state(2696, 0x2E7, 0x67), ours)
    with pytest.raises(RestoreError):
        fit_xstate(larger, state(832, 0x3, 0))
    with pytest.raises(RestoreError):
        fit_xstate(b"short", ours)


def regs(number: int, result: int, **others: int) -> dict[str, int]:
    names = ("rdi", "rsi", "rdx", "r10")
    return {
        **dict.fromkeys(names, 0),
        "orig_rax": number & NO_CALL,
        "rax": result & NO_CALL,
        "rip": 1000,
        **others,
    }


def handled(signo: int, flags: int) -> bytes:
    at = (signo - 1) * 32
    action = (0x1234).to_bytes(8, "little") + flags.to_bytes(8, "little") + bytes(16)
    return ACTIONS[:at] + action + ACTIONS[at + 32 :]


def test_an_interrupted_call_is_made_again() -> None:
    found = for_elsewhere(regs(nr.NR_read, -512), bytes(5), b"", 0, ACTIONS)
    assert (found["rax"], found["rip"], found["orig_rax"]) == (nr.NR_read, 998, NO_CALL)


@pytest.mark.parametrize(
    ("result", "flags", "again"),
    [
        (-512, 0, False),
        (-512, 0x10000000, True),
        (-513, 0, True),
        (-514, 0, False),
        (-516, 0, False),
    ],
)
def test_a_signal_with_a_handler_ends_a_call_as_it_does_here(
    result: int, flags: int, again: bool
) -> None:
    pending = 1 << (10 - 1)
    found = for_elsewhere(regs(nr.NR_pause, result), bytes(5), b"", pending, handled(10, flags))
    assert (found["rip"] == 998) == again
    assert again or found["rax"] == EINTR & NO_CALL


def test_a_sleep_goes_on_for_what_remains_of_it() -> None:
    sleeping = regs(nr.NR_nanosleep, -516, rdi=0x5000, rsi=0x6000)
    assert for_elsewhere(sleeping, bytes(5), b"", 0, ACTIONS)["rdi"] == 0x6000
    by_clock = regs(nr.NR_clock_nanosleep, -516, rdi=1, rdx=0x5000, r10=0x6000)
    assert for_elsewhere(by_clock, bytes(5), b"", 0, ACTIONS)["rdx"] == 0x6000


def test_a_call_that_goes_on_is_known_by_where_it_waits_or_by_its_code() -> None:
    going = regs(nr.NR_restart_syscall, -516, rdi=0x5000)
    loaded = b"\xb8" + nr.NR_poll.to_bytes(4, "little")
    assert for_elsewhere(going, bytes(5), b"futex_do_wait", 0, ACTIONS)["rax"] == nr.NR_futex
    assert for_elsewhere(going, loaded, b"0", 0, ACTIONS)["rax"] == nr.NR_poll
    with pytest.raises(UnknownCallError):
        for_elsewhere(going, bytes(5), b"0", 0, ACTIONS)
