"""Containers: a root, namespaces, limits and privileges of their own around one process."""
import ctypes
import errno
import fcntl
import os
import pty
import signal
import socket
import struct
import termios

from kernel import (CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS, LIBC, MNT_DETACH, MS_NODEV, MS_NOEXEC, MS_NOSUID,
                    MS_PRIVATE, MS_RDONLY, MS_REC, MS_REMOUNT, SYS_PIVOT_ROOT, bind, check, drop_privileges,
                    enter_control_groups, mount, setns, unshare, write)
from network import NETNS

SYS_OPENAT2 = 437
RESOLVE_NO_MAGICLINKS, RESOLVE_BENEATH = 2, 8

def open_beneath(folder, path):
    """Opens `path` below `folder`, making folders that are missing. Links that lead out of it are refused (openat2(2)): what
    lies in a volume is the containers' to choose."""
    def open_at(fd, name):
        how = struct.pack("QQQ", os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
        result = LIBC.syscall(SYS_OPENAT2, fd, name.encode(), how, ctypes.c_size_t(len(how)))
        if result < 0:
            code = ctypes.get_errno()
            why = "it leads out of the volume" if code in (errno.EXDEV, errno.ELOOP) else os.strerror(code)
            raise OSError(code, f"failed to prepare subPath {path}: {why}")
        return result

    top = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        done = ""
        for part in [part for part in path.split("/") if part not in ("", ".")]:
            # A part that is missing is made in the folder that its parents, links followed, have led to.
            parent = open_at(top, done or ".")
            try:
                done = f"{done}/{part}" if done else part
                try:
                    os.close(open_at(top, done))
                except OSError as error:
                    if error.errno != errno.ENOENT:
                        raise
                    os.mkdir(part, 0o755, dir_fd=parent)
            finally:
                os.close(parent)
        return open_at(top, done or ".")
    finally:
        os.close(top)


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
        if entry.get("beneath"):
            source = f"/proc/self/fd/{open_beneath(source, entry['beneath'])}"
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


class ControlGroup:
    """What a container may use. `folders` are control groups of the instance, one for each hierarchy of version 1, or the one of
    version 2; they are made when they are first needed. Where the machine does not allow it there is no limit."""

    def __init__(self, folders, name, limits):
        self.folders = []
        for folder in folders:
            try:
                self.make(folder, name.replace("/", "_"), limits)
            except OSError as error:
                os.write(2, f"no resource limits in {folder}: {error.strerror}\n".encode())

    def make(self, top, name, limits):
        parent = os.path.dirname(top)
        is_unified = os.path.exists(f"{parent}/cgroup.controllers")
        if is_unified and not os.path.exists(top):
            write(f"{parent}/cgroup.subtree_control", "+memory +cpu")
        os.makedirs(top, exist_ok=True)
        if is_unified:
            write(f"{top}/cgroup.subtree_control", "+memory +cpu")
        own = f"{top}/{name}"
        os.makedirs(own, exist_ok=True)
        self.folders.append(own)
        memory, cpu = limits.get("memoryBytes"), limits.get("cpuMillis")
        period = 100_000  # microseconds, as the kubelet's
        quota = max(1000, (cpu or 0) * period // 1000)
        values = {
            "memory.max": memory, "memory.oom.group": memory and 1, "cpu.max": cpu and f"{quota} {period}",
        } if is_unified else {
            "memory.limit_in_bytes": memory, "cpu.cfs_period_us": cpu and period, "cpu.cfs_quota_us": cpu and quota,
        }
        for file, value in values.items():
            if value is not None and os.path.exists(f"{own}/{file}"):
                write(f"{own}/{file}", str(value))

    def was_out_of_memory(self):
        for folder in self.folders:
            for file in ("memory.events", "memory.oom_control"):
                try:
                    with open(f"{folder}/{file}", encoding="utf-8") as lines:
                        if any(line.startswith("oom_kill ") and int(line.split()[1]) > 0 for line in lines):
                            return True
                except OSError:
                    continue
        return False

    def remove(self):
        for folder in self.folders:
            try:
                os.rmdir(folder)
            except OSError:
                pass  # a process of `exec` is on its way out: the instance's end takes it


def take_terminal(spec, channel):
    """A terminal of the container's own (in its /dev/pts) as standard streams; its other end goes through `channel`."""
    master, slave = pty.openpty()
    socket.send_fds(channel, [b"t"], [master])
    os.close(master)
    os.fchown(slave, spec["uid"], -1)
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    return slave


def start_reaper():
    """The first process of a pod whose containers share one process namespace; returns its process id."""
    report_read, report_write = os.pipe()
    middle = os.fork()
    if middle == 0:
        unshare(CLONE_NEWPID)
        inner = os.fork()
        if inner != 0:
            os.write(report_write, str(inner).encode())
            os._exit(0)
        # Who ignores the end of children has none to reap: it may sleep.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.closerange(0, 1024)
        os.execvp("sleep", ["/pause", "infinity"])
    os.close(report_write)
    os.waitpid(middle, 0)
    pid = int(os.read(report_read, 32))
    os.close(report_read)
    return pid


def become_container(spec, streams):
    """In the forked child: never returns. `streams`: report, stdout, stderr; stdin and terminal, where it has them."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        enter_control_groups(streams["groups"])
        if streams.get("pids"):
            setns(streams["pids"])
        if spec["sandbox"]:
            setns(f"{NETNS}/{spec['sandbox']}")
        unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | (0 if streams.get("pids") else CLONE_NEWPID))
        inner = os.fork()
        if inner != 0:
            os.write(streams["report"], f"pid {inner}\n".encode())
            os._exit(0)
        make_root(spec)
        socket.sethostname(spec["hostname"])
        os.chdir("/")
        if spec.get("tty"):
            slave = take_terminal(spec, streams["terminal"])
            streams = {**streams, "stdin": slave, "stdout": slave, "stderr": slave}
        drop_privileges(spec)
        if not os.path.isdir(spec["cwd"]):
            os.makedirs(spec["cwd"], exist_ok=True)
        os.chdir(spec["cwd"])
        os.umask(0o022)
        os.dup2(streams.get("stdin") or os.open("/dev/null", os.O_RDONLY), 0)
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
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            os.write(streams["report"], f"error {why}\n".encode())
        except OSError:
            pass
        os._exit(128)
