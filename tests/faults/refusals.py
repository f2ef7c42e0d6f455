"""How mrun and mlaunch refuse: nothing on standard output, one line on standard error."""

from tests.cluster import Host


def refused(home: Host, *argv: str, status: int = 125) -> str:
    """Run what must fail with one line on standard error; return the line without its prefix."""
    done = home.run(argv)
    assert done.stdout == b""
    said = done.stderr.decode()
    assert done.returncode == status, said
    assert said.startswith(f"{argv[0]}: ")
    assert said.endswith("\n")
    assert said.count("\n") == 1, said
    return said.removeprefix(f"{argv[0]}: ").rstrip("\n")
