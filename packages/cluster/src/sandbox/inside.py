"""From outside into a container: `exec` runs a command there, `dial` joins a port of a pod (port-forward)."""
import errno
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import sys
import termios

from kernel import LIBC, check, drop_privileges, enter_control_groups, setns


def copy(source, target):
    data = os.read(source, 1 << 16)
    view = memoryview(data)
    while view:
        view = view[os.write(target, view):]
    return bool(data)


def why_not(command, error):
    """Why a command could not be started, in the words of runc."""
    if error.errno == errno.ENOENT and "/" in command:
        why = f"stat {command}: no such file or directory"
    else:
        why = "executable file not found in $PATH" if error.errno == errno.ENOENT else error.strerror.lower()
    return f'unable to start container process: exec: "{command}": {why}'


def enter_and_exec(spec, namespaces, terminal, report):
    """Enters the container's other namespaces and forks the command into them; returns its process id."""
    for fd in namespaces:
        check(LIBC.setns(fd, 0), "setns")
    child = os.fork()
    if child != 0:
        return child
    try:
        os.setsid()
        if terminal:
            os.fchown(0, spec["uid"], -1)
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.chdir("/")
        drop_privileges(spec)
        try:
            os.chdir(spec["cwd"])
        except OSError:
            pass
        os.dup2(report, 3, inheritable=False)
        os.closerange(4, 1024)
        os.execvpe(spec["args"][0], spec["args"], spec["env"])
    except OSError as error:
        os.write(3, why_not(spec["args"][0], error).encode())
        os._exit(127 if error.errno == errno.ENOENT else 126)
    os._exit(128)


def resize(terminal, line):
    size = json.loads(line)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size["Height"], size["Width"], 0, 0))


def execute(spec):
    """Runs a command in a container. Streams: 0, 1, 2 (without a terminal also 2); 3 carries resize lines. Exit code passes."""
    control = 3
    enter_control_groups(spec["groups"])
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    saved = {0: os.dup(0), 1: os.dup(1), 2: os.dup(2)}
    namespaces = [os.open(f"/proc/{spec['pid']}/ns/{name}", os.O_RDONLY) for name in ("ipc", "uts", "net", "pid")]
    # From here on files are the container's: its terminals are where its programs look for them.
    setns(f"/proc/{spec['pid']}/ns/mnt")
    if spec["tty"]:
        master, slave = pty.openpty()
        inner = {0: slave, 1: slave, 2: slave}
        pairs = {master: saved[1]}
        stdin_target = master
    else:
        (in_read, in_write), (out_read, out_write), (err_read, err_write) = os.pipe(), os.pipe(), os.pipe()
        inner = {0: in_read, 1: out_write, 2: err_write}
        pairs = {out_read: saved[1], err_read: saved[2]}
        stdin_target = in_write
        if not spec["stdin"]:
            os.close(in_write)
    for number, fd in inner.items():
        os.dup2(fd, number)
    # The pid namespace counts for children: a first fork enters it, the second is the command.
    report_read, report_write = os.pipe()
    child = os.fork()
    if child == 0:
        inside = enter_and_exec(spec, namespaces, spec["tty"], report_write)
        os.closerange(0, 1024)  # the ends of the command's pipes must be nobody's but its own
        _, status = os.waitpid(inside, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    os.close(report_write)
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    for fd in set(inner.values()):
        os.close(fd)
    sources = dict(pairs)
    if spec["stdin"]:
        sources[saved[0]] = stdin_target
    watched = list(sources) + [control]
    pending = b""
    open_outputs = set(pairs)
    while open_outputs:
        ready, _, _ = select.select(watched, [], [])
        for fd in ready:
            if fd == control:
                data = os.read(control, 4096)
                pending += data
                while b"\n" in pending:
                    line, pending = pending.split(b"\n", 1)
                    if spec["tty"] and line:
                        resize(master, line)
                if not data:
                    watched.remove(control)
                continue
            try:
                alive = copy(fd, sources[fd])
            except OSError:
                alive = False
            if not alive:
                watched.remove(fd)
                open_outputs.discard(fd)
                if fd == saved[0] and not spec["tty"]:
                    os.close(stdin_target)
    _, status = os.waitpid(child, 0)
    failure = os.read(report_read, 4096)  # at its end when the command was started
    if failure:
        os.write(control, failure)
    sys.exit(os.waitstatus_to_exitcode(status))


def dial(netns, port):
    """Joins 0 and 1 to a port of the loopback inside a network namespace (port-forward). A failure is told on 2."""
    setns(netns)
    try:
        peer = socket.create_connection(("localhost", port), timeout=30)
    except OSError as error:
        os.write(2, f"failed to connect to localhost:{port} inside namespace: {error.strerror or error}\n".encode())
        sys.exit(1)
    peer.settimeout(None)
    watched = [0, peer]
    while peer in watched:
        for end in select.select(watched, [], [])[0]:
            try:
                data = os.read(0, 1 << 16) if end == 0 else peer.recv(1 << 16)
                if end == 0:
                    peer.sendall(data) if data else peer.shutdown(socket.SHUT_WR)
                else:
                    view = memoryview(data)
                    while view:
                        view = view[os.write(1, view):]
            except OSError:
                data = b""
            if not data:
                watched.remove(end)
