# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of a running device share: a place of its own, the device's process, both channels as
raw bytes, TPM commands, and TAP.

VTPM names the program under test (default ./vtpm). A test is a function test_...(place) whose docstring is
its name; it runs with the place's folder as its working directory, so that sockets have short names.
"""
import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import uuid

from tpm_bytes import nv_data, nv_read, pcr_read, pcr_value, rc_of, startup, words

VTPM = os.path.abspath(os.environ.get("VTPM", "./vtpm"))
if "VTPM_LIBEXEC_DIR" in os.environ:  # the tests run in other folders
    os.environ["VTPM_LIBEXEC_DIR"] = os.path.abspath(os.environ["VTPM_LIBEXEC_DIR"])
PLAINSTATE = os.path.abspath(os.environ.get("VTPM_PLAINSTATE", "./tests/plainstate"))
HELPERS = os.path.join(os.path.dirname(os.path.realpath(__file__)), "helpers")
LIMIT = 30  # seconds that one answer, a start or an end may take
TEST_LIMIT = 700 if "VTPM_TEST_EMULATED" in os.environ else 170  # and one test

(GET_CAPABILITY, INIT, SHUTDOWN, GET_ESTABLISHED, SET_LOCALITY, HASH_START, HASH_DATA, HASH_END, CANCEL, STORE_VOLATILE,
 RESET_ESTABLISHED, GET_STATEBLOB, SET_STATEBLOB, STOP, GET_CONFIG, SET_DATAFD, SET_BUFFERSIZE, GET_INFO,
 LOCK_STORAGE) = range(1, 20)
PERMANENT, VOLATILE, SAVESTATE = 1, 2, 3
DELETE_VOLATILE = 1
BAD_PARAMETER, FAIL, BAD_ORDINAL, KEY_NOT_FOUND, IO_ERROR, BAD_LOCALITY, NO_SUCH_BLOB = 3, 9, 10, 13, 0x1F, 0x3D, 0x800

HEADER_B, SLOT_0, SLOT_1, FILE_SIZE = 64 << 10, 128 << 10, 384 << 10, 640 << 10

_libc = ctypes.CDLL(None, use_errno=True)


class Skip(Exception):
    """This test cannot run here; the text says why."""


def sanitized():
    return b"libasan" in subprocess.run(["ldd", VTPM], capture_output=True, check=False).stdout


def same(got, wanted, what=""):
    if got != wanted:
        raise AssertionError("%sgot %.2000r, wanted %.2000r" % (what and what + ": ", got, wanted))


def true(condition, what):
    if not condition:
        raise AssertionError(what)


def contains(text, *pieces):
    for piece in pieces:
        true(piece in text, "%r is not in %.2000r" % (piece, text))


def lacks(text, *pieces):
    for piece in pieces:
        true(piece not in text, "%r is in %.2000r" % (piece, text))


def wait_until(condition, what, limit=LIMIT):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("after %g s still not: %s" % (limit, what))
        time.sleep(0.005)


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


def write_file(path, data, mode="wb"):
    with open(path, mode) as file:
        file.write(data)


def change_file(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def die_with_parent():
    """For preexec_fn: nothing that the tests start outlives them, even where they are killed."""
    _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def gone(pid):
    """Ended; whoever became its parent may not have asked for it yet."""
    try:
        return read_file("/proc/%d/stat" % pid).rsplit(b")")[1].split()[0] == b"Z"
    except (FileNotFoundError, ProcessLookupError):  # the second: gone after it was opened
        return True


def need_filter():
    """A build with sanitizers has its sandbox off, and its own calls end the process where it is put on."""
    if b"__asan_init" in read_file(VTPM):
        raise Skip("a build with sanitizers")


def need_root():
    if os.geteuid() != 0:
        raise Skip("needs root")


def receive(sock, count):
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionResetError("closed after %d of %d bytes: %r" % (len(data), count, data))
        data += more
    return data


def connect(address):
    """A connection to ADDRESS: a path, or a pair of host and port."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family)
    sock.connect(address)  # one that does not block fails where the backlog is full
    sock.settimeout(LIMIT)
    if family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def closed(sock):
    """Whether the peer has closed, waiting for it."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


class Tpm:
    """The data channel."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(LIMIT)

    def send(self, data):
        self.sock.sendall(data)

    def read(self):
        header = receive(self.sock, 10)
        return header + receive(self.sock, struct.unpack(">I", header[2:6])[0] - 10)

    def run(self, command):
        """The whole response."""
        self.send(command)
        return self.read()

    def rc(self, command):
        return rc_of(self.run(command))

    def good(self, command):
        response = self.run(command)
        same(rc_of(response), 0, "TPM command %s" % command[6:10].hex())
        return response

    def pcr(self, index):
        return pcr_value(self.good(pcr_read(index)))

    def nv(self, index, size=8):
        return nv_data(self.run(nv_read(index, size)))

    def prefixed(self, locality, command):
        """By the TCG command header."""
        self.send(struct.pack(">IBI", 8, locality, len(command)) + command)
        response = receive(self.sock, struct.unpack(">I", receive(self.sock, 4))[0])
        same(receive(self.sock, 4), b"\0\0\0\0", "what follows a response")
        return response

    def close(self):
        self.sock.close()


class Control:
    """A client of the control channel."""

    def __init__(self, address=None, sock=None):
        self.sock = sock or connect(address)
        self.sock.settimeout(LIMIT)

    def send(self, data):
        self.sock.sendall(data)

    def read(self, count):
        return receive(self.sock, count)

    def call(self, command, body=b"", reply=4):
        """The reply's words; REPLY is its length."""
        self.send(words(command) + body)
        return struct.unpack(">%dI" % (reply // 4), self.read(reply))

    def result(self, command, body=b""):
        return self.call(command, body)[0]

    def init(self, flags=0):
        return self.result(INIT, words(flags))

    def locality(self, number):
        same(self.result(SET_LOCALITY, bytes([number, 0, 0, 0])), 0, "SET_LOCALITY")

    def set_data_fd(self, sock):
        socket.send_fds(self.sock, [words(SET_DATAFD)], [sock.fileno()])
        return struct.unpack(">I", self.read(4))[0]

    def open_data(self):
        ours, theirs = socket.socketpair()
        with theirs:
            same(self.set_data_fd(theirs), 0, "SET_DATAFD")
        return Tpm(ours)

    def get_blob(self, kind, offset=0, flags=1):
        """(result, flags, total, data)"""
        self.send(words(GET_STATEBLOB, flags, kind, offset))
        result, got_flags, total, length = struct.unpack(">4I", self.read(16))
        return result, got_flags, total, self.read(length)

    def blob(self, kind):
        result, flags, total, data = self.get_blob(kind)
        same((result, flags, total), (0, 2, len(data)), "GET_STATEBLOB")
        return data

    def pair(self):
        return self.blob(PERMANENT), self.blob(VOLATILE)

    def set_blob(self, kind, data, flags=2):
        """The header apart from the body, as QEMU sends it."""
        self.send(words(SET_STATEBLOB, flags, kind, len(data)))
        self.send(data)
        return struct.unpack(">I", self.read(4))[0]

    def load(self, permanent, volatile=None):
        """As QEMU's loadvm does; gives the result of INIT."""
        same(self.result(STOP), 0, "STOP")
        same(self.set_blob(PERMANENT, permanent), 0, "SET_STATEBLOB of permanent state")
        if volatile is not None:
            same(self.set_blob(VOLATILE, volatile), 0, "SET_STATEBLOB of volatile state")
        return self.init(DELETE_VOLATILE)

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()


class Device:
    """One `vtpm run`."""
    numbers = itertools.count()

    def __init__(self, place, state, *args, ctrl=None, wait=True, log="log", env=None, pass_fds=(), preexec=None,
                 prefix=(), pid_file=None, config=None):
        self.place = place
        number = next(self.numbers)
        self.path = "ctrl-%d" % number
        self.pid_file = pid_file or "pid-%d" % number
        self.log_path = log
        self.err_path = "err-%d" % number
        line = [*prefix, VTPM, "run", state, "--ctrl", ctrl or "unix:" + self.path, "--config", config or place.config,
                "--pid-file", self.pid_file]
        line += [] if "--manage" in args else ["--manage", "none"]
        line += ["--log", log] if log else []

        def prepare():
            die_with_parent()
            if preexec:
                preexec()

        with open(self.err_path, "wb") as err:
            self.process = subprocess.Popen(line + list(args), stdin=subprocess.DEVNULL, stdout=err, stderr=err,
                                            env={**place.env, **(env or {})}, pass_fds=pass_fds, preexec_fn=prepare)
        place.processes.append(self.process)
        self.pid = self.process.pid
        if wait:
            self.wait_listening()

    def listens(self):
        with contextlib.suppress(FileNotFoundError):
            return read_file(self.pid_file) == b"%d\n" % self.pid
        return False

    def wait_listening(self):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError("ended with %d: %s" % (self.process.returncode, self.errors()))
            return self.listens()
        wait_until(ready, "the sockets listen")

    def control(self):
        return Control(self.path)

    def errors(self):
        return read_file(self.err_path).decode()

    def log(self):
        return read_file(self.log_path).decode()

    def wait(self, limit=LIMIT):
        """The exit status."""
        return self.process.wait(limit)

    def ends(self, status, *pieces, limit=LIMIT):
        """It ends by itself with STATUS, and PIECES are in its last words."""
        same(self.wait(limit), status, self.errors())
        contains(self.errors(), *pieces)

    def term(self, status=0):
        self.process.terminate()
        same(self.wait(), status, "SIGTERM: " + self.errors())

    def kill(self):
        self.process.kill()
        self.process.wait()

    def powered(self, start=True, flags=0):
        """Control and data, the TPM powered on and started up."""
        control = self.control()
        data = control.open_data()
        same(control.init(flags), 0, "INIT")
        if start:
            same(data.rc(startup()), 0, "TPM2_Startup")
        return control, data


class Place:
    """A host of our own: data folder, configuration, state files; nothing outside the folder is touched."""

    def __init__(self, folder, waits="init-wait=2\nstore-wait=1\n"):
        self.folder = folder
        self.config = os.path.join(folder, "vtpm.conf")
        self.hasty = os.path.join(folder, "hasty.conf")  # does not stay to tell a client why it failed
        self.data_dir = os.path.join(folder, "data")
        self.processes = []
        self.configure(waits)
        self.env = dict(os.environ, VTPM_DATA_DIR=self.data_dir)
        for name in ("CONFIG", "DATA", "STATE", "CACHE"):
            self.env["XDG_%s_HOME" % name] = os.path.join(folder, "xdg")
        self.env["XDG_RUNTIME_DIR"] = os.path.join(folder, "xdg")

    def configure(self, waits):
        for path, values in ((self.config, waits), (self.hasty, "init-wait=0\n")):
            write_file(path, "[vtpm]\nhelper-dirs=%s;\n%s" % (HELPERS, values), "w")

    def add_gate(self):
        """Registers helpers/vtpm-provider-gate under the name gate."""
        os.makedirs(os.path.join(self.data_dir, "gate"), mode=0o700)
        write_file(os.path.join(self.data_dir, "providers.conf"),
                   "[provider %s]\nname=gate\nkind=gate\n" % uuid.uuid4(), "a")

    def gate(self, mode):
        """What the provider does from now on; see there."""
        path = os.path.join(self.data_dir, "gate", "mode")
        write_file(path + ".new", mode, "w")
        os.rename(path + ".new", path)

    def asked(self):
        """[request, process, its descriptors] of all requests so far."""
        path = os.path.join(self.data_dir, "gate", "asked")
        if not os.path.exists(path):
            return []
        return [line.split() for line in read_file(path).decode().splitlines()]

    def vtpm(self, *args, timeout=60, **options):
        return subprocess.run([VTPM, *args], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=timeout, check=False, **options)

    def create(self, name="state.vtpm", *args):
        """Without endorsement keys, unless ARGS ask for some: the search for primes takes most of a create's time."""
        keys = () if "--ek" in args or "--ca" in args else ("--ek", "none")
        done = self.vtpm("create", name, "--config", self.config, *keys, *args)
        errors = [line for line in done.stderr.splitlines() if not line.startswith("warning: [not-backed-up]")]
        same((done.returncode, errors), (0, []), "vtpm create")
        return name

    def inspect(self, name="state.vtpm"):
        done = self.vtpm("inspect", name, "--json", "--config", self.config)
        same(done.returncode, 0, "vtpm inspect " + done.stderr)
        return json.loads(done.stdout)

    def generation(self, name="state.vtpm"):
        return max(slot["generation"] for slot in self.inspect(name)["state_slots"])

    def check(self, name="state.vtpm"):
        return self.vtpm("check", name, "--config", self.config)

    def sound(self, name="state.vtpm"):
        done = self.check(name)
        same(done.returncode, 0, "vtpm check: " + done.stdout + done.stderr)

    def ended_well(self, name="state.vtpm"):
        """Both slots hold the same orderly end."""
        slots = self.inspect(name)["state_slots"]
        same([(s["final"], s["generation"]) for s in slots], [(True, slots[0]["generation"])] * 2)
        self.sound(name)

    def start(self, state="state.vtpm", *args, **options):
        return Device(self, state, *args, **options)

    def refused(self, status, pieces, state, *args, limit=LIMIT, **options):
        """vtpm run ends by itself with STATUS and PIECES in one line on standard error; gives the device."""
        device = self.start(state, *args, wait=False, log=None, **{"config": self.hasty, **options})
        device.ends(status, *pieces, limit=limit)
        return device

    def clean_up(self):
        with contextlib.suppress(OSError, ValueError):  # what a test of --daemon that failed has left
            pid = int(read_file(os.path.join(self.folder, "pid")))
            if os.fsencode(self.config) in read_file("/proc/%d/cmdline" % pid):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def on_alarm(*_):
    raise AssertionError("not done after %d s" % TEST_LIMIT)


def run_one(number, test):
    name = " ".join(test.__doc__.split())
    folder = tempfile.mkdtemp(prefix="vtpm-")
    place = None
    signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(TEST_LIMIT)
    start = time.monotonic()
    try:
        os.chdir(folder)
        place = Place(folder)
        note = test(place)
    except Skip as reason:
        print("ok %d - %s # SKIP %s" % (number, name, reason), flush=True)
        return True
    except Exception as problem:  # whatever it is, the other tests go on
        print("not ok %d - %s" % (number, name))
        for line in ("%s: %s" % (type(problem).__name__, problem)).splitlines():
            print("# " + line)
        for frame in traceback.extract_tb(problem.__traceback__)[-4:]:
            print("#   %s:%d %s" % (os.path.basename(frame.filename), frame.lineno, frame.line))
        print(end="", flush=True)
        return False
    finally:
        signal.alarm(0)
        if place:
            place.clean_up()
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
    print("ok %d - %s" % (number, name))
    print("# %.1f s%s" % (time.monotonic() - start, "; " + note if note else ""), flush=True)
    return True


def main(namespace):
    """Runs every test_... of NAMESPACE; words on the command line choose some of them."""
    tests = [t for name, t in namespace.items()
             if name.startswith("test_") and (len(sys.argv) < 2 or any(word in name for word in sys.argv[1:]))]
    print("1..%d" % len(tests), flush=True)
    passed = [run_one(i, test) for i, test in enumerate(tests, 1)]
    sys.exit(0 if all(passed) else 1)
