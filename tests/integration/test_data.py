#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The data channel of a running device: framing by length, the TCG command header, bad input, its doors."""
import os
import signal
import socket
import struct
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (GET_CAPABILITY, IO_ERROR, SHUTDOWN, Control, Skip, Tpm, closed, connect, main,  # noqa: E402
                    receive, same, true, wait_until)
from tpm_bytes import (RC_COMMAND_SIZE, RC_FAILURE, RC_LOCALITY, create_primary_rsa, get_random, nv_data,  # noqa: E402
                       nv_define, nv_read, nv_write, pcr_extend, pcr_read, pcr_reset, rc_of, read_clock, shutdown,
                       startup, tpm_command, words)

INDEX = 0x01500001
COMMANDS = [get_random(8), pcr_extend(16, b"\1" * 32), pcr_read(16), read_clock(), nv_read(INDEX, 4), pcr_read(0)]


def started(place):
    place.create()
    device = place.start()
    control, data = device.powered()
    data.good(nv_define(INDEX, 4))
    data.good(nv_write(INDEX, b"abcd"))
    return device, control, data


def served(place):
    """A device with a data socket of its own, as simulators have it, and a connection to it."""
    place.create()
    device = place.start("state.vtpm", "--data", "unix:tpm.data", "--startup", "clear")
    control, data = device.control(), Tpm(connect("tpm.data"))
    wait_until(lambda: data.rc(get_random()) == 0, "the TPM is on")
    return device, control, data


def codes(data, count):
    return [rc_of(data.read()) for _ in range(count)]


def test_pipelined(place):
    """a hundred commands in one write are all run in order"""
    _, _, data = started(place)
    data.good(pcr_reset(16))
    data.send((pcr_extend(16, b"\1" * 32) + pcr_read(16)) * 50)
    seen = set()
    for _ in range(50):
        same(rc_of(data.read()), 0)
        response = data.read()
        same(rc_of(response), 0)
        seen.add(response[-32:])
    same(len(seen), 50, "every PCR_Read came after its PCR_Extend")


def test_split(place):
    """commands byte by byte, cut into two at every place, and across the ends of commands"""
    _, _, data = started(place)
    stream = b"".join(COMMANDS)
    for byte in stream:
        data.send(bytes([byte]))
        time.sleep(0.0003)
    same(codes(data, len(COMMANDS)), [0] * len(COMMANDS))
    for cut in range(1, len(stream)):
        data.send(stream[:cut])
        if cut % 3 == 0:
            time.sleep(0.0003)
        data.send(stream[cut:])
        same(codes(data, len(COMMANDS)), [0] * len(COMMANDS), "cut at %d" % cut)


def test_largest(place):
    """a command of 4096 bytes is taken, and is refused by the TPM alone"""
    _, _, data = started(place)
    largest = tpm_command(0x17B, bytes(4096 - 10))
    for piece in (4096, 1000):
        for at in range(0, 4096, piece):
            data.send(largest[at:at + piece])
        code = rc_of(data.read())
        true(code not in (0, RC_FAILURE), "0x%x" % code)
    data.good(get_random())


def test_oversized(place):
    """oversized commands are answered 0x142 at once, their bytes passed over, and the connection is in step"""
    _, _, data = served(place)
    for size in (4097, 8192, 100000, 1 << 20):
        header = struct.pack(">HII", 0x8001, size, 0x17B)
        data.send(header)
        same(rc_of(data.read()), RC_COMMAND_SIZE)
        rest = (shutdown() * (size // 12 + 1))[:size - 10]
        data.send(rest + get_random())
        same(codes(data, 1), [0], "after %d bytes" % size)
        data.send(header + rest + pcr_read(16) + get_random())
        same(codes(data, 3), [RC_COMMAND_SIZE, 0, 0], "in one write of %d bytes" % size)
    data.send(struct.pack(">HII", 0x8001, 0xFFFFFFFF, 0x17B) + bytes(100000))
    same(codes(data, 1), [RC_COMMAND_SIZE])


def test_oversized_from_qemu(place):
    """QEMU's CRB sends its buffer whatever size the guest wrote: answered, and the next command is not swallowed"""
    _, _, data = started(place)
    for size in (4097, 1 << 20, 0xFFFFFFFF):
        for sent in (10, 3968):
            data.send((struct.pack(">HII", 0x8001, size, 0x17B) + bytes(sent))[:sent])
            same(rc_of(data.read()), RC_COMMAND_SIZE)
            data.good(get_random())


def test_header_from_qemu(place):
    """the TCG command header is not taken of what came with SET_DATAFD: a guest cannot choose its locality by it"""
    _, _, data = started(place)
    same(data.rc(pcr_extend(20, bytes(32))) != 0, True, "locality 0 may not")
    data.send(struct.pack(">IBI", 8, 2, len(pcr_reset(20))) + pcr_reset(20))
    same(rc_of(data.read()) != 0, True, "nor with the header")
    data.good(get_random())


def test_undersized(place):
    """sizes below the header's are answered 0x142, and the connection is in step"""
    _, _, data = started(place)
    for size in range(10):
        data.send(struct.pack(">HII", 0x8001, size, 0x17B) + get_random())
        same(codes(data, 2), [RC_COMMAND_SIZE, 0], "size %d" % size)


def test_header(place):
    """the TCG command header gives the locality of that one command, and frames the response"""
    _, control, data = served(place)
    # PCR 20 is reset at locality 2 only here, PCR 17 extended at 2 to 4
    for set_to in (0, 2):
        control.locality(set_to)
        for locality in range(5):
            same(rc_of(data.prefixed(locality, pcr_reset(20))) == 0, locality == 2, "reset at locality %d" % locality)
            same(rc_of(data.prefixed(locality, pcr_extend(17, bytes(32)))) == 0, locality >= 2)
            same(data.rc(pcr_reset(20)) == 0, set_to == 2, "what SET_LOCALITY said holds for the others")
    for locality in range(5, 256):  # the library itself would take 34 for 2
        same([rc_of(data.prefixed(locality, command)) for command in (pcr_reset(20), get_random())], [RC_LOCALITY] * 2)
    # split and mixed with plain commands
    command = get_random(4)
    prefixed = struct.pack(">IBI", 8, 0, len(command)) + command
    for cut in range(1, 2 * len(prefixed)):
        stream = prefixed + command + prefixed
        data.send(stream[:cut])
        if cut % 5 == 0:
            time.sleep(0.0003)
        data.send(stream[cut:])
        for framed in (True, False, True):
            if framed:
                same(receive(data.sock, 4), words(10 + 2 + 4))
            same(rc_of(data.read()), 0, "cut at %d" % cut)
            if framed:
                same(receive(data.sock, 4), bytes(4))
    # sizes that cannot be
    for size in (0, 9, 4097, 70000):
        data.send(struct.pack(">IBI", 8, 0, size) + bytes(size) + prefixed)
        same(receive(data.sock, 4), words(10))
        same(rc_of(data.read()), RC_COMMAND_SIZE)
        same(receive(data.sock, 8), bytes(4) + words(16))
        same(rc_of(data.read()), 0)
        same(receive(data.sock, 4), bytes(4))


def test_malformed(place):
    """what is no TPM command is answered with an error of the TPM's, and the guest's state is untouched"""
    _, _, data = started(place)
    bad = [tpm_command(0), tpm_command(0xFFFFFFFF), tpm_command(0x17B), struct.pack(">HII", 0, 12, 0x17B) + b"\0\4",
           struct.pack(">HII", 0xC400, 10, 0x17B), tpm_command(0x182, bytes(40), True), nv_write(INDEX, b"z" * 5),
           tpm_command(0x131, os.urandom(200), True), struct.pack(">HII", 0x8002, 14, 0x144) + bytes(4)]
    for command in bad:
        code = data.rc(command)
        true(code not in (0, RC_FAILURE), "%s: 0x%x" % (command[:20].hex(), code))
        same(nv_data(data.run(nv_read(INDEX, 4))), b"abcd")
    for number in range(300):  # every byte of a good command, changed
        command = bytearray(nv_write(INDEX, b"abcd"))
        at = 6 + number % (len(command) - 6)
        command[at] ^= 1 << number % 8
        data.run(bytes(command))
    data.good(get_random())


def test_vanishing(place):
    """a client that vanishes after any byte of a command: whole ones are run, others are not, the next is served"""
    _, control, data = started(place)
    command = nv_write(INDEX, b"XXXX")
    for length in range(len(command) + 1):
        data.send(command[:length])
        data.close()
        data = control.open_data()
        value = b"XXXX" if length == len(command) else b"abcd"
        wait_until(lambda: data.nv(INDEX, 4) == value, "after %d bytes the index holds %r" % (length, value))


def test_client_that_does_not_read(place):
    """a client that sends and never reads stops neither control channel nor end"""
    device, control, data = started(place)
    data.sock.setblocking(False)
    flood = get_random(64) * 400
    for _ in range(200):
        try:
            data.sock.send(flood)
        except BlockingIOError:
            time.sleep(0.002)
    begin = time.monotonic()
    same(control.call(GET_CAPABILITY, reply=8)[0], 0)
    same(control.init(), 0)
    same(control.result(SHUTDOWN), 0)
    same(device.wait(), 0)
    true(time.monotonic() - begin < 5, "it took %.1f s" % (time.monotonic() - begin))
    place.sound()


def data_server(place, *args):
    place.create()
    device = place.start("state.vtpm", *args)
    control = device.control()
    same(control.init(), 0)
    return device, control


def serve_and_serve_again(address, control):
    """A second client is refused while one is served; a hundred after each other find the same TPM."""
    data = Tpm(connect(address))
    same(data.rc(startup()), 0)
    true(closed(connect(address)), "a second data client was let in")
    data.good(nv_define(INDEX, 4))
    for number in range(100):
        data.good(nv_write(INDEX, b"%04d" % number))
        data.close()
        data = Tpm(connect(address))
        same(data.nv(INDEX, 4), b"%04d" % number)
    if control.sock.family == socket.AF_UNIX:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            same(control.set_data_fd(theirs), IO_ERROR, "SET_DATAFD beside --data")
    data.send(create_primary_rsa(b"left"))
    data.close()
    data = Tpm(connect(address))
    same(data.nv(INDEX, 4), b"0099", "the next client waits for the last command of the one before")
    data.send(create_primary_rsa(b"left, too"))
    data.close()
    for _ in range(3):  # as tpm2-tss does: it looks whether there is a socket before it uses it
        connect(address).close()
    data = Tpm(connect(address))
    same(data.nv(INDEX, 4), b"0099", "so does one behind clients that came and went meanwhile")
    return data


def test_unix_server(place):
    """--data unix: serves one client after another, with the TPM powered as it is"""
    device, control = data_server(place, "--data", "unix:data-socket,mode=0640")
    same(os.stat("data-socket").st_mode & 0o777, 0o640)
    serve_and_serve_again("data-socket", control)
    device.term()
    true(not os.path.exists("data-socket"), "the socket is removed at the end")


def free_port(host="127.0.0.1"):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def test_tcp_server(place):
    """--data tcp: without a host listens on loopback alone, and a restart may have the port at once"""
    place.create()
    for _ in range(2):
        port = free_port()
        device = place.start("state.vtpm", "--data", "tcp:%d" % port)
        control = device.control()
        same(control.init(), 0)
        data = Tpm(connect(("127.0.0.1", port)))
        same(data.rc(startup()), 0)
        listening = [line.split()[1] for line in open("/proc/net/tcp").readlines()[1:] if line.split()[3] == "0A"]
        same([a for a in listening if a.endswith(":%04X" % port)], ["0100007F:%04X" % port])
        control.close()
        device.term()  # with the client connected
        try:
            socket.getaddrinfo("localhost", None)
        except socket.gaierror:
            return "no name, localhost is not known here"
        device = place.start("state.vtpm", "--data", "tcp:localhost:%d" % port)
        device.term()


def test_tcp_ipv6(place):
    """--data and --ctrl on tcp:[::1]:PORT"""
    try:
        ports = [free_port("::1"), free_port("::1")]
    except OSError:
        raise Skip("no IPv6 here")
    place.create()
    device = place.start("state.vtpm", "--data", "tcp:[::1]:%d" % ports[0], ctrl="tcp:[::1]:%d" % ports[1])
    control = Control(("::1", ports[1]))
    same(control.init(), 0)
    serve_and_serve_again(("::1", ports[0]), control)
    device.term()


def test_tcp_in_use(place):
    """a port or a host that is not to be had: exit 6 or 2, with the reason"""
    place.create()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        place.refused(6, ["[socket-in-use]", str(port)], "state.vtpm", "--data", "tcp:%d" % port)
    place.refused(2, ["[usage]", "no-such-host.invalid"], "state.vtpm", "--data", "tcp:no-such-host.invalid:1")
    place.refused(2, ["[usage]", "tcp:::1:5"], "state.vtpm", "--data", "tcp:::1:5")


def test_inherited(place):
    """--data fd: and --ctrl fd: take a connection or a listening socket, also one that was set to not block"""
    place.create()
    for blocking in (True, False):
        (ours, data), (control_ours, control) = socket.socketpair(), socket.socketpair()
        for sock in (data, control):
            sock.setblocking(blocking)
        device = place.start("state.vtpm", "--data", "fd:%d" % data.fileno(), ctrl="fd:%d" % control.fileno(),
                             pass_fds=(data.fileno(), control.fileno()))
        data.close()
        control.close()
        client = Control(sock=control_ours)
        same(client.init(), 0)
        tpm = Tpm(ours)
        same(tpm.rc(startup()), 0)
        time.sleep(0.02)
        tpm.good(get_random())
        same(len(client.blob(1)) > 1000, True)
        same(client.result(SHUTDOWN), 0)
        same(device.wait(), 0)
        ours.close()
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as data_listener:
            for sock, name in ((listener, "in-c%d" % blocking), (data_listener, "in-d%d" % blocking)):
                sock.bind(name)
                sock.listen()
                sock.setblocking(blocking)
            device = place.start("state.vtpm", "--data", "fd:%d" % data_listener.fileno(),
                                 ctrl="fd:%d" % listener.fileno(), pass_fds=(listener.fileno(), data_listener.fileno()))
            with Control("in-c%d" % blocking) as client:
                same(client.init(), 0)
            with Control("in-c%d" % blocking) as client:
                serve_and_serve_again("in-d%d" % blocking, client)
            device.term()
            os.remove("state.vtpm")
            place.create()


def test_bad_descriptors(place):
    """fd: with what is no socket, not connected or not open: exit 2"""
    place.create()
    with open("file", "w") as file, socket.socket(socket.AF_UNIX) as alone:
        for sock in (file, alone):
            device = place.start("state.vtpm", ctrl="fd:%d" % sock.fileno(), pass_fds=(sock.fileno(),), wait=False, log=None)
            device.ends(2, "[usage]", "descriptor %d" % sock.fileno())
    device = place.start("state.vtpm", ctrl="fd:777", wait=False, log=None)
    device.ends(2, "[usage]", "777")


def test_stopped_reader(place):
    """nothing is answered twice and nothing lost when the process is stopped and continued amid commands"""
    device, control, data = started(place)
    for number in range(20):
        data.send(get_random(8) * 3)
        os.kill(device.pid, signal.SIGSTOP)
        data.send(pcr_read(16)[:7])
        os.kill(device.pid, signal.SIGCONT)
        data.send(pcr_read(16)[7:])
        same([len(data.read()) for _ in range(3)], [20] * 3, "round %d" % number)
        same(rc_of(data.read()), 0)


if __name__ == "__main__":
    main(globals())
