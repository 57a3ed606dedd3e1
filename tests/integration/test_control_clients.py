#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Clients of the control channel and the descriptors they bring: two at once, one after another, gone in the middle."""
import os
import signal
import socket
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from control_bytes import CAPABILITIES, CONVERSATION, started  # noqa: E402
from device import (BAD_PARAMETER, GET_CAPABILITY, GET_INFO, GET_STATEBLOB, INIT, IO_ERROR, PERMANENT,  # noqa: E402
                    SAVESTATE, SET_DATAFD, SET_STATEBLOB, STOP, Control, Skip, Tpm, closed, main, same, true, wait_until)
from tpm_bytes import create_primary_rsa, get_random, pcr_read, rc_of, startup, words  # noqa: E402


def test_second_client(place):
    """a second control client is refused while one is served; when that has closed, the next is served"""
    device, control = started(place)
    same(control.init(), 0)
    for _ in range(3):
        true(closed(Control(device.path).sock), "a second client was let in")
        same(control.call(GET_CAPABILITY, reply=8), (0, CAPABILITIES))
    control.close()
    with device.control() as control:
        same(control.call(GET_CAPABILITY, reply=8), (0, CAPABILITIES))


def test_reconnect(place):
    """clients that connect anew for every command, as tpm2-tools do, are always served"""
    device, control = started(place)
    control.close()
    for number in range(3000):
        with device.control() as control:
            control.send(words(GET_CAPABILITY))
            same(control.read(8), words(0, CAPABILITIES), "connection %d" % number)


def test_power_stays(place):
    """when its client closes the TPM stays powered as it is; a new client brings a new data channel at once"""
    device, control = started(place)
    same(control.init(), 0)
    data = control.open_data()
    same(data.rc(startup()), 0)
    for number in range(100):
        control.close()
        data.close()
        control = device.control()
        data = control.open_data()
        same(data.rc(get_random()), 0, "client %d" % number)
    data.send(create_primary_rsa(b"left alone"))
    data.close()
    same(control.open_data().rc(get_random()), 0, "while the last command of the client before runs")


def test_data_descriptor(place):
    """SET_DATAFD: once at a time, only a stream socket, of several the first; none leaks"""
    device, control = started(place)

    def descriptors():
        return len(os.listdir("/proc/%d/fd" % device.pid))

    if os.geteuid() != 0:
        raise Skip("needs root to count the descriptors of a process that cannot be looked into")
    same(control.init(), 0)
    before = descriptors()
    for other in (os.open("/dev/null", os.O_RDWR), os.open(".", os.O_RDONLY), *os.pipe(),
                  socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach(), socket.socket(socket.AF_UNIX).detach()):
        socket.send_fds(control.sock, [words(SET_DATAFD)], [other])
        same(control.read(4), words(BAD_PARAMETER), "descriptor %s" % os.readlink("/proc/self/fd/%d" % other))
        os.close(other)
    pairs = [socket.socketpair() for _ in range(4)]
    socket.send_fds(control.sock, [words(SET_DATAFD)], [theirs.fileno() for _, theirs in pairs])
    same(control.read(4), words(0))
    for _, theirs in pairs:
        theirs.close()
    data = Tpm(pairs[0][0])
    same(data.rc(get_random()), 0x100)
    for ours, _ in pairs[1:]:
        true(closed(ours), "a second descriptor stayed open")
    ours, theirs = socket.socketpair()
    same(control.set_data_fd(theirs), IO_ERROR, "a second data channel")
    theirs.close()
    true(closed(ours), "a refused descriptor stayed open")
    socket.send_fds(control.sock, [words(GET_CAPABILITY)], [pairs[0][0].fileno()])  # with a command that wants none
    same(control.read(8), words(0, CAPABILITIES))
    data.close()
    control.close()
    wait_until(lambda: descriptors() < before, "%d descriptors are back to below %d" % (descriptors(), before))
    device.term()


def test_nonblocking_data(place):
    """a data descriptor that was set to not block is served like any other"""
    device, control = started(place)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    same(control.set_data_fd(theirs), 0)
    data = Tpm(ours)
    same(control.init(), 0)
    for _ in range(5):
        time.sleep(0.01)
        same(rc_of(data.run(pcr_read(0))), 0x100)


def test_vanishing(place):
    """a client that vanishes after any byte of any request: the device serves the next"""
    device, control = started(place)
    control.close()
    requests = [request for request, _ in CONVERSATION] + [words(SET_STATEBLOB, 2, PERMANENT, 100) + bytes(100),
                                                           words(GET_INFO, 0, 7, 0, 0), words(GET_STATEBLOB, 1, 1, 0)]
    for request in requests:
        for length in range(len(request) + 1):
            with device.control() as client:
                client.send(request[:length])
    with device.control() as client:
        same(client.call(GET_CAPABILITY, reply=8), (0, CAPABILITIES))
        same(client.result(STOP), 0)
    device.term()
    place.sound()


def test_gone_before_the_next(place):
    """a client that has closed in the middle of a request does not cost the next one its connection"""
    device, control = started(place)
    control.close()
    for request in (b"", words(GET_CAPABILITY)[:3], words(GET_CAPABILITY), words(INIT)):
        os.kill(device.pid, signal.SIGSTOP)
        with device.control() as client:
            client.send(request)
        with device.control() as client:
            client.send(words(GET_CAPABILITY))
            os.kill(device.pid, signal.SIGCONT)
            same(client.read(8), words(0, CAPABILITIES))


def test_without_end(place):
    """a client that asks for state blobs without end does not keep the TPM from being stopped"""
    device, control = started(place)
    same(control.init(), 0)
    requests = words(GET_STATEBLOB, 1, SAVESTATE, 0) * 4000000

    def ask():
        try:
            while True:
                control.sock.sendall(requests)
        except OSError:
            pass

    def read():
        try:
            while control.sock.recv(1 << 20):
                pass
        except OSError:
            pass
    threads = [threading.Thread(target=each, daemon=True) for each in (ask, read)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    device.term()
    for thread in threads:
        thread.join()


def test_slow_reader(place):
    """a client that asks for more than it reads in ten seconds loses its connection: it does not hold up the end"""
    device, control = started(place)
    same(control.init(), 0)
    control.send(words(GET_STATEBLOB, 1, SAVESTATE, 0) * 8192)
    control.read(16)  # it is at work on them
    device.process.terminate()
    end = time.monotonic() + 20
    try:
        while device.process.poll() is None and time.monotonic() < end:
            control.sock.recv(3500)  # of some 200 replies that have room to wait
            time.sleep(3)
    except ConnectionError:
        pass
    same(device.wait(5), 0)


def test_half_sent(place):
    """a client that sends half a request and stays holds up neither the guest nor the end"""
    device, control = started(place)
    data = control.open_data()
    same((control.init(), data.rc(startup())), (0, 0))
    control.send(words(SET_STATEBLOB, 2, PERMANENT, 400000) + bytes(1000))
    for _ in range(20):
        same(data.rc(get_random()), 0)
    device.term()


if __name__ == "__main__":
    main(globals())
