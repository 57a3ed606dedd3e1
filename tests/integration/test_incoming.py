#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""A TPM that comes in: `vtpm run --incoming` with and without a file."""
import os
import shutil
import sys
import time
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from blobs import FAILURE, INDEX, prepared  # noqa: E402
from device import (DELETE_VOLATILE, GET_CAPABILITY, KEY_NOT_FOUND, PERMANENT, SET_STATEBLOB, SHUTDOWN,  # noqa: E402
                    STOP, VOLATILE, contains, main, read_file, same, true, wait_until)
from tpm_bytes import get_random, nv_write, words  # noqa: E402


def outgoing(place, *args):
    """The blobs of a TPM whose file is away then, and what its PCR 16 was."""
    device, control, data = prepared(place, *args)
    pcr = data.pcr(16)
    pair = control.pair()
    device.kill()
    os.rename("state.vtpm", "source.vtpm")
    return pair, pcr


def test_incoming(place):
    """--incoming without a file: it is made at INIT and only then, and goes on as any other"""
    vm = str(uuid.uuid4())
    pair, pcr = outgoing(place, "--vm-uuid", vm)
    source = place.inspect("source.vtpm")
    device = place.start("state.vtpm", "--incoming", "--vm-uuid", vm)
    control = device.control()
    data = control.open_data()
    same(control.call(GET_CAPABILITY, reply=8)[0], 0)
    same(control.init(), FAILURE, "INIT before any state has come")
    contains(device.log(), "[state-missing]")
    same(control.result(STOP), 0)
    same(control.set_blob(PERMANENT, pair[0]), 0)
    same(control.set_blob(VOLATILE, pair[1]), 0)
    true(not os.path.exists("state.vtpm"), "the file was made before INIT")
    same(control.init(DELETE_VOLATILE), 0)
    true(os.path.exists("state.vtpm"), "the file is there")
    same(os.stat("state.vtpm").st_mode & 0o777, 0o600)
    same((data.nv(INDEX, 5), data.pcr(16)), (b"first", pcr))
    data.good(nv_write(INDEX, b"later"))
    made = place.inspect()
    same([(r["vtpm_id"], r["vm_uuid"], r["epoch"]) for r in made["records"]],
         [(r["vtpm_id"], r["vm_uuid"], r["epoch"]) for r in source["records"]])
    true(place.generation() > place.generation("source.vtpm"), "the generation goes on")
    place.refused(6, ["[in-use]", "process %d" % device.pid], "state.vtpm")
    device.kill()
    device = place.start("state.vtpm", "--vm-uuid", vm)
    control, data = device.powered()
    same(data.nv(INDEX, 5), b"later")
    device.term()
    place.sound()
    same([name for name in os.listdir(".") if name.startswith(".")], [])


def test_incoming_refused(place):
    """--incoming without a file: another VM's, a mixed pair, rubbish, an ended client: no file is made"""
    vm = str(uuid.uuid4())
    device, control, data = prepared(place, "--vm-uuid", vm)
    stale = control.pair()[1]
    data.good(get_random())
    pair = control.pair()
    device.term()
    os.rename("state.vtpm", "source.vtpm")
    other = str(uuid.uuid4())
    device = place.start("state.vtpm", "--incoming", "--vm-uuid", other, log="other")
    with device.control() as control:
        same(control.set_blob(PERMANENT, pair[0]), KEY_NOT_FOUND)
        contains(device.log(), "[identity-other]", vm, other)
        same(control.init(), FAILURE)
    device.term()
    device = place.start("state.vtpm", "--incoming", "--vm-uuid", vm)
    for _ in range(2):
        with device.control() as control:
            data = control.open_data()
            same(control.load(pair[0], stale), FAILURE)
            same(control.set_blob(PERMANENT, pair[0][:-3] + b"abc"), FAILURE)
            same(control.set_blob(PERMANENT, os.urandom(4000)), FAILURE)
            same(data.rc(get_random()), FAILURE)
            control.send(words(SET_STATEBLOB, 2, PERMANENT, len(pair[0])) + pair[0][:1000])
            data.close()
    true(not os.path.exists("state.vtpm"), "a file was made")
    with device.control() as control:
        same(control.load(*pair), 0, "and then the right one comes")
    device.term()
    place.sound()


def test_incoming_ends_without(place):
    """--incoming and nothing comes: SIGTERM and SHUTDOWN end it with exit 0, no file is made"""
    for how in ("term", "shutdown"):
        device = place.start("state.vtpm", "--incoming", "--vm-uuid", str(uuid.uuid4()))
        if how == "term":
            device.term()
        else:
            with device.control() as control:
                same(control.result(SHUTDOWN), 0)
            same(device.wait(), 0)
    true(not os.path.exists("state.vtpm"), "a file was made")


def test_incoming_key(place):
    """--incoming: a provider that fails is told with its code at SET_STATEBLOB; when it answers the same blob loads"""
    place.add_gate()
    device, control, data = prepared(place, "--provider", "gate")
    pair = control.pair()
    device.term()
    os.remove("state.vtpm")
    device = place.start("state.vtpm", "--incoming")
    control = device.control()
    data = control.open_data()
    for mode, code, word in (("error access-denied no", KEY_NOT_FOUND, "[access-denied]"),
                             ("error wrong-passphrase no", 0x21, "[wrong-passphrase]")):
        place.gate(mode)
        same(control.set_blob(PERMANENT, pair[0]), code)
        contains(device.log(), word)
    place.gate("open")
    same(control.load(*pair), 0)
    same(data.nv(INDEX, 5), b"first")
    device.term()
    place.sound()


def test_end_while_a_key_is_asked_for(place):
    """SIGTERM while a provider is asked for a blob's key ends it at once, and no file is made"""
    place.add_gate()
    device, control, data = prepared(place, "--provider", "gate")
    pair = control.pair()
    device.term()
    os.remove("state.vtpm")
    place.gate("wait")
    asked = len(place.asked())
    device = place.start("state.vtpm", "--incoming")
    control = device.control()
    control.send(words(SET_STATEBLOB, 2, PERMANENT, len(pair[0])) + pair[0])
    wait_until(lambda: len(place.asked()) > asked, "the provider is asked")
    begin = time.monotonic()
    device.term()
    true(time.monotonic() - begin < 5, "it took %.1f s" % (time.monotonic() - begin))
    true(not os.path.exists("state.vtpm"), "a file was made")


def test_incoming_same_file(place):
    """--incoming on a file of the same vTPM: taken over with a higher generation; what it holds already commits nothing"""
    device, control, data = prepared(place)
    data.good(nv_write(INDEX, b"again"))
    old = control.pair()
    shutil.copy("state.vtpm", "behind.vtpm")
    for number in range(5):
        data.good(nv_write(INDEX, b"%05d" % number))
    new = control.pair()
    high = place.generation()
    device.kill()
    device = place.start("behind.vtpm", "--incoming", log="behind")
    control = device.control()
    data = control.open_data()
    same(control.load(*new), 0)
    same(data.nv(INDEX, 5), b"00004")
    true(place.generation("behind.vtpm") > high, "the generation is that of the state that came, or below")
    device.term()
    place.sound("behind.vtpm")
    device = place.start("state.vtpm", "--incoming")
    control = device.control()
    data = control.open_data()
    before = read_file("state.vtpm")
    same(control.load(*new), 0)
    same(read_file("state.vtpm"), before, "what the file holds already was committed again")
    same(data.nv(INDEX, 5), b"00004")
    same(control.load(*old), 0)
    same(data.nv(INDEX, 5), b"again")
    true(place.generation() > high, "the generation went back")
    device.term()
    place.sound()


def test_incoming_other_file(place):
    """--incoming on a file of another vTPM: the blob is refused, the file stays"""
    pair, _ = outgoing(place)
    place.create("state.vtpm")
    before = read_file("state.vtpm")
    device = place.start("state.vtpm", "--incoming")
    with device.control() as control:
        same(control.result(STOP), 0)
        same(control.set_blob(PERMANENT, pair[0]), KEY_NOT_FOUND)
    contains(device.log(), "[identity-other]")
    device.kill()
    same(read_file("state.vtpm"), before)


def test_incoming_file_appears(place):
    """--incoming without a file, and one is made meanwhile: it is not overwritten"""
    pair, _ = outgoing(place)
    device = place.start("state.vtpm", "--incoming")
    with device.control() as control:
        same(control.set_blob(PERMANENT, pair[0]), 0)
        place.create("state.vtpm")
        before = read_file("state.vtpm")
        same(control.init(), FAILURE)
    contains(device.log(), "[state-exists]")
    device.term()
    same(read_file("state.vtpm"), before)


if __name__ == "__main__":
    main(globals())
