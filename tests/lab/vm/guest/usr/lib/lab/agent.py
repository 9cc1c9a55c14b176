#!/usr/bin/python3 -IS
# Nothing here that costs an import: it is started under emulation.
# ruff: noqa: PTH103, PTH104, PTH120, PTH208, UP031, SIM105
"""The lab's hand in the machine: one JSON request a line on a virtio-serial port, one JSON answer a line.

Outputs go to memory files and not to pipes, so that a daemon left behind by a command does not hold its answer back.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, "/usr/lib/lab")
from ports import find_port  # noqa: E402

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
}
TIMED_OUT = 124
UNKILLABLE_GRACE_S = 1.0


def memory_file(content=b""):
    fd = os.memfd_create("lab")
    if content:
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
    return fd


def content_of(fd):
    size = os.fstat(fd).st_size
    parts = []
    at = 0
    while at < size:
        part = os.pread(fd, 1 << 20, at)
        if not part:
            break
        parts.append(part)
        at += len(part)
    return b"".join(parts).decode("utf-8", "replace")


def run(request):
    stdin, out, err = memory_file(request.get("stdin", "").encode()), memory_file(), memory_file()
    try:
        try:
            process = subprocess.Popen(
                request["argv"],
                stdin=stdin,
                stdout=out,
                stderr=err,
                env=ENVIRONMENT,
                cwd="/root",
                start_new_session=True,
            )
        except OSError as error:
            return {"rc": 127 if error.errno == 2 else 126, "out": "", "err": "%s\n" % error}
        try:
            rc = process.wait(request.get("timeout", 30))
        except subprocess.TimeoutExpired:
            rc = TIMED_OUT
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except OSError:
                pass
            try:
                process.wait(UNKILLABLE_GRACE_S)
            except subprocess.TimeoutExpired:
                pass
        return {"rc": rc, "out": content_of(out), "err": content_of(err)}
    finally:
        for fd in (stdin, out, err):
            os.close(fd)


def put(request):
    path = request["path"]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    aside = "%s.lab-%d" % (path, os.getpid())
    with open(aside, "wb") as handle:
        handle.write(base64.b64decode(request["data"]))
        os.fchmod(handle.fileno(), request["mode"])
    os.rename(aside, path)
    return {"rc": 0}


def hello():
    with open("/proc/sys/kernel/random/boot_id") as handle:
        boot_id = handle.read().strip()
    with open("/proc/uptime") as handle:
        uptime = float(handle.read().split()[0])
    return {"op": "hello", "boot_id": boot_id, "uptime": uptime}


class Agent:
    def __init__(self, port):
        self.port = port
        self.lock = threading.Lock()

    def send(self, answer):
        data = json.dumps(answer).encode() + b"\n"
        with self.lock:
            while data:
                data = data[os.write(self.port, data) :]

    def serve(self, request):
        try:
            if request["op"] == "run":
                answer = run(request)
            elif request["op"] == "put":
                answer = put(request)
            else:
                answer = hello()
        except Exception as error:  # an answer must come, whatever went wrong
            answer = {"rc": 125, "out": "", "err": "lab agent: %r\n" % error}
        answer["id"] = request.get("id")
        self.send(answer)

    def loop(self):
        self.send(hello())
        rest = b""
        while True:
            data = os.read(self.port, 65536)
            if not data:  # no host on the other side (yet)
                time.sleep(0.05)
                continue
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                try:
                    request = json.loads(line)
                except ValueError:
                    continue
                threading.Thread(target=self.serve, args=(request,), daemon=True).start()


if __name__ == "__main__":
    with open("/proc/self/oom_score_adj", "w") as handle:
        handle.write("-1000")
    Agent(os.open(find_port("lab.agent"), os.O_RDWR)).loop()
