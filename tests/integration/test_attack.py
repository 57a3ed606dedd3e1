#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What once broke: each test is an attack that lost state, hung the device or left something behind."""
import fcntl
import os
import resource
import signal
import socket
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (CANCEL, GET_CAPABILITY, IO_ERROR, SHUTDOWN, STOP, STORE_VOLATILE, Control, connect,  # noqa: E402
                    contains, main, read_file, receive, same, true, wait_until, write_file)
from tpm_bytes import (EMPTY_AUTH, RC_CANCELED, RC_FAILURE, create_primary_rsa, flush, nv_define, pcr_extend,  # noqa: E402
                       pcr_read, rc_of, shutdown, startup, tpm_command, words)

# struct flock: F_WRLCK on byte 0, the owner's
OFD_WRITE_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
CLOSED = ("", "<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-")


def test_closed_stdio(place):
    """Whatever of standard input, output and error the caller closed, no message goes into the state file"""
    for redirection in CLOSED:
        name = place.create("state-%d" % CLOSED.index(redirection))
        device = place.start(name, prefix=("sh", "-c", 'exec "$@" ' + redirection, "sh"), log=None)
        control, data = device.powered()
        data.good(nv_define(0x1500001, 8))
        device.term()
        same(read_file(name)[:8], b"vtpm-hdr", redirection)
        place.sound(name)


def suspended(place):
    """A state file with volatile state, and its PCR 10."""
    name = place.create()
    device = place.start(name)
    control, data = device.powered()
    data.good(pcr_extend(10, b"x" * 32))
    value = data.pcr(10)
    same(control.result(STORE_VOLATILE), 0, "STORE_VOLATILE")
    same(control.result(SHUTDOWN), 0, "SHUTDOWN")
    same(device.wait(), 0)
    return name, value


def test_startup_of_a_suspended_tpm(place):
    """--startup on a suspended TPM resumes it; it needs no TPM2_Startup and lost its volatile state by one"""
    for kind in ("clear", "state"):
        name, value = suspended(place)
        device = place.start(name, "--startup", kind)
        with device.control() as control:
            data = control.open_data()
            wait_until(lambda: data.rc(pcr_read(10)) == 0, "the TPM is on")
            same(data.pcr(10), value, kind)
        device.term()
        os.remove(name)


def test_failed_startup_is_an_orderly_end(place):
    """A start whose TPM2_Startup fails ends as SIGTERM would: what is in the file is final"""
    place.create()
    device = place.start()
    device.powered()
    device.kill()
    place.refused(1, ["[failed]", "TPM2_Startup"], "state.vtpm", "--startup", "state")
    done = place.check()
    same(done.returncode, 0, done.stderr)
    contains(done.stdout, "an orderly end")


def test_failed_shutdown_counts_as_none(place):
    """A TPM2_Shutdown that the TPM refused is no orderly end: the device still sends its own"""
    place.create()
    control, data = place.start().powered()
    true(data.rc(shutdown(7)) != 0, "TPM2_Shutdown(7) is refused")
    same(control.result(STOP), 0, "STOP")
    same(control.init(), 0, "INIT")
    data.good(startup())
    startup_clear = struct.unpack(">I", data.good(tpm_command(0x17A, words(6, 0x201, 1)))[-4:])[0]
    true(startup_clear >> 31, "TPM_PT_STARTUP_CLEAR %#x says orderly" % startup_clear)


def test_file_size_limit(place):
    """A limit on the size of files is a store that fails: the device does not die of SIGXFSZ"""
    place.create()
    device = place.start()
    control = device.control()
    same(control.call(GET_CAPABILITY, reply=8)[0], 0, "GET_CAPABILITY: it has set its own limits")
    most = resource.prlimit(device.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(device.pid, resource.RLIMIT_FSIZE, (4096, most))
    same(control.init(), 0, "INIT")
    data = control.open_data()
    same(data.rc(startup()), RC_FAILURE, "TPM2_Startup whose store fails")
    same(control.result(STORE_VOLATILE), IO_ERROR, "STORE_VOLATILE")
    same(device.process.poll(), None, "it lives")
    resource.prlimit(device.pid, resource.RLIMIT_FSIZE, (most, most))
    data.good(nv_define(0x1500001, 8))
    device.term()
    place.sound()


def test_pid_file_named_by_mistake(place):
    """--pid-file with the name of the state file, or of any file that is none, is refused and changes nothing"""
    place.create()
    before = read_file("state.vtpm")
    write_file("letter", b"dear reader\n")
    for name in ("state.vtpm", "letter"):
        content = read_file(name)
        place.refused(2, ["[usage]", "no pid file"], "state.vtpm", pid_file=name)
        same(read_file(name), content, name)
    same(read_file("state.vtpm"), before)
    write_file("stale", b"12345\n")
    place.start(pid_file="stale").term()


def test_free_after_shutdown(place):
    """Once SHUTDOWN is answered the file is free: another start need not wait for the process to end"""
    place.create()
    for _ in range(20):
        device = place.start()
        control, _ = device.powered()
        same(control.result(SHUTDOWN), 0)
        with open("state.vtpm", "r+b") as file:
            fcntl.fcntl(file, 37, OFD_WRITE_LOCK)  # F_OFD_SETLK: raises when it is held
        same(device.wait(), 0)
    place.sound()


def test_hangup(place):
    """SIGHUP is an orderly end too"""
    place.create()
    device = place.start()
    device.powered()
    device.process.send_signal(signal.SIGHUP)
    same(device.wait(), 0)
    same(place.inspect()["state_slots"][0]["final"], True)


def test_nobody_can_reach_it(place):
    """An inherited control connection that closes ends a device without a data socket: nobody else can reach it"""
    place.create()
    ours, theirs = socket.socketpair()
    device = place.start(ctrl="fd:%d" % theirs.fileno(), pass_fds=[theirs.fileno()])
    theirs.close()
    control = Control(sock=ours)
    same(control.init(), 0)
    control.close()
    same(device.wait(), 0)
    place.sound()


def test_status_does_not_wait(place):
    """The management socket does not hold up CANCEL while a command runs, and says no more then than that it is busy"""
    place.create()
    answers = set()
    device = place.start("state.vtpm", "--manage", "unix:manage")
    control, data = device.powered()
    for unique in range(8):
        data.send(create_primary_rsa(b"%032d" % unique))
        asker = connect("manage")
        asker.sendall(b"status\n")
        answer = asker.makefile("rb").readline()
        answers.add(answer if b"busy=" in answer else b"another")
        same(control.result(CANCEL), 0)
        rc = rc_of(data.read())
        true(rc in (0, RC_CANCELED), "0x%x" % rc)
        if rc == 0:
            data.run(flush(words(0x80000000)))
    same(answers - {b"another"}, {b"ok busy=yes\n"})
    device.term()


def test_nv_full(place):
    """a guest that fills NV is told that it is full, makes room again, and its TPM is there at the next start"""
    place.create()
    first, defined = 0x01500100, 0
    for size in (2048, 8):  # a large one no longer fits, then not even a small one
        device = place.start()
        control, data = device.powered()
        while defined < 4000:
            rc = data.rc(nv_define(first + defined, size))
            if rc:
                break
            defined += 1
        same(rc, 0x14B, "TPM_RC_NV_SPACE")
        device.term()
    true(defined >= 20, "%d indices" % defined)
    device = place.start()
    control, data = device.powered()
    data.good(tpm_command(0x122, words(0x40000001, first) + EMPTY_AUTH, True))  # TPM2_NV_UndefineSpace
    data.good(nv_define(first, 8))
    device.term()
    same(place.vtpm("check", "state.vtpm", "--config", place.config).returncode, 0)


if __name__ == "__main__":
    main(globals())
