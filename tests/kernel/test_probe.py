from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from stubs.node import probe


def test_cpus_are_those_that_this_process_may_use() -> None:
    script = "from stubs.node.probe import usable_cpus; print(usable_cpus())"
    one = sorted(os.sched_getaffinity(0))[0]
    answer = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: os.sched_setaffinity(0, {one}),
    )
    assert 0 < float(answer.stdout) <= 1


def test_quotas_of_both_kinds_of_cgroups() -> None:
    assert list(probe._quota_v2("50000 100000\n")) == [0.5]
    assert list(probe._quota_v2("max 100000\n")) == []
    assert list(probe._quota_v2("-1 100000")) == []
    assert list(probe._quota_v2("")) == []


def test_the_cgroups_above_ours_count() -> None:
    assert list(probe._upwards("/r", "/a/b")) == ["/r/a/b", "/r/a", "/r"]
    assert list(probe._upwards("/r", "/")) == ["/r"]


def test_a_load_is_plausible() -> None:
    sampler = probe.Probe()
    total = sum(number * number for number in range(300_000))
    load = sampler.load(3)
    assert total
    assert load.guests == 3
    assert 0 <= load.idle_milli <= load.cpus_milli
    assert load.running >= 1
    assert 0 < load.memory_available <= load.memory_total
    assert load.owner_idle_s <= probe.NOBODY
    assert load.agent_rss > 1 << 20


def test_speed_is_measured_and_kept_until_the_next_boot(tmp_path: Path) -> None:
    speed = probe.measure_speed()
    assert speed > 100
    cache = str(tmp_path / "cache")
    assert probe.cached_speed(cache) == 0
    probe.keep_speed(cache, speed)
    assert probe.cached_speed(cache) == speed
    (tmp_path / "cache" / "speed").write_text(f"another-boot {speed}\n")
    assert probe.cached_speed(cache) == 0
    probe.keep_speed("/proc/nothing", speed)
