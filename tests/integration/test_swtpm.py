#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""swtpm socket as libvirt, Proxmox and people run it, over our programs of swtpm's names."""
import contextlib
import os
import re
import shutil
import stat
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (KEY_NOT_FOUND, PERMANENT, SHUTDOWN, STOP, STORE_VOLATILE, VOLATILE, contains, lacks, main, need_root, read_file,
                    same, true, wait_until, write_file)  # noqa: E402
from keyhost import add_native, add_passphrase, names, vtpm  # noqa: E402
from swtpm import (MARKS, OTHER_VM, STATE, SUSPENDED, VM, Served, debian, escrow_config, folder_of, ioctl,  # noqa: E402
                   loop_device, pipe_of, run, setup, unmark)
from test_life import ask_management  # noqa: E402
from test_swtpm_setup import powered_banks  # noqa: E402
from tpm_bytes import RC_FAILURE, nv_define, nv_write, startup  # noqa: E402

INDEX = 0x01500010
LIBVIRT = ("--log", "file=log", "--terminate")


def manage_socket(place, folder):
    info = os.stat(os.path.join(folder, STATE))
    return os.path.join(place.data_dir, "run", "%x-%x" % (info.st_dev, info.st_ino))


def record(place, folder):
    return place.inspect(os.path.join(folder, STATE))["records"][0]


def secret(word, name="--key"):
    """The option and its descriptor."""
    fd = pipe_of(word)
    return (name, "pwdfd=%d,mode=aes-256-cbc" % fd), fd


def leave_mark(data, value=b"kept by it"):
    data.good(startup())
    data.good(nv_define(INDEX, len(value)))
    data.good(nv_write(INDEX, value))


def finds_mark(data, value=b"kept by it"):
    data.good(startup())
    same(data.nv(INDEX, len(value)), value)


def test_libvirt(place):
    """setup, start, guest, stop as libvirt does them; the state is of its VM and kept; --terminate ends it with QEMU"""
    folder = folder_of(VM)
    setup(place, folder, "--vmid", "guest:" + VM, "--logfile", "log", "--createek", "--create-ek-cert",
          "--create-platform-cert", "--lock-nvram", "--not-overwrite")
    served = Served(place, folder, *LIBVIRT)
    same(stat.S_IMODE(os.stat("c").st_mode), 0o600)
    control, data = served.powered()
    leave_mark(data)
    data.close()
    control.close()
    served.ends(0)
    true(not os.path.exists("c"), "its socket is gone")
    served = Served(place, folder, *LIBVIRT)
    control, data = served.powered()
    finds_mark(data)
    control.close()
    data.close()
    served.ends(0)
    place.ended_well(os.path.join(folder, STATE))
    same(record(place, folder)["vm_uuid"], VM)


def test_terminate(place):
    """--terminate: a client of the control channel alone may come and go, the data channel's may not; terminate of
    --ctrl: it may not either; swtpm_ioctl -s ends it"""
    served = Served(place, folder_of("a"), "--terminate")
    for _ in range(3):
        contains(ioctl(place, "--unix", "c", "-c").stdout, "ptm capability is 0x")
    same(served.process.poll(), None)
    control = served.control()
    control.open_data().close()
    served.ends(0)
    served = Served(place, folder_of("b"), ctrl=None, wait=False, *("--ctrl", "type=unixio,path=c,terminate"))
    wait_until(lambda: ioctl(place, "--unix", "c", "-c", status=None).returncode == 0, "it listens")
    served.ends(0)
    served = Served(place, folder_of("a"))
    control = served.control()
    control.open_data().close()
    control.close()
    ioctl(place, "--unix", "c", "-s")
    served.ends(0)


def test_empty_folder(place):
    """an empty folder: INIT makes a TPM with all PCR banks, as swtpm's is; where setup has been, what is missing is
    state-missing and nothing is made"""
    folder = folder_of("plain")
    served = Served(place, folder)
    same(os.listdir(folder), [])
    control, data = served.powered()
    leave_mark(data)
    control.close()
    served.shutdown()
    same((record(place, folder)["vm_uuid"], record(place, folder)["public_part_size"]), (None, 0))
    served = Served(place, folder)
    finds_mark(served.powered()[1])
    served.process.terminate()
    served.ends(0)
    setup(place, folder, "--overwrite", "--createek")
    os.rename(os.path.join(folder, STATE), "elsewhere")
    before = sorted(os.listdir(folder))
    served = Served(place, folder)
    with served.control() as control:
        same(control.init(), 0x101)
    served.ends(1, "[state-missing]", MARKS[0])
    same(sorted(os.listdir(folder)), before)


def test_lost(place):
    """what was started once more, or cloned there, and is gone is state-missing; so it is where a file tells of a TPM"""
    def lost(folder, *words):
        os.unlink(os.path.join(folder, STATE))
        served = Served(place, folder)
        with served.control() as control:
            same(control.init(), 0x101)
        served.ends(1, "[state-missing]", *words)
        true(not os.path.exists(os.path.join(folder, STATE)), "a new TPM was made")

    folder = folder_of("plain")
    for _ in range(2):
        Served(place, folder).powered()
        place.clean_up()
    for mark in MARKS:  # each is enough; what an older vtpm left is completed
        os.unlink(os.path.join(folder, mark))
        write_file(os.path.join(folder, STATE), b"")
        lost(folder)
        true(os.path.exists(os.path.join(folder, mark)), "newer libvirt: a folder with hidden names alone is empty")
    unmark(folder)
    place.create("source.vtpm")
    same(place.vtpm("clone", "source.vtpm", os.path.join(folder, STATE), "--vm-uuid", OTHER_VM, "--on-clone", "replace",
                    "--config", place.config).returncode, 0)
    Served(place, folder).powered()
    place.clean_up()
    lost(folder)
    for name in (STATE + ".bak", STATE + ".overwritten", "TMP2-00.permall", SUSPENDED):
        unmark(folder)
        write_file(os.path.join(folder, STATE), b"")
        write_file(os.path.join(folder, name), b"something")
        lost(folder, name)
        os.unlink(os.path.join(folder, name))


def test_identity(place):
    """state of another VM's folder is refused, by name, and stays; a folder that is no VM's runs it"""
    folder = folder_of(VM)
    setup(place, folder, "--vmid", "guest:" + VM)
    other = folder_of(OTHER_VM)
    write_file(os.path.join(other, STATE), read_file(os.path.join(folder, STATE)))
    before = read_file(os.path.join(other, STATE))
    served = Served(place, other)
    with served.control() as control:
        same(control.init(), 0x0D)
    served.ends(1, "[identity-other]", VM, OTHER_VM)
    same(read_file(os.path.join(other, STATE)), before)
    os.rename(other, "nobody")
    served = Served(place, "nobody")
    served.powered()
    served.shutdown()
    unbound = folder_of("unbound")
    setup(place, unbound)
    os.makedirs("vms")
    os.rename(unbound, os.path.join("vms", OTHER_VM))
    served = Served(place, os.path.join("vms", OTHER_VM))
    served.powered()
    served.shutdown()
    same(record(place, os.path.join("vms", OTHER_VM))["vm_uuid"], OTHER_VM)


def test_secret(place):
    """a libvirt secret: the right one starts the VM, a wrong one is DECRYPT_ERROR, none KEYNOTFOUND, and all is kept; a
    host that never saw the VM starts it too; the secret stands in no file"""
    folder = folder_of(VM)
    word = b"0123456789abcdef libvirt"
    setup(place, folder, "--vmid", "guest:" + VM, "--pwdfile-fd", str(fd := pipe_of(word)), "--cipher", "aes-256-cbc",
          pass_fds=(fd,))
    same(names(place, os.path.join(folder, STATE)), ["swtpm-passphrase"])
    # what was wrapped, as docs/provider-protocol.md has it: 128 bytes, format 1, the N of scrypt 2^14, r 8, p 1
    contains(read_file(os.path.join(folder, STATE)), b"passphrase\x80\0\1\x0e\x08\1")
    for number, (given, code) in enumerate(((word, 0), (b"another", 0x21), (None, 0x0D), (word, 0))):
        key, fd = secret(given) if given else ((), -1)
        migration, other_fd = secret(given, "--migration-key") if given else ((), -1)
        served = Served(place, folder, *LIBVIRT, *key, *migration, pass_fds=(fd, other_fd) if given else ())
        with served.control() as control:
            data = control.open_data()
            same(control.init(), code, str(given))
            if code == 0 and number == 0:
                leave_mark(data)
            elif code == 0:
                finds_mark(data)
        data.close()
        if code:
            served.ends(1, "[wrong-passphrase]" if given else "[key-closed]")
        else:
            served.ends(0)
    place.data_dir = os.path.abspath("another-host")
    place.env["VTPM_DATA_DIR"] = place.data_dir
    key, fd = secret(word)
    served = Served(place, folder, *key, pass_fds=(fd,))
    finds_mark(served.powered()[1])
    served.shutdown()
    for path, _, files in os.walk("."):
        for name in files:
            lacks(read_file(os.path.join(path, name)), word)


def test_secret_not_in_device(place):
    """the process that serves the guest has neither the secret's descriptor nor its bytes"""
    folder = folder_of(VM)
    word = b"seen by the broker alone " + os.urandom(8).hex().encode()
    setup(place, folder, "--pwdfile-fd", str(fd := pipe_of(word)), pass_fds=(fd,))
    key, fd = secret(word)
    migration, other_fd = secret(word, "--migration-key")
    served = Served(place, folder, *key, *migration, pass_fds=(fd, other_fd))
    served.powered()
    links = []
    for name in os.listdir("/proc/%d/fd" % served.process.pid):
        with contextlib.suppress(FileNotFoundError):  # the broker's link is closed about now
            links.append(os.readlink("/proc/%d/fd/%s" % (served.process.pid, name)))
    true(len(links) > 3, "descriptors were looked at")
    same([link for link in links if link.startswith("pipe:")], [])
    need_root()
    with open("/proc/%d/maps" % served.process.pid) as maps, open("/proc/%d/mem" % served.process.pid, "rb", 0) as memory:
        for line in maps:
            area = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            start, end = (int(side, 16) for side in area.groups()) if area else (0, 0)
            if 0 < end - start < 1 << 28 and "[v" not in line:  # larger ones are a sanitizer's
                memory.seek(start)
                try:
                    lacks(memory.read(end - start), word)
                except OSError:
                    pass  # a guard page
    served.shutdown()


def test_keys_not_to_be_read(place):
    """a --key that cannot be read, or is empty, is told with its name and why; nothing is made"""
    folder = folder_of(VM)
    write_file("empty", b"")
    for word in ("file", "pwdfile"):
        for name, why in (("/nonexistent", "No such file"), ("empty", "is empty"), (".", "Is a directory")):
            served = Served(place, folder, "--key", "%s=%s,mode=aes-256-cbc" % (word, name), "--flags", "not-need-init",
                            wait=False)
            served.ends(1, name, why)
            lacks(served.errors(), "--password-file")
    same(os.listdir(folder), [])


def test_key_file(place):
    """a key file of 128 bits in digits, of 256 in bytes; another key is DECRYPT_ERROR; remove takes the file away"""
    for number, (content, more) in enumerate(((b"0x" + b"4f" * 16, ""), (bytes(range(32)), ",format=binary,mode=aes-256-cbc"))):
        folder = folder_of("key-%d" % number)
        write_file("key", content)
        for start in range(3):
            write_file("other", content[:-1] + b"1")
            right = start != 1
            served = Served(place, folder, "--key", "file=%s%s%s" % ("key" if right else "other", more,
                                                                     ",remove=true" if start == 2 else ""))
            with served.control() as control:
                same(control.init(), 0 if right else 0x21, served.errors())
            if right:
                served.shutdown()
            else:
                served.ends(1, "[wrong-passphrase]")
        true(not os.path.exists("key"), "removed")
        same(names(place, os.path.join(folder, STATE)), ["swtpm-key"])


def test_key_without_slot(place):
    """--key for a TPM that has no key slot for it: the TPM starts by those it has, and the log says what that means"""
    folder = folder_of("no-slot")
    setup(place, folder)
    path = os.path.join(folder, STATE)
    for slots in (["native"], ["swtpm-passphrase"]):
        key, fd = secret(b"the word")
        served = Served(place, folder, *key, pass_fds=(fd,))
        served.powered()
        served.shutdown()
        same(names(place, path), slots)
        if slots == ["native"]:
            wait_until(lambda: "has no key slot for it" in served.errors(), "the log")
            command = re.search(r"vtpm (rekey \S+ --to \S+)$", served.errors(), re.MULTILINE).group(1)
            write_file("word", b"the word")
            same(place.vtpm(*command.split(), "--password-file", "word", "--config", place.config).returncode, 0)
        else:
            lacks(served.errors(), "no key slot")


def test_no_key(place):
    """without the key that a TPM was made with, the log names the options that give it"""
    folder = folder_of("no-key")
    setup(place, folder, "--pwdfile-fd", str(fd := pipe_of(b"word")), pass_fds=(fd,))
    served = Served(place, folder)
    with served.control() as control:
        same(control.init(), 0x0D)
    served.ends(1, "[key-closed]", "--key", "<encryption")


def test_migration_key_file(place):
    """the file of --migration-key is read at the start: remove takes it away, and one that cannot be read is an error"""
    write_file("key", b"5f" * 16)
    served = Served(place, folder_of("migration-key"), "--migration-key", "file=key,remove=true")
    served.powered()
    served.shutdown()
    true(not os.path.exists("key"), "removed")
    served = Served(place, folder_of("migration-key"), "--migration-key", "file=key")
    with served.control() as control:
        true(control.init() != 0, "INIT")
    served.ends(1, "cannot read the key from key: No such file")


def test_incoming_first(place):
    """--migration incoming in an empty folder: an INIT that comes first is refused, and makes nothing"""
    folder = folder_of("only-incoming")
    served = Served(place, folder, "--migration", "incoming")
    with served.control() as control:
        true(control.init() != 0, "INIT")
        contains(served.errors(), "[state-missing]")
        same(os.listdir(folder), [])
        served.process.terminate()


def test_key_descriptor(place):
    """a key by descriptor, of 128 bits in digits, of 256 in bytes: it makes the TPM and starts it again; another key is
    DECRYPT_ERROR"""
    for number, (content, more) in enumerate(((b"4f" * 16 + b"\n", ""),
                                              (bytes(range(32)), ",format=binary,mode=aes-256-cbc"))):
        folder = folder_of("key-%d" % number)
        for start, given in enumerate((content, b"5" + content[1:], content)):
            fd = pipe_of(given)
            served = Served(place, folder, "--key", "fd=%d%s" % (fd, more), pass_fds=(fd,))
            if given == content:
                (finds_mark if start else leave_mark)(served.powered()[1])
                served.shutdown()
                continue
            with served.control() as control:
                same(control.init(), 0x21, served.errors())
            served.ends(1, "[wrong-passphrase]")
        same(names(place, os.path.join(folder, STATE)), ["swtpm-key"])


def test_incoming(place):
    """what setup made in wait of an incoming TPM, and an empty folder, take one in, with the secret; where INIT comes
    first they are a TPM of their own, which makes way as long as no guest has reached it; --migration incoming takes it in on a folder that setup has marked"""
    source = folder_of(VM, "source")
    word = b"the secret of both hosts"
    key, fd = secret(word)
    served = Served(place, source, *key, pass_fds=(fd,))
    control, data = served.powered()
    leave_mark(data)
    blobs = control.pair()
    control.close()
    vtpm_id = record(place, source)["vtpm_id"]
    for name, made in (("flagged", True), ("empty", False), ("marked", False)):
        folder = folder_of(VM, name)
        if made:
            setup(place, folder, "--overwrite", "--pwdfile-fd", str(fd := pipe_of(word)), pass_fds=(fd,))
            same(record(place, folder)["awaits_incoming"], True)
        if name == "marked":
            write_file(os.path.join(folder, MARKS[0]), b"")
        key, fd = secret(word)
        target = Served(place, folder, *key, *(("--migration", "incoming") if name == "marked" else ()), ctrl="t",
                        pass_fds=(fd,))
        with target.control() as other:
            there = other.open_data()
            same(other.load(*blobs), 0, name + ": " + target.errors())
            same(there.nv(INDEX, 10), b"kept by it", "it goes on where it was, " + name)
            same(other.result(SHUTDOWN), 0)
        target.ends(0)
        now = record(place, folder)
        same((now["vtpm_id"], now["vm_uuid"], now["awaits_incoming"]), (vtpm_id, VM, False), name)
        lacks(" ".join(os.listdir(folder)), ".incoming")
        place_is_sound(place, folder, word)
    for name, args in (("flagged-first", ("--overwrite",)), ("empty-first", ())):
        folder = folder_of(VM, name)
        if args:
            setup(place, folder, *args)
        key, fd = secret(word)
        target = Served(place, folder, *key, ctrl="t", pass_fds=(fd,))
        other, there = target.powered()  # as QEMU with -loadvm
        made, before = record(place, folder)["vtpm_id"], manage_socket(place, folder)
        contains(ask_management(before, "status\n"), made)
        same(other.load(*blobs), 0, name + ": " + target.errors())
        same(there.nv(INDEX, 10), b"kept by it", "it goes on where it was, " + name)
        true(made != record(place, folder)["vtpm_id"] == vtpm_id, "the one that INIT found has made way")
        contains(ask_management(manage_socket(place, folder), "status\n"), vtpm_id)
        true(not os.path.exists(before), "the socket of the one before")
        same(other.load(*blobs), 0, "and once more")
        other.close()
        target.shutdown()
        same(record(place, folder)["vm_uuid"], VM)
        place_is_sound(place, folder, word)
    folder = folder_of(VM, "reached-first")
    key, fd = secret(word)
    target = Served(place, folder, *key, ctrl="t", pass_fds=(fd,))
    other, there = target.powered()
    leave_mark(there, b"of another")
    made = record(place, folder)["vtpm_id"]
    same((other.result(STOP), other.set_blob(PERMANENT, blobs[0])), (0, KEY_NOT_FOUND), "a guest has reached it")
    same(other.init(), 0)
    finds_mark(there, b"of another")
    same(record(place, folder)["vtpm_id"], made)
    other.close()
    target.shutdown()
    folder = folder_of(VM, "not-come")
    setup(place, folder, "--overwrite")
    target = Served(place, folder, ctrl="t")
    control, data = target.powered()
    data.good(startup())
    control.close()
    target.shutdown()
    same((record(place, folder)["awaits_incoming"], record(place, folder)["vm_uuid"]), (False, VM))
    served.shutdown()


def used(place, folder, value):
    """A TPM that a guest has used and left; gives its id, and the blobs of the moment before it left."""
    served = Served(place, folder, ctrl="used")
    control, data = served.powered()
    leave_mark(data, value)
    blobs = control.pair()
    control.close()
    served.shutdown()
    return record(place, folder)["vtpm_id"], blobs


def test_makes_no_way(place):
    """a TPM that is there when INIT comes first, because it was restored or made after the start, makes way for none; nor
    does a file that takes the name of one which does, while that is held from others all the time"""
    _, blobs = used(place, folder_of(VM, "source"), b"kept by it")
    known, _ = used(place, backup := folder_of(VM, "backup"), b"of a guest")

    folder = folder_of(VM, "appears")
    path = os.path.join(folder, STATE)
    served = Served(place, folder)
    with served.control() as control:
        data = control.open_data()
        shutil.copy(os.path.join(backup, STATE), path)
        same((control.init(), control.result(STOP), control.set_blob(PERMANENT, blobs[0])), (0, 0, KEY_NOT_FOUND))
        same(control.init(), 0)
        finds_mark(data, b"of a guest")
    served.shutdown()
    same(record(place, folder)["vtpm_id"], known)

    folder = folder_of(VM, "renamed")
    path = os.path.join(folder, STATE)
    served = Served(place, folder)
    with served.control() as control:
        data = control.open_data()
        same((control.init(), control.result(STOP), control.set_blob(PERMANENT, blobs[0])), (0, 0, 0))
        Served(place, folder, "--flags", "not-need-init", ctrl="other", wait=False).ends(1, "[in-use]")
        same(data.rc(startup()), RC_FAILURE, "it is off")
        shutil.copy(os.path.join(backup, STATE), path + ".restored")
        os.rename(path + ".restored", path)
        true(control.init() != 0, "INIT")
        same(record(place, folder)["vtpm_id"], known)
        same((control.init(), record(place, folder)["vtpm_id"]), (0, known))
        finds_mark(data, b"of a guest")
    served.shutdown()

    folder = folder_of(VM, "again")
    beside = os.path.join(folder, STATE + ".incoming")
    served = Served(place, folder)
    with served.control() as control:
        data = control.open_data()
        same((control.init(), control.result(STOP)), (0, 0))
        os.mkdir(beside)
        same((control.set_blob(PERMANENT, blobs[0]), control.init() != 0), (0, True), "it cannot be made")
        os.rmdir(beside)
        same(control.init(), 0, "the one that waited is held no more: " + served.errors())
    served.shutdown()

    folder = folder_of(VM, "goes-on")
    served = Served(place, folder)
    with served.control() as control:
        data = control.open_data()
        same((control.init(), control.result(STOP), control.set_blob(PERMANENT, blobs[0])), (0, 0, 0))
        same(data.rc(startup()), RC_FAILURE, "it is off, and nothing is over by that")
        same((control.set_blob(VOLATILE, blobs[1]), control.init()), (0, 0), served.errors())
        same(data.nv(INDEX, 10), b"kept by it")
    served.shutdown()
    place.sound(os.path.join(folder, STATE))


def test_incoming_for_one_vm(place):
    """what waits for a TPM and is bound to a VM takes in that VM's, and no other's, also where start names no VM"""
    blobs = {}
    for source, args in (("own", ("--vm-uuid", VM)), ("unbound", ()), ("other", ("--vm-uuid", OTHER_VM))):
        place.create(source, *args)
        device = place.start(source, log=source)
        control, _ = device.powered()
        blobs[source] = control.pair()
        device.term()
    for source in ("own", "unbound"):
        folder = folder_of("for-" + source)
        setup(place, folder, "--overwrite")
        path = os.path.join(folder, STATE)
        same(place.vtpm("bind", path, "--vm-uuid", VM, "--config", place.config).returncode, 0)
        same((record(place, folder)["awaits_incoming"], record(place, folder)["vm_uuid"]), (True, VM))
        before = read_file(path)
        device = place.start(path, "--incoming", log="waits-for-" + source)
        with device.control() as control:
            same(control.set_blob(PERMANENT, blobs["other"][0]), KEY_NOT_FOUND)
            contains(device.log(), "[identity-other]", VM, OTHER_VM)
            same(read_file(path), before)
            same(control.load(*blobs[source]), 0)
        device.term()
        now = record(place, folder)
        same((now["vtpm_id"], now["vm_uuid"], now["awaits_incoming"]),
             (place.inspect(source)["records"][0]["vtpm_id"], VM, False))
        place.sound(path)


def place_is_sound(place, folder, word):
    write_file("word", word)
    done = place.vtpm("check", os.path.join(folder, STATE), "--password-file", "word", "--config", place.config)
    same(done.returncode, 0, done.stdout + done.stderr)


def test_incoming_of_another(place):
    """a TPM of another VM does not come in, and what waits goes on waiting; nor does one come in over a TPM in use"""
    source = folder_of(OTHER_VM, "source")
    served = Served(place, source)
    control, data = served.powered()
    leave_mark(data)
    blobs = control.pair()
    control.close()
    folder = folder_of(VM)
    setup(place, folder, "--overwrite")
    before = read_file(os.path.join(folder, STATE))
    target = Served(place, folder, ctrl="t")
    with target.control() as other:
        true(other.set_blob(PERMANENT, blobs[0]) != 0, "refused")
        same(other.result(SHUTDOWN), 0)
    contains(target.errors(), "[identity-other]")
    target.process.wait(10)
    same(read_file(os.path.join(folder, STATE)), before)
    used = folder_of("used")
    setup(place, used)
    target = Served(place, used, ctrl="t")
    with target.control() as other:
        true(other.set_blob(PERMANENT, blobs[0]) != 0, "refused")
    contains(target.errors(), "[identity-other]")
    target.process.terminate()
    target.process.wait(10)
    served.shutdown()


def test_debian_takes_nothing(place):
    """Debian's swtpm on our file fails and changes no byte of it, and so does its setup; then ours starts as before"""
    swtpm, theirs = debian(), debian("swtpm_setup")
    folder = folder_of("plain")
    setup(place, folder)
    served = Served(place, folder)
    leave_mark(served.powered()[1])
    served.shutdown()
    before = read_file(os.path.join(folder, STATE))
    other = Served(place, folder, program=swtpm)
    with other.control() as control:
        true(control.init() != 0, "INIT fails")
    other.process.terminate()
    other.process.wait(10)
    key, fd = secret(b"word")
    other = Served(place, folder, *key, program=swtpm, pass_fds=(fd,))
    with other.control() as control:
        true(control.init() != 0, "INIT fails with a key")
    other.process.terminate()
    other.process.wait(10)
    other = Served(place, folder, "--flags", "not-need-init,startup-clear", program=swtpm, wait=False)
    true(other.process.wait(10) != 0, "it does not start by itself")
    run(place, theirs, "--tpm2", "--tpm-state", os.path.abspath(folder), "--not-overwrite", status=None)
    same(read_file(os.path.join(folder, STATE)), before)
    served = Served(place, folder)
    finds_mark(served.powered()[1])
    served.shutdown()


def test_take_over(place):
    """state that Debian's swtpm wrote, plain and under a secret, becomes ours at the start; the original is kept"""
    swtpm = debian()
    for number, word in enumerate((None, b"a libvirt secret")):
        folder = os.path.abspath(folder_of(VM, "host-%d" % number))
        path = os.path.join(folder, STATE)
        key, fd = secret(word) if word else ((), -1)
        other = Served(place, folder, *key, program=swtpm, pass_fds=(fd,) if word else ())
        control, data = other.powered()
        leave_mark(data)
        same(control.result(SHUTDOWN), 0)
        other.process.wait(10)
        theirs = read_file(path)
        if word:
            wrong, fd = secret(b"another")
            served = Served(place, folder, *wrong, pass_fds=(fd,))
            with served.control() as control:
                same(control.init(), 0x21)
            served.ends(1, "[wrong-passphrase]")
            same(read_file(path), theirs)
        key, fd = secret(word) if word else ((), -1)
        served = Served(place, folder, *key, pass_fds=(fd,) if word else ())
        finds_mark(served.powered()[1])
        served.shutdown()
        kept = [name for name in os.listdir(folder) if name.startswith(STATE + ".")]
        same([read_file(os.path.join(folder, name)) for name in kept], [theirs])
        same((record(place, folder)["vm_uuid"], os.path.exists(os.path.join(folder, MARKS[0]))), (VM, True))
        same(names(place, path), ["swtpm-passphrase"] if word else ["native"])



def made_by_debian(place, where, *key, suspended=False):
    """A TPM with the mark, made and left by Debian's swtpm."""
    served = Served(place, None, *key, program=debian(), state=where)
    control, data = served.powered()
    leave_mark(data)
    if suspended:
        same(control.result(STORE_VOLATILE), 0)
        served.process.kill()  # an end in order takes the suspended state away
    else:
        same(control.result(SHUTDOWN), 0)
    served.process.wait(10)


def test_take_over_kinds(place):
    """an image, a raw key, a passphrase hashed by SHA-512, suspended state: all that swtpm keeps is taken over at the start"""
    write_file("key", bytes(range(32)))
    write_file("word", b"a secret word")
    raw = ("--key", "file=key,format=binary,mode=aes-256-cbc")
    old = ("--key", "pwdfile=word,,kdf=sha512,mode=aes-256-cbc,")
    for number, (key, slot) in enumerate((((), "native"), (raw, "swtpm-key"), (old, "swtpm-passphrase"))):
        for is_image in (False, True):
            folder = folder_of(VM, "host-%d-%d" % (number, is_image))
            path = os.path.join(folder, "vm.img" if is_image else STATE)
            where = "backend-uri=file://" + os.path.abspath(path) if is_image else "dir=" + folder
            for suspended in (False, True):
                made_by_debian(place, where, *key, suspended=suspended)
                served = Served(place, None, *key, state=where)
                data = served.powered()[1]
                if not suspended:
                    data.good(startup())
                same(data.nv(INDEX, 10), b"kept by it", where)
                served.shutdown()
                same(names(place, path), [slot], where)
                shutil.rmtree(folder)
                os.makedirs(folder)


def test_block_device(place):
    """swtpm's state on a block device is left as it is, and what to do is told"""
    made_by_debian(place, "backend-uri=file://" + os.path.abspath("image"))
    os.truncate("image", 4 << 20)
    before = read_file("image")
    with loop_device("image") as device:
        served = Served(place, None, "--flags", "not-need-init", state="backend-uri=file://" + device, wait=False)
        served.ends(1, "[usage]", device, "vtpm import --swtpm")
    same(read_file("image"), before)


def test_reconfigure_theirs(place):
    """swtpm_setup --reconfigure on swtpm's state, as libvirt calls it first after a host was switched, takes that over"""
    folder = folder_of(VM)
    made_by_debian(place, "dir=" + folder)
    setup(place, folder, "--reconfigure", "--pcr-banks", "sha1")
    served = Served(place, folder)
    data = served.powered()[1]
    finds_mark(data)
    served.shutdown()
    same(powered_banks(place, folder), {4}, "SHA-1 alone")


def test_default_provider(place):
    """without a key the site's default provider opens the TPM, and no other: one that swtpm_setup makes, one that INIT
    makes, one that is taken over"""
    add_native(place, "plain")  # the first is the default
    add_passphrase(place, "site")
    vtpm(place, "provider", "default", "site")
    folders = [folder_of(VM, name) for name in ("setup", "start", "theirs")]
    setup(place, folders[0], "--not-overwrite")
    made_by_debian(place, "dir=" + folders[2])
    for folder in folders:
        served = Served(place, folder)
        data = served.powered()[1]
        (finds_mark if folder == folders[2] else leave_mark)(data)
        served.shutdown()
        same(names(place, os.path.join(folder, STATE)), ["site"], folder)
    write_file("site.word", b"another word\n")
    for folder in folders:
        served = Served(place, folder)
        with served.control() as control:
            same(control.init(), 0x21, "it is what opens it")
        served.ends(1, "[wrong-passphrase]")


def test_escrow(place):
    """escrow= in vtpm.conf adds a slot to a TPM that swtpm socket makes under a --key, and to one that it takes over; it opens
    where no key is given"""
    add_passphrase(place, "safe", "escrow word")
    escrow_config(place, "safe")
    for theirs in (False, True):
        folder = folder_of(VM, "host-%d" % theirs)
        if theirs:
            key, fd = secret(b"libvirt's word")
            served = Served(place, folder, *key, program=debian(), pass_fds=(fd,))
            served.powered()
            served.shutdown()
        key, fd = secret(b"libvirt's word")
        served = Served(place, folder, *key, pass_fds=(fd,))
        served.powered()
        served.shutdown()
        same(names(place, os.path.join(folder, STATE)), ["swtpm-passphrase", "safe"])
        key, fd = secret(b"another word")
        served = Served(place, folder, *key, pass_fds=(fd,))
        with served.control() as control:
            same(control.init(), 0x21, "a wrong key is wrong, though the other slot would open it")
        served.ends(1, "[wrong-passphrase]", "1 more key slot of this TPM was not asked", "vtpm rekey")
        served = Served(place, folder)
        served.powered()
        served.shutdown()
        write_file("new", b"a new word")
        vtpm(place, "rekey", "--to", "swtpm-passphrase", "--password-file", "new", os.path.join(folder, STATE))
        key, fd = secret(b"a new word")
        served = Served(place, folder, *key, pass_fds=(fd,))
        served.powered()
        served.shutdown()
        same(names(place, os.path.join(folder, STATE)), ["swtpm-passphrase", "safe"])


if __name__ == "__main__":
    main(globals())
