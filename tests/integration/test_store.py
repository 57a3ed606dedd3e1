#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Nothing acknowledged is lost: stores that fail, and SIGKILL.

VTPM_FAILING_STORE names the library built of failing_store.c; without it cc builds one. VTPM_TEST_KILLS is the
number of kills of each loop (default 30).
"""
import errno
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (GET_CAPABILITY, HASH_START, IO_ERROR, LIMIT, PERMANENT, SHUTDOWN, SLOT_0, SLOT_1,  # noqa: E402
                    STOP, STORE_VOLATILE, Skip, contains, lacks, main, read_file, same, true, write_file)
from tpm_bytes import (NV_COUNTER, RC_FAILURE, RC_RETRY, get_random, nv_define, nv_increment, nv_read,  # noqa: E402
                       nv_write, pcr_extend, pcr_read, rc_of, shutdown, startup)

HERE = os.path.dirname(os.path.realpath(__file__))
KILLS = int(os.environ.get("VTPM_TEST_KILLS", "30"))
INDEX, COUNTER = 0x01500001, 0x01500002
RWF_DSYNC = 2  # of pwritev2(2)
WAIT = 1  # store-wait of the place
library = os.environ.get("VTPM_FAILING_STORE") and os.path.abspath(os.environ["VTPM_FAILING_STORE"])


class Failing:
    """A device whose store can be made to fail."""

    def __init__(self, place, name="state.vtpm"):
        self.place = place
        self.name = name
        self.flag = os.path.join(place.folder, "flag")
        self.library = library or self.build()
        self.mend()
        asan = os.environ.get("ASAN_OPTIONS", "")
        self.env = {"LD_PRELOAD": self.library, "FAILING_STORE_FLAG": self.flag,
                    "FAILING_STORE_FILE": os.path.abspath(name),
                    "FAILING_STORE_LOG": os.path.join(place.folder, "writes"),
                    "ASAN_OPTIONS": asan + (":" if asan else "") + "verify_asan_link_order=0"}

    def build(self):
        path = os.path.join(self.place.folder, "failing_store.so")
        try:
            subprocess.run([os.environ.get("CC", "cc").split()[0], "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", path,
                            os.path.join(HERE, "failing_store.c"), "-ldl"], check=True, stderr=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError):
            raise Skip("there is no compiler to build failing_store.c") from None
        return path

    def start(self, *args, **options):
        return self.place.start(self.name, *args, env=self.env, **options)

    def break_store(self, error=errno.EIO, spared=0):
        """SPARED writes of each process succeed."""
        self.set_flag("%d %d" % (error, spared))

    def writes(self):
        """[offset, length, synchronous] of the writes into the state file since the last call: synchronous by
        RWF_DSYNC, or by an fdatasync before the next write."""
        path = self.env["FAILING_STORE_LOG"]
        if not os.path.exists(path):
            return []
        lines = read_file(path).decode().splitlines()
        os.truncate(path, 0)
        written = []
        for offset, length, flags in ([int(word) for word in line.split()] for line in lines):
            if offset >= 0:
                written.append([offset, length, bool(flags & RWF_DSYNC)])
            elif written:
                written[-1][2] = True
        return written

    def mend(self):
        self.set_flag("")

    def set_flag(self, text):
        """In place and at once: the device has the file open."""
        file = os.open(self.flag, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(file, text.ljust(20).encode())
        os.close(file)


def broken(place, store_wait=WAIT, *args):
    """A device with both indices, and what makes its store fail."""
    place.configure("store-wait=%g\ninit-wait=5\n" % store_wait)
    place.create()
    failing = Failing(place)
    device = failing.start(*args)
    control, data = device.powered()
    data.good(nv_define(INDEX, 8))
    data.good(nv_write(INDEX, b"acknowle"))
    data.good(nv_define(COUNTER, 8, NV_COUNTER))
    data.good(nv_increment(COUNTER))
    return failing, device, control, data


def counter(data):
    return struct.unpack(">Q", data.nv(COUNTER, 8))[0]


def took(begin, low, high, what):
    seconds = time.monotonic() - begin
    true(low <= seconds <= high, "%s took %.2f s" % (what, seconds))


def test_rule(place):
    """a commit that fails: that command 0x101 after store-wait, all others 0x922 unexecuted, then on as if nothing was"""
    failing, device, control, data = broken(place)
    before = counter(data)
    for error in (errno.EIO, -errno.EIO, errno.ENOSPC):
        failing.break_store(error)
        begin = time.monotonic()
        same(data.rc(nv_increment(COUNTER)), RC_FAILURE)
        took(begin, WAIT * 0.9, WAIT + 5, "the command")
        before += 1  # it was executed once; its outcome was not known
        begin = time.monotonic()
        for command in (nv_increment(COUNTER), nv_increment(COUNTER), get_random(), pcr_read(0),
                        pcr_extend(16, bytes(32)), nv_read(COUNTER, 8), shutdown()):
            response = data.run(command)
            same((response[:2], len(response), rc_of(response)), (b"\x80\1", 10, RC_RETRY))
        took(begin, 0, WAIT * 0.9, "seven commands")  # not one of them waited
        same(control.call(GET_CAPABILITY, reply=8)[0], 0)
        failing.mend()
        same(counter(data), before, "after errno %d" % error)
    text = device.log()
    contains(text, "[store-failed]", "[store-full]", "stored again")
    same(text.count("stored again"), 3)
    device.term()
    place.sound()
    device = failing.start()
    same(counter(device.powered()[1]), before)


def test_writes(place):
    """each change is one synchronous write, into the two slots in turn, before the answer; reading writes nothing"""
    failing, device, control, data = broken(place)
    failing.writes()
    slots = []
    for number in range(6):
        data.good(nv_write(INDEX, b"%08d" % number))
        written = failing.writes()
        same([synchronous for _, _, synchronous in written], [True])
        slots.append(written[0][0])
    same(slots in ([SLOT_0, SLOT_1] * 3, [SLOT_1, SLOT_0] * 3), True, "slots %r" % slots)
    for command in (get_random(), pcr_read(0), pcr_extend(16, bytes(32)), nv_read(INDEX, 8)):
        data.good(command)
    control.pair()
    same(failing.writes(), [])
    device.term()
    written = failing.writes()
    same(sorted(offset for offset, _, _ in written)[-2:], [SLOT_0, SLOT_1])
    same({synchronous for _, _, synchronous in written}, {True})
    device = failing.start()
    same(failing.writes(), [], "a start of a file in order writes nothing")
    control, data = device.powered()  # the first commit after an orderly end
    written = failing.writes()
    same(sorted({offset for offset, _, _ in written}), [SLOT_0, SLOT_1], "no final mark outlives a commit")
    same({synchronous for _, _, synchronous in written}, {True})


def test_mended_in_time(place):
    """a store that can be written again within store-wait: the command succeeds and the guest notices nothing"""
    failing, device, control, data = broken(place, 30)
    failing.break_store()
    data.send(nv_write(INDEX, b"in time!"))
    time.sleep(0.5)
    same(control.call(GET_CAPABILITY, reply=8)[0], 0)
    failing.mend()
    same(rc_of(data.read()), 0)
    same(data.nv(INDEX), b"in time!")
    device.kill()
    same(failing.start().powered()[1].nv(INDEX), b"in time!")


def test_stop_ends_the_wait(place):
    """STOP and INIT while a command waits are answered at once, the waiting command 0x101 before them"""
    failing, device, control, data = broken(place, 30)
    begin = time.monotonic()
    for number in range(20):
        failing.break_store()
        data.send(nv_write(INDEX, b"newest%02d" % number))
        time.sleep(0.05)
        same(control.result(STOP) if number % 2 == 0 else control.init(), 0)
        data.sock.setblocking(False)
        response = data.sock.recv(100)  # is here already
        data.sock.settimeout(LIMIT)
        same(rc_of(response), RC_FAILURE)
        same(control.init(), 0, "INIT without a blob works on the newest bytes")
        same(data.rc(startup()), RC_RETRY)
        failing.mend()
        same(data.rc(startup()), 0)
        same(data.nv(INDEX), b"newest%02d" % number)
    took(begin, 0, 25, "twenty of these")
    device.term()


def test_blobs_meanwhile(place):
    """GET_STATEBLOB gives the newest bytes at once, while a command waits and after: a VM moves off a bad disk"""
    failing, device, control, data = broken(place, 30)
    failing.break_store()
    data.send(nv_write(INDEX, b"on board"))
    time.sleep(0.3)
    begin = time.monotonic()
    pairs = [control.pair()]
    took(begin, 0, 5, "GET_STATEBLOB while a command waits")
    same(control.result(STOP), 0)
    same(rc_of(data.read()), RC_FAILURE)
    begin = time.monotonic()
    pairs.append((control.blob(PERMANENT), None))
    took(begin, 0, 5, "GET_STATEBLOB after STOP")
    for number, pair in enumerate(pairs):
        target = place.start("target%d.vtpm" % number, "--incoming")
        target_control = target.control()
        target_data = target_control.open_data()
        same(target_control.load(*pair), 0)
        if pair[1] is None:
            target_data.good(startup())
        same(target_data.nv(INDEX), b"on board")
        target.term()
        place.sound("target%d.vtpm" % number)
    device.kill()
    failing.mend()
    same(failing.start().powered()[1].nv(INDEX), b"acknowle", "what was acknowledged is in the file")


def test_results_of_control_commands(place):
    """STORE_VOLATILE and INIT after a state blob wait as long and answer 0x1f; hashing too; then they work"""
    failing, device, control, data = broken(place)
    pair = control.pair()
    failing.break_store()
    begin = time.monotonic()
    same(control.result(STORE_VOLATILE), IO_ERROR)
    took(begin, WAIT * 0.9, WAIT + 5, "STORE_VOLATILE")
    same(control.result(HASH_START), IO_ERROR)
    same(data.rc(get_random()), RC_RETRY)
    begin = time.monotonic()
    same(control.load(*pair), IO_ERROR)
    took(begin, WAIT * 0.9, WAIT + 5, "INIT")
    same(data.rc(get_random()), RC_FAILURE, "the TPM is off")
    failing.mend()
    same(control.load(*pair), 0)
    same(data.nv(INDEX), b"acknowle")
    same(control.result(STORE_VOLATILE), 0)
    device.kill()
    control, data = failing.start().powered(start=False)
    same(data.nv(INDEX), b"acknowle", "resumed")


def test_end(place):
    """SIGTERM and SHUTDOWN wait store-wait, answer 0x1f and end with exit 1 and the word; mended meanwhile, exit 0"""
    for error, word in ((errno.EIO, "[store-failed]"), (errno.ENOSPC, "[store-full]")):
        for how in ("term", "shutdown"):
            failing, device, control, data = broken(place)
            failing.break_store(error)
            same(data.rc(nv_write(INDEX, b"unstored")), RC_FAILURE)
            begin = time.monotonic()
            if how == "term":
                device.process.terminate()
            else:
                same(control.result(SHUTDOWN), IO_ERROR)
            device.ends(1, word, "state.vtpm")
            took(begin, WAIT * 0.9, WAIT + 5, how)
            failing.mend()
            device = failing.start(log="after")
            same(device.powered()[1].nv(INDEX), b"acknowle")
            device.term()
            os.remove("state.vtpm")
    failing, device, control, data = broken(place, 30)
    failing.break_store()
    data.send(nv_write(INDEX, b"at last!"))
    time.sleep(0.2)
    device.process.terminate()
    time.sleep(0.3)
    same(device.process.poll(), None)
    failing.mend()
    same(device.wait(), 0, device.errors())
    place.sound()
    same(failing.start().powered()[1].nv(INDEX), b"at last!")


def test_terminate(place):
    """--terminate on a bad disk: exit 1 after store-wait"""
    failing, device, control, data = broken(place, WAIT, "--terminate")
    failing.break_store()
    begin = time.monotonic()
    control.close()
    device.ends(1, "[store-failed]")
    took(begin, WAIT * 0.9, WAIT + 5, "--terminate")


def test_name_not_synced(place):
    """a TPM whose name may not last was not made: no file is left in the way of the next try"""
    os.mkdir("there")
    failing = Failing(place, "there")
    failing.break_store()
    place.env.update(failing.env)
    done = place.vtpm("create", "there/state.vtpm", "--ek", "none", "--config", place.config)
    same(done.returncode, 1)
    contains(done.stderr, "[store-failed]", "there")
    same(os.listdir("there"), [])
    failing.mend()
    place.create("there/state.vtpm")


def test_start(place):
    """a start that finds a bad disk: INIT works, the guest's first command is told; --startup ends with exit 1"""
    failing, device, control, data = broken(place)
    device.kill()
    failing.break_store()
    device = failing.start()
    control = device.control()
    data = control.open_data()
    same(control.init(), 0)
    same(data.rc(startup()), RC_FAILURE)
    same(data.rc(startup()), RC_RETRY)
    failing.mend()
    same(data.rc(get_random()), 0, "Startup was executed once")
    same(data.nv(INDEX), b"acknowle")
    device.term()
    failing.break_store()
    device = failing.start("--startup", "clear", wait=False)
    true(device.wait() == 1, "exit %d" % device.wait())
    contains(device.errors(), "[store-")


def test_slow_again_and_again(place):
    """a store that fails now and then, torn writes among them: every acknowledged value is there after each SIGKILL"""
    failing, device, control, data = broken(place, 0.05)
    rng = random.Random(4)
    held = b"acknowle"
    for number in range(KILLS):
        value = b"%08d" % number
        failing.break_store(rng.choice([errno.EIO, -errno.EIO, -errno.ENOSPC]))
        code = data.rc(nv_write(INDEX, value))
        same(code, RC_FAILURE)
        choices = [held, value]
        if rng.random() < 0.6:
            failing.mend()
            if data.rc(get_random()) == 0:
                choices = [value]
        device.kill()
        failing.mend()
        device = failing.start(log="loop")
        control, data = device.powered()
        held = data.nv(INDEX)
        true(held in choices, "round %d: %r, one of %r was due" % (number, held, choices))
    device.term()
    place.sound()


def test_kill_during_writes(place):
    """SIGKILL amid NV writes: the last acknowledged value or a newer one that was sent is there"""
    place.create()
    device = place.start()
    control, data = device.powered()
    data.good(nv_define(INDEX, 8))
    data.good(nv_write(INDEX, b"%08d" % 0))
    rng = random.Random(5)
    sent = acknowledged = 0
    commits = 0
    for number in range(KILLS):
        killer = subprocess.Popen(["/bin/sh", "-c", "sleep %.4f; kill -9 %d" % (rng.random() * 0.03, device.pid)])
        try:
            while True:
                sent += 1
                same(data.rc(nv_write(INDEX, b"%08d" % sent)), 0)
                acknowledged = sent
                commits += 1
        except (ConnectionError, BrokenPipeError):
            pass
        killer.wait()
        same(device.wait(), -signal.SIGKILL)
        device = place.start(log="loop%d" % (number % 2))
        control, data = device.powered()
        held = int(data.nv(INDEX))
        true(acknowledged <= held <= sent, "round %d: acknowledged %d, held %d, sent %d" % (number, acknowledged, held, sent))
        lacks(device.log(), "state-slot-unreadable")
        sent = acknowledged = held
    device.term()
    place.sound()
    return "%d kills, %d acknowledged writes" % (KILLS, commits)


def test_kill_at_the_end_and_the_start(place):
    """SIGKILL amid the orderly end, the start and the bind: what was acknowledged is there, the next start is sound"""
    rng = random.Random(6)
    place.create()
    device = place.start()
    control, data = device.powered()
    data.good(nv_define(INDEX, 8))
    held = b"00000000"
    for number in range(KILLS):
        held = b"%08d" % number
        data.good(nv_write(INDEX, held))
        device.process.terminate()
        time.sleep(rng.random() * 0.004)
        device.kill()
        device = place.start(log="loop", wait=False)
        time.sleep(rng.random() * 0.012)
        device.kill()
        device = place.start(log="loop")
        control, data = device.powered()
        same(data.nv(INDEX), held, "round %d" % number)
    device.term()
    vm = "6f1b7a5e-30b2-4a8c-9d0e-1f2a3b4c5d6e"
    shutil.copy("state.vtpm", "unbound.vtpm")
    bound = 0
    for number in range(KILLS):
        shutil.copy("unbound.vtpm", "state.vtpm")
        device = place.start("state.vtpm", "--vm-uuid", vm, log="loop", wait=False)
        time.sleep(rng.random() * 0.012)
        device.kill()
        bound += place.inspect()["records"][0]["vm_uuid"] == vm
        device = place.start("state.vtpm", "--vm-uuid", vm, log="loop")
        control, data = device.powered()
        same(data.nv(INDEX), held, "bind %d" % number)
        device.term()
        same([(r["epoch"], r["vm_uuid"]) for r in place.inspect()["records"]], [(2, vm)])
    place.sound()
    return "%d of %d kills came after the bind" % (bound, KILLS)


if __name__ == "__main__":
    main(globals())
