"""Mounts and network of the instance, and a network namespace for each pod."""
import os
import subprocess

from kernel import (CLONE_NEWNET, LIBC, MNT_DETACH, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC, bind, mount, run,
                    unshare, write)

NETNS = "/run/netns"


def prepare_outer(node_address, services):
    """Mounts and network of the instance: nothing of it is visible on the host."""
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    os.makedirs(NETNS)
    os.makedirs("/run/lateen/root")
    # Who connects to a Service from here needs a route before nat gives the connection its real destination.
    run("ip", "-batch", "-", text=(
        f"link set lo up\naddr add {node_address}/32 dev lo\nroute add {services} dev lo src {node_address}\n"))
    write("/proc/sys/net/ipv4/ip_forward", "1")
    write("/proc/sys/net/ipv4/conf/all/rp_filter", "0")
    write("/proc/sys/net/ipv4/conf/default/rp_filter", "0")


def create_sandbox(name, address, gateway):
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
