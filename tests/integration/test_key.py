#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""How a device waits for its key: slow, silent and failing providers, INIT, and the broker that asks them."""
import contextlib
import os
import signal
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (GET_CAPABILITY, INIT, IO_ERROR, KEY_NOT_FOUND, LIMIT, LOCK_STORAGE, PERMANENT,  # noqa: E402
                    SHUTDOWN, STOP, Tpm, connect, contains, gone, main, read_file, same, true, wait_until)
from tpm_bytes import RC_FAILURE, get_random, rc_of, read_clock, startup, words  # noqa: E402

INDEX = 0x01500001
NOBODY = 65534


def children(pid):
    return read_file("/proc/%d/task/%d/children" % (pid, pid)).split()


def slow_state(place):
    place.add_gate()
    place.create("state.vtpm", "--provider", "gate")
    place.gate("wait")


def test_slow_provider(place):
    """while the provider is slow: sockets stand, control answers, data answers 0x101, INIT waits and succeeds"""
    slow_state(place)
    place.configure("init-wait=60\n")
    asked = len(place.asked())
    device = place.start("state.vtpm", "--data", "unix:d")
    control = device.control()
    wait_until(lambda: len(place.asked()) > asked, "the provider is asked")
    data = Tpm(connect("d"))
    for _ in range(3):
        same(control.call(GET_CAPABILITY, reply=8)[0], 0)
        response = data.run(read_clock())
        same((response[:2], rc_of(response)), (b"\x80\1", RC_FAILURE))
        same(control.result(STOP), 0)
        same(control.call(17, words(0xF80), 16)[:2], (0, 0xF80))
        same(control.call(4, reply=8), (0, 0))
        same(control.result(LOCK_STORAGE, words(0)), IO_ERROR)
        same(control.get_blob(PERMANENT)[0] != 0, True)
    control.send(words(INIT, 0) + words(GET_CAPABILITY))
    control.sock.settimeout(0.3)
    try:
        raise AssertionError("INIT did not wait: %r" % control.sock.recv(4))
    except TimeoutError:
        pass
    same(data.rc(read_clock()), RC_FAILURE)
    place.gate("open")
    control.sock.settimeout(LIMIT)
    same(control.read(12)[:8], words(0, 0))
    same(data.rc(startup()), 0)
    device.term()


def test_init_wait(place):
    """INIT fails with 0x0d after init-wait; a later one that finds the key there succeeds"""
    slow_state(place)
    place.configure("init-wait=0.5\n")
    device = place.start()
    control = device.control()
    for _ in range(2):
        begin = time.monotonic()
        same(control.init(), KEY_NOT_FOUND)
        true(0.45 < time.monotonic() - begin < 5, "INIT waited %.1f s" % (time.monotonic() - begin))
        same(control.call(GET_CAPABILITY, reply=8)[0], 0)
    contains(device.log(), "provider-timeout")
    control.send(words(INIT, 0))
    control.close()  # while it waits
    control = device.control()
    place.gate("open")
    data = control.open_data()
    wait_until(lambda: control.init() == 0, "the key is there")
    same(data.rc(startup()), 0)
    device.term()


def test_provider_fails(place):
    """a provider that fails: INIT answers the code of its word at once, the process ends with its exit status"""
    slow_state(place)
    place.configure("init-wait=20\n")
    for mode, code, word in (("error provider-unreachable no route", 0x0D, "provider-unreachable"),
                             ("error wrong-passphrase try again", 0x21, "wrong-passphrase"),
                             ("error key-destroyed for good", 0x0D, "key-destroyed"), ("die", 0x0D, "provider-failed"),
                             ("garbage", 0x0D, "key-slot-damaged"), ("foreign", 0x0D, "key-slot-damaged")):
        before = read_file("state.vtpm")
        for early in (True, False):
            place.gate("wait")
            device = place.start(log=word)
            control = device.control()
            if early:
                control.send(words(INIT, 0))
                time.sleep(0.05)
            place.gate(mode)
            if not early:
                wait_until(lambda: word in device.errors(), "the failure is told: " + mode)
                same(control.call(GET_CAPABILITY, reply=8)[0], 0)
                control.send(words(INIT, 0))
            same(control.read(4), words(code), mode)
            control.close()
            device.ends(4, "[%s]" % word)
            same(len([line for line in device.errors().splitlines() if "[%s]" % word in line]), 1, device.errors())
            contains(device.log(), "[%s]" % word)
        same(read_file("state.vtpm"), before)


def test_provider_fails_long_before(place):
    """a client that asks INIT long after the provider failed, as QEMU does when it loads a big guest, is told all the same"""
    slow_state(place)
    place.configure("init-wait=0.3\n")
    place.gate("error wrong-passphrase try again")
    device = place.start()
    control = device.control()
    wait_until(lambda: "wrong-passphrase" in device.errors(), "the failure is told")
    time.sleep(1)
    same(control.call(GET_CAPABILITY, reply=8)[0], 0)
    same(control.init(), 0x21)
    control.close()
    device.ends(4, "[wrong-passphrase]")
    device = place.start()
    control = device.control()
    wait_until(lambda: "wrong-passphrase" in device.errors(), "the failure is told")
    time.sleep(1)
    control.close()  # without having asked
    device.ends(4, "[wrong-passphrase]")


def test_provider_fails_alone(place):
    """a provider that fails and nobody connects: it ends after init-wait; with --init at once; SIGTERM ends it too"""
    slow_state(place)
    place.gate("error access-denied no")
    place.configure("init-wait=1\n")
    begin = time.monotonic()
    place.refused(4, ["[access-denied]"], "state.vtpm", config=place.config)
    true(0.9 < time.monotonic() - begin < 15, "it took %.1f s" % (time.monotonic() - begin))
    place.configure("init-wait=60\n")
    place.refused(4, ["[access-denied]"], "state.vtpm", "--init", limit=15, config=place.config)
    place.refused(4, ["[access-denied]"], "state.vtpm", "--startup", "clear", limit=15, config=place.config)
    device = place.start()
    wait_until(lambda: "access-denied" in device.errors(), "the failure is told")
    device.term(4)


def test_end_while_waiting(place):
    """SIGTERM and SHUTDOWN while a provider is silent end it at once, and nobody keeps the file or lives on"""
    slow_state(place)
    place.configure("init-wait=60\n")
    for mode in ("wait", "hang"):
        place.gate(mode)
        for how in ("term", "shutdown", "kill"):
            asked = len(place.asked())
            device = place.start()
            wait_until(lambda: len(place.asked()) > asked, "the provider is asked")
            time.sleep(0.05)
            begin = time.monotonic()
            if how == "term":
                device.term()
            elif how == "kill":
                device.kill()
            else:
                with device.control() as control:
                    same(control.result(SHUTDOWN), 0)
                same(device.wait(), 0)
            true(time.monotonic() - begin < 5, "it took %.1f s" % (time.monotonic() - begin))
            helper = int(place.asked()[-1][1])
            if mode == "wait":
                wait_until(lambda: gone(helper), "the helper ends")
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(helper, signal.SIGKILL)
            free(place)
            same(place.inspect()["problems"], [])


def free(place):
    """Nobody holds the state file's owner lock."""
    def locked():
        inode = os.stat("state.vtpm").st_ino
        return any(line.split()[5].endswith(":%d" % inode) for line in open("/proc/locks"))
    wait_until(lambda: not locked(), "the lock is free")


def test_helper_inherits_nothing(place):
    """a helper has three descriptors and no lock: not the sockets, the state file or the log"""
    slow_state(place)
    place.gate("open")
    asked = len(place.asked())
    device = place.start("state.vtpm", "--data", "unix:d", "--manage", "unix:m")
    device.control().close()
    wait_until(lambda: len(place.asked()) > asked, "the provider is asked")
    same({a[2] for a in place.asked()}, {"0,1,2"})
    device.term()


def test_broker_ends(place):
    """the broker stays until the first command after an INIT; --init counts as one"""
    place.create()
    device = place.start()
    control = device.control()
    data = control.open_data()
    same(data.rc(read_clock()), RC_FAILURE)
    same(control.init(), 0)
    time.sleep(0.05)
    same(len(children(device.pid)), 1)
    same(data.rc(startup()), 0)
    wait_until(lambda: not children(device.pid), "the broker ends")
    same(control.init(), 0)
    data.good(startup())
    device.term()
    device = place.start("state.vtpm", "--data", "unix:d", "--startup", "clear")
    wait_until(lambda: Tpm(connect("d")).rc(get_random()) == 0, "it is powered on")
    wait_until(lambda: not children(device.pid), "the broker ends")


def test_broker_dies(place):
    """without its broker a device whose key is there goes on; one that waits for the key fails"""
    place.create()
    device = place.start()
    control = device.control()
    same(control.init(), 0)
    os.kill(int(children(device.pid)[0]), signal.SIGKILL)
    data = control.open_data()
    same(data.rc(startup()), 0)
    blobs = control.pair()
    same(control.load(*blobs), 0, "blobs of this epoch need no broker")
    device.term()
    place.add_gate()
    place.create("slow.vtpm", "--provider", "gate")
    place.gate("wait")
    asked = len(place.asked())
    device = place.start("slow.vtpm")
    control = device.control()
    same(control.call(GET_CAPABILITY, reply=8)[0], 0)  # it is served: it will be told
    control.send(words(INIT, 0))
    wait_until(lambda: len(place.asked()) > asked, "the provider is asked")
    os.kill(int(children(device.pid)[0]), signal.SIGKILL)
    same(control.read(4), words(0x101))
    control.close()
    same(device.wait(), 1)


if __name__ == "__main__":
    main(globals())
