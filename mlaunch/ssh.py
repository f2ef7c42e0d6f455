"""SSH: connections to nodes, their keys checked; the only module that imports paramiko.

A node gets two connections, one for requests and one for large messages: on a single one a small
message waits behind up to a window of large ones. Each connection has a thread of paramiko's that
receives and decrypts; sending happens in the caller's thread, and never when the socket would
block, since a link process must stay able to notice that the node is gone.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import paramiko

from mlaunch import bootstrap, sshconfig
from mlaunch.errors import LaunchError, plain
from mlaunch.knownhosts import KnownHosts, decode
from mlaunch.sshconfig import SshHost
from mlaunch.sshsocket import RECEIVE, Bell, Wire
from stubs.abi.sched import take_short_slices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlaunch.config import Node
    from stubs.link.stream import Stream

# Its hardware support makes it 20 to 30 % cheaper than the others; paramiko would take it last.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")

# Authentication, opening a session, starting a command: each.
STEP_TIMEOUT_S = 10.0

# Unacknowledged for so long, a connection is broken by the kernel (tcp(7)).
TCP_USER_TIMEOUT = 18
TCP_USER_TIMEOUT_MS = 6000

# The largest packet that sshd takes; larger writes are cut by paramiko, at a copy each.
CHUNK = 32 << 10

# Hops of ProxyJump, each of which may have its own.
MAX_JUMPS = 8

# Gives the channel's ends to the agent and lingers as a small program until the agent lets go.
_BULK = """
import array,os,socket,sys,binascii
s=socket.socket(socket.AF_UNIX)
s.connect(binascii.a2b_hex(sys.argv[1]))
s.sendmsg([b"B"],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,array.array("i",[0,1]))])
n=os.open("/dev/null",os.O_RDWR)
os.dup2(s.fileno(),0)
os.dup2(n,1)
try:os.execvp("cat",["cat"])
except OSError:s.recv(1)
"""


class Connection:
    """One authenticated SSH connection to a node."""

    def __init__(self, host: SshHost, depth: int = 0) -> None:
        """Connect, check the host's key and authenticate; LaunchError with the reason."""
        self.host = host
        self._jump: Connection | None = None
        self._wire = self._connect(depth)
        try:
            self.transport = paramiko.Transport(self._wire)  # type: ignore[arg-type]  # duck-typed
            self._handshake()
            self._wire.settle()
            take_short_slices(self.transport.native_id or 0)
        except BaseException:
            self.close()
            raise

    @property
    def heard(self) -> float:
        """When bytes last came, by the monotonic clock."""
        return self._wire.heard

    @property
    def software(self) -> str:
        """What the SSH server calls itself."""
        return plain(self.transport.remote_version).removeprefix("SSH-2.0-")

    def run(self, command: str) -> RemoteCommand:
        """Start a command in a session of its own."""
        try:
            channel = self.transport.open_session(timeout=STEP_TIMEOUT_S)
            channel.settimeout(STEP_TIMEOUT_S)
            channel.exec_command(command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise LaunchError(f"{self._name()} runs no command: {_text(error)}") from error
        return RemoteCommand(channel, self._first_wire())

    def abort(self) -> None:
        """Break the connection; from any thread."""
        self._first_wire().shutdown()

    def close(self) -> None:
        """Close it, and the connections that lead to it."""
        transport = getattr(self, "transport", None)
        if transport is not None:
            transport.close()
        self._wire.close()

    # how the socket comes about

    def _first_wire(self) -> Wire:
        return self._jump._first_wire() if self._jump is not None else self._wire

    def _connect(self, depth: int) -> Wire:
        host = self.host
        if host.proxy_jump:
            return self._through_jump(depth)
        if host.proxy_command:
            return self._through_command(host.proxy_command)
        try:
            sock = socket.create_connection((host.hostname, host.port), host.connect_timeout_s)
        except socket.gaierror as error:
            raise LaunchError(
                f"there is no host {host.hostname} ({error.strerror})", "correct its name or DNS"
            ) from error
        except TimeoutError as error:
            raise LaunchError(
                f"{self._name()} does not answer within {host.connect_timeout_s:.0f} s",
                "is it on, and does a firewall let us through?",
            ) from error
        except OSError as error:
            hint = "is sshd running there?" if isinstance(error, ConnectionRefusedError) else ""
            raise LaunchError(f"{self._name()}: {error.strerror}", hint) from error
        # Nagle together with delayed ACKs costs 40 ms at every step of the handshake.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
        return Wire(sock)

    def _through_jump(self, depth: int) -> Wire:
        """Connect through the last hop of ProxyJump, which is reached through those before it."""
        if depth >= MAX_JUMPS:
            raise LaunchError(f"{self.host.alias}: ProxyJump goes round in a circle")
        *before, last = self.host.proxy_jump
        name, user, port = sshconfig.split_jump(last)
        hop = sshconfig.lookup(name, user, port)
        if before:
            hop = sshconfig.with_jump(hop, tuple(before))
        try:
            self._jump = Connection(hop, depth + 1)
            channel = self._jump.transport.open_channel(
                "direct-tcpip",
                (self.host.hostname, self.host.port),
                ("127.0.0.1", 0),
                timeout=self.host.connect_timeout_s,
            )
        except LaunchError as error:
            raise LaunchError(f"jump host {name}: {error.text}", error.hint) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            text = f"jump host {name} does not reach {self._name()}: {_text(error)}"
            raise LaunchError(text) from error
        return Wire(channel, self._jump.close)

    def _through_command(self, command: str) -> Wire:
        ours, theirs = socket.socketpair()
        child = subprocess.Popen(
            ["/bin/sh", "-c", "exec " + command], stdin=theirs.fileno(), stdout=theirs.fileno()
        )
        theirs.close()

        def end() -> None:
            child.terminate()
            child.wait()

        return Wire(ours, end)

    # the handshake

    def _handshake(self) -> None:
        transport = self.transport
        known = KnownHosts(self.host)
        options = transport.get_security_options()
        options.ciphers = [name for name in CIPHERS if name in options.ciphers]
        # A key of a kind that we know this host by, if there is one; else it would seem unknown.
        preferred = [kind for kind in options.key_types if _key_kind(kind) in known.kinds]
        options.key_types = preferred + [k for k in options.key_types if k not in preferred]
        transport.banner_timeout = STEP_TIMEOUT_S
        transport.handshake_timeout = int(STEP_TIMEOUT_S)
        transport.auth_timeout = STEP_TIMEOUT_S
        transport.channel_timeout = STEP_TIMEOUT_S
        try:
            transport.start_client(timeout=STEP_TIMEOUT_S)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise LaunchError(f"{self._name()} does not speak SSH: {_text(error)}") from error
        key = transport.get_remote_server_key()
        known.check(key.get_name(), key.asbytes())
        Login(self.host, transport).run()

    def _name(self) -> str:
        host = self.host
        return host.hostname if host.port == 22 else f"{host.hostname} port {host.port}"


class LoginError(LaunchError):
    """The host is the right one, but does not let us in."""


class Login:
    """Authentication by keys: those of the agent, and those in files."""

    def __init__(self, host: SshHost, transport: paramiko.Transport) -> None:
        """Try nothing yet."""
        self._host = host
        self._transport = transport
        self._tried = 0
        self._locked: list[str] = []

    def run(self) -> None:
        """Authenticate; LaunchError says what was tried."""
        for key in self._candidates():
            self._tried += 1
            try:
                if not self._transport.auth_publickey(self._host.user, key):
                    return
                raise LoginError(
                    f"{self._host.hostname} wants more than a key",
                    "a second factor cannot be asked for: let a key suffice there",
                )
            except paramiko.BadAuthenticationType as error:
                allowed = ", ".join(error.allowed_types)
                raise LoginError(
                    f"{self._host.hostname} takes no keys, only: {allowed}",
                    "allow PubkeyAuthentication in its sshd_config",
                ) from error
            except paramiko.AuthenticationException:
                continue
            except (paramiko.SSHException, EOFError, OSError) as error:
                raise self._refused(_text(error)) from error
        raise self._refused("")

    def _refused(self, why: str) -> LoginError:
        host = self._host
        if self._locked:
            return LoginError(
                f"the key {self._locked[0]} is protected by a passphrase",
                f"ssh-add {self._locked[0]}",
            )
        if not self._tried:
            return LoginError(
                f"there is no key to log in to {host.hostname} with",
                f"ssh-keygen, then ssh-copy-id {sshconfig.target(host)}",
            )
        text = f"{host.hostname} refuses the key of {host.user}"
        if self._tried > 1:
            text = f"{host.hostname} refuses all {self._tried} keys of {host.user}"
        return LoginError(
            text + (f" ({why})" if why else ""), f"ssh-copy-id {sshconfig.target(host)}"
        )

    def _candidates(self) -> Iterator[paramiko.PKey]:
        """Yield keys in the order of ssh(1): configured ones in the agent, others there, files."""
        wanted = {_public_blob(path): path for path in self._host.identity_files}
        wanted.pop(None, None)
        held = self._agent_keys()
        seen: set[bytes] = set()
        mine = [key for key in held if key.asbytes() in wanted]
        others = [] if self._host.identities_only else [key for key in held if key not in mine]
        for key in mine + others:
            seen.add(key.asbytes())
            yield key
        for path in self._host.identity_files:
            loaded = self._load(path)
            if loaded is not None and loaded.asbytes() not in seen:
                seen.add(loaded.asbytes())
                yield loaded

    def _agent_keys(self) -> list[paramiko.PKey]:
        path = self._host.agent
        if not path or not os.path.exists(path):
            return []
        before = os.environ.get("SSH_AUTH_SOCK")
        os.environ["SSH_AUTH_SOCK"] = path
        try:
            return list(paramiko.Agent().get_keys())
        except (paramiko.SSHException, OSError):
            return []  # an agent that does not answer is none; the files are left
        finally:
            if before is None:
                del os.environ["SSH_AUTH_SOCK"]
            else:
                os.environ["SSH_AUTH_SOCK"] = before

    def _load(self, path: str) -> paramiko.PKey | None:
        if not os.path.exists(path):
            return None
        try:
            return paramiko.PKey.from_path(path)
        except (paramiko.PasswordRequiredException, TypeError):
            self._locked.append(path)
        except OSError as error:
            raise LaunchError(f"{path}: {error.strerror}") from error
        except (paramiko.SSHException, ValueError):
            pass  # no private key, or of a kind that paramiko does not know
        return None


class RemoteCommand:
    """A command that runs on a node: blocking at first, then a Stream for an endpoint."""

    def __init__(self, channel: paramiko.Channel, wire: Wire) -> None:
        """Take over a channel on which a command was started."""
        self._channel = channel
        self._wire = wire
        self._early = b""
        self._bell: Bell | None = None
        self._errors = b""

    # blocking

    def read(self, most: int) -> bytes:
        """Return some bytes, b"" at the end; LaunchError when nothing comes in time."""
        try:
            return self._channel.recv(most)
        except TimeoutError as error:
            raise LaunchError(f"no answer within {STEP_TIMEOUT_S:.0f} s") from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise LaunchError(_text(error)) from error

    def read_all(self) -> bytes:
        """Return all of its output."""
        parts = []
        while data := self.read(RECEIVE):
            parts.append(data)
        return b"".join(parts)

    def write(self, data: bytes) -> None:
        """Write all of `data`."""
        try:
            for start in range(0, len(data), CHUNK):
                self._channel.sendall(data[start : start + CHUNK])
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise LaunchError(_text(error)) from error

    def failure(self) -> str:
        """Say what its standard error and exit status tell."""
        status = ""
        if self._channel.status_event.wait(STEP_TIMEOUT_S) and self._channel.exit_status >= 0:
            status = f"exit status {self._channel.exit_status}"
        words = self.last_words()
        return f"{words} ({status})" if words and status else words or status or "it ended"

    def last_words(self) -> str:
        """Return the last line that came on its standard error."""
        self._take_errors()
        lines = [line for line in self._errors.splitlines() if line.strip()]
        return plain(lines[-1]) if lines else ""

    def _take_errors(self) -> None:
        try:
            while self._channel.recv_stderr_ready():
                self._errors = (self._errors + self._channel.recv_stderr(CHUNK))[-CHUNK:]
        except (EOFError, paramiko.SSHException):
            pass  # the window could not be opened again: the connection is gone, as others will say

    def become_stream(self, early: bytes = b"") -> Stream:
        """From now on never block; `early` has been read already."""
        self._early = early
        self._channel.setblocking(False)
        self._bell = Bell()
        # Not Channel.fileno(): its pipe is shared with standard error without a lock.
        self._channel.in_buffer.set_event(self._bell)  # type: ignore[arg-type]  # duck-typed
        if early:
            self._bell.set()
        return self

    # as a Stream

    def fileno(self) -> int:
        """Return the descriptor that is readable when `receive` has something."""
        assert self._bell is not None
        return self._bell.fd

    def write_fileno(self) -> int:
        """Return -1: nothing tells when the window opens."""
        return -1

    def receive(self) -> bytes | None:
        """Return bytes, b"" at the end, None when there is nothing now; OSError as for `send`.

        Whoever reads opens the window, which paramiko sends at once.
        """
        if self._early:
            early, self._early = self._early, b""
            return early
        self._take_errors()
        try:
            return self._channel.recv(RECEIVE)
        except (EOFError, paramiko.SSHException) as error:
            raise OSError(_text(error)) from error
        except TimeoutError:
            # We rang ourselves, for what came early. Cleared first and looked at then: what comes
            # between is not overlooked.
            assert self._bell is not None
            self._bell.clear()
            if self._channel.recv_ready():
                self._bell.set()
            return None

    def send(self, data: memoryview, fds: list[int]) -> int:
        """Write what can be written without waiting; OSError when the connection is gone."""
        if fds:
            raise ValueError("an SSH channel carries no descriptors")
        sent = 0
        try:
            while sent < len(data) and self._wire.writable():
                sent += self._channel.send(data[sent : sent + CHUNK].tobytes())
        except TimeoutError:
            pass  # the window is full
        except (EOFError, paramiko.SSHException) as error:
            raise OSError(_text(error)) from error
        return sent

    def close(self) -> None:
        """Close the channel."""
        self._take_errors()
        try:
            self._channel.close()
        except (EOFError, paramiko.SSHException):
            pass  # the connection is gone, and the channel with it
        if self._bell is not None:
            self._bell.close()


class SshTransport:
    """Reaches a node over SSH; see mlaunch.link.Transport."""

    def __init__(self, node: Node) -> None:
        """Connect nothing yet."""
        self._node = node
        self._host: SshHost | None = None
        self._rpc: Connection | None = None
        self._bulk: Connection | None = None
        self._agent: RemoteCommand | None = None
        self._bulk_error: LaunchError | None = None
        self._bulk_thread: threading.Thread | None = None

    def open(self, token: bytes) -> Stream:
        """Connect and start the agent; LaunchError with the reason and the remedy."""
        self._host = sshconfig.lookup(self._node.host, self._node.user, self._node.port)
        self._rpc = Connection(self._host)
        # The second one need not wait until the agent is up.
        self._bulk_thread = threading.Thread(target=self._connect_bulk, daemon=True)
        self._bulk_thread.start()
        self._agent = self._rpc.run(bootstrap.command())
        return self._agent.become_stream(bootstrap.converse(self._agent, token))

    def _connect_bulk(self) -> None:
        assert self._host is not None
        try:
            self._bulk = Connection(self._host)
        except LaunchError as error:
            self._bulk_error = error

    def open_bulk(self, address: bytes) -> Stream | None:
        """Hand the second connection to the agent at `address`; LaunchError if there is none."""
        assert self._bulk_thread is not None
        self._bulk_thread.join()
        if self._bulk is None:
            raise self._bulk_error or LaunchError("not connected")
        return self._bulk.run(bootstrap.python_command(_BULK, address.hex())).become_stream()

    def heard(self) -> float | None:
        """Return when bytes last came on either connection."""
        return max(item.heard for item in (self._rpc, self._bulk) if item is not None)

    def abort(self) -> None:
        """Break both connections; from any thread."""
        for connection in (self._rpc, self._bulk):
            if connection is not None:
                connection.abort()

    def close(self) -> None:
        """Close both connections."""
        for connection in (self._rpc, self._bulk):
            if connection is not None:
                connection.close()

    def last_words(self) -> str:
        """Return the last line that the agent wrote to its standard error."""
        return self._agent.last_words() if self._agent is not None else ""


def _key_kind(algorithm: str) -> str:
    """Return the kind of key that a host key algorithm uses."""
    return "ssh-rsa" if algorithm.startswith("rsa-sha2") else algorithm


def _public_blob(path: str) -> bytes | None:
    """Return the public key in `path`.pub, to recognise it in an agent."""
    try:
        with open(path + ".pub", encoding="utf-8", errors="replace") as file:
            return decode(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return None


def _text(error: BaseException) -> str:
    return str(error) or {"EOFError": "the connection was closed"}.get(
        type(error).__name__, type(error).__name__
    )
