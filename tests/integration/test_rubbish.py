#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Rubbish on both channels of a running device: random and half-right requests, seeded, for some seconds."""
import os
import random
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import GET_CAPABILITY, SHUTDOWN, Tpm, connect, main, same, wait_until  # noqa: E402
from tpm_bytes import get_random, nv_define, nv_write, startup, tpm_command, words  # noqa: E402

INDEX = 0x01500001


def test_rubbish_on_the_control_channel(place):
    """thousands of random and half-right requests: the device answers the next client, file and guest are sound"""
    place.create()
    device = place.start()
    control, data = device.powered()
    data.good(nv_define(INDEX, 4))
    data.good(nv_write(INDEX, b"kept"))
    control.close()
    data.close()
    rng = random.Random(20261)
    begin = time.monotonic()
    count = 0
    while time.monotonic() - begin < 3:
        try:
            client = device.control()
        except OSError:  # a request for SHUTDOWN came together
            same(device.wait(), 0, device.errors())
            device = place.start()
            device.powered()
            continue
        with client:
            client.sock.setblocking(False)
            for _ in range(rng.randrange(1, 30)):
                number = rng.choice([0, 1, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17, 18, 19, 20, rng.randrange(1 << 32)])
                body = rng.choice([b"", words(rng.randrange(8)), rng.randbytes(rng.randrange(40)),
                                   words(*[rng.randrange(5) for _ in range(rng.randrange(5))])])
                request = words(number) + body
                if words(SHUTDOWN) in request:
                    continue
                count += 1
                try:
                    client.send(request)
                    if rng.random() < 0.3:
                        client.sock.recv(65536)
                except (BlockingIOError, ConnectionError):
                    break
    try:
        client = device.control()
        same(client.call(GET_CAPABILITY, reply=8)[0], 0)
    except OSError:  # the last of them too
        same(device.wait(), 0, device.errors())
        device = place.start()
        client = device.control()
    with client:
        data = client.open_data()
        same(client.init(), 0)
        data.good(startup())
        same(data.nv(INDEX, 4), b"kept")
    device.term()
    place.sound()
    return "%d requests" % count


def test_rubbish_on_the_data_channel(place):
    """random bytes and half-right commands on the data channel: the next client is served"""
    place.create()
    device = place.start("state.vtpm", "--data", "unix:d")
    with device.control() as control:
        same(control.init(), 0)
    rng = random.Random(20262)
    begin = time.monotonic()
    count = 0
    while time.monotonic() - begin < 3:
        client = connect("d")
        client.setblocking(False)
        for _ in range(rng.randrange(1, 20)):
            command = rng.choice([rng.randbytes(rng.randrange(60)), tpm_command(rng.randrange(0x11F, 0x198), rng.randbytes(30)),
                                  tpm_command(rng.randrange(0x11F, 0x198), rng.randbytes(rng.randrange(200)), True),
                                  b"\0\0\0\x08" + rng.randbytes(20)])
            count += 1
            try:
                client.send(command)
            except (BlockingIOError, ConnectionError):
                break
        client.close()
    wait_until(lambda: device.process.poll() is None and served("d"), "a client is served")
    device.term()
    place.sound()
    return "%d commands" % count


def served(path):
    try:
        data = Tpm(connect(path))
        data.run(get_random())
        data.close()
        return True
    except ConnectionError:
        return False


if __name__ == "__main__":
    main(globals())
