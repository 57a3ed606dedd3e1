#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""A new key for a vTPM that runs (`vtpm rekey --deep` and the management socket), what becomes of state blobs of
former and of later epochs, and the merging of what comes in."""
import base64
import contextlib
import os
import shutil
import socket
import struct
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (GET_CAPABILITY, HEADER_B, KEY_NOT_FOUND, LIMIT, PERMANENT, STOP, STORE_VOLATILE,  # noqa: E402
                    VOLATILE, change_file, connect, contains, lacks, main, read_file, receive, same, true, wait_until)
from keyhost import add_native, vtpm  # noqa: E402
from test_store import Failing  # noqa: E402
from tpm_bytes import (NV_COUNTER, RC_RETRY, create_primary_rsa, get_random, nv_define, nv_increment,  # noqa: E402
                       nv_write, pcr_extend, startup)

INDEX, COUNTER = 0x01500001, 0x01500002
FAILURE = 0x101  # of INIT: every word that has no code of its own
DEK = base64.b64encode(bytes(range(32))).decode()


def ask(line, path="m"):
    """The management socket's answer; empty when it closed without one."""
    with connect(path) as sock:
        sock.sendall(line.encode())
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # it may not have read all that was sent
            while more := sock.recv(4096):
                answer += more
    return answer.decode()


def status(path="m"):
    """The words of the answer to status."""
    words = {}

    def asked():
        words.clear()
        words.update(word.split("=") for word in ask("status\n", path).split() if "=" in word)
        return "epoch" in words
    wait_until(asked, "the device has its file, and time to answer")
    return words


def prepared(place, *args, name="state.vtpm", failing=None):
    """A device with a management socket, an index that holds 'first' and PCR 16 extended once."""
    place.create(name)
    device = failing.start("--manage", "unix:m", *args) if failing else place.start(name, "--manage", "unix:m", *args)
    control, data = device.powered()
    data.good(nv_define(INDEX, 5))
    data.good(nv_write(INDEX, b"first"))
    data.good(pcr_extend(16, b"\1" * 32))
    return device, control, data


def deep(place, *args, name="state.vtpm", **wanted):
    return vtpm(place, "rekey", name, "--deep", "--manage", "unix:m", *args, **wanted)


def in_epoch(place, epoch, name="state.vtpm"):
    """The file is settled in EPOCH."""
    seen = place.inspect(name)
    same([record["epoch"] for record in seen["records"]], [epoch])
    same([slot["epoch"] for slot in seen["state_slots"]], [epoch] * 2)


def restarted(place, *args):
    device = place.start("state.vtpm", "--manage", "unix:m", *args)
    return device, *device.powered()


class Guest(threading.Thread):
    """Counts without a pause until it is stopped; one error ends it."""

    def __init__(self, data):
        super().__init__(daemon=True)
        self.data = data
        self.times = []
        self.failed = None
        self.going = True
        data.good(nv_define(COUNTER, 8, NV_COUNTER))
        self.start()

    def run(self):
        try:
            while self.going:
                begin = time.monotonic()
                self.data.good(nv_increment(COUNTER))
                self.times.append(time.monotonic() - begin)
                self.data.good(get_random())
        except Exception as problem:  # whatever it was, stop() tells
            self.failed = problem

    def stop(self):
        self.going = False
        self.join(LIMIT)
        if self.failed:
            raise self.failed
        return struct.unpack(">Q", self.data.nv(COUNTER, 8))[0]


def test_online(place):
    """rekey --deep while the guest writes without a pause: no error, the same TPM, a new key; killed, it opens again"""
    device, control, data = prepared(place)
    before = place.inspect()["records"][0]
    guest = Guest(data)
    for epoch in range(2, 6):
        done = deep(place)
        contains(done.stderr, "[not-backed-up]")
        same(done.stderr.count("\n"), 1, done.stderr)
        in_epoch(place, epoch)
        seen = len(guest.times)
        wait_until(lambda: guest.failed or len(guest.times) > seen + 20, "the guest goes on")
    counted = guest.stop()
    now = status()
    same((now["vtpm-id"], now["epoch"], now["settled"], now["commit"]), (before["vtpm_id"], "5", "yes", "durable"))
    pcr = data.pcr(16)
    device.kill()
    place.sound()
    after = place.inspect()["records"][0]
    same((after["vtpm_id"], after["vm_uuid"], after["policy"]), (before["vtpm_id"], before["vm_uuid"], before["policy"]))
    device, control, data = restarted(place)
    same((data.nv(INDEX, 5), struct.unpack(">Q", data.nv(COUNTER, 8))[0]), (b"first", counted))
    true(data.pcr(16) != pcr, "it was a cold start")
    device.term()
    place.ended_well()
    return "%d writes, the longest %.1f ms" % (len(guest.times), 1000 * max(guest.times))


def test_off_and_suspended(place):
    """a TPM that is off, and one that lies suspended in the file: the new epoch has all of it"""
    device, control, data = prepared(place)
    pcr = data.pcr(16)
    same(control.result(STORE_VOLATILE), 0)
    deep(place)
    device.kill()
    in_epoch(place, 2)
    device = place.start("state.vtpm", "--manage", "unix:m")
    same(status()["power"], "off")
    deep(place)  # before the first INIT, the broker still there
    in_epoch(place, 3)
    control = device.control()
    data = control.open_data()
    same(control.init(), 0)
    same((data.pcr(16), data.nv(INDEX, 5)), (pcr, b"first"), "resumed without TPM2_Startup")
    same(control.result(STOP), 0)
    deep(place)
    same(control.init(), 0)
    device.term()
    in_epoch(place, 4)
    place.ended_well()


def test_snapshots(place):
    """a snapshot of a former epoch loads without a provider; after --forget only in a process whose broker is there"""
    device, control, data = prepared(place)
    first = control.pair()
    deep(place)
    data.good(nv_write(INDEX, b"later"))
    second = control.pair()
    for blobs, content in ((first, b"first"), (second, b"later"), (first, b"first")):
        same(control.load(*blobs), 0)
        same(data.nv(INDEX, 5), content)
    in_epoch(place, 2)
    deep(place, "--forget")
    data.good(nv_write(INDEX, b"third"))
    same(control.result(STOP), 0)
    for blobs in (first, second):
        same(control.set_blob(PERMANENT, blobs[0]), FAILURE)
        same(control.set_blob(VOLATILE, blobs[1]), FAILURE)
    contains(device.log(), "[blob-needs-provider]")
    same(control.init(), 0)
    data.good(startup())
    third = control.pair()
    same(control.load(*third), 0)
    same(data.nv(INDEX, 5), b"third")
    device.term()
    device = place.start("state.vtpm")
    control, data = device.powered(start=False)
    same(control.load(*first), 0, "as -loadvm does it")
    same(data.nv(INDEX, 5), b"first")
    device.term()
    in_epoch(place, 3)
    place.sound()


def test_blob_has_the_new_key(place):
    """what GET_STATEBLOB gives after a deep rekey opens elsewhere by the new epoch's key slots alone"""
    device, control, data = prepared(place)
    deep(place)
    pair = control.pair()
    device.kill()
    os.rename("state.vtpm", "away.vtpm")
    device = place.start("state.vtpm", "--incoming")
    control = device.control()
    data = control.open_data()
    same(control.load(*pair), 0)
    same(data.nv(INDEX, 5), b"first")
    device.term()
    in_epoch(place, 2)
    place.sound()


def test_requests(place):
    """the socket's lines: nonsense is usage, a key without its record is refused, and nothing of it stays or shows"""
    device, control, data = prepared(place)
    before = read_file("state.vtpm")
    for line in ("", "rekey", "rekey 2", "rekey 2 " + DEK, "rekey 2 %s maybe" % DEK, "rekey 2 %s keep now" % DEK,
                 "rekey 0 %s keep" % DEK, "rekey -2 %s keep" % DEK, "rekey 99999999999999999999 %s keep" % DEK,
                 "rekey 2 %s keep" % DEK[:-4], "rekey 2 !%s keep" % DEK[1:], "rekey 1 %s keep" % DEK,
                 "rekey 3 %s forget" % DEK, "status now", "statu", "dek"):
        contains(ask(line + "\n"), "error usage ")
    contains(ask("rekey 2 %s keep\n" % DEK), "error rekey-pending ", "nothing was changed")
    same(ask("rekey 2 %s keep" % ("A" * 9000)), "", "a line too long")
    same(read_file("state.vtpm"), before)
    same((status()["epoch"], status()["settled"]), ("1", "yes"))
    lacks(device.log(), DEK)
    data.good(nv_write(INDEX, b"later"))
    device.term()
    place.sound()


def test_waiting_device(place):
    """a device that waits for an incoming TPM has nothing to rekey: state-missing, and the file stays as it is"""
    place.create()
    before = read_file("state.vtpm")
    device = place.start("state.vtpm", "--incoming", "--manage", "unix:m")
    with device.control() as control:
        same(control.result(STOP), 0)
    same(ask("status\n"), "ok state=none\n")
    contains(ask("rekey 2 %s keep\n" % DEK), "error state-missing ")
    device.term()
    same(read_file("state.vtpm"), before)


def test_not_in_the_way(place):
    """while a rekey waits behind a long command the control channel answers; a silent client does not hold up the end"""
    device, control, data = prepared(place)
    longest = 0
    for number in range(6):
        data.send(create_primary_rsa(b"%d" % number))
        rekey = connect("m")
        rekey.sendall(b"rekey 2 %s keep\n" % DEK.encode())
        for _ in range(10):
            begin = time.monotonic()
            same(control.call(GET_CAPABILITY, reply=8)[0], 0)
            longest = max(longest, time.monotonic() - begin)
        data.read()
        contains(receive(rekey, 10).decode(), "error reke")
        rekey.close()
        device.term() if number == 5 else data.good(get_random())
        if number < 5:
            same(control.result(STOP), 0)
            same(control.init(), 0)
            data.good(startup())
    true(longest < 1, "the control channel took %.2f s" % longest)
    device, control, data = restarted(place)
    silent = [connect("m") for _ in range(2)]
    silent[0].sendall(b"rekey 2 ")
    begin = time.monotonic()
    device.term()
    true(time.monotonic() - begin < 1.5, "a silent client held up the end")
    for sock in silent:
        sock.close()


def threads(pid):
    return len(os.listdir("/proc/%d/task" % pid))


def test_no_thread_when_idle(place):
    """each connection has a thread for as long as it lasts: an idle device has none, nor descriptors left"""
    device, control, data = prepared(place)
    idle = threads(device.pid), len(os.listdir("/proc/%d/fd" % device.pid))
    for _ in range(20):
        contains(ask("status\n"), "ok ")
        connect("m").close()
    held = connect("m")
    wait_until(lambda: threads(device.pid) == idle[0] + 1, "one thread serves it")
    held.close()
    wait_until(lambda: (threads(device.pid), len(os.listdir("/proc/%d/fd" % device.pid))) == idle, "it is gone")
    device.term()


def test_failing_disk(place):
    """the disk fails: refused while a commit is open; one that fails midway leaves both records, and is put in order"""
    place.configure("store-wait=0.2\ninit-wait=5\n")
    failing = Failing(place)
    device, control, data = prepared(place, failing=failing)
    failing.break_store()
    deep(place, status=1, word="store-failed")
    same((status()["epoch"], status()["settled"], status()["commit"]), ("1", "no", "open"))
    same([record["epoch"] for record in place.inspect()["records"]], [2, 1])
    same(data.rc(nv_write(INDEX, b"never")), RC_RETRY)
    contains(ask("rekey 2 %s keep\n" % DEK), "error store-failed ")
    failing.mend()
    same((status()["epoch"], status()["settled"], status()["commit"]), ("1", "yes", "durable"))
    data.good(nv_write(INDEX, b"later"))
    deep(place)
    in_epoch(place, 2)
    same(status()["settled"], "yes")
    failing.break_store()
    deep(place, status=1)
    device.kill()  # nothing of the last attempt was stored: the next start drops its record
    failing.mend()
    contains(place.check().stderr, "[rekey-pending]")
    device, control, data = restarted(place)
    place.sound()
    same(data.nv(INDEX, 5), b"later")
    device.term()
    in_epoch(place, 2)
    place.ended_well()


def test_another_ones_socket(place):
    """--manage names the socket of a copy's TPM, or nobody's: it gets no key, its word counts for nothing"""
    device, control, data = prepared(place)
    device.term()
    shutil.copy("state.vtpm", "copy.vtpm")
    device, control, data = restarted(place)
    copy = place.start("copy.vtpm", "--manage", "unix:copy.m", log="copy")
    before = read_file("state.vtpm")
    deep(place, "--manage", "unix:copy.m", status=4, word="access-denied")
    same(read_file("state.vtpm"), before)
    heard = []
    with socket.socket(socket.AF_UNIX) as liar:
        liar.bind("liar")
        liar.listen()

        def lie():
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = liar.accept()
                    with sock:
                        sock.settimeout(1)
                        heard.append(sock.recv(500))
                        sock.sendall(b"ok state=open vtpm-id=%s epoch=1 settled=yes\n"
                                     % place.inspect()["records"][0]["vtpm_id"].encode())
        threading.Thread(target=lie, daemon=True).start()
        deep(place, "--manage", "unix:liar", status=4, word="access-denied")
        true(not [line for line in heard if line.startswith(b"rekey")], "it was given a key")
        deep(place)
        change_file("state.vtpm", 0, before[:HEADER_B])  # as a tool leaves it that is killed while it drops the old one
        for path in ("unix:copy.m", "unix:liar"):
            vtpm(place, "rekey", "state.vtpm", "--manage", path, status=4, word="access-denied")
            same([record["epoch"] for record in place.inspect()["records"]], [2, 1])
        liar.shutdown(socket.SHUT_RDWR)
    vtpm(place, "rekey", "state.vtpm", "--manage", "unix:m")
    in_epoch(place, 2)
    copy.term()
    device.term()
    place.sound()


def test_newer_epoch_comes_in(place):
    """--incoming on a file of an older epoch: the newer epoch stays, with its keys; older snapshots open still"""
    device, control, data = prepared(place)
    old = control.pair()
    device.term()
    shutil.copy("state.vtpm", "behind.vtpm")
    device, control, data = restarted(place)
    deep(place)
    data.good(nv_write(INDEX, b"newer"))
    new = control.pair()
    high = place.generation()
    record = place.inspect()["records"][0]
    device.kill()
    device = place.start("behind.vtpm", "--incoming", "--manage", "unix:m")
    control = device.control()
    data = control.open_data()
    same(control.load(*new), 0)
    same(data.nv(INDEX, 5), b"newer")
    in_epoch(place, 2, "behind.vtpm")
    same(place.inspect("behind.vtpm")["records"][0], record, "the record that came in stays")
    true(place.generation("behind.vtpm") > high, "the generation is that of the state that came, or below")
    same(control.load(*old), 0, "by the former key that came along")
    same(data.nv(INDEX, 5), b"first")
    deep(place, name="behind.vtpm")
    device.term()
    in_epoch(place, 3, "behind.vtpm")
    place.sound("behind.vtpm")


def test_newer_epoch_refused(place):
    """a device that has its file takes no later epoch: state-older with a broker, blob-needs-provider without"""
    device, control, data = prepared(place)
    device.term()
    shutil.copy("state.vtpm", "behind.vtpm")
    device, control, data = restarted(place)
    deep(place)
    pair = control.pair()
    device.kill()
    device = place.start("behind.vtpm", log="behind")
    control, data = device.powered(start=False)
    same(control.result(STOP), 0)
    same(control.set_blob(PERMANENT, pair[0]), FAILURE)
    contains(device.log(), "[state-older]", "--incoming")
    same(control.init(), 0)
    data.good(startup())
    children = "/proc/%d/task/%d/children" % (device.pid, device.pid)
    wait_until(lambda: not read_file(children).strip(), "the broker ends after the guest's first command")
    same(control.result(STOP), 0)
    same(control.set_blob(PERMANENT, pair[0]), FAILURE)
    contains(device.log(), "[blob-needs-provider]")
    same(control.init(), 0)
    data.good(startup())
    same(data.nv(INDEX, 5), b"first")
    device.term()
    in_epoch(place, 1, "behind.vtpm")


def test_newer_key_slots_come_in(place):
    """--incoming on a file of the same epoch with fewer key slots: the newer record stays"""
    add_native(place, "one")
    add_native(place, "two")
    device, control, data = prepared(place)
    device.term()
    shutil.copy("state.vtpm", "behind.vtpm")
    device, control, data = restarted(place)
    vtpm(place, "keys", "add", "state.vtpm", "--provider", "two")
    pair = control.pair()
    record = place.inspect()["records"][0]
    device.kill()
    device = place.start("behind.vtpm", "--incoming", log="behind")
    control = device.control()
    same(control.load(*pair), 0)
    same(place.inspect("behind.vtpm")["records"], [record])
    device.kill()
    vtpm(place, "keys", "drop", "state.vtpm", "--provider", "two")
    kept = place.inspect()["records"]
    device = place.start("state.vtpm", "--incoming", log="ahead")
    control = device.control()
    same(control.load(*pair), 0)
    same(place.inspect()["records"], kept, "the file's record was the newer one")
    device.term()
    place.sound()
    place.sound("behind.vtpm")


def test_incoming_without_blobs(place):
    """--incoming on a file, and nothing comes before INIT or --init: its own TPM runs"""
    device, control, data = prepared(place)
    device.term()
    device = place.start("state.vtpm", "--incoming", "--manage", "unix:m")
    control, data = device.powered()
    same(data.nv(INDEX, 5), b"first")
    deep(place)
    device.term()
    device = place.start("state.vtpm", "--incoming", "--init", "--startup", "clear", "--manage", "unix:m")
    wait_until(lambda: "power=on" in ask("status\n"), "--init powers it on")
    device.term()
    place.ended_well()
    in_epoch(place, 2)


def test_incoming_other_vm(place):
    """--incoming on a file: a blob of another VM or another vTPM is refused, the file's bytes stay; then its own comes"""
    device, control, data = prepared(place)
    pair = control.pair()
    device.term()
    place.create("other.vtpm")
    before = read_file("other.vtpm")
    device = place.start("other.vtpm", "--incoming", log="other")
    with device.control() as control:
        same(control.set_blob(PERMANENT, pair[0]), KEY_NOT_FOUND)
    contains(device.log(), "[identity-other]", "other.vtpm")
    device.kill()
    same(read_file("other.vtpm"), before)
    device = place.start("state.vtpm", "--incoming")
    control = device.control()
    data = control.open_data()
    same(control.load(*pair), 0)
    same(data.nv(INDEX, 5), b"first")
    device.term()
    place.sound()


if __name__ == "__main__":
    main(globals())
