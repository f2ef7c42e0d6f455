"""What goes with programs at home: as much as was foretold, unless less is measured."""

import pytest

from mlaunch.service import HORIZON_S, Service


def run(service: Service, seconds: int, busy: float, programs: float = 0.0) -> None:
    """Let so many CPUs be busy, for programs that compute so much of one of them."""
    for _ in range(seconds):
        service.ended(programs)
        service.measured(busy, 1.0)


def foretold(cpus: float) -> Service:
    service = Service()
    service.foretold = cpus
    return service


def test_what_is_foretold_is_believed_at_first() -> None:
    assert foretold(0.4).cpus == pytest.approx(0.4)
    assert Service().cpus == 0.0


def test_what_is_not_found_is_believed_no_longer() -> None:
    service = foretold(0.6)
    run(service, 20, 0.03)
    assert 0.02 < service.cpus < 0.12


def test_what_is_found_is_believed_still() -> None:
    service = foretold(0.4)
    run(service, 20, 0.4)
    assert service.cpus == pytest.approx(0.4)


def test_programs_that_compute_are_not_what_goes_with_them() -> None:
    service = foretold(0.4)
    run(service, 40, 1.0, programs=0.8)
    assert 0.2 < service.cpus < 0.28


def test_never_more_is_believed_than_was_foretold() -> None:
    service = foretold(0.2)
    run(service, 20, 3.0)
    assert service.cpus == pytest.approx(0.2)


def test_a_long_program_that_ends_is_soon_forgotten() -> None:
    service = foretold(0.4)
    service.ended(3600.0)
    assert service.cpus >= 0.0
    run(service, int(5 * HORIZON_S), 0.4)
    assert service.cpus == pytest.approx(0.4, rel=0.05)


def test_a_long_pause_counts_no_more_than_a_short_one() -> None:
    service = foretold(0.6)
    service.measured(0.1, 3600.0)
    run(service, 40, 0.03)
    assert service.cpus < 0.12


def test_what_kept_home_busy_before_goes_with_nothing() -> None:
    service = Service()
    run(service, 60, 1.0)
    service.foretold = 0.6
    run(service, 4, 0.03)
    assert service.cpus < 0.2


def test_the_next_command_is_another() -> None:
    service = foretold(0.6)
    run(service, 60, 0.6)
    service.foretold = 0.0
    run(service, 2, 0.0)
    service.foretold = 0.6
    run(service, 4, 0.03)
    assert service.cpus < 0.2


def test_a_moment_without_programs_is_no_new_command() -> None:
    service = foretold(0.6)
    run(service, 20, 0.06)
    service.foretold = 0.0
    service.measured(0.0, 1.0)
    service.foretold = 0.6
    assert service.cpus < 0.12
