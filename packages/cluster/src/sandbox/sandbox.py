#!/usr/bin/env python3
"""What Node cannot do itself: PID 1 of the instance, network namespaces, container roots, terminals.

`init`  runs as PID 1 of the outer namespaces. It prepares them, starts the cluster process (given as arguments) with a
        control channel on file descriptor 3, reaps, and starts containers on request. When the cluster process ends, so
        does PID 1, and with it, by the kernel's hand, everything inside.
`exec`  runs a command inside a running container; its standard streams are our own.
`dial`  joins its standard streams to a port inside a pod.

The control channel carries one JSON object per line. Requests have `id`; answers repeat it with `ok` or `error`. A container
that ends is reported as {"event": "exited", "container": ..., "code": ..., "signal": ...}.
Only the standard library, Python 3.10+.
"""
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def main():
    if sys.argv[1] == "init":
        from init import init
        init(json.loads(sys.argv[2]), sys.argv[3:])
    elif sys.argv[1] == "exec":
        from inside import execute
        execute(json.loads(sys.argv[2]))
    elif sys.argv[1] == "dial":
        from inside import dial
        dial(sys.argv[2], int(sys.argv[3]))


if __name__ == "__main__":
    main()
