#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""State on storage that two hosts share: swtpm's `--migration incoming,release-lock-outgoing`, as libvirt runs it. The
two hosts are two processes here, with one file."""
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (GET_CAPABILITY, INIT, KEY_NOT_FOUND, PERMANENT, SAVESTATE, SHUTDOWN, STOP, STORE_VOLATILE,  # noqa: E402
                    VOLATILE, Skip, contains, lacks, main, read_file, same, sanitized, true, wait_until, write_file)
from swtpm import OTHER_VM, STATE, SWTPM, VM, Served, folder_of, pipe_of, run, setup  # noqa: E402
from tpm_bytes import get_random, nv_define, nv_write, pcr_extend, startup, words  # noqa: E402

HERE = os.path.dirname(os.path.realpath(__file__))
LOCK_STORAGE, RETRY, IN_USE, FAILURE, FAIL = 19, 0x800, 0x1F, 0x101, 9
IOERROR = 0x1F
OWNER_BYTE, PID_BYTE = 0, 2
INDEX, ORDERLY_INDEX = 0x01500001, 0x01500002
NV_ORDERLY = 0x04060006  # owner and its own authorization read and write; TPMA_NV_ORDERLY
OUTGOING = ("--migration", "release-lock-outgoing")
INCOMING = ("--migration", "release-lock-outgoing,incoming")
FLOCK = "hhqqi4x"


def lock_on(path, byte):
    """The kind of lock that somebody has on BYTE of the file."""
    with open(path, "rb") as file:
        asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        return struct.unpack(FLOCK, fcntl.fcntl(file.fileno(), fcntl.F_OFD_GETLK, asked))[0]


def held(path):
    owner, pid = (lock_on(path, byte) != fcntl.F_UNLCK for byte in (OWNER_BYTE, PID_BYTE))
    same(pid, owner, "the owner is marked as such while it is one")
    return owner


class Pair:
    """A TPM that runs, with something in it, and its file. NAMES: of that on either host, for who names it, as Proxmox
    does, which has no words for a migration."""

    def __init__(self, place, *args, key=None, names=None):
        self.place, self.key, self.names = place, key, names
        self.folder = folder_of(VM)
        self.path = names[0] if names else os.path.join(self.folder, STATE)
        self.source, self.control, self.data = self.start("source", *(args or OUTGOING))
        same(self.control.init(), 0, self.source.errors())
        self.data.good(startup())
        self.data.good(nv_define(INDEX, 5))
        self.data.good(nv_write(INDEX, b"first"))
        self.data.good(pcr_extend(16, b"\1" * 32))
        self.pcr = self.data.pcr(16)

    def start(self, name, *args):
        fds = (pipe_of(self.key),) if self.key else ()
        key = ("--key", "pwdfd=%d,mode=aes-256-cbc" % fds) if fds else ()
        state = self.names and "backend-uri=file://" + os.path.abspath(self.names[name != "source"])
        served = Served(self.place, self.folder, *(() if state else args), *key, ctrl=name, pass_fds=fds, state=state)
        control = served.control()
        return served, control, control.open_data()

    def save(self):
        """As QEMU does: both blobs, then the third that a TPM 2.0 has not."""
        blobs = self.control.pair()
        same(self.control.get_blob(SAVESTATE)[0], RETRY)
        return blobs

    def finds(self, data, value):
        same((data.nv(INDEX, 5), data.pcr(16)), (value, self.pcr))


def lock_storage(control, retries=0):
    return control.result(LOCK_STORAGE, words(retries))


def ended(served, control, status, *pieces):
    control.close()
    served.process.terminate()
    served.ends(status, *pieces)


def migrates(place, **how):
    pair = Pair(place, **how)
    true(held(pair.path), "it runs")
    target, other, there = pair.start("target", *INCOMING)
    same(other.init(), IN_USE, "INIT while the source holds the file")
    contains(target.errors(), "[in-use]", str(pair.source.process.pid))
    same(other.result(STOP), 0)
    blobs = pair.save()
    true(not held(pair.path), "let go of")
    before = read_file(pair.path)
    same(other.load(*blobs), 0, target.errors())
    same(read_file(pair.path), before, "what came in is what the file holds")
    pair.finds(there, b"first")
    there.good(nv_write(INDEX, b"later"))
    true(held(pair.path), "the target holds it")
    before = read_file(pair.path)
    same(lock_storage(pair.control, 5), IN_USE)
    same(pair.control.result(STOP), 0)
    same(pair.control.result(SHUTDOWN), 0, "the source ends and has nothing to say")
    pair.source.ends(0)
    same(read_file(pair.path), before, "and writes nothing")
    pair.control, pair.data = other, there
    back, other, there = pair.start("back", *INCOMING)
    blobs = pair.save()
    same(other.load(*blobs), 0, back.errors())
    pair.finds(there, b"later")
    ended(target, pair.control, 0)
    there.good(nv_write(INDEX, b"again"))
    same(other.result(SHUTDOWN), 0)
    back.ends(0)
    if not pair.key:
        place.sound(pair.path)
    last, control, data = pair.start("last")
    same(control.init(), 0)
    data.good(startup())
    same(data.nv(INDEX, 5), b"again")
    ended(last, control, 0)


def test_migration(place):
    """a running TPM moves to a second process with the same file, and back"""
    migrates(place)


def test_migration_with_secret(place):
    """the same where a secret opens the state"""
    migrates(place, key=b"one secret on both hosts")


def test_migration_by_name(place):
    """the same by Proxmox' lines: file://, and not a word of a migration"""
    migrates(place, names=("state.raw", "state.raw"))


def test_named_place(place):
    """what comes in takes the place of a file of zeros, as one is made for a state, and of a TPM that setup made in wait"""
    pair = Pair(place, names=("state.raw", "place.raw"))
    blobs = pair.save()
    with open("place.raw", "wb") as file:
        file.truncate(4 << 20)
    for name in ("zeros", "placeholder"):
        target, other, data = pair.start(name)
        same(other.load(*blobs), 0, target.errors())
        pair.finds(data, b"first")
        ended(target, other, 0)
        place.sound("place.raw")
        os.unlink("place.raw")
        setup(place, "file://" + os.path.abspath("place.raw"), "--overwrite")
    ended(pair.source, pair.control, 0)


def test_named_and_announced(place):
    """--migration incoming where the file is named: an INIT that comes first makes none, and begins with one that is there"""
    pair = Pair(place, names=("state.raw", "state.raw"))
    ended(pair.source, pair.control, 0)
    for name in ("none.raw", "state.raw"):
        served = Served(place, None, "--migration", "incoming", ctrl="c-" + name,
                        state="backend-uri=file://" + os.path.abspath(name))
        with served.control() as control:
            same(control.init() == 0, name == "state.raw", served.errors())
        served.process.terminate()
        served.process.wait(10)
    true(not os.path.exists("none.raw"), "none is made")


def test_named_waits_for_key(place):
    """INIT of one that is named waits for a provider as a start does: others are answered meanwhile, it waits no longer than
    init-wait=, and after a refusal the file is nobody's, and may be asked for again"""
    place.add_gate()
    place.create("state.raw", "--provider", "gate")
    served = Served(place, None, ctrl="gated", state="backend-uri=file://" + os.path.abspath("state.raw"))
    place.gate("wait")
    with served.control() as control:
        control.send(words(INIT, 0) + words(GET_CAPABILITY))
        same(control.read(4), words(KEY_NOT_FOUND), "as long as init-wait")
        same(struct.unpack(">II", control.read(8))[0], 0)
        contains(served.errors(), "[provider-timeout]")
        place.gate("error access-denied not for you")
        wait_until(lambda: "not for you" in served.errors(), "it is told")
        true(not held("state.raw"), "a tool may put it right")
        place.gate("open")
        same(control.init(), 0, served.errors())
        same(control.result(SHUTDOWN), 0)
    served.ends(0)
    write_file(place.config, read_file(place.config).decode().replace("init-wait=2", "init-wait=0"), "w")
    served = Served(place, None, ctrl="hasty", state="backend-uri=file://" + os.path.abspath("state.raw"))
    served.powered()
    served.process.terminate()
    served.ends(0)


def test_named_key_file(place):
    """a key file that is to be removed has been read when who starts one that is named sees it listen"""
    write_file("word", b"a secret word")
    state = "backend-uri=file://" + os.path.abspath("state.raw")
    served = Served(place, None, "--key", "pwdfile=word,mode=aes-256-cbc,remove", state=state)
    wait_until(lambda: not os.path.exists("word"), "it is removed")
    served.powered()
    served.process.terminate()
    served.ends(0)
    served = Served(place, None, "--key", "pwdfile=word,mode=aes-256-cbc", state=state, wait=False)
    served.ends(1, "word")


def test_named_at_last(place):
    """who names a file has what has that name when the first INIT or blob comes, not what had it at the start"""
    pair = Pair(place, names=("state.raw", "state.raw"))
    ended(pair.source, pair.control, 0)
    shutil.copy("state.raw", "older.raw")
    pair.source, pair.control, pair.data = pair.start("source")
    same(pair.control.init(), 0)
    pair.data.good(startup())
    pair.data.good(nv_write(INDEX, b"later"))
    ended(pair.source, pair.control, 0)
    os.rename("state.raw", "newest.raw")
    os.rename("older.raw", "state.raw")
    served, control, data = pair.start("served")
    os.rename("newest.raw", "state.raw")
    same(control.init(), 0, served.errors())
    data.good(startup())
    same(data.nv(INDEX, 5), b"later")
    ended(served, control, 0)


def test_kept_until_asked_for(place):
    """the file is let go of for who has both blobs, not where they were only sealed ahead"""
    pair = Pair(place)
    time.sleep(0.2)  # for that to be done
    same(pair.control.get_blob(SAVESTATE)[0], RETRY)
    true(held(pair.path), "nobody has a blob")
    pair.control.blob(PERMANENT)
    same(pair.control.get_blob(SAVESTATE)[0], RETRY)
    true(held(pair.path), "nobody has the volatile one")
    pair.save()
    true(not held(pair.path), "let go of")
    ended(pair.source, pair.control, 0)


def test_fall_back(place):
    """the migration comes to nothing: the source takes the file again, by LOCK_STORAGE or with the guest's next command"""
    pair = Pair(place)
    for number in range(4):
        pair.save()
        true(not held(pair.path), "let go of")
        if number == 0:
            same(lock_storage(pair.control), 0)
            same(lock_storage(pair.control), 0, "again")
        elif number == 1:
            pair.data.good(get_random())
        elif number == 2:
            same(pair.control.result(STORE_VOLATILE), 0)
        else:
            same(pair.control.result(STOP), 0)
            true(not held(pair.path), "a stopped TPM needs no file")
            same(pair.control.init(), 0)
            true(held(pair.path), "INIT does")
            same(pair.data.rc(startup(1)), 0x1C4, "no TPM2_Shutdown was sent while the file was not held")
            pair.data.good(startup())
        true(held(pair.path), "held again")
        pair.data.good(nv_write(INDEX, b"%05d" % number))
        same(pair.data.nv(INDEX, 5), b"%05d" % number)
    ended(pair.source, pair.control, 0)
    place.sound(pair.path)


def test_target_without_guest(place):
    """a target that took the TPM in and ends before any guest's command leaves the file as it was: the source goes on"""
    pair = Pair(place)
    blobs = pair.save()
    before = read_file(pair.path)
    for how in ("shutdown", "term", "kill"):
        target, other, _ = pair.start("target", *INCOMING)
        same(other.load(*blobs), 0, target.errors())
        true(held(pair.path), how)
        if how == "shutdown":
            same(other.result(SHUTDOWN), 0)
            target.ends(0)
        elif how == "term":
            ended(target, other, 0)
        else:
            target.process.kill()
            target.process.wait()
        same(read_file(pair.path), before, how)
    target, other, _ = pair.start("target", *INCOMING)
    same(other.set_blob(PERMANENT, blobs[0]), 0)
    true(lock_on(pair.path, OWNER_BYTE) != fcntl.F_UNLCK, "its broker holds it from the first blob on")
    same(lock_storage(pair.control, 1), IN_USE)
    target.process.kill()
    target.process.wait()
    same(lock_storage(pair.control, 300), 0)
    pair.finds(pair.data, b"first")
    ended(pair.source, pair.control, 0)
    place.sound(pair.path)


def newer_library(place):
    """A library to be preloaded, with which libtpms says that it is newer."""
    path = os.path.join(place.folder, "newer_library.so")
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-o", path, os.path.join(HERE, "newer_library.c")], check=True,
                       stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        raise Skip("there is no compiler to build newer_library.c") from None
    return {"LD_PRELOAD": path, "ASAN_OPTIONS": "verify_asan_link_order=0:" + os.environ.get("ASAN_OPTIONS", "")}


def test_newer_target(place):
    """a target with a newer libtpms: where its guest never runs the source goes on, and its hosts open the TPM still;
    from its guest's first command on they are told that they cannot"""
    newer = newer_library(place)

    def version():
        return place.inspect(pair.path)["records"][0]["libtpms_version"]

    pair = Pair(place)
    before = version()
    for runs in (False, True):
        blobs = pair.save()
        target = Served(place, pair.folder, *INCOMING, ctrl="target", env=newer)
        control = target.control()
        data = control.open_data()
        same(control.load(*blobs), 0, target.errors())
        same(version(), before, "no byte is newer")
        if runs:
            break
        control.close()
        target.process.kill()
        target.process.wait(10)
        same(lock_storage(pair.control, 300), 0)
        pair.finds(pair.data, b"first")
        ended(pair.source, pair.control, 0)
        pair.source, pair.control, pair.data = pair.start("again", *OUTGOING)
        same(pair.control.init(), 0, pair.source.errors())
        pair.data.good(startup())
        pair.data.good(pcr_extend(16, b"\1" * 32))
    pair.source.process.kill()
    pair.source.process.wait(10)
    pair.finds(data, b"first")
    data.good(nv_write(INDEX, b"later"))
    same(version(), "0.99.0")
    ended(target, control, 0)
    served = Served(place, pair.folder, ctrl="older")
    with served.control() as control:
        same(control.init(), 0x2E)
    served.ends(1, "[state-newer-version]")


def test_storage_apart(place):
    """with a file of its own a target that ends before any guest's command shuts the TPM down: what is orderly stays"""
    pair = Pair(place)
    pair.data.good(nv_define(ORDERLY_INDEX, 5, NV_ORDERLY))
    pair.data.good(nv_write(ORDERLY_INDEX, b"order"))
    blobs = pair.control.pair()
    ended(pair.source, pair.control, 0)
    folder = folder_of(VM, "elsewhere")
    target = Served(place, folder, *INCOMING, ctrl="target")
    with target.control() as control:
        same(control.load(*blobs), 0, target.errors())
        same(control.result(SHUTDOWN), 0)
    target.ends(0)
    place.sound(os.path.join(folder, STATE))
    last = Served(place, folder, ctrl="last")
    control, data = last.powered()
    data.good(startup())
    same(data.nv(ORDERLY_INDEX, 5), b"order")
    ended(last, control, 0)


def test_taken_over(place):
    """the target's guest ran: the source never writes again, whatever it is told, and says so"""
    for how in ("lock", "command", "init", "store"):
        pair = Pair(place) if how == "lock" else None
        if pair:
            first = pair
            value = b"first"
        else:
            pair = first
            pair.source, pair.control, pair.data = pair.start("source-" + how, *OUTGOING)
            same(pair.control.init(), 0)
            pair.data.good(startup())
            value = pair.data.nv(INDEX, 5)
            pair.data.good(pcr_extend(16, b"\1" * 32))
        blobs = pair.save()
        target, other, there = pair.start("target-" + how, *INCOMING)
        same(other.load(*blobs), 0, target.errors())
        pair.finds(there, value)
        there.good(nv_write(INDEX, how.encode().ljust(5)[:5]))
        target.process.kill()
        target.process.wait()
        before = read_file(pair.path)
        if how == "lock":
            same(lock_storage(pair.control, 300), FAILURE)
        elif how == "command":
            same(pair.data.rc(get_random()), FAILURE)
        elif how == "init":
            same(pair.control.init(), FAILURE)
        else:
            same(pair.control.result(STORE_VOLATILE), IOERROR)
        contains(pair.source.errors(), "[state-taken-over]")
        same(pair.data.rc(nv_write(INDEX, b"wrong")), FAILURE)
        same(lock_storage(pair.control, 1), FAILURE)
        same(pair.control.init(), FAILURE)
        true(not held(pair.path), "it lets the file alone")
        ended(pair.source, pair.control, 1, "[state-taken-over]")
        same(read_file(pair.path), before, how)
    place.sound(pair.path)


def test_nothing_written(place):
    """a TPM that was let go of writes nothing at its end: no TPM2_Shutdown, no final mark"""
    pair = Pair(place)
    for how in ("term", "shutdown", "stop"):
        if how != "term":
            pair.source, pair.control, pair.data = pair.start("source-" + how, *OUTGOING)
            same(pair.control.init(), 0)
            pair.data.good(startup())
        pair.save()
        before = read_file(pair.path)
        if how == "stop":
            same(pair.control.result(STOP), 0)
        if how == "term":
            ended(pair.source, pair.control, 0)
        else:
            same(pair.control.result(SHUTDOWN), 0)
            pair.source.ends(0)
        same(read_file(pair.path), before, how)


def test_kept(place):
    """without release-lock-outgoing, and where not all blobs of one moment were asked for, the file stays held"""
    pair = Pair(place, "--seccomp", "action=" + ("none" if sanitized() else "kill"))  # sanitizers make calls of their own
    pair.save()
    true(held(pair.path), "not told to let go")
    same(lock_storage(pair.control), 0, "it is held")
    ended(pair.source, pair.control, 0)
    pair.source, pair.control, pair.data = pair.start("again", *OUTGOING)
    same(pair.control.init(), 0)
    pair.data.good(startup())
    same(pair.control.get_blob(SAVESTATE)[0], RETRY)
    true(held(pair.path), "nobody has the blobs")
    pair.control.pair()
    true(held(pair.path), "QEMU has not all yet")
    pair.data.good(get_random())
    same(pair.control.get_blob(SAVESTATE)[0], RETRY)
    true(held(pair.path), "the blobs are of before")
    same(pair.control.get_blob(VOLATILE)[0], 0)
    same(pair.control.get_blob(SAVESTATE)[0], RETRY)
    true(held(pair.path), "the permanent one is of before")
    pair.control.pair()
    same(pair.control.get_blob(SAVESTATE)[0], RETRY)
    true(not held(pair.path), "now")
    ended(pair.source, pair.control, 0)


def test_target_refused(place):
    """a second process without `incoming`, and one for another VM, do not start on a file that is held"""
    pair = Pair(place)
    before = read_file(pair.path)
    for args, word in ((OUTGOING, "[in-use]"), ((), "[in-use]")):
        target = Served(place, pair.folder, "--terminate", *args, ctrl="second")
        with target.control() as control:
            true(control.init() != 0, "refused")
        target.process.terminate()
        target.ends(1, word)
    elsewhere = folder_of(OTHER_VM)
    os.symlink(os.path.abspath(pair.path), os.path.join(elsewhere, STATE))
    target = Served(place, elsewhere, *INCOMING, ctrl="third", wait=False)
    target.ends(1, "[identity-other]", VM, OTHER_VM)
    pair.finds(pair.data, b"first")
    same(read_file(pair.path), before)
    ended(pair.source, pair.control, 0)


def test_deep_rekey(place):
    """no deep rekey behind the back of a TPM that has let go of its file: it would not find its state any more"""
    pair = Pair(place)
    pair.save()
    before = read_file(pair.path)
    done = place.vtpm("rekey", pair.path, "--deep")
    same(done.returncode, 6, done.stdout + done.stderr)
    contains(done.stderr, "[in-use]", "migration", "process %d " % pair.source.process.pid)
    same(read_file(pair.path), before)
    pair.finds(pair.data, b"first")
    for running in (True, False):
        done = place.vtpm("rekey", pair.path, "--deep")
        same(done.returncode, 0, done.stdout + done.stderr)
        if running:
            pair.finds(pair.data, b"first")
            ended(pair.source, pair.control, 0)
    place.sound(pair.path)


def test_saved_again(place):
    """a TPM that was let go of is saved once more: where nobody took it, held again first; where somebody did, not at all"""
    pair = Pair(place)
    for how in ("kill", "runs"):
        blobs = pair.save()
        true(not held(pair.path), "let go of")
        target, other, there = pair.start("target-" + how, *INCOMING)
        same(other.load(*blobs), 0, target.errors())
        if how == "kill":
            target.process.kill()
            target.process.wait()
    there.good(nv_write(INDEX, b"later"))
    same(pair.control.get_blob(PERMANENT)[0], FAIL, "the other one runs")
    same(other.result(SHUTDOWN), 0)
    target.ends(0)
    before = read_file(pair.path)
    same(pair.control.get_blob(PERMANENT)[0], FAIL, "the other one went on, and has ended")
    same(pair.control.get_blob(VOLATILE)[0], FAIL, "nor the other half")
    true(not held(pair.path), "the file is let alone")
    ended(pair.source, pair.control, 1, "[state-taken-over]")
    same(read_file(pair.path), before)
    place.sound(pair.path)


def test_end_while_held_elsewhere(place):
    """a command waits for the file that another process holds, and the TPM is ended meanwhile: in order, at once"""
    for how in (SHUTDOWN, STOP, "term"):
        pair = Pair(place) if how == SHUTDOWN else None
        if pair:
            first = pair
        else:
            pair = first
            pair.source, pair.control, pair.data = pair.start("source-%s" % how, *OUTGOING)
            same(pair.control.init(), 0)
            pair.data.good(startup())
        pair.save()
        with open(pair.path, "r+b") as file:
            lock = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, OWNER_BYTE, 1, 0)
            fcntl.fcntl(file.fileno(), fcntl.F_OFD_SETLK, lock)
            pair.data.send(get_random())
            time.sleep(0.2)
            same(pair.source.process.poll(), None)
            if how == "term":
                pair.source.process.terminate()
            else:
                same(pair.control.result(how), 0)
            if how == STOP:
                same(pair.data.read()[6:], words(FAILURE))
                same(pair.control.result(SHUTDOWN), 0)
            pair.source.ends(0, "[in-use]", limit=2)


def test_told(place):
    """capabilities name cmdarg-migration, by which libvirt knows that it may migrate on shared storage"""
    contains(run(place, SWTPM, "socket", "--print-capabilities").stdout, '"cmdarg-migration"')
    contains(run(place, SWTPM, "socket", "--help").stdout, "release-lock-outgoing")
    folder = folder_of("x")
    setup(place, folder)
    done = run(place, SWTPM, "socket", "--tpm2", "--tpmstate", "dir=" + folder, "--ctrl", "type=unixio,path=c",
               "--migration", "sideways", status=1)
    contains(done.stderr, "[usage]", "sideways")
    lacks(" ".join(os.listdir(".")), "c ")


if __name__ == "__main__":
    main(globals())
