# SPDX-License-Identifier: BSD-3-Clause
"""What a hostile guest and a hostile peer send: mutations of valid TPM commands and control messages, by a random.Random
of the caller's, so that its seed repeats them."""
import contextlib
import os
import socket
import struct
import tempfile

from device import (CANCEL, GET_CAPABILITY, GET_CONFIG, GET_ESTABLISHED, GET_INFO, GET_STATEBLOB, HASH_DATA, HASH_END,
                    HASH_START, INIT, LOCK_STORAGE, PERMANENT, RESET_ESTABLISHED, SET_BUFFERSIZE, SET_DATAFD, SET_LOCALITY,
                    SET_STATEBLOB, SHUTDOWN, STOP, STORE_VOLATILE, VOLATILE, receive)
from tpm_bytes import get_random, words

NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFF0, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0x80000001,
           0x80000002, 0x02000000, 0x03000000, 0x40000001, 0x40000007, 0x40000009, 0x4000000B, 0x4000000C, 0x01500010,
           0x01C00002, 0x81000001, 0xFFFFFFFF)
MAX_COMMAND = 4096
MAX_FDS = 253  # SCM_MAX_FD
SHUTDOWN_WORD = words(SHUTDOWN)


def mutated(dice, data, spare=b""):
    """DATA with one to four changes; some bytes of SPARE may come in."""
    data = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 2, 4))):
        at = dice.randrange(len(data) + 1)
        how = dice.randrange(8)
        if how == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif how == 1 and at < len(data):
            data[at] = dice.randrange(256)
        elif how in (2, 3):
            width, number = dice.choice(((">H", 2), (">I", 4))), dice.choice(NUMBERS)
            data[at:at + width[1]] = struct.pack(width[0], number & (256 ** width[1] - 1))
        elif how == 4:
            data[at:at] = dice.randbytes(dice.choice((1, 2, 4, 30)))
        elif how == 5:
            del data[at:at + dice.choice((1, 2, 4, 30))]
        elif how == 6:
            data[at:] = spare[dice.randrange(len(spare) + 1):]
        else:
            data[at:at] = data[dice.randrange(len(data) + 1):at]
    return bytes(data)


def hostile_command(dice, seed, spare):
    """A TPM command after SEED; mostly with a size that is right, so that more of it is looked at."""
    head, body = seed[:10], seed[10:]
    if dice.random() < 0.15:
        head = mutated(dice, head)
    body = mutated(dice, body, spare[10:])
    command = (head + body)[:MAX_COMMAND]
    if len(command) >= 10 and dice.random() < 0.97:
        command = command[:2] + words(len(command)) + command[6:]
    return command


def is_framed(command):
    """Whether its size is that of what there is: then one answer comes, and nothing is awaited."""
    return len(command) >= 10 and struct.unpack(">I", command[2:6])[0] == len(command)


# A valid message of each kind, and the length of its reply. SHUTDOWN would end it, which other tests do.
MESSAGES = (
    (words(GET_CAPABILITY), 8), (words(INIT, 0), 4), (words(GET_ESTABLISHED), 8), (words(SET_LOCALITY) + b"\3\0\0\0", 4),
    (words(HASH_START), 4), (words(HASH_DATA, 5) + b"hello", 4), (words(HASH_END), 4), (words(CANCEL), 4),
    (words(STORE_VOLATILE), 4), (words(RESET_ESTABLISHED) + b"\3\0\0\0", 4), (words(STOP), 4), (words(GET_CONFIG), 8),
    (words(SET_BUFFERSIZE, 4096), 16), (words(SET_BUFFERSIZE, 0), 16), (words(LOCK_STORAGE, 1), 4), (words(INIT, 1), 4),
    (words(GET_INFO, 0, 1, 0, 0), None), (words(GET_STATEBLOB, 1, PERMANENT, 0), None),
    (words(GET_STATEBLOB, 1, VOLATILE, 0), None), (words(SET_DATAFD), 4),
)


class OddDescriptors:
    """What SET_DATAFD is not for."""

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        self.fds = [os.open(path, flags) for path, flags in (("/dev/null", os.O_RDWR), ("/dev/zero", os.O_RDONLY),
                                                             (".", os.O_PATH | os.O_DIRECTORY), ("/proc/self/maps", os.O_RDONLY))]
        self.fds += [*os.pipe(), os.memfd_create("odd"), os.eventfd(0), os.open(tempfile.gettempdir(), os.O_RDONLY)]
        sockets = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_INET), *socket.socketpair(type=socket.SOCK_DGRAM),
                   *socket.socketpair(type=socket.SOCK_SEQPACKET), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
        listener = socket.socket(socket.AF_INET)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        self.fds += [self.stack.enter_context(sock).fileno() for sock in (*sockets, listener)]
        return self

    def __exit__(self, *args):
        self.stack.close()
        for fd in self.fds[:9]:
            os.close(fd)

    def some(self, dice):
        return [dice.choice(self.fds) for _ in range(dice.choice((1, 1, 2, 10, MAX_FDS)))]


class HostilePeer:
    """Of the control socket. Each act is one message or a few; FILTER keeps SHUTDOWN out, wherever the bytes fall."""

    def __init__(self, dice, odd, blobs):
        self.dice, self.odd, self.blobs = dice, odd, blobs

    def send(self, sock, data, fds=()):
        """Gives whether it was sent; a peer that closed is no error."""
        if SHUTDOWN_WORD in self.sent[-3:] + data:
            return False
        self.sent = (self.sent + data)[-3:]
        with contextlib.suppress(BlockingIOError, ConnectionError, BrokenPipeError):
            if fds:
                socket.send_fds(sock, [data], fds)
            else:
                sock.sendall(data)
            return True
        return False

    def connection(self, connect, count):
        """One connection with COUNT messages on it, at most; gives how many."""
        self.sent = b""
        done = 0
        with connect() as sock:
            sock.settimeout(0.02)
            for _ in range(count):
                done += 1
                if not self.act(sock):
                    break
                if self.dice.random() < 0.5:
                    with contextlib.suppress(OSError):
                        sock.recv(1 << 20)
        return done

    def act(self, sock):
        message, _ = self.dice.choice(MESSAGES)
        how = self.dice.randrange(10)
        if how < 3:
            return self.send(sock, message)
        if how < 6:
            return self.send(sock, mutated(self.dice, message))
        if how == 6:
            return self.send(sock, message if self.dice.random() < 0.3 else words(SET_DATAFD), self.odd.some(self.dice))
        if how == 7:  # a blob, true to its length or not
            kind, blob = self.dice.choice(self.blobs)
            if self.dice.random() < 0.7:
                blob = mutated(self.dice, blob)
            length = len(blob) if self.dice.random() < 0.8 else self.dice.choice(NUMBERS)
            return self.send(sock, words(STOP) + words(SET_STATEBLOB, 2, kind, length) + blob)
        if how == 8:  # a length without what it promises
            code = self.dice.choice((HASH_DATA, SET_STATEBLOB))
            self.send(sock, words(code, *([2, PERMANENT] if code == SET_STATEBLOB else []), self.dice.choice(NUMBERS)))
            return False
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as silent, contextlib.suppress(OSError):
            silent.connect(sock.getpeername())  # a second client, which is refused or waits
        return self.send(sock, message[:self.dice.randrange(len(message))] or b"\0")


def hostile_data(dice, control, commands):
    """A data connection that sends COMMANDS in one go, whatever their sizes say, and leaves without reading."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(0.02)
        with theirs:
            if control.set_data_fd(theirs) != 0:
                return False
        with contextlib.suppress(OSError):
            ours.sendall(b"".join(commands) + (get_random() if dice.random() < 0.5 else b""))
            if dice.random() < 0.5:
                receive(ours, 10)
    return True
