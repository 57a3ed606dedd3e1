#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""swtpm socket as libvirt, Proxmox and people run it, over our programs of swtpm's names."""
import contextlib
import json
import os
import re
import socket
import stat
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (BAD_LOCALITY, KEY_NOT_FOUND, PERMANENT, SET_LOCALITY, SHUTDOWN, Control, Tpm, closed, contains,
                    gone, lacks, main, need_root, read_file, same, true, wait_until, write_file)  # noqa: E402
from keyhost import names  # noqa: E402
from swtpm import (MARK, OTHER_VM, STATE, SWTPM, VM, Served, data_at, debian, folder_of, free_port, ioctl, pipe_of, run,
                   setup)  # noqa: E402
from tpm_bytes import (RC_FAILURE, RC_LOCALITY, get_random, nv_define, nv_write, rc_of, startup, tpm_command,
                       words)  # noqa: E402

INDEX = 0x01500010
LIBVIRT = ("--log", "file=log", "--terminate")


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
    served.ends(1, "[state-missing]")
    same(sorted(os.listdir(folder)), before)


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


def test_incoming(place):
    """what setup made in wait of an incoming TPM, and an empty folder, take one in, with the secret; where INIT comes
    first they are a TPM of their own; --migration incoming takes it in on a folder that setup has marked"""
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
            write_file(os.path.join(folder, MARK), b"")
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
    folder = folder_of(VM, "not-come")
    setup(place, folder, "--overwrite")
    target = Served(place, folder, ctrl="t")
    control, data = target.powered()
    data.good(startup())
    control.close()
    target.shutdown()
    same((record(place, folder)["awaits_incoming"], record(place, folder)["vm_uuid"]), (False, VM))
    served.shutdown()


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
        same((record(place, folder)["vm_uuid"], os.path.exists(os.path.join(folder, MARK))), (VM, True))
        same(names(place, path), ["swtpm-passphrase"] if word else ["native"])


def test_servers(place):
    """data channels: --server tcp with and without a type, unix, -p, --fd; -p and disconnect end each connection"""
    for number, (args, address, disconnects) in enumerate((
            (lambda port: ("--server", "type=tcp,port=%d" % port), "tcp", False),
            (lambda port: ("--server", "port=%d" % port), "tcp", False),
            (lambda port: ("--server", "port=%d,bindaddr=127.0.0.1,disconnect" % port), "tcp", True),
            (lambda port: ("--port", str(port)), "tcp", True),
            (lambda port: ("-p", str(port)), "tcp", True),
            (lambda port: ("--server", "type=unixio,path=d,mode=0640"), "d", False))):
        port = free_port()
        served = Served(place, folder_of("s-%d" % number), *args(port), "--flags", "not-need-init,startup-clear")
        address = ("127.0.0.1", port) if address == "tcp" else address

        def ready():
            try:
                return data_at(address).rc(get_random()) == 0
            except OSError:
                return False
        wait_until(ready, "it answers")
        data = data_at(address)
        same(rc_of(data.run(get_random())), 0)
        if disconnects:
            true(closed(data.sock), "one command a connection")
        else:
            data.good(get_random())
            same(len(data.prefixed(3, get_random(8))), 20)
        if address == "d":
            same(stat.S_IMODE(os.stat("d").st_mode), 0o640)
        data.close()
        served.shutdown()
    ours, theirs = socket.socketpair()
    fd = theirs.detach()
    served = Served(place, folder_of("fd"), "--fd", str(fd), "--flags", "not-need-init,startup-clear", ctrl=None,
                    pass_fds=(fd,))
    data = Tpm(ours)
    wait_until(lambda: data.rc(get_random()) == 0, "it is on")
    data.close()
    served.ends(0)


def test_controls(place):
    """control channels: tcp, fd (listening), clientfd (connected); no channel at all is refused"""
    port = free_port()
    served = Served(place, folder_of("tcp"), "--ctrl", "type=tcp,port=%d" % port, ctrl=None)
    wait_until(lambda: "ptm" in ioctl(place, "--tcp", "127.0.0.1:%d" % port, "-c", status=None).stdout, "tcp")
    ioctl(place, "--tcp", ":%d" % port, "-s")
    served.ends(0)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("l")
    listener.listen(1)
    fd = listener.detach()
    served = Served(place, folder_of("fd"), "--ctrl", "type=unixio,fd=%d" % fd, ctrl=None, pass_fds=(fd,))
    served.ctrl = "l"
    served.powered()
    served.shutdown()
    ours, theirs = socket.socketpair()
    fd = theirs.detach()
    served = Served(place, folder_of("client"), "--ctrl", "type=unixio,clientfd=%d" % fd, ctrl=None, pass_fds=(fd,))
    with Control(sock=ours) as control:
        same(control.init(), 0)
        same(control.result(SHUTDOWN), 0)
    served.ends(0)
    served = Served(place, folder_of("none"), ctrl=None)
    served.ends(1, "[usage]", "--ctrl")


def test_places(place):
    """dir://, file:// and TPM_PATH name the place; the mode is that of --tpmstate; relative ones hold with --daemon"""
    for number, (args, env, path) in enumerate((
            (("--tpmstate", "backend-uri=dir://%s" % os.path.abspath("d"), ), {}, os.path.join("d", STATE)),
            (("--tpmstate", "backend-uri=file://%s,mode=0640,lock" % os.path.abspath("image")), {}, "image"),
            (("--tpmstate", "dir=d2,mode=0644"), {}, os.path.join("d2", STATE)),
            ((), {"TPM_PATH": "d3"}, os.path.join("d3", STATE)))):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        run(place, SWTPM, "socket", "--tpm2", *args, "--ctrl", "type=unixio,path=c", "--daemon", "--pid", "file=pid",
            env=env)
        pid = int(read_file("pid"))
        try:
            ioctl(place, "--unix", "c", "-i")
            same(stat.S_IMODE(os.stat(path).st_mode), (0o600, 0o640, 0o644, 0o600)[number], path)
        finally:
            ioctl(place, "--unix", "c", "-s")
        wait_until(lambda: gone(pid), "it ends")
        place.sound(path)
        told = json.loads(run(place, SWTPM, "socket", *args, "--print-states", "--tpm2", env=env).stdout)
        same(told, {"type": "swtpm", "states": [{"name": "permall", "size": 640 << 10}]})
    same(json.loads(run(place, SWTPM, "socket", "--tpm2", "--tpmstate", "dir=" + folder_of("empty"),
                        "--print-states").stdout), {"type": "swtpm", "states": []})


def test_daemon_fails(place):
    """--daemon: a start that fails ends with 1 and says why"""
    folder = folder_of("plain")
    setup(place, folder)
    os.unlink(os.path.join(folder, STATE))
    done = run(place, SWTPM, "socket", "--tpm2", "--tpmstate", "dir=" + folder, "--ctrl", "type=unixio,path=c", "--daemon",
               status=1)
    contains(done.stderr, "swtpm: [state-missing]")


def test_flags(place):
    """--flags: not-need-init, startup-clear, startup-state, startup-none; disable-auto-shutdown sends no shutdown"""
    folder = folder_of("flags")
    for flags, rc in (("startup-clear", 0), ("not-need-init", 0x100), ("not-need-init,startup-none", 0x100),
                      ("startup-none", RC_FAILURE)):
        served = Served(place, folder, "--server", "type=unixio,path=d", "--flags", flags)
        data = data_at("d")
        wait_until(lambda: data.rc(get_random()) == rc, "%s: what a command is answered" % flags, limit=5)
        time.sleep(0.05)
        same(data.rc(get_random()), rc, flags)
        if flags == "startup-clear":
            data.good(tpm_command(0x145, b"\0\1"))
        served.shutdown()
        if flags == "startup-clear":
            served = Served(place, folder, "--server", "type=unixio,path=d", "--flags", "startup-state")
            wait_until(lambda: data_at("d").rc(get_random()) == 0, "it is on with its state")
            served.shutdown()
    for number, (flags, guesses) in enumerate((("startup-clear", 0), ("startup-clear,disable-auto-shutdown", 1))):
        folder = folder_of("lockout-%d" % number)
        for life in range(2):
            served = Served(place, folder, "--server", "type=unixio,path=d", "--flags", flags)
            data = data_at("d")
            wait_until(lambda: data.rc(get_random()) == 0, "it is on")
            if life == 0:  # the use of what is protected against guessing makes a shutdown that is missing count
                data.good(nv_define(INDEX, 8, 0x00060006))
                wait_until(lambda: data.rc(nv_write(INDEX, b"x")) == 0, "it is used")
            else:
                same(int.from_bytes(data.good(tpm_command(0x17A, words(6, 0x20E, 1)))[-4:], "big"), guesses, flags)
            served.shutdown()


def test_locality(place):
    """--locality: allow-set-locality takes the proxy's command, reject-locality-4 refuses 4 on every way; not without"""
    set_locality = lambda number: tpm_command(0x20001000, bytes((number,)))  # noqa: E731
    for args, answers, control_4, prefix_4 in (
            ((), (0x143, 0x143), 0, 0),
            (("--locality", "allow-set-locality"), (0, 0), 0, 0),
            (("--locality", "reject-locality-4"), (0x143, 0x143), BAD_LOCALITY, RC_LOCALITY),
            (("--locality", "reject-locality-4,allow-set-locality"), (0, RC_LOCALITY), BAD_LOCALITY, RC_LOCALITY)):
        served = Served(place, folder_of("l"), "--server", "type=unixio,path=d", *args)
        with served.control() as control:
            same(control.init(), 0)
            data = data_at("d")
            data.good(startup())
            same((data.rc(set_locality(3)), data.rc(set_locality(4))), answers, str(args))
            same(control.result(SET_LOCALITY, b"\4\0\0\0"), control_4)
            same(rc_of(data.prefixed(4, get_random())), prefix_4)
            if answers[0] == 0:
                same(data.rc(set_locality(5)), RC_LOCALITY)
                same(data.rc(tpm_command(0x20001000)), 0x9A)
                data.good(set_locality(0))
            data.good(get_random())
        served.shutdown()


def test_log(place):
    """--log: level, prefix and truncate; a descriptor; - for none; errors are on standard error whatever is said"""
    folder = folder_of("log")
    write_file("log", b"of before\n")
    served = Served(place, folder, "--log", "file=log,level=5,prefix=guest: ")
    served.powered()
    served.shutdown()
    text = read_file("log").decode()
    contains(text, "of before\n", ": guest: ", "debug")
    served = Served(place, folder, "--log", "file=log,truncate,level=1")
    served.shutdown()
    lacks(read_file("log").decode(), "of before", "debug")
    ours, theirs = os.pipe()
    served = Served(place, folder, "--log", "fd=%d,level=5" % theirs, pass_fds=(theirs,))
    served.shutdown()
    contains(os.read(ours, 65536).decode(), "debug")
    setup(place, folder, "--overwrite", "--createek")
    os.unlink(os.path.join(folder, STATE))
    served = Served(place, folder, "--log", "file=-", "--flags", "not-need-init", wait=False)
    served.ends(1, "[state-missing]")


def test_pid(place):
    """--pid fd= gets the number of the process that serves, of a daemon too"""
    ours, theirs = os.pipe()
    run(place, SWTPM, "socket", "--tpm2", "--tpmstate", "dir=" + folder_of("p"), "--ctrl", "type=unixio,path=c", "-d",
        "--pid", "fd=%d" % theirs, pass_fds=(theirs,))
    pid = int(os.read(ours, 100))
    contains(read_file("/proc/%d/cmdline" % pid), b"swtpm-compat/swtpm\0socket")
    ioctl(place, "--unix", "c", "-s")
    wait_until(lambda: gone(pid), "it ends")


def test_runas(place):
    """--runas: sockets and state are the user's, and it has no other rights; an unknown one is refused"""
    need_root()
    folder = folder_of("user")
    os.makedirs("theirs/data")
    for path in (".", "swtpm", os.path.dirname(folder)):
        os.chmod(path, 0o755)
    for path in (folder, "theirs", "theirs/data"):
        os.chown(path, 65534, 65534)
    served = Served(place, folder, "--runas", "nobody", ctrl=None, *("--ctrl", "type=unixio,path=theirs/c"),
                    env={"VTPM_DATA_DIR": os.path.abspath("theirs/data")}, wait=False)
    served.ctrl = "theirs/c"
    wait_until(lambda: served.process.poll() is not None or served.answers(), "it listens")
    served.powered()
    status = read_file("/proc/%d/status" % served.process.pid).decode()
    contains(status, "Uid:\t65534\t65534\t65534\t65534", "Groups:\t65534")
    same([os.stat(path).st_uid for path in ("theirs/c", os.path.join(folder, STATE))], [65534, 65534])
    served.shutdown()


def test_chroot(place):
    """--chroot: all paths are below it"""
    need_root()
    os.makedirs("root/state")
    os.makedirs("root/data")
    write_file("root/vtpm.conf", b"[vtpm]\nca=none\n")
    served = Served(place, None, "--chroot", os.path.abspath("root"), "--ctrl", "type=unixio,path=/c", ctrl=None,
                    state="dir=/state", env={"VTPM_DATA_DIR": "/data", "VTPM_CONFIG": "/vtpm.conf",
                                                       "ASAN_OPTIONS": "detect_leaks=0"})  # which wants /proc
    served.ctrl = "root/c"
    wait_until(lambda: served.process.poll() is not None or served.answers(), "it listens")
    served.powered()
    same(os.readlink("/proc/%d/root" % served.process.pid), os.path.abspath("root"))
    served.shutdown()
    true(os.path.exists(os.path.join("root/state", STATE)), "the state")


def test_refused(place):
    """what is not offered, and mistakes: a word, exit 1, nothing made"""
    folder = folder_of("r")
    good = ("--tpmstate", "dir=" + folder, "--ctrl", "type=unixio,path=c")
    for args, piece in (((*good,), "TPM 1.2"), (("--tpm2", "--ctrl", "type=unixio,path=c"), "--tpmstate"),
                        (("--tpm2", *good, "--migration", "release-lock"), "release-lock"),
                        (("--tpm2", *good, "--flags", "startup-deactivated"), "startup-deactivated"),
                        (("--tpm2", *good, "--flags", "startup-clear,startup-state"), "--flags"),
                        (("--tpm2", *good, "--flags", "no-such"), "no-such"),
                        (("--tpm2", *good, "--ctrl", "type=serial,path=x"), "serial"),
                        (("--tpm2", *good, "--ctrl", "type=unixio"), "path="),
                        (("--tpm2", *good, "--server", "type=tcp"), "port="),
                        (("--tpm2", *good, "--server", "port=70000"), "70000"),
                        (("--tpm2", *good, "--ctrl", "type=unixio,fd=977"), "977"),
                        (("--tpm2", *good, "--key", "pwdfd=977"), "--key"),
                        (("--tpm2", *good, "--key", "pwdfile=w,mode=rot13"), "rot13"),
                        (("--tpm2", *good, "--tpmstate", "backend-uri=nfs://x"), "nfs://x"),
                        (("--tpm2", *good, "--seccomp", "action=maybe"), "--seccomp"),
                        (("--tpm2", *good, "--profile", "name=null"), "--profile"),
                        (("--tpm2", *good, "--runas", "no-such-user"), "no-such-user"),
                        (("--tpm2", *good, "stray"), "stray")):
        done = run(place, SWTPM, "socket", *args, status=1)
        contains(done.stderr, "swtpm: [usage]", piece)
        same((os.listdir(folder), os.path.exists("c")), ([], False), str(args))
    for args in (("what",), ()):
        contains(run(place, SWTPM, *args, status=1).stderr, "Usage: swtpm socket")


def test_devices(place):
    """swtpm chardev and cuse: their options, what is missing, and what is not offered; devices are made in a guest, see
    test_cuse.py"""
    good = ("--tpm2", "--tpmstate", "dir=" + folder_of("d"))
    for args, piece in ((("chardev", *good), "--vtpm-proxy is missing"), (("cuse", *good), "--name is missing"),
                        (("chardev", *good, "--chardev", "/dev/null"), "not offered"),
                        (("chardev", *good, "--fd", "7"), "not offered"),
                        (("chardev", *good, "--vtpm-proxy", "--server", "port=1"), "--server"),
                        (("chardev", *good, "--vtpm-proxy", "--terminate"), "--terminate"),
                        (("chardev", "--vtpm-proxy", *good[1:]), "TPM 1.2"),
                        (("chardev", "--vtpm-proxy", "--tpm2"), "--tpmstate"),
                        (("cuse", *good, "--name", "a/b"), "a/b"), (("cuse", *good, "--name", "x", "--maj", "-1"), "-1"),
                        (("cuse", *good, "--name", "x", "--min", "9999999"), "9999999"),
                        (("cuse", *good, "--name", "x", "--ctrl", "type=tcp,port=1"), "--ctrl"),
                        (("cuse", *good, "--name", "x", "--vtpm-proxy"), "--vtpm-proxy"),
                        (("socket", *good, "--ctrl", "type=unixio,path=c", "--name", "x"), "--name")):
        contains(run(place, SWTPM, *args, status=1).stderr, "swtpm: [usage]", piece)
        same((os.listdir(folder_of("d")), os.path.exists("c")), ([], False), str(args))
    for interface, words in (("chardev", ("--vtpm-proxy", "--ctrl")), ("cuse", ("--name", "--maj"))):
        contains(run(place, SWTPM, interface, "--help").stdout, "Usage: swtpm " + interface, "--tpm2", *words)
        same(json.loads(run(place, SWTPM, interface, "--print-capabilities").stdout)["type"], "swtpm")
        contains(run(place, SWTPM, interface, "--print-states", *good).stdout, '"states": []')
    options = {"chardev": ("--vtpm-proxy",), "cuse": ("--name", "vtpm-test", "-M", "260", "-m", "3")}
    for interface, node, module in (("chardev", "/dev/vtpmx", "tpm_vtpm_proxy"), ("cuse", "/dev/cuse", "cuse")):
        if not os.path.exists(node):
            contains(run(place, SWTPM, interface, *good, *options[interface], status=1).stderr, "modprobe " + module)
            same(os.listdir(folder_of("d")), [])


def test_words(place):
    """capabilities are JSON with what libvirt looks for; --help mentions --tpm2; --version; --seccomp is accepted"""
    told = json.loads(run(place, SWTPM, "socket", "--print-capabilities").stdout)
    same(told["type"], "swtpm")
    true("cmdarg-pwd-fd" in told["features"] and "tpm-1.2" not in told["features"], str(told))
    contains(run(place, SWTPM, "socket", "--help").stdout, "--tpm2")
    contains(run(place, SWTPM, "--help").stdout, "swtpm socket")
    contains(run(place, SWTPM, "--version").stdout, "TPM emulator version")
    for action in ("none", "log", "kill"):
        served = Served(place, folder_of("seccomp"), "--seccomp", "action=" + action)
        served.powered()
        served.shutdown()


def test_print_states(place):
    """--print-states: none in an empty folder and in an image that swtpm has only formatted; else what lies there"""
    folder, image = folder_of("states"), os.path.abspath("image")
    for where in ("dir=" + folder, "backend-uri=file://" + image):
        for program in (debian(), SWTPM):
            told = json.loads(run(place, program, "socket", "--tpm2", "--print-states", "--tpmstate", where).stdout)
            same(told, {"type": "swtpm", "states": []}, program)
    true(os.path.getsize(image) > 0, "Debian's has formatted it")
    setup(place, folder)
    told = json.loads(run(place, SWTPM, "socket", "--tpm2", "--print-states", "--tpmstate", "dir=" + folder).stdout)
    same([(state["name"], state["size"] > 0) for state in told["states"]], [("permall", True)])


def test_options_of_debian(place):
    """every option that Debian's swtpm socket --help and chardev --help name is an option here"""
    for interface in ("socket", "chardev"):  # Debian's has no cuse
        text = run(place, debian(), interface, "--help").stdout
        options = set(re.findall(r"(?:^|\|)(--[a-z0-9-]+)", text, re.MULTILINE))
        options.discard("--print-capabilites")  # misspelt there
        true(len(options) > 15, "options were found: %s" % options)
        for option in sorted(options):
            done = run(place, SWTPM, interface, option, "x", status=None)
            lacks(done.stderr, "'%s' is no option here" % option)


if __name__ == "__main__":
    main(globals())
