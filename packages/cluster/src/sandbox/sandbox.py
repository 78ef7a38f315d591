#!/usr/bin/env python3
"""What Node cannot do itself: PID 1 of the instance, network namespaces, container roots, terminals.

`init`  runs as PID 1 of the outer namespaces. It prepares them, starts the cluster process (given as arguments) with a
        control channel on file descriptor 3, reaps, and starts containers on request. When the cluster process ends, so
        does PID 1, and with it, by the kernel's hand, everything inside.
`exec`  runs a command inside a running container; its standard streams are our own.

The control channel carries one JSON object per line. Requests have `id`; answers repeat it with `ok` or `error`. A container
that ends is reported as {"event": "exited", "container": ..., "code": ..., "signal": ...}.
Only the standard library, Python 3.10+.
"""
import ctypes
import errno
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG = 24, 38, 1
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}[os.uname().machine]
NETNS = "/run/netns"
# Docker's default capabilities, by number (capability.h).
CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8,
                "NET_BIND_SERVICE": 10, "NET_RAW": 13, "SYS_CHROOT": 18, "MKNOD": 27, "AUDIT_WRITE": 29, "SETFCAP": 31}
MORE_CAPABILITIES = {"NET_ADMIN": 12, "SYS_PTRACE": 19, "SYS_ADMIN": 21, "SYS_NICE": 23, "SYS_RESOURCE": 24}
LOG_BYTES_MAX = 10 << 20


def check(result, what):
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def mount(source, target, kind="", flags=0, data=""):
    check(LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()), f"mount {target}")


def bind(source, target, read_only=True):
    mount(source, target, "", MS_BIND | MS_REC)
    if read_only:
        mount("", target, "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID)


def unshare(flags):
    check(LIBC.unshare(flags), "unshare")


def setns(path):
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        check(LIBC.setns(fd, 0), f"setns {path}")
    finally:
        os.close(fd)


def run(*command, text=None):
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(0, f"{' '.join(command)}: {done.stderr.strip()}")


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


# --- outer namespaces -------------------------------------------------------------------------------------------------

def prepare_outer(node_address):
    """Mounts and network of the instance: nothing of it is visible on the host."""
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    os.makedirs(NETNS)
    os.makedirs("/run/lateen/root")
    run("ip", "-batch", "-", text=f"link set lo up\naddr add {node_address}/32 dev lo\n")
    write("/proc/sys/net/ipv4/ip_forward", "1")
    write("/proc/sys/net/ipv4/conf/all/rp_filter", "0")
    write("/proc/sys/net/ipv4/conf/default/rp_filter", "0")


def create_sandbox(name, address, gateway, hostname):
    """A network namespace with one routed veth; `address` is the pod's."""
    path = f"{NETNS}/{name}"
    child = os.fork()
    if child == 0:
        try:
            open(path, "w").close()
            unshare(CLONE_NEWNET)
            bind("/proc/self/ns/net", path, read_only=False)
            # Ports below 1024 need no privilege, as in every container runtime of today.
            write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{error}\n".encode())
            os._exit(1)
    if os.waitpid(child, 0)[1] != 0:
        raise OSError(0, f"network namespace {name} could not be made")
    veth = f"v{name}"[:15]
    run("ip", "-batch", "-", text=(
        f"link add {veth} type veth peer name eth0 netns {name}\n"
        f"addr add {gateway}/32 dev {veth}\nlink set {veth} up\nroute add {address}/32 dev {veth}\n"))
    run("ip", "-n", name, "-batch", "-", text=(
        f"link set lo up\naddr add {address}/32 dev eth0\nlink set eth0 up\n"
        f"route add {gateway}/32 dev eth0\nroute add default via {gateway} dev eth0 src {address}\n"))


def delete_sandbox(name):
    path = f"{NETNS}/{name}"
    if not os.path.exists(path):
        return
    subprocess.run(["ip", "link", "del", f"v{name}"[:15]], capture_output=True)
    LIBC.umount2(path.encode(), MNT_DETACH)
    os.unlink(path)


# --- containers -------------------------------------------------------------------------------------------------------

# What /proc offers of the whole machine, as container runtimes close it: read-only, or empty.
PROC_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
PROC_MASKED = ("acpi", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats")


def guard_proc(proc):
    for name in PROC_READ_ONLY:
        if os.path.exists(f"{proc}/{name}"):
            bind(f"{proc}/{name}", f"{proc}/{name}")
    for name in PROC_MASKED:
        path = f"{proc}/{name}"
        if os.path.isdir(path):
            mount("tmpfs", path, "tmpfs", MS_RDONLY, "size=0")
        elif os.path.exists(path):
            bind("/dev/null", path, read_only=False)


def make_root(spec):
    """Builds the container's root below /run/lateen/root in a mount namespace of its own and makes it `/`."""
    root = "/run/lateen/root"
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID, "mode=755")
    if spec.get("lower"):  # an image's own files, with a layer of the container's above them
        for path in ("upper", "work", "merged"):
            os.mkdir(f"{root}/{path}")
        options = f"lowerdir={spec['lower']},upperdir={root}/upper,workdir={root}/work"
        mount("overlay", f"{root}/merged", "overlay", MS_NOSUID, options)
        root = f"{root}/merged"
    for path in ("proc", "dev", "tmp", "run", "etc", "var/run", "var/tmp", "root", "opt", "old"):
        os.makedirs(f"{root}/{path}", exist_ok=True)
    for path in ("tmp", "var/tmp"):
        os.chmod(f"{root}/{path}", 0o1777)
    for link, target in spec["links"].items():
        os.makedirs(os.path.dirname(f"{root}{link}"), exist_ok=True)
        if not os.path.lexists(f"{root}{link}"):
            os.symlink(target, f"{root}{link}")
    for path, text in spec["files"].items():
        os.makedirs(os.path.dirname(f"{root}{path}"), exist_ok=True)
        write(f"{root}{path}", text)
        os.chmod(f"{root}{path}", 0o755 if text.startswith("#!") else 0o644)
    dev = f"{root}/dev"
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        open(f"{dev}/{name}", "w").close()
        bind(f"/dev/{name}", f"{dev}/{name}", read_only=False)
    for path in ("pts", "shm"):
        os.mkdir(f"{dev}/{path}")
    mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    mount("tmpfs", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=64m")
    for link, target in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"),
                         ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")):
        os.symlink(target, f"{dev}/{link}")
    for entry in spec["mounts"]:
        source, target = entry["source"], f"{root}{entry['target']}"
        if os.path.isdir(source):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if not os.path.lexists(target):
                open(target, "w").close()
        bind(source, target, entry.get("readOnly", True))
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if not spec.get("privileged"):
        guard_proc(f"{root}/proc")
    os.chdir(root)
    check(LIBC.syscall(SYS_PIVOT_ROOT, b".", b"old"), "pivot_root")
    os.chdir("/")
    check(LIBC.umount2(b"/old", MNT_DETACH), "umount old root")
    os.rmdir("/old")
    if spec.get("readOnlyRoot"):
        mount("", "/", "", MS_REMOUNT | MS_RDONLY | MS_NOSUID)


def drop_privileges(spec):
    """User, capabilities, no_new_privs: what the container's process may do."""
    keep = dict(CAPABILITIES)
    if "ALL" in spec.get("dropCapabilities", []):
        keep = {}
    for name in spec.get("dropCapabilities", []):
        keep.pop(name, None)
    for name in spec.get("addCapabilities", []):
        if name in CAPABILITIES or name in MORE_CAPABILITIES:
            keep[name] = {**CAPABILITIES, **MORE_CAPABILITIES}[name]
    kept = set(keep.values())
    if not spec.get("privileged"):
        for number in range(41):
            if number not in kept:
                LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    os.setgroups(spec.get("groups", []))
    os.setresgid(*[spec.get("gid", 0)] * 3)
    os.setresuid(*[spec.get("uid", 0)] * 3)
    if not spec.get("privileged"):
        check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def become_container(spec, streams):
    """In the forked child: never returns."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        setns(f"{NETNS}/{spec['sandbox']}")
        unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID)
        inner = os.fork()
        if inner != 0:
            os.write(streams["report"], f"pid {inner}\n".encode())
            os._exit(0)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        make_root(spec)
        socket.sethostname(spec["hostname"])
        os.chdir("/")
        drop_privileges(spec)
        if not os.path.isdir(spec["cwd"]):
            os.makedirs(spec["cwd"], exist_ok=True)
        os.chdir(spec["cwd"])
        os.umask(0o022)
        os.dup2(streams["stdout"], 1)
        os.dup2(streams["stderr"], 2)
        report = fcntl.fcntl(streams["report"], fcntl.F_DUPFD_CLOEXEC, 10)
        os.closerange(3, report)
        os.closerange(report + 1, 1024)
        try:
            os.execvpe(spec["args"][0], spec["args"], spec["env"])
        except OSError as error:
            os.write(report, f"error {spec['args'][0]}: {error.strerror}\n".encode())
            os._exit(127 if error.errno == errno.ENOENT else 126)
    except BaseException as error:
        try:
            os.write(streams["report"], f"error {error}\n".encode())
        except OSError:
            pass
        os._exit(128)


class Log:
    """One stream of a container, written line by line in the form of the container runtime interface."""

    def __init__(self, path, stream):
        self.path, self.stream, self.rest = path, stream, b""

    def feed(self, data, at_end=False):
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()
        if at_end and self.rest:
            lines.append(self.rest)
            self.rest = b""
        if len(self.rest) > 1 << 16:
            lines.append(self.rest)
            self.rest = b""
        if not lines:
            return
        now = time.time_ns()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000))
        head = f"{stamp}.{now % 1_000_000_000:09d}Z {self.stream} F ".encode()
        try:
            with open(self.path, "ab") as file:
                file.write(b"".join(head + line + b"\n" for line in lines))
                size = file.tell()
            if size > LOG_BYTES_MAX:
                os.replace(self.path, f"{self.path}.1")
        except OSError:
            # A full disk costs lines of a log, never the container or the instance.
            pass


class Init:
    def __init__(self, control):
        self.control = control
        self.buffer = b""
        self.containers = {}  # pid -> container id
        self.logs = {}        # fd -> Log
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)
        self.cluster = None

    def send(self, message):
        try:
            self.control.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass

    def start_container(self, spec):
        report_read, report_write = os.pipe()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        for fd in (out_write, err_write):  # /dev/stdout must open for the container's user
            os.fchown(fd, spec.get("uid", 0), spec.get("gid", 0))
        child = os.fork()
        if child == 0:
            os.closerange(self.control.fileno(), self.control.fileno() + 1)
            become_container(spec, {"report": report_write, "stdout": out_write, "stderr": err_write})
        for fd in (report_write, out_write, err_write):
            os.close(fd)
        text = b""
        while True:  # ends at exec (close-on-exec) or death; bounded by the work in become_container
            part = os.read(report_read, 4096)
            if not part:
                break
            text += part
        os.close(report_read)
        os.waitpid(child, 0)
        lines = text.decode(errors="replace").splitlines()
        pid = next((int(line[4:]) for line in lines if line.startswith("pid ")), None)
        failure = next((line[6:] for line in lines if line.startswith("error ")), None)
        if pid is None or failure is not None:
            if pid is not None:
                try:
                    os.waitpid(pid, 0)
                except ChildProcessError:
                    pass
            os.close(out_read)
            os.close(err_read)
            raise OSError(0, failure or "the container's process could not be made")
        self.containers[pid] = spec["container"]
        for fd, stream in ((out_read, "stdout"), (err_read, "stderr")):
            os.set_blocking(fd, False)
            self.logs[fd] = Log(spec["log"], stream)
            self.poll.register(fd, select.POLLIN)
        return {"pid": pid}

    def handle(self, request):
        kind = request["op"]
        if kind == "sandbox":
            return create_sandbox(request["name"], request["address"], request["gateway"], request.get("hostname"))
        if kind == "remove-sandbox":
            return delete_sandbox(request["name"])
        if kind == "start":
            return self.start_container(request["spec"])
        if kind == "kill":
            pid = next((pid for pid, name in self.containers.items() if name == request["container"]), None)
            if pid is not None:
                os.kill(pid, request["signal"])
            return None
        raise ValueError(f"unknown operation {kind}")

    def on_control(self):
        data = self.control.recv(1 << 16)
        if not data:
            sys.exit(0)
        self.buffer += data
        while b"\n" in self.buffer:
            line, self.buffer = self.buffer.split(b"\n", 1)
            request = json.loads(line)
            try:
                self.send({"id": request["id"], "ok": self.handle(request) or {}})
            except Exception as error:
                message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                self.send({"id": request["id"], "error": message})

    def drain(self, fd):
        """Reads what a container wrote; True while more may come."""
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        log = self.logs[fd]
        try:
            log.feed(data, at_end=not data)
        except OSError:
            pass  # the pod's folder is gone: so is the interest in its log
        if not data:
            self.poll.unregister(fd)
            os.close(fd)
            del self.logs[fd]
        return bool(data)

    def reap(self):
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.cluster:
                code = os.waitstatus_to_exitcode(status)
                sys.exit(code if code >= 0 else 128 - code)
            container = self.containers.pop(pid, None)
            if container is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            self.send({"event": "exited", "container": container, "code": code if code >= 0 else 128 - code,
                       "signal": -code if code < 0 else 0})

    def serve(self):
        wake_read, wake_write = os.pipe()
        for fd in (wake_read, wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.poll.register(wake_read, select.POLLIN)
        self.reap()
        while True:
            for fd, _ in self.poll.poll():
                if fd == wake_read:
                    os.read(wake_read, 4096)
                elif fd == self.control.fileno():
                    self.on_control()
                elif fd in self.logs:
                    self.drain(fd)
            self.reap()


def init(node_address, command):
    prepare_outer(node_address)
    ours, theirs = socket.socketpair()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the cluster process gets its own; PID 1 ends with it
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ours.close()
        os.dup2(theirs.fileno(), 3)
        os.execvp(command[0], command)
    theirs.close()
    server = Init(ours)
    server.cluster = child
    server.serve()


# --- exec -------------------------------------------------------------------------------------------------------------

def copy(source, target):
    data = os.read(source, 1 << 16)
    view = memoryview(data)
    while view:
        view = view[os.write(target, view):]
    return bool(data)


def enter_and_exec(spec, namespaces, terminal):
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
        os.closerange(3, 1024)
        os.execvpe(spec["args"][0], spec["args"], spec["env"])
    except OSError as error:
        os.write(2, f"exec: {spec['args'][0]}: {error.strerror}\n".encode())
        os._exit(127 if error.errno == errno.ENOENT else 126)
    os._exit(128)


def resize(terminal, line):
    size = json.loads(line)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size["Height"], size["Width"], 0, 0))


def execute(spec):
    """Runs a command in a container. Streams: 0, 1, 2 (without a terminal also 2); 3 carries resize lines. Exit code passes."""
    control = 3
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
    child = os.fork()
    if child == 0:
        inside = enter_and_exec(spec, namespaces, spec["tty"])
        os.closerange(0, 1024)  # the ends of the command's pipes must be nobody's but its own
        _, status = os.waitpid(inside, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
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


def main():
    if sys.argv[1] == "init":
        init(sys.argv[2], sys.argv[3:])
    elif sys.argv[1] == "exec":
        execute(json.loads(sys.argv[2]))
    elif sys.argv[1] == "dial":
        dial(sys.argv[2], int(sys.argv[3]))


if __name__ == "__main__":
    main()
