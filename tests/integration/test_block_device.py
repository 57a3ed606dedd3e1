#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""A state on a block device, as Proxmox keeps one on LVM, ZFS or RBD: made in place, served, changed, taken away. Loop
devices of our own; the files behind them tell what was written."""
import contextlib
import errno
import json
import os
import shutil
import stat
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from clones import A, B  # noqa: E402
from device import PERMANENT, SAVESTATE, SHUTDOWN, STOP, VOLATILE, VTPM, contains, lacks, main, read_file, same, true, wait_until, write_file  # noqa: E402
from test_full_disk import fill, small_disk  # noqa: E402
from keyhost import INDEX, add_native, epoch, names, unchanged, vtpm  # noqa: E402
from swtpm import OTHER_VM, SETUP, STATE, SWTPM, VM, Served, debian, folder_of, loop_device, run, setup  # noqa: E402
from test_swtpm_shared import FAILURE, INDEX as PAIRS_INDEX, IOERROR, RETRY, Pair, ended, lock_storage, newer_library  # noqa: E402
from tpm_bytes import RC_FAILURE, RC_RETRY, nv_define, nv_read, nv_write, startup  # noqa: E402

SIZE = 4 << 20  # of a TPM's volume of Proxmox
NEEDED = 640 << 10
VALUE = b"kept by it"


@contextlib.contextmanager
def device_of(name="volume", size=SIZE):
    with open(name, "wb") as file:
        file.truncate(size)
    with loop_device(os.path.abspath(name)) as device:
        try:
            yield device
        finally:
            subprocess.run(["blockdev", "--setrw", device], check=True, timeout=10)  # else the next one is so, too


def bytes_of(device):
    with open(device, "rb") as file:
        return file.read()


def leave_mark(data):
    data.good(nv_define(INDEX, len(VALUE)))
    data.good(nv_write(INDEX, VALUE))


def serves(place, path, *args):
    """A cold start finds the mark and ends in order."""
    served = place.start(path, *args)
    control, data = served.powered()
    same(data.nv(INDEX, len(VALUE)), VALUE)
    same(control.result(SHUTDOWN), 0)
    same(served.wait(), 0, served.errors())


def serves_anew(place, path, *args):
    """It is another TPM, and one that a guest can use."""
    served = place.start(path, *args)
    _, data = served.powered()
    same(data.rc(nv_read(INDEX, 1)), 0x18B, "the index is not there")
    served.term()


def made_by_guest(place, path, *args):
    served = place.start(path, *args)
    control, data = served.powered()
    leave_mark(data)
    same(control.result(SHUTDOWN), 0)
    same(served.wait(), 0, served.errors())


def test_life(place):
    """create on a blank device, a guest, kill -9, cold starts, a link's name, destroy; it is as blank as before then"""
    with device_of() as device:
        os.symlink(device, "lv")
        place.create("lv", "--vm-uuid", A)
        same(bytes_of(device)[NEEDED:], bytes(SIZE - NEEDED), "no more than a state's place is written")
        served = place.start("lv", "--vm-uuid", A)
        leave_mark(served.powered()[1])
        served.kill()
        for path in ("lv", device):
            wait_until(lambda: "in use" not in place.vtpm("check", device, "--config", place.config).stderr, "it is let go of")
            serves(place, path, "--vm-uuid", A)
            place.ended_well(path)
        vtpm(place, "destroy", "lv", "--yes")
        same(bytes_of(device), bytes(SIZE), "blank")
        place.refused(3, ["[state-missing]", "blank"], device)
        place.create(device)
        place.sound(device)
        for offset in (0, 64 << 10):  # as a power cut leaves one that was being made
            with open(device, "r+b") as file:
                file.seek(offset)
                file.write(bytes(64 << 10))
        place.refused(3, ["[state-damaged]", "blkdiscard -z"], device)
        contains(place.vtpm("create", device, "--ek", "none", "--config", place.config).stderr, "[state-exists]", "blkdiscard -z")
        true(os.path.islink("lv"), "the name stands")


def test_taken(place):
    """what is not blank is left as it is, wherever it has its bytes; so is one that is too small, or somebody's"""
    with device_of() as device:
        for offset in (0, 1024, 4096, 65600, 128 << 10, (256 << 10) - 1, NEEDED - 1):
            with open(device, "r+b") as file:
                file.seek(offset)
                file.write(b"x")
            before = bytes_of(device)
            done = place.vtpm("create", device, "--ek", "none", "--config", place.config)
            same(done.returncode, 3, done.stderr)
            contains(done.stderr, "[state-exists]", device, "blkdiscard -z")
            same(bytes_of(device), before)
            with open(device, "r+b") as file:
                file.seek(offset)
                file.write(b"\0")
        with open(device, "r+b") as file:  # behind a state's place there may be anything
            file.seek(NEEDED)
            file.write(b"x")
        fd = os.open(device, os.O_RDWR | os.O_EXCL)  # as mount, LVM or mkfs would
        done = place.vtpm("create", device, "--ek", "none", "--config", place.config)
        contains(done.stderr, "[in-use]", device, "lsblk")
        os.close(fd)
        place.create(device)
        fd = os.open(device, os.O_RDWR | os.O_EXCL)
        place.refused(6, ["[in-use]", device], device)
        os.close(fd)
        same(bytes_of(device)[NEEDED:NEEDED + 1], b"x")
    with device_of("small", NEEDED - 4096) as device:
        for command in (("create", device, "--ek", "none"), ("run", device, "--ctrl", "unix:c")):
            done = place.vtpm(*command, "--config", place.config)
            same(done.returncode, 2, done.stderr)
            contains(done.stderr, "[usage]", str(NEEDED))


def test_owner(place):
    """while it is served it is nobody else's: not another vtpm's, which is told whose it is, nor a mount's"""
    with device_of() as device:
        place.create(device)
        served = place.start(device)
        _, data = served.powered()
        place.refused(6, ["[in-use]", "process %d" % served.pid], device)
        leave_mark(data)  # the broker has gone by now
        try:
            os.close(os.open(device, os.O_RDWR | os.O_EXCL))
            raise AssertionError("it could be opened for somebody alone")
        except OSError as error:
            same(error.errno, errno.EBUSY)
        done = place.vtpm("destroy", device, "--yes", "--config", place.config)
        contains(done.stderr, "[in-use]")
        served.term()
        serves(place, device)


def test_second_node(place):
    """another node of a device in use, as a container has one: its locks are others, so nothing is owned by it"""
    with device_of() as device:
        place.create(device)
        served = place.start(device)
        _, data = served.powered()
        leave_mark(data)
        os.mknod("node", 0o600 | stat.S_IFBLK, os.stat(device).st_rdev)
        with unchanged(device):
            for command in (("rekey", "--deep", "node"), ("destroy", "node", "--yes"), ("replace", "node", "--vm-uuid", B, "--yes")):
                done = place.vtpm(*command, "--config", place.config)
                true("in use" in done.stderr or "the TPM runs" in done.stderr, done.stderr)
            place.refused(6, ["[in-use]", "node"], "node")
        same(data.nv(INDEX, len(VALUE)), VALUE)
        served.term()
        vtpm(place, "rekey", "--deep", "node")
        serves(place, device)


def test_unfit(place):
    """a read-only device, one that is restored to while a TPM is made for it, one that has gone, a name in /dev that none has"""
    place.create("state.vtpm")
    with device_of() as device:
        place.create(device)
        subprocess.run(["blockdev", "--setro", device], check=True, timeout=10)
        place.refused(4, ["[access-denied]", "read-only"], device)
        contains(vtpm(place, "destroy", device, "--yes", status=4, word="access-denied").stderr, "read-only")
        subprocess.run(["blockdev", "--setrw", device], check=True, timeout=10)
        view = place.inspect(device)
        same((view["file_size"], view["problems"]), (SIZE, []))
    with device_of() as device:
        place.add_gate()
        place.gate("wait")
        with subprocess.Popen([VTPM, "create", device, "--ek", "none", "--provider", "gate", "--config", place.config],
                              env=place.env, stderr=subprocess.PIPE, text=True) as made:
            wait_until(place.asked, "the provider is asked")
            subprocess.run(["dd", "if=state.vtpm", "of=" + device, "bs=64K", "conv=notrunc"], check=True, capture_output=True)
            place.gate("open")
            contains(made.stderr.read(), "[state-exists]", device)
        same(bytes_of(device)[:NEEDED], read_file("state.vtpm"))
        os.symlink(device, "lv")
        add_native(place, "second")
        vtpm(place, "rekey", "lv", "--to", "second")
        write_file(place.config, read_file(place.config).decode() + "state-dirs=%s\n" % os.path.abspath("lv"), "w")
        served = Served(place, None, "--log", "file=log", state="backend-uri=file://" + os.path.abspath("lv"))
        served.powered()
        served.shutdown()
        lacks(read_file("log").decode(), "state-dirs")
    true(place.vtpm("provider", "remove", "second", "--yes", "--config", place.config).returncode != 0, "its TPM may be there")
    with unchanged("state.vtpm"):
        for command in (("create", "/dev/nonexistent-tpm", "--ek", "none"),
                        ("create", "/dev/nonexistent-group/tpm", "--ek", "none"), ("clone", "state.vtpm", "/dev/nonexistent-tpm", "--vm-uuid", A)):
            contains(vtpm(place, *command, status=3, word="state-missing").stderr, "activate")
    contains(setup(place, "file:///dev/nonexistent-tpm", "--not-overwrite", status=1).stderr, "[state-missing]", "activate")
    true(not os.path.exists("/dev/nonexistent-tpm"), "no file in its place")


def test_keys(place):
    """keys of one that is in use are changed, shallow and deep, and it is inspected, checked and exported"""
    add_native(place, "first")
    add_native(place, "second")
    with device_of() as device:
        place.create(device, "--provider", "first")
        served = place.start(device, "--manage", "unix:m")
        control, data = served.powered()
        leave_mark(data)
        vtpm(place, "rekey", device, "--to", "second")
        same(names(place, device), ["second"])
        vtpm(place, "rekey", device, "--deep", "--manage", "unix:m")
        same(data.nv(INDEX, len(VALUE)), VALUE)
        same(epoch(place, device), 2)
        same(control.result(SHUTDOWN), 0)
        same(served.wait(), 0, served.errors())
        serves(place, device)
        place.sound(device)
        write_file(place.config, read_file(place.config).decode() + "state-dirs=%s\n" % os.path.abspath("lv"), "w")
        os.symlink(device, "lv")
        contains(vtpm(place, "list", "lv").stdout, device)
        vtpm(place, "provider", "remove", "second", "--yes", "--search", "lv", status=1, word="key-in-use")
        os.mkdir("theirs")
        vtpm(place, "export", "--swtpm", "--plaintext", device, "theirs")
        same(os.path.exists(os.path.join("theirs", STATE)), True)
        serves(place, device)


def test_ends_and_begins(place):
    """the next start need not wait for the last one's processes, which let go of the device a moment after they answered"""
    with device_of() as device:
        place.create(device)
        made_by_guest(place, device)
        for _ in range(20):
            served = place.start(device)
            control, data = served.powered()
            same(data.nv(INDEX, len(VALUE)), VALUE)
            same(control.result(SHUTDOWN), 0)
        same(served.wait(), 0, served.errors())


def test_saved_on_volume(place):
    """keys census --images finds a saved TPM on a volume that is named"""
    place.create("state.vtpm")
    source = place.start("state.vtpm")
    control, _ = source.powered()
    blob = control.blob(PERMANENT)
    source.term()
    with device_of() as device:
        with open(device, "r+b") as file:
            file.seek(1 << 20)
            file.write(blob)
        os.sync()
        contains(vtpm(place, "keys", "census", device, "--images").stdout, "1 in images")


def test_migration(place):
    """a TPM comes in to a blank device, and goes out of one; a placeholder is not needed, nor made by swtpm_setup"""
    place.create("state.vtpm", "--vm-uuid", VM)
    made_by_guest(place, "state.vtpm", "--vm-uuid", VM)
    source = place.start("state.vtpm", "--vm-uuid", VM)
    control, _ = source.powered()
    blobs = [control.blob(kind) for kind in (PERMANENT, VOLATILE)]
    source.term()
    with device_of() as device:
        setup(place, "file://" + device, "--overwrite")
        same(bytes_of(device), bytes(SIZE), "it waits as it is")
        target = place.start(device, "--incoming", "--vm-uuid", VM)
        with target.control() as control:
            same(control.load(*blobs), 0, target.log())
            data = control.open_data()
            same(data.nv(INDEX, len(VALUE)), VALUE)
            blobs = [control.blob(kind) for kind in (PERMANENT, VOLATILE)]
        target.term()
        serves(place, device, "--vm-uuid", VM)
        subprocess.run(["blkdiscard", device], check=True, timeout=10)
        setup(place, "file://" + os.path.abspath("waits"), "--overwrite")
        subprocess.run(["dd", "if=waits", "of=" + device, "bs=64K", "conv=fsync"], check=True, capture_output=True)
        target = place.start(device, "--incoming", "--vm-uuid", VM)
        with target.control() as control, unchanged(device):
            true(control.load(*blobs) != 0, "a placeholder is in the way")
            contains(target.log(), "[state-exists]", device, "vtpm destroy")
        target.kill()
        back = place.start("back.vtpm", "--incoming", "--vm-uuid", VM)
        with back.control() as control:
            same(control.load(*blobs), 0, back.log())
        back.term()
        vtpm(place, "destroy", device, "--yes")
        served = Served(place, None, state="backend-uri=file://" + device)
        with served.control() as control:  # as QEMU with -loadvm: INIT first, and a TPM is made
            same(control.init(), 0, served.errors())
            same(control.result(STOP), 0)
            true(control.set_blob(PERMANENT, blobs[0]) != 0, "the snapshot's TPM is not put over the one that is there")
        served.process.terminate()
        served.process.wait(30)
        place.sound(device)
        same(sorted(name for name in os.listdir(os.path.dirname(device)) if os.path.basename(device) + "." in name), [],
             "nothing stands beside it")


@contextlib.contextmanager
def two_hosts(place):
    """A volume that two hosts see, each with a memory of its own of what is on it, and with its own locks."""
    with device_of() as here, loop_device(os.path.abspath("volume")) as there:
        yield Pair(place, names=(here, there))


def test_live_migration(place):
    """Proxmox moves a VM between two hosts that see its volume: the target starts while the source has it, and goes on
    from the last that the source wrote; the source writes nothing any more"""
    with two_hosts(place) as pair:
        target, other, data = pair.start("target")
        same(other.result(STOP), 0, "as QEMU does where a VM comes in")
        os.close(os.open(pair.names[1], os.O_RDWR | os.O_EXCL))  # it has not opened the volume
        pair.data.good(nv_write(PAIRS_INDEX, b"moved"))
        blobs = pair.save()
        same(other.load(*blobs), 0, target.errors())
        pair.finds(data, b"moved")
        data.good(nv_write(PAIRS_INDEX, b"later"))
        before = read_file("volume")
        same(pair.control.result(SHUTDOWN), 0)
        pair.source.ends(0)
        same(read_file("volume"), before, "the source's end")
        ended(target, other, 0)
        place.sound("volume")
        served, control, data = pair.start("source")  # back, the VM off meanwhile
        same(control.init(), 0, served.errors())
        data.good(startup())
        same(data.nv(PAIRS_INDEX, 5), b"later")
        ended(served, control, 0)


def test_live_migration_fails(place):
    """where no guest has run on the target the source goes on; where one has the source sees it, and stops"""
    with two_hosts(place) as pair:
        blobs = pair.save()
        target, other, _ = pair.start("target")
        same(other.load(*blobs), 0, target.errors())
        target.process.kill()
        target.process.wait()
        same(lock_storage(pair.control), 0, pair.source.errors())
        pair.data.good(nv_write(PAIRS_INDEX, b"stays"))
        blobs = pair.save()
        target, other, data = pair.start("target-again")
        same(other.load(*blobs), 0, target.errors())
        data.good(nv_write(PAIRS_INDEX, b"later"))
        before = read_file("volume")
        same(lock_storage(pair.control), FAILURE, pair.source.errors())
        same(pair.data.rc(nv_write(PAIRS_INDEX, b"wrong")), FAILURE)
        ended(pair.source, pair.control, 1, "[state-taken-over]")
        same(read_file("volume"), before)
        same(data.nv(PAIRS_INDEX, 5), b"later")
        ended(target, other, 0)


def test_live_migration_of_run(place):
    """the same with vtpm run --incoming, which looks at the volume when the TPM comes; one for another VM is refused then"""
    with device_of() as here, loop_device(os.path.abspath("volume")) as there:
        place.create(here, "--vm-uuid", A)
        source, target = place.start(here, "--vm-uuid", A), place.start(there, "--incoming", "--vm-uuid", A)
        other = place.start(there, "--incoming", "--vm-uuid", B)
        os.close(os.open(there, os.O_RDWR | os.O_EXCL))
        control, data = source.powered()
        leave_mark(data)
        blobs = control.pair()
        same(control.get_blob(SAVESTATE)[0], RETRY)
        with other.control() as refused:
            true(refused.set_blob(PERMANENT, blobs[0]) != 0, "it is another VM's")
            contains(other.log(), "[identity-other]")
            true(refused.init() != 0, "nor is it powered on as that")
        other.kill()
        with target.control() as there_too:
            same(there_too.load(*blobs), 0, target.log())
            data = there_too.open_data()
            same(data.nv(INDEX, len(VALUE)), VALUE)
            data.good(nv_write(INDEX, VALUE[::-1]))
            before = read_file("volume")
            same(control.result(SHUTDOWN), 0)
            same(source.wait(), 0, source.errors())
            same(read_file("volume"), before, "the source's end")
        target.term()
        place.sound("volume")


def test_source_cannot_store(place):
    """a source that cannot write what its guest did ends the migration: its end would write it over the target's state"""
    with two_hosts(place) as pair:
        subprocess.run(["blockdev", "--setro", pair.names[0]], check=True, timeout=10)
        same(pair.data.rc(nv_write(PAIRS_INDEX, b"wrong")), RC_FAILURE)
        pair.control.pair()
        same(pair.control.get_blob(SAVESTATE)[0], IOERROR, "QEMU takes any other result than RETRY for a failure")
        subprocess.run(["blockdev", "--setrw", pair.names[0]], check=True, timeout=10)
        pair.save()
        ended(pair.source, pair.control, 0)


def test_keys_changed_elsewhere(place):
    """a target whose library is newer tells of it with its first commit, beside what a tool of the other host has changed"""
    newer = newer_library(place)
    for name in ("one", "two"):
        add_native(place, name)
    with two_hosts(place) as pair:
        here, there = pair.names
        vtpm(place, "rekey", here, "--to", "one")
        target = Served(place, None, ctrl="target", state="backend-uri=file://" + there, env=newer)
        with target.control() as other:
            data = other.open_data()
            same(other.load(*pair.save()), 0, target.errors())
            vtpm(place, "rekey", here, "--to", "two")
            data.good(nv_write(PAIRS_INDEX, b"later"))
            same(names(place, there), ["two"])
        target.process.kill()
        ended(pair.source, pair.control, 0)


def test_left_over_source(place):
    """tools on a host that had the volume open all the time see what the other host wrote, and do not undo it"""
    for name in ("one", "two", "three"):
        add_native(place, name)
    with two_hosts(place) as pair:
        here, there = pair.names
        target, other, data = pair.start("target")
        same(other.load(*pair.save()), 0, target.errors())
        data.good(nv_write(PAIRS_INDEX, b"later"))
        vtpm(place, "rekey", there, "--to", "two")
        same(names(place, here), ["two"])
        vtpm(place, "keys", "add", here, "--provider", "three")
        same(names(place, there), ["two", "three"])
        ended(target, other, 0)
        vtpm(place, "clone", here, "clone.vtpm", "--on-clone", "copy", "--vm-uuid", B)
        served = place.start("clone.vtpm")
        _, data = served.powered()
        same(data.nv(PAIRS_INDEX, 5), b"later")
        served.term()
        ended(pair.source, pair.control, 0)


def test_identity(place):
    """another VM's policy stops where nothing can be kept beside, and names the command that does without; clones go on one"""
    with device_of() as device, device_of("other") as other:
        place.create(device, "--vm-uuid", A, "--on-clone", "replace")
        made_by_guest(place, device, "--vm-uuid", A)
        before = bytes_of(device)
        place.refused(5, ["[identity-other]", "block device", "vtpm replace"], device, "--vm-uuid", B)
        same(bytes_of(device), before)
        vtpm(place, "clone", device, other, "--vm-uuid", B, "--on-clone", "copy")
        serves(place, other, "--vm-uuid", B)
        vtpm(place, "replace", device, "--vm-uuid", B, "--yes")
        serves_anew(place, device, "--vm-uuid", B)
        done = place.vtpm("clone", other, device, "--vm-uuid", A, "--config", place.config)
        contains(done.stderr, "[state-exists]")


def test_copied(place):
    """the bytes of a file on a device are that TPM, and those of a device in a file: backups as our words tell to make them"""
    place.create("state.vtpm", "--vm-uuid", A)
    made_by_guest(place, "state.vtpm", "--vm-uuid", A)
    with device_of() as device:
        subprocess.run(["dd", "if=state.vtpm", "of=" + device, "bs=64K", "conv=fsync"], check=True, capture_output=True)
        serves(place, device, "--vm-uuid", A)
        subprocess.run(["dd", "if=" + device, "of=backup.vtpm", "bs=64K", "count=10"], check=True, capture_output=True)
    place.sound("backup.vtpm")
    serves(place, "backup.vtpm", "--vm-uuid", A)


def test_proxmox(place):
    """swtpm's command lines as Proxmox gives them for a volume: setup once and again, start, PCR banks, states told; what
    is there is not overwritten"""
    with device_of() as device:
        where = "file://" + device
        lines = ("--tpmstate", where, "--createek", "--create-ek-cert", "--create-platform-cert", "--lock-nvram",
                 "--not-overwrite", "--tpm2", "--ecc")
        for garbage in (b"x", b"vtpm-hdr", b"\0" * 4096 + b"old"):  # as a volume has it that was another's
            with open(device, "r+b") as file:
                file.write(garbage)
            contains(run(place, SETUP, *lines, status=1).stderr, device, "blkdiscard -z")
            with open(device, "r+b") as file:
                file.write(bytes(8192))
        run(place, SETUP, *lines)
        made = bytes_of(device)
        true(made.startswith(b"vtpm-hdr"), "our state")
        run(place, SETUP, *lines)
        same(bytes_of(device), made, "--not-overwrite")
        contains(run(place, SETUP, *lines[:-3], "--tpm2", "--ecc", "--overwrite", status=1).stderr, device,
                 "vtpm destroy")
        same(bytes_of(device), made, "--overwrite")
        served = Served(place, None, state="backend-uri=" + where)
        data = served.powered()[1]
        data.good(startup())
        leave_mark(data)
        served.shutdown()
        setup(place, where, "--reconfigure", "--pcr-banks", "sha1,sha256")
        served = Served(place, None, state="backend-uri=%s,mode=0600" % where)
        data = served.powered()[1]
        data.good(startup())
        same(data.nv(INDEX, len(VALUE)), VALUE)
        served.shutdown()
        told = run(place, SWTPM, "socket", "--tpm2", "--print-states",
                   "--tpmstate", "backend-uri=" + where).stdout
        contains(told, '"size": %d' % NEEDED)


def take_next_slot(place, device, volume):
    """What the next commit writes has no room in VOLUME's file: the loop driver tells no other failure than that of the
    first byte of a write."""
    slots = json.loads(place.vtpm("inspect", "--json", device).stdout)["state_slots"]
    older = min((0, 1), key=lambda slot: slots[slot]["generation"])
    subprocess.run(["fallocate", "--punch-hole", "-o", str((128 + 256 * older) << 10), "-l", str(256 << 10), volume],
                   check=True, timeout=10)
    fill()


def test_pool_full(place):
    """a volume of a pool that is full: what cannot be written is not acknowledged, nor is a TPM made there, and with room
    again all goes on"""
    with small_disk(place, "tmpfs", 256 << 10), device_of("disk/volume") as device:
        fill()
        done = place.vtpm("create", device, "--config", place.config)
        same(done.returncode, 1, done.stderr)
        contains(done.stderr, "[store-failed]", device, "could not be made blank again")
        os.truncate("disk/filler", 0)
        subprocess.run(["blkdiscard", device], check=True, timeout=10)
        place.create(device)
        served = place.start(device)
        control, data = served.powered()
        leave_mark(data)
        take_next_slot(place, device, "disk/volume")
        same(data.rc(nv_write(INDEX, VALUE[::-1])), RC_FAILURE)
        same(data.rc(nv_read(INDEX, len(VALUE))), RC_RETRY)
        contains(served.log(), "[store-failed]", device)
        os.truncate("disk/filler", 0)
        wait_until(lambda: data.rc(nv_read(INDEX, len(VALUE))) == 0, "it goes on")
        data.good(nv_write(INDEX, VALUE))
        same(control.result(SHUTDOWN), 0)
        same(served.wait(), 0, served.errors())
        subprocess.run(["blockdev", "--flushbufs", device], check=True, timeout=10)  # what is on the disk, not in memory
        place.ended_well(device)
        serves(place, device)


def test_import(place):
    """swtpm's folder becomes a TPM on a device; a start makes one on a blank one, and what fails leaves it blank"""
    folder = folder_of(OTHER_VM)
    run(place, debian("swtpm_setup"), "--tpm2", "--tpm-state", folder, "--createek")
    with device_of() as device:
        vtpm(place, "import", "--swtpm", folder, device, "--provider", "nobody", status=4, word="provider-unknown")
        same(bytes_of(device), bytes(SIZE))
        true(os.path.exists(os.path.join(folder, STATE)), "swtpm's is there")
        os.chown(os.path.join(folder, STATE), 4711, 4711)
        mode = os.stat(device).st_mode, os.stat(device).st_uid
        vtpm(place, "import", "--swtpm", folder, device)
        same((os.stat(device).st_mode, os.stat(device).st_uid), mode, "the node is as it was")
        place.sound(device)
        vtpm(place, "destroy", device, "--yes")
        shutil.rmtree(folder)
        served = Served(place, None, state="backend-uri=file://%s,mode=0640" % device)
        served.powered()
        served.shutdown()
        same((os.stat(device).st_mode, os.stat(device).st_uid), mode, "the node is as it was")
        place.sound(device)


def test_of_swtpm(place):
    """a start on a volume that has swtpm's own state ends at once, with what to do; the volume is as it was"""
    with device_of() as device:
        theirs = Served(place, None, program=debian(), state="backend-uri=file://" + device)
        theirs.powered()
        theirs.shutdown()
        with unchanged(device):
            ours = Served(place, None, state="backend-uri=file://" + device, wait=False)
            ours.ends(1, "[usage]", device, "vtpm import --swtpm")


if __name__ == "__main__":
    main(globals())
