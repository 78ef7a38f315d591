"""PID 1 of the instance: starts containers on request, keeps their logs, joins clients to their terminals, reaps."""
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
import time

from container import ControlGroup, become_container, start_reaper
from kernel import run
from network import create_sandbox, delete_sandbox, prepare_outer

LOG_BYTES_MAX = 10 << 20
CHUNK = 1 << 16
# What an attached client may leave unread before it is cut off.
ATTACH_BYTES_MAX = 1 << 20
# What a container may leave unread of its input before its clients are read no further.
INPUT_BYTES_MAX = 1 << 16


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
            # A full disk costs lines of a log, never the container or the instance; nor does a pod's folder that is gone.
            pass


class Attachment:
    """A client of a container's streams. To it: frames (stream number, length, bytes); from it: what the container reads."""

    def __init__(self, container, path):
        self.container, self.unsent, self.reads, self.is_ending = container, bytearray(), True, False
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.setblocking(False)

    def send(self, stream, data):
        self.unsent += struct.pack(">BI", stream, len(data)) + data


class Container:
    def __init__(self, name, group):
        self.name, self.group = name, group
        self.outputs = {}           # fd -> (number of the stream, Log)
        self.stdin = None           # fd that leads to its standard input
        self.input = bytearray()
        self.is_stdin_once = False
        self.terminal = None        # fd of the terminal, which is its output and its input
        self.attachments = []
        self.closes_input = False


class Init:
    def __init__(self, control, groups):
        self.control = control
        self.groups = groups
        self.buffer = b""
        self.containers = {}  # pid -> Container
        self.reapers = {}     # uid of a pod -> first process of those whose containers share one process namespace
        self.handlers = {}    # fd -> what is called with the events
        self.poll = select.poll()
        self.watch(control, select.POLLIN, self.on_control)
        self.cluster = None

    def watch(self, file, events, handler):
        fd = file if isinstance(file, int) else file.fileno()
        self.handlers[fd] = handler
        self.poll.register(fd, events)

    def forget(self, file):
        fd = file if isinstance(file, int) else file.fileno()
        if self.handlers.pop(fd, None) is not None:
            self.poll.unregister(fd)

    def send(self, message):
        try:
            self.control.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass

    # --- starting -----------------------------------------------------------------------------------------------------

    def start_container(self, spec):
        container = Container(spec["container"], ControlGroup(self.groups if spec.get("limits") else [], spec["container"],
                                                              spec.get("limits") or {}))
        inner, outer = {"groups": container.group.folders, "pids": self.process_namespace(spec)}, {}
        report_read, inner["report"] = os.pipe()
        if spec.get("tty"):
            ours, theirs = socket.socketpair()
            inner["terminal"] = theirs
        else:
            for name in ("stdout", "stderr"):
                outer[name], inner[name] = os.pipe()
                os.fchown(inner[name], spec.get("uid", 0), spec.get("gid", 0))  # /dev/stdout must open for its user
            if spec.get("stdin"):
                inner["stdin"], outer["stdin"] = os.pipe()
        child = os.fork()
        if child == 0:
            os.closerange(self.control.fileno(), self.control.fileno() + 1)
            become_container(spec, inner)
        for name, end in inner.items():
            if name == "terminal":
                end.close()
            elif isinstance(end, int):
                os.close(end)
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
        if spec.get("tty"):
            fds = [] if failure is not None else socket.recv_fds(ours, 1, 1)[1]
            ours.close()
            if fds:
                outer["stdout"] = container.terminal = fds[0]
        if pid is None or failure is not None:
            if pid is not None:
                try:
                    os.waitpid(pid, 0)
                except ChildProcessError:
                    pass
            for end in outer.values():
                os.close(end)
            container.group.remove()
            raise OSError(0, failure or "the container's process could not be made")
        self.containers[pid] = container
        container.stdin = outer.pop("stdin", None) if container.terminal is None else container.terminal
        container.is_stdin_once = bool(spec.get("stdinOnce"))
        for end in (*outer.values(), *([container.stdin] if container.stdin is not None else [])):
            os.set_blocking(end, False)
        for name, end in outer.items():
            container.outputs[end] = (1 if name == "stdout" else 2, Log(spec["log"], name))
        self.rewatch(container)
        return {"pid": pid, "groups": container.group.folders}

    def process_namespace(self, spec):
        """The process namespace that a container is to be in, if it is not one of its own."""
        other = spec.get("processesOf")
        if other is None:
            return None
        if other == "":
            uid = spec["container"].split("/")[0]
            if uid not in self.reapers:
                self.reapers[uid] = start_reaper()
            return f"/proc/{self.reapers[uid]}/ns/pid"
        pid = next((pid for pid, entry in self.containers.items() if entry.name == other), None)
        if pid is None:
            raise OSError(0, "the container whose processes it is to see does not run")
        return f"/proc/{pid}/ns/pid"

    # --- streams ------------------------------------------------------------------------------------------------------

    def rewatch(self, container):
        """Polls a container's ends for what can be done with them now."""
        has_input = len(container.input) > 0
        for fd in container.outputs:
            wants = select.POLLOUT if has_input and fd == container.terminal else 0
            self.watch(fd, select.POLLIN | wants, lambda events, fd=fd: self.on_container(container, fd, events))
        if container.stdin is not None and container.stdin != container.terminal:
            if has_input:
                self.watch(container.stdin, select.POLLOUT, lambda _: self.feed(container))
            else:
                self.forget(container.stdin)
        for attachment in container.attachments:
            reads = select.POLLIN if attachment.reads and len(container.input) < INPUT_BYTES_MAX else 0
            writes = select.POLLOUT if attachment.unsent else 0
            self.watch(attachment.socket, reads | writes, lambda events, at=attachment: self.on_attachment(at, events))

    def on_container(self, container, fd, events):
        if events & select.POLLOUT:
            self.feed(container)
        if events & ~select.POLLOUT:
            self.drain(container, fd)

    def feed(self, container):
        """Gives a container what its clients have typed, as far as it takes it."""
        try:
            while container.input:
                del container.input[:os.write(container.stdin, container.input[:CHUNK])]
        except BlockingIOError:
            pass
        except OSError:
            container.input.clear()
        if not container.input and container.closes_input and container.terminal is None and container.stdin is not None:
            self.forget(container.stdin)
            os.close(container.stdin)
            container.stdin = None
        self.rewatch(container)

    def drain(self, container, fd):
        """Reads what a container wrote; True while there was something."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # a terminal whose other end is closed
            data = b""
        stream, log = container.outputs[fd]
        log.feed(data, at_end=not data)
        for attachment in list(container.attachments):
            if data:
                attachment.send(stream, data)
                self.flush(attachment)
        if not data:
            self.forget(fd)
            os.close(fd)
            del container.outputs[fd]
            if fd == container.terminal:
                container.terminal = container.stdin = None
            if not container.outputs:
                self.finish(container)
        return bool(data)

    def finish(self, container):
        """The container has said all it will."""
        if container.stdin is not None:
            self.forget(container.stdin)
            os.close(container.stdin)
            container.stdin = None
        for attachment in list(container.attachments):
            attachment.is_ending = True
            self.flush(attachment)

    def attach(self, name, path):
        container = next((entry for entry in self.containers.values() if entry.name == name), None)
        if container is None:
            raise ValueError(f"container {name} does not run")
        container.attachments.append(Attachment(container, path))
        self.rewatch(container)

    def on_attachment(self, attachment, events):
        container = attachment.container
        if events & select.POLLOUT:
            self.flush(attachment)
        if events & select.POLLIN and attachment in container.attachments:
            try:
                data = attachment.socket.recv(CHUNK)
            except OSError:
                data = b""
            if data:
                if container.stdin is not None:
                    container.input += data
                    self.feed(container)
                return
            # It has no more to say, and may go on listening.
            attachment.reads = False
            self.close_input(container)
        if events & (select.POLLHUP | select.POLLERR):
            self.detach(attachment)

    def close_input(self, container):
        if container.is_stdin_once:
            container.closes_input = True
        self.feed(container)

    def flush(self, attachment):
        try:
            while attachment.unsent:
                del attachment.unsent[:attachment.socket.send(attachment.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.detach(attachment)
            return
        if len(attachment.unsent) > ATTACH_BYTES_MAX or (attachment.is_ending and not attachment.unsent):
            self.detach(attachment)
            return
        self.rewatch(attachment.container)

    def detach(self, attachment):
        container = attachment.container
        if attachment not in container.attachments:
            return
        container.attachments.remove(attachment)
        self.forget(attachment.socket)
        attachment.socket.close()
        self.close_input(container)

    # --- requests -----------------------------------------------------------------------------------------------------

    def handle(self, request):
        kind = request["op"]
        if kind == "sandbox":
            return create_sandbox(request["name"], request["address"], request["gateway"])
        if kind == "node-address":
            return run("ip", "addr", "add", f"{request['address']}/32", "dev", "lo")
        if kind == "remove-sandbox":
            reaper = self.reapers.pop(request["uid"], None)
            if reaper is not None:
                os.kill(reaper, signal.SIGKILL)
            return delete_sandbox(request["name"]) if request["name"] else None
        if kind == "start":
            return self.start_container(request["spec"])
        if kind == "attach":
            return self.attach(request["container"], request["path"])
        pid, container = next(((pid, entry) for pid, entry in self.containers.items()
                               if entry.name == request["container"]), (None, None))
        if kind == "kill":
            if pid is not None:
                os.kill(pid, request["signal"])
            return None
        if kind == "resize":
            if container is not None and container.terminal is not None:
                size = struct.pack("HHHH", request["rows"], request["columns"], 0, 0)
                fcntl.ioctl(container.terminal, termios.TIOCSWINSZ, size)
            return None
        raise ValueError(f"unknown operation {kind}")

    def on_control(self, _):
        data = self.control.recv(CHUNK)
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
            # Its processes are all gone: what it wrote last is in its log before its end is told.
            for fd in list(container.outputs):
                while fd in container.outputs and self.drain(container, fd):
                    pass
            code = os.waitstatus_to_exitcode(status)
            is_out_of_memory = container.group.was_out_of_memory()
            container.group.remove()
            self.send({"event": "exited", "container": container.name, "code": code if code >= 0 else 128 - code,
                       "signal": -code if code < 0 else 0, "isOutOfMemory": is_out_of_memory})

    def serve(self):
        wake_read, wake_write = os.pipe()
        for fd in (wake_read, wake_write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.watch(wake_read, select.POLLIN, lambda _: os.read(wake_read, 4096))
        self.reap()
        while True:
            for fd, events in self.poll.poll():
                if fd in self.handlers:
                    self.handlers[fd](events)
            self.reap()


def init(options, command):
    prepare_outer(options["address"], options["services"])
    ours, theirs = socket.socketpair()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the cluster process gets its own; PID 1 ends with it
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ours.close()
        os.dup2(theirs.fileno(), 3)
        os.execvp(command[0], command)
    theirs.close()
    server = Init(ours, options["groups"])
    server.cluster = child
    server.serve()
