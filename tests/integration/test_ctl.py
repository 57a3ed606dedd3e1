#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm ctl against a small server in Python that plays the control protocol well and badly,
and against swtpm where it is installed."""
import contextlib
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time

VTPM = os.environ.get("VTPM", "./vtpm")
BODY = {2: 4, 5: 4, 7: 4, 11: 4, 12: 12, 13: 12, 17: 4, 18: 16, 19: 4}  # after the command; QEMU's form
OK = struct.pack(">I", 0)


def words(*values):
    return struct.pack(">%dI" % len(values), *values)


class Server:
    """One control channel. REPLIES maps a command to bytes or to a function of its body."""

    def __init__(self, folder, replies, tcp=None, piece=None, close_after=None):
        self.requests = []
        self.replies = replies
        self.piece = piece  # reply in pieces of so many bytes
        self.close_after = close_after  # close after so many reply bytes
        if tcp:
            self.sock = socket.socket(tcp[0], socket.SOCK_STREAM)
            self.sock.bind((tcp[1], 0))
            host = "[%s]" % tcp[1] if ":" in tcp[1] else tcp[1]
            self.address = "tcp:%s:%d" % (host, self.sock.getsockname()[1])
        else:
            path = os.path.join(folder, "ctrl")
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.bind(path)
            self.address = "unix:" + path
        self.sock.listen(5)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        """The thread ends before the descriptor is free: it would accept what comes to the next owner of its number."""
        self.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join(30)
        self.sock.close()
        if self.thread.is_alive():
            raise AssertionError("the server still has a client")
        if self.address.startswith("unix:"):
            os.unlink(self.address[5:])

    def serve(self):
        while True:
            try:
                peer = self.sock.accept()[0]
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                self.serve_one(peer)

    def read(self, peer, n):
        data = b""
        while len(data) < n:
            more = peer.recv(n - len(data))
            if not more:
                raise OSError("the client is gone")
            data += more
        return data

    def serve_one(self, peer):
        while True:
            command = struct.unpack(">I", self.read(peer, 4))[0]
            body = self.read(peer, BODY.get(command, 0))
            data = self.read(peer, struct.unpack(">I", body[-4:])[0]) if command in (7, 13) else b""
            self.requests.append((command, body, data))
            reply = self.replies.get(command, OK)
            if callable(reply):
                reply = reply(body)
            if self.close_after is not None:
                peer.sendall(reply[: self.close_after])
                return
            step = self.piece or len(reply) or 1
            for at in range(0, len(reply), step):
                peer.sendall(reply[at : at + step])
                if self.piece:
                    time.sleep(0.002)


def ctl(*args):
    done = subprocess.run([VTPM, "ctl", *args], capture_output=True, text=True, timeout=60)
    if done.stderr.count("\n") > 1:
        raise AssertionError("more than one line of error: " + done.stderr)
    return done.returncode, done.stdout, done.stderr


def same(got, wanted):
    if got != wanted:
        raise AssertionError("got %r, wanted %r" % (got, wanted))


def good(args, output=""):
    same(ctl(*args), (0, output, ""))


def bad(args, status, *texts):
    code, out, err = ctl(*args)
    same((code, out, err and args), (status, "", args))
    for text in texts:
        if text not in err:
            raise AssertionError("%r is not in %r" % (text, err))


def test_plain_commands(folder):
    """init, stop, shutdown, cancel, store-volatile, locality, reset-established, lock-storage"""
    with Server(folder, {}) as s:
        good([s.address, "init"])
        good([s.address, "init", "--delete-volatile"])
        good([s.address, "stop"])
        good([s.address, "cancel"])
        good([s.address, "store-volatile"])
        good([s.address, "locality", "4"])
        good([s.address, "reset-established", "3"])
        good([s.address, "lock-storage", "300"])
        good([s.address, "lock-storage"])
        good([s.address[5:], "shutdown"])  # a bare path is a unix socket
        same(s.requests, [(2, words(0), b""), (2, words(1), b""), (14, b"", b""), (9, b"", b""), (10, b"", b""),
                          (5, b"\4\0\0\0", b""), (11, b"\3\0\0\0", b""), (19, words(300), b""), (19, words(0), b""),
                          (3, b"", b"")])


def test_answers(folder):
    """capabilities, established, config, buffer-size"""
    with Server(folder, {1: words(0, 0x80030001), 4: words(0) + b"\1\xff\xff\xff", 15: words(0, 3),
                         17: words(0, 4096, 2808, 4096)}) as s:
        good([s.address, "capabilities"], "init\nlock-storage\nbit-17\nbit-31\n")
        good([s.address, "established"], "1\n")
        good([s.address, "config"], "state-encrypted\nmigration-encrypted\n")
        good([s.address, "buffer-size"], "size 4096\nmin 2808\nmax 4096\n")
        good([s.address, "buffer-size", "3968"], "size 4096\nmin 2808\nmax 4096\n")
        same([r[1] for r in s.requests[3:]], [words(0), words(3968)])


def test_pieces(folder):
    """replies that come byte by byte"""
    with Server(folder, {1: words(0, 3), 17: words(0, 1, 2, 3)}, piece=1) as s:
        good([s.address, "capabilities"], "init\nshutdown\n")
        good([s.address, "buffer-size"], "size 1\nmin 2\nmax 3\n")


def test_tcp(folder):
    """TCP, IPv4, name and IPv6"""
    notes = []
    with Server(folder, {4: words(0, 0)}, tcp=(socket.AF_INET, "127.0.0.1")) as s:
        good([s.address, "established"], "0\n")
        try:
            socket.getaddrinfo("localhost", None)
        except socket.gaierror:
            notes.append("no name, localhost is not known here")
        else:
            good([s.address.replace("127.0.0.1", "localhost"), "established"], "0\n")
    try:
        server = Server(folder, {4: words(0, 0)}, tcp=(socket.AF_INET6, "::1"))
    except OSError:
        return "; ".join([*notes, "no IPv6 here"])
    with server as s:
        good([s.address, "established"], "0\n")
    return "; ".join(notes)


def test_info_chunks(folder):
    """info in chunks by offset"""
    text = b'{"a":"' + b"x" * 7000 + b'"}'

    def info(body):
        offset = struct.unpack(">QII", body)[1]
        part = text[offset : offset + 3072]
        return words(0, len(text), len(part)) + part

    with Server(folder, {18: info}) as s:
        good([s.address, "info"], text.decode() + "\n")
        same([struct.unpack(">QII", r[1]) for r in s.requests], [(7, 0, 0), (7, 3072, 0), (7, 6144, 0)])


def test_save(folder):
    """save: chunks, mode 0600, never over a file, --force"""
    blob = bytes(range(256)) * 40

    def get(body):
        offset = struct.unpack(">III", body)[2]
        part = blob[offset : offset + 3072]
        return words(0, 2, len(blob), len(part)) + part

    path = os.path.join(folder, "blob")
    old = os.umask(0)
    with Server(folder, {12: get}) as s:
        good([s.address, "save", "volatile", path])
        same(open(path, "rb").read(), blob)
        same(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        same(struct.unpack(">III", s.requests[1][1]), (0, 2, 3072))
        with open(path, "w") as f:
            f.write("mine")
        count = len(s.requests)
        bad([s.address, "save", "permanent", path], 3, "vtpm ctl save: [state-exists]", path, "--force")
        same((len(s.requests), open(path).read()), (count, "mine"))
        good([s.address, "save", "permanent", path, "--force"])
        same(open(path, "rb").read(), blob)
        bad([s.address, "save", "permanent", "/nonexistent/blob"], 1, "[failed]", "No such file")
    os.umask(old)
    same(sorted(os.listdir(folder)), ["blob"])


def test_save_plain(folder):
    """save says when the blob is in the clear"""
    with Server(folder, {12: words(0, 0, 3, 3) + b"abc"}) as s:
        code, out, err = ctl(s.address, "save", "permanent", os.path.join(folder, "blob"))
        same((code, out), (0, ""))
        same("not encrypted" in err, True)


def test_save_bad_lengths(folder):
    """lengths that do not fit write nothing"""
    path = os.path.join(folder, "blob")
    replies = [words(0, 2, 4, 8) + b"x" * 8, words(0, 2, 4, 0), words(0, 2, 0xFFFFFFFF, 1) + b"x",
               words(0, 2, 0xFFFFFFFF, 0xFFFFFFFF), words(0, 2, 0, 0)]
    for reply in replies:
        with Server(folder, {12: reply}) as s:
            bad([s.address, "save", "permanent", path], 1, "vtpm ctl save: [failed]")
    sizes = iter([8, 9])

    def changing(body):
        return words(0, 2, next(sizes), 4) + b"abcd"

    with Server(folder, {12: changing}) as s:
        bad([s.address, "save", "permanent", path], 1, "changed meanwhile")
    same(os.listdir(folder), [])


def test_load(folder):
    """load: one message; the flag follows the content; sizes"""
    path = os.path.join(folder, "blob")

    def swtpm_blob(flags, data):
        return struct.pack(">BBHHI", 2, 1, 10, flags, 10 + len(data)) + data

    with Server(folder, {}) as s:
        for content, flags in ((b"vtpm" * 100, 2), (swtpm_blob(4, b"plain"), 0), (swtpm_blob(5, b"sealed"), 2),
                               (b"", 2), (bytes(512 * 1024), 2)):
            with open(path, "wb") as f:
                f.write(content)
            good([s.address, "load", "permanent", path])
            same(s.requests.pop(), (13, words(flags, 1, len(content)), content))
        with open(path, "wb") as f:
            f.write(bytes(512 * 1024 + 1))
        bad([s.address, "load", "permanent", path], 1, "vtpm ctl load: [failed]", "File too large")
        bad([s.address, "load", "permanent", folder], 1, "Is a directory")
        bad([s.address, "load", "permanent", path + "-none"], 1, "No such file")
        same(s.requests, [])


def test_hash(folder):
    """hash: start, pieces of at most 4096, end"""
    path = os.path.join(folder, "data")
    content = os.urandom(10000)
    with open(path, "wb") as f:
        f.write(content)
    with Server(folder, {}) as s:
        good([s.address, "hash", path])
        same([r[0] for r in s.requests], [6, 7, 7, 7, 8])
        same(b"".join(r[2] for r in s.requests), content)
        same(max(len(r[2]) for r in s.requests), 4096)
        s.requests.clear()
        bad([s.address, "hash", path + "-none"], 1, "[failed]", "No such file")
        bad([s.address, "hash", folder], 1, "[failed]", "Is a directory")
        same(s.requests, [])


def test_results(folder):
    """a result code: status 1, the command, the code in words, what to do"""
    cases = [(2, "init", 0x0D, "key not found"), (2, "init", 0x21, "decryption failed"), (2, "init", 0x2E, "newer"),
             (2, "init", 0x101, "TPM failure"), (14, "stop", 0x1F, "input/output error"),
             (10, "store-volatile", 0x0A, "not possible now"), (9, "cancel", 0x77, "unknown code"),
             (18, "info", 3, "bad parameter"), (17, "buffer-size", 3, "bad parameter")]
    for command, name, code, text in cases:
        with Server(folder, {command: words(code)}) as s:
            bad([s.address, name], 1, "vtpm ctl %s: [failed]" % name, "0x%02x (" % code, text)
    with Server(folder, {11: words(0x3D)}) as s:
        bad([s.address, "reset-established", "0"], 1, "bad locality", "3 or 4")


def test_error_sizes(folder):
    """error replies of vtpm (8 and 16 bytes) and of swtpm (4)"""
    path = os.path.join(folder, "blob")
    for established, blob in ((words(10, 0), words(10, 0, 0, 0)), (words(10), words(10))):
        with Server(folder, {4: established, 12: blob}) as s:
            start = time.monotonic()
            bad([s.address, "established"], 1, "0x0a (not possible now)", "'init'")
            bad([s.address, "save", "permanent", path], 1, "0x0a (not possible now)")
            same(time.monotonic() - start < 5, True)
    with Server(folder, {12: words(0x800, 0, 0, 0)}) as s:
        bad([s.address, "save", "savestate", path], 1, "not there")
    same(os.listdir(folder), [])


def test_vanishing_server(folder):
    """a server that closes at any byte of its reply"""
    for n in range(16):
        with Server(folder, {17: words(0, 1, 2, 3)}, close_after=n) as s:
            bad([s.address, "buffer-size"], 1, "vtpm ctl buffer-size: [failed]", "SET_BUFFERSIZE", "reset by peer")
    for n in (5, 7):
        with Server(folder, {4: words(10, 0)}, close_after=n) as s:
            bad([s.address, "established"], 1, "[failed]")


def test_silent_server(folder):
    """a server that does not answer, or answers half: --timeout"""
    for reply in (b"", b"\0\0\0\0\0"):
        with Server(folder, {17: reply}) as s:
            start = time.monotonic()
            bad([s.address, "buffer-size", "--timeout", "1"], 1, "[failed]", "timed out")
            same(0.9 < time.monotonic() - start < 10, True)


def test_trickling_server(folder):
    """a server that sends a byte now and then does not outlast --timeout"""
    with Server(folder, {18: words(0, 60000, 60000) + bytes(60000)}, piece=1) as s:
        bad([s.address, "info", "--timeout", "1"], 1, "timed out")


def test_no_connection(folder):
    """no server: failed, with the cause"""
    path = os.path.join(folder, "none")
    bad(["unix:" + path, "stop"], 1, "vtpm ctl stop: [failed]", path, "No such file")
    with open(path, "w"):
        pass
    bad([path, "stop"], 1, "[failed]", "Connection refused")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        bad(["tcp:127.0.0.1:%d" % s.getsockname()[1], "stop"], 1, "[failed]", "Connection refused")


def test_usage(folder):
    """usage errors: status 2, and nothing is sent"""
    with Server(folder, {}) as s:
        for args in ([], ["explode"], ["locality"], ["locality", "5"], ["locality", "x"], ["reset-established"],
                     ["stop", "now"], ["stop", "--force"], ["save", "permanent", "x", "--delete-volatile"],
                     ["save", "everything", "x"], ["save", "permanent"], ["load", "permanent"], ["load", "all", "x"],
                     ["hash"], ["buffer-size", "4294967296"], ["lock-storage", "3x"], ["init", "--timeout", "0"],
                     ["init", "--nonsense"]):
            bad([s.address, *args], 2, "[usage]")
        same(s.requests, [])
    for address in ("unix:", "tcp:", "tcp:localhost", "tcp:localhost:", "tcp:localhost:0", "tcp:localhost:65536",
                    "tcp::1:5", "tcp:[::1]", "tcp:[::1]5", "tcp:[]:5", "unix:/" + "x" * 200):
        bad([address, "stop"], 2, "[usage]", address)


def wait_listening(path, process):
    """Until it accepts: the path alone may be there before it listens, or be left from one before."""
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            probe.connect(path)
            return
        time.sleep(0.01)
    raise AssertionError("swtpm does not listen")


@contextlib.contextmanager
def swtpm(folder, *options):
    path = os.path.join(folder, "sw")
    state = os.path.join(folder, "state")
    os.makedirs(state, exist_ok=True)
    process = subprocess.Popen(["swtpm", "socket", "--tpm2", "--tpmstate", "dir=" + state, "--ctrl",
                                "type=unixio,path=" + path, *options], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        wait_listening(path, process)
        yield path, process
    finally:
        process.kill()
        process.wait()


def test_swtpm_life(folder):
    """swtpm: every command, the TPM stopped and running"""
    data = os.path.join(folder, "data")
    with open(data, "wb") as f:
        f.write(bytes(9000))
    with swtpm(folder) as (path, process):
        same("init\n" in ctl(path, "capabilities")[1], True)
        bad([path, "established"], 1, "0x0a (not possible now)")  # swtpm sends four bytes
        bad([path, "hash", data], 1, "0x0a (not possible now)")
        good([path, "init"])
        good([path, "established"], "0\n")
        good([path, "hash", data])
        good([path, "established"], "1\n")
        bad([path, "reset-established", "0"], 1, "0x3d (bad locality)")
        good([path, "reset-established", "3"])
        good([path, "established"], "0\n")
        good([path, "locality", "3"])
        good([path, "store-volatile"])
        good([path, "cancel"])
        good([path, "config"], "")
        same('"TPMSpecification"' in ctl(path, "info")[1], True)
        same(ctl(path, "buffer-size")[1].startswith("size 4096\n"), True)
        bad([path, "save", "savestate", os.path.join(folder, "none")], 1, "not there")
        good([path, "stop"])
        good([path, "shutdown"])
        same(process.wait(timeout=10), 0)


def swtpm_save_and_load(folder, *options):
    blobs = [(kind, os.path.join(folder, kind)) for kind in ("permanent", "volatile")]
    with swtpm(folder, *options) as (path, _):
        good([path, "init"])
        for kind, file in blobs:
            same(ctl(path, "save", kind, file)[0], 0)
    shutil.rmtree(os.path.join(folder, "state"))
    with swtpm(folder, *options) as (path, _):
        good([path, "stop"])
        for kind, file in blobs:
            good([path, "load", kind, file])
        good([path, "init", "--delete-volatile"])
        again = os.path.join(folder, "again")
        same(ctl(path, "save", "permanent", again)[0], 0)
        return open(blobs[0][1], "rb").read(), open(again, "rb").read()


def test_swtpm_blobs(folder):
    """swtpm: plain state blobs saved and loaded"""
    first, again = swtpm_save_and_load(folder)
    same(first, again)


def test_swtpm_encrypted_blobs(folder):
    """swtpm: encrypted state blobs saved and loaded"""
    key = os.path.join(folder, "key")
    with open(key, "w") as f:
        f.write("00112233445566778899aabbccddeeff")
    first, again = swtpm_save_and_load(folder, "--key", "file=%s,format=hex" % key)
    same(len(first) == len(again) and first != again, True)  # another initialisation vector


def run_one(number, test):
    name = test.__doc__
    if test.__name__.startswith("test_swtpm") and not shutil.which("swtpm"):
        print("ok %d - %s # SKIP swtpm is not installed" % (number, name))
        return True
    with tempfile.TemporaryDirectory() as folder:
        try:
            note = test(folder)
        except Exception as problem:  # whatever it is, the other tests go on
            print("not ok %d - %s" % (number, name))
            print("# %s: %s" % (type(problem).__name__, problem))
            return False
    print("ok %d - %s" % (number, name))
    if note:
        print("# " + note)
    return True


def main():
    tests = [t for name, t in globals().items() if name.startswith("test_")]
    print("1..%d" % len(tests))
    passed = [run_one(i, test) for i, test in enumerate(tests, 1)]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
