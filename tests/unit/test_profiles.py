"""What programs cost: learned, kept, and survived by whatever happens to its file."""

import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaunch.guess import expect, guess
from mlaunch.profiles import MEMORY_OF_RUNS, OUTLIER, Profile, Profiles, Sample
from mlaunch.profilestore import NewerError, upgrade

GCC = "/usr/bin/gcc"
COMPILE = ["gcc", "-O2", "-c", "a.c"]
OTHER = ["gcc", "-O2", "-c", "b.c"]
LINK = ["gcc", "-o", "x", "a.o"]
RUN = Sample("home", cpu_s=0.4, wall_s=0.5, maxrss_kib=100 << 10, children=3, peak_children=1)
ON_NODE = Sample("node", 0.4, round_trips=12, bytes_to_node=5000, bytes_to_home=30_000)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "profiles.sqlite")


def found(profiles: Profiles, argv: list[str] = COMPILE) -> Profile:
    profile = profiles.lookup(GCC, argv)
    assert profile is not None
    return profile


def rows(path: str) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM program").fetchone()[0])


def aside(path: str) -> list[str]:
    folder, base = os.path.split(path)
    return [name for name in os.listdir(folder) if name.startswith(f"{base}.corrupt-")]


# learning


def test_what_was_learned_of_a_run_is_known_of_others_of_its_shape(path: str) -> None:
    with closing(Profiles(path)) as profiles:
        assert profiles.lookup(GCC, COMPILE) is None
        profiles.learn(GCC, COMPILE, RUN)
        profile = found(profiles, OTHER)
    assert (profile.runs, profile.cpu_s, profile.memory) == (1, 0.4, 100 << 20)
    assert (profile.children, profile.peak_children, profile.pooled) == (3, 1, False)


def test_of_other_arguments_all_that_is_known_of_the_program_is_taken(path: str) -> None:
    with closing(Profiles(path)) as profiles:
        profiles.learn(GCC, COMPILE, RUN)
        profiles.learn(GCC, ["gcc", "-O0", "-c", "a.c"], replace(RUN, cpu_s=0.2))
        profile = found(profiles, LINK)
    assert profile.pooled
    assert profile.cpu_s == pytest.approx(0.3)


def test_the_mean_follows_the_last_runs(path: str) -> None:
    with closing(Profiles(path)) as profiles:
        for _ in range(50):
            profiles.learn(GCC, COMPILE, RUN)
        for _ in range(4 * MEMORY_OF_RUNS):
            profiles.learn(GCC, COMPILE, replace(RUN, cpu_s=0.8))
        assert found(profiles).cpu_s == pytest.approx(0.8, rel=0.05)


def test_one_run_out_of_line_does_not_spoil_the_mean(path: str) -> None:
    with closing(Profiles(path)) as profiles:
        for _ in range(20):
            profiles.learn(GCC, COMPILE, RUN)
        profiles.learn(GCC, COMPILE, replace(RUN, cpu_s=4000.0))
        assert found(profiles).cpu_s <= 0.4 * (1 + OUTLIER / MEMORY_OF_RUNS)
        assert found(profiles).cpu_spread > 0


def test_memory_goes_up_at_once_and_down_slowly(path: str) -> None:
    with closing(Profiles(path)) as profiles:
        for mib in (100, 400, 100):
            profiles.learn(GCC, COMPILE, replace(RUN, maxrss_kib=mib << 10))
        assert 300 << 20 < found(profiles).memory < 400 << 20


def test_traffic_is_learned_on_nodes_and_children_where_they_can_be_seen(path: str) -> None:
    with closing(Profiles(path)) as profiles:
        profiles.learn(GCC, COMPILE, RUN)
        assert found(profiles).node_runs == 0
        profiles.learn(GCC, COMPILE, ON_NODE)
        profile = found(profiles)
    assert (profile.node_runs, profile.round_trips, profile.bytes_to_home) == (1, 12, 30_000)
    assert profile.children == 3


def test_a_first_run_that_brought_the_files_to_the_node_does_not_count_as_its_traffic(
    path: str,
) -> None:
    cold = replace(ON_NODE, round_trips=600, bytes_to_node=40 << 20)
    with closing(Profiles(path)) as profiles:
        profiles.learn(GCC, COMPILE, cold)
        assert expect(GCC, COMPILE, found(profiles), top=False).bytes_to_node == 0
        profiles.learn(GCC, COMPILE, ON_NODE)
        program = expect(GCC, COMPILE, found(profiles), top=False)
        assert (program.round_trips, program.bytes_to_node) == (12, 5000)
        profiles.learn(GCC, COMPILE, cold)
        assert found(profiles).bytes_to_node < 40 << 18


def test_runs_on_a_node_without_the_files_tell_nothing_of_traffic(path: str) -> None:
    cold = replace(ON_NODE, bytes_to_node=40 << 20, cold=True)
    with closing(Profiles(path)) as profiles:
        for _ in range(5):
            profiles.learn(GCC, COMPILE, cold)
        assert found(profiles).node_runs == 0
        assert found(profiles).cpu_s > 0


def test_what_carries_much_each_time_is_known_for_it(path: str) -> None:
    heavy = replace(ON_NODE, bytes_to_node=1 << 30)
    with closing(Profiles(path)) as profiles:
        for _ in range(3):
            profiles.learn("/usr/bin/sha256sum", ["sha256sum"], heavy)
        profile = profiles.lookup("/usr/bin/sha256sum", ["sha256sum"])
        program = expect("/usr/bin/sha256sum", ["sha256sum"], profile, top=False)
    assert program.bytes_to_node == 1 << 30


@pytest.mark.parametrize(
    ("sample", "starter"),
    [
        (replace(RUN, peak_children=4, children=4, own_cpu_s=0.01), True),
        (replace(RUN, peak_children=1, children=30, own_cpu_s=0.01), True),
        (replace(RUN, peak_children=4, children=4, own_cpu_s=0.3), False),
        (replace(RUN, peak_children=1, children=3, own_cpu_s=0.01), False),
        (replace(RUN, peak_children=4, children=4), False),
    ],
)
def test_who_leaves_the_work_to_children_is_a_starter(
    path: str, sample: Sample, starter: bool
) -> None:
    with closing(Profiles(path)) as profiles:
        profiles.learn("/usr/bin/own-tool", ["own-tool"], sample)
        profile = profiles.lookup("/usr/bin/own-tool", ["own-tool"])
        assert profile is not None
        assert profile.starter is starter
        assert expect("/usr/bin/own-tool", ["own-tool"], profile, top=False).starter is starter


def test_a_compiler_that_starts_two_passes_at_once_is_none(path: str) -> None:
    with closing(Profiles(path)) as profiles:
        profiles.learn(GCC, COMPILE, replace(RUN, peak_children=2, own_cpu_s=0.01))
        assert found(profiles).starter
        assert not expect(GCC, COMPILE, found(profiles), top=False).stays


def test_an_upgraded_program_is_still_known_but_believed_less(path: str, tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("one")
    with closing(Profiles(path)) as profiles:
        for _ in range(20):
            profiles.learn(str(tool), ["tool"], RUN)
        tool.write_text("another")
        profiles.learn(str(tool), ["tool"], replace(RUN, cpu_s=0.8))
        profile = profiles.lookup(str(tool), ["tool"])
    assert profile is not None
    assert profile.runs == 3
    assert profile.cpu_s == pytest.approx(0.4 + 0.4 / 3)


# what is expected


def test_a_profile_takes_the_place_of_the_guess_and_says_so(path: str) -> None:
    with closing(Profiles(path)) as profiles:
        profiles.learn(GCC, COMPILE, ON_NODE)
        profiles.learn(GCC, COMPILE, ON_NODE)
        program = expect(GCC, COMPILE, found(profiles), top=False)
        pooled = expect(GCC, LINK, found(profiles, LINK), top=False)
    assert (program.cpu_s, program.round_trips, program.bytes_to_home) == (0.4, 12, 30_000)
    assert program.why == "it ran like this 2 times: 0.4 s of CPU"
    assert pooled.why == "it ran with other arguments 2 times: 0.4 s of CPU"
    assert 0.4 < pooled.cpu_s < guess(GCC, LINK, False)[0].cpu_s


def test_what_the_user_typed_is_never_thought_shorter_than_at_first_sight(path: str) -> None:
    with closing(Profiles(path)) as profiles:
        profiles.learn(GCC, COMPILE, RUN)
        top = expect(GCC, COMPILE, found(profiles), top=True)
    assert top.cpu_s == guess(GCC, COMPILE, True)[0].cpu_s
    assert top.memory == RUN.maxrss_kib << 10


# keeping


def test_profiles_survive_the_daemon(path: str) -> None:
    with closing(Profiles(path)) as profiles:
        profiles.learn(GCC, COMPILE, RUN)
        profiles.learn("/opt/\udcff\udcfe/x", ["x\udcff"], ON_NODE)
        before = found(profiles)
    with closing(Profiles(path)) as profiles:
        assert found(profiles) == before
        assert profiles.lookup("/opt/\udcff\udcfe/x", ["x\udcff"]) is not None


def test_nothing_is_written_before_the_flush_and_all_of_it_then(path: str) -> None:
    with closing(Profiles(path)) as profiles:
        profiles.learn(GCC, COMPILE, RUN)
        assert rows(path) == 0
        profiles.flush()
        assert rows(path) == 2  # the shape and the pool


def test_the_least_recently_used_are_dropped_from_memory_and_file(path: str) -> None:
    with closing(Profiles(path, most=6)) as profiles:
        for number in range(3):
            profiles.learn(f"/bin/p{number}", ["p"], RUN)
        profiles.flush()
        profiles.lookup("/bin/p0", ["p"])
        profiles.learn("/bin/p3", ["p"], RUN)
        assert len(profiles) == 6
        assert profiles.lookup("/bin/p1", ["p"]) is None
        assert profiles.lookup("/bin/p0", ["p"]) is not None
    assert rows(path) == 6
    with closing(Profiles(path, most=2)) as profiles:
        assert len(profiles) == 2


def test_two_writers_keep_what_both_have_learned(path: str) -> None:
    with closing(Profiles(path)) as one, closing(Profiles(path)) as two:
        for number in range(20):
            one.learn(f"/bin/one{number}", ["x"], RUN)
            two.learn(f"/bin/two{number}", ["x"], RUN)
            one.flush()
            two.flush()
    with closing(Profiles(path)) as profiles:
        assert len(profiles) == 80


def test_what_cannot_be_written_for_another_writer_is_written_later(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with closing(Profiles(path)) as profiles:
        profiles.learn(GCC, COMPILE, RUN)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            profiles.flush()
            other.execute("ROLLBACK")
        assert rows(path) == 0
        profiles.flush()
    assert rows(path) == 2
    assert capfd.readouterr().err == ""


# upgrades of the file


def test_a_file_of_an_earlier_version_is_taken_through_each_step(tmp_path: Path) -> None:
    steps = (("CREATE TABLE a (x)",), ("ALTER TABLE a ADD COLUMN y DEFAULT 7",))
    with closing(sqlite3.connect(tmp_path / "x", isolation_level=None)) as db:
        upgrade(db, steps[:1])
        db.execute("INSERT INTO a VALUES (1)")
        upgrade(db, steps)
        upgrade(db, steps)
        assert db.execute("SELECT x, y FROM a").fetchall() == [(1, 7)]
        assert db.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    steps = (("CREATE TABLE a (x)", "nonsense"),)
    with closing(sqlite3.connect(tmp_path / "x", isolation_level=None)) as db:
        with pytest.raises(sqlite3.OperationalError):
            upgrade(db, steps)
        assert db.execute("SELECT * FROM sqlite_master").fetchall() == []
        db.execute("PRAGMA user_version = 9")
        with pytest.raises(NewerError):
            upgrade(db, steps)


def test_a_file_of_a_later_version_is_left_alone(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Profiles(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with closing(Profiles(path)) as profiles:
        profiles.learn(GCC, COMPILE, RUN)
        assert found(profiles).runs == 1
    assert rows(path) == 0
    assert aside(path) == []
    assert "version 99" in capfd.readouterr().err


# damage


@contextmanager
def one_line(capfd: pytest.CaptureFixture[str], text: str) -> Iterator[None]:
    capfd.readouterr()
    yield
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("mlaunch: ")
    assert text in err


def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path).write_bytes(b"no database at all\n" * 1000)
    with one_line(capfd, "begin anew"):
        profiles = Profiles(path)
    profiles.learn(GCC, COMPILE, RUN)
    profiles.close()
    assert rows(path) == 2
    (name,) = aside(path)
    assert (Path(path).parent / name).read_bytes().startswith(b"no database")


def test_damage_in_the_middle_of_a_file_is_found(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with closing(Profiles(path)) as profiles:
        for number in range(300):
            profiles.learn(f"/bin/p{number}", ["p"], RUN)
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(os.path.getsize(path) - 4096))
    with one_line(capfd, "begin anew"):
        profiles = Profiles(path)
    profiles.learn(GCC, COMPILE, RUN)
    assert found(profiles).runs == 1
    profiles.close()
    assert rows(path) == 2
    assert len([name for name in aside(path) if not name.endswith(("-wal", "-shm"))]) == 1


def test_damage_while_in_use_loses_nothing_that_is_in_memory(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with closing(Profiles(path)) as profiles:
        profiles.learn(GCC, LINK, RUN)
        profiles.flush()
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with open(path, "r+b") as file:
            file.write(os.urandom(os.path.getsize(path)))
        profiles.learn(GCC, COMPILE, RUN)
        with one_line(capfd, "begin anew"):
            profiles.flush()
        profiles.flush()
    assert rows(path) == 3


def test_rows_of_a_wrong_kind_are_left_out(path: str) -> None:
    with closing(Profiles(path)) as profiles:
        profiles.learn(GCC, COMPILE, RUN)
        profiles.learn(GCC, LINK, RUN)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE program SET cpu_s = 'much' WHERE shape LIKE 'link%'")
    with closing(Profiles(path)) as profiles:
        assert not found(profiles, COMPILE).pooled
        assert found(profiles, LINK).pooled
        profiles.learn(GCC, LINK, RUN)
        assert found(profiles, LINK).runs == 1


def test_a_text_that_is_none_is_damage(path: str, capfd: pytest.CaptureFixture[str]) -> None:
    with closing(Profiles(path)) as profiles:
        profiles.learn(GCC, COMPILE, RUN)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE program SET identity = CAST(x'ff' AS TEXT)")
    with one_line(capfd, "begin anew"):
        Profiles(path).close()


def test_a_directory_in_its_place_is_set_aside(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    os.makedirs(path)
    with one_line(capfd, "begin anew"):
        Profiles(path).close()
    assert rows(path) == 0


def test_without_a_place_for_the_file_profiles_are_in_memory(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with (
        one_line(capfd, "not kept"),
        closing(Profiles(str(tmp_path / "file" / "profiles.sqlite"))) as profiles,
    ):
        profiles.learn(GCC, COMPILE, RUN)
        profiles.flush()
        assert found(profiles).runs == 1


def test_a_disk_that_takes_no_more_is_said_once_and_tried_again(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    profiles = Profiles(path)
    profiles.learn(GCC, COMPILE, RUN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with one_line(capfd, "cannot be written now"):
        # To SQLite a write(2) that is refused, as it would be on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            profiles.flush()
            profiles.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found(profiles).runs == 1
    profiles.close()
    assert rows(path) == 2


samples = st.builds(
    Sample,
    where=st.sampled_from(["home", "node"]),
    cpu_s=st.floats(-1, 1e9),
    wall_s=st.floats(-1, 1e9),
    maxrss_kib=st.integers(-1, 1 << 40),
    children=st.integers(0, 1 << 31),
    peak_children=st.integers(0, 1 << 31),
    round_trips=st.integers(0, 1 << 31),
    bytes_to_node=st.integers(0, 1 << 62),
    bytes_to_home=st.integers(0, 1 << 62),
    own_cpu_s=st.floats(-1, 1e9),
)


@given(st.lists(samples, max_size=30))
def test_whatever_is_learned_can_be_kept_and_read_again(
    tmp_path_factory: pytest.TempPathFactory, runs: list[Sample]
) -> None:
    path = str(tmp_path_factory.mktemp("profiles") / "x")
    with closing(Profiles(path)) as profiles:
        for sample in runs:
            profiles.learn(GCC, COMPILE, sample)
        before = profiles.lookup(GCC, COMPILE)
    with closing(Profiles(path)) as profiles:
        assert profiles.lookup(GCC, COMPILE) == before
