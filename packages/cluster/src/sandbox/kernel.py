"""Calls of the kernel that Python has no name for: mounts, namespaces, capabilities. mount(2), unshare(2), setns(2), prctl(2)."""
import ctypes
import os
import subprocess

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG = 24, 38, 1
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}[os.uname().machine]
# Docker's default capabilities, by number (capability.h).
CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8,
                "NET_BIND_SERVICE": 10, "NET_RAW": 13, "SYS_CHROOT": 18, "MKNOD": 27, "AUDIT_WRITE": 29, "SETFCAP": 31}
MORE_CAPABILITIES = {"NET_ADMIN": 12, "SYS_PTRACE": 19, "SYS_ADMIN": 21, "SYS_NICE": 23, "SYS_RESOURCE": 24}


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


def enter_control_groups(folders):
    """Where the machine does not allow it there is no limit, and a line in the log."""
    for folder in folders:
        try:
            write(f"{folder}/cgroup.procs", "0")
        except OSError as error:
            os.write(2, f"no resource limits in {folder}: {error.strerror}\n".encode())


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
    os.setgroups(spec.get("groupIds", []))
    os.setresgid(*[spec.get("gid", 0)] * 3)
    os.setresuid(*[spec.get("uid", 0)] * 3)
    if not spec.get("privileged"):
        check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
