#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""State blobs in and out of a running device, and suspended state in the file."""
import os
import shutil
import sys
import time
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from blobs import FAILURE, INDEX, prepared  # noqa: E402
from device import (BAD_ORDINAL, BAD_PARAMETER, DELETE_VOLATILE, GET_ESTABLISHED, HASH_DATA, HASH_END,  # noqa: E402
                    HASH_START, INIT, KEY_NOT_FOUND, NO_SUCH_BLOB, PERMANENT, RESET_ESTABLISHED, SAVESTATE, SET_STATEBLOB,
                    SHUTDOWN, STOP, STORE_VOLATILE, VOLATILE, contains, main, read_file, same, true, wait_until)
from keyhost import HEADER_BYTE, add_native, byte_lock, uuid_of, vtpm  # noqa: E402
from tpm_bytes import (RC_INITIALIZE, create_primary_rsa, flush, get_random, nv_define, nv_write,  # noqa: E402
                       pcr_extend, rc_of, shutdown, startup, words)


def usable(control, data, value=b"first"):
    """The TPM powers on from the file, cold."""
    same(control.init(), 0, "INIT")
    same(data.rc(get_random()), RC_INITIALIZE)
    same(data.rc(startup()), 0)
    same(data.nv(INDEX, 5), value)


def test_sealed(place):
    """blobs are sealed also when QEMU asks for decrypted ones; after any command they differ in every byte that can"""
    device, control, data = prepared(place)
    for kind in (PERMANENT, VOLATILE):
        blobs = [control.get_blob(kind, 0, flags) for flags in (0, 1, 1, 0xFFFFFFFF)]
        same({(result, flags) for result, flags, _, _ in blobs}, {(0, 2)})
        same(len({blob for _, _, _, blob in blobs}), 1, "nothing has changed")
    same(control.get_blob(SAVESTATE), (NO_SUCH_BLOB, 0, 0, b""))
    first = control.blob(PERMANENT)
    data.good(get_random())
    second = control.blob(PERMANENT)
    tail = [(a, b) for a, b in zip(first[-1200:], second[-1200:])]
    true(sum(a == b for a, b in tail) < 40, "two seals are alike")
    device.term()


def test_snapshot(place):
    """a snapshot loads in the same process and in another: NV, PCR and the power state are those of then"""
    device, control, data = prepared(place)
    pcr = data.pcr(16)
    blobs = control.pair()
    generation = place.generation()
    for number in range(4):
        data.good(nv_write(INDEX, b"later"))
        data.good(pcr_extend(16, b"\2" * 32))
        same(control.load(*blobs), 0)
        same((data.nv(INDEX, 5), data.pcr(16)), (b"first", pcr), "resumed without TPM2_Startup")
        true(place.generation() > generation, "the generation goes up")
        generation = place.generation()
        if number == 1:
            same(control.result(SHUTDOWN), 0)
            same(device.wait(), 0)
        if number == 2:
            device.kill()
        if number in (1, 2):
            device = place.start()
            control, data = device.powered()
            same(data.nv(INDEX, 5), b"first", "what was loaded is in the file")
    device.term()
    place.sound()


def test_permanent_alone(place):
    """a permanent blob alone starts cold; of a TPM that is off there is no volatile one"""
    device, control, data = prepared(place)
    permanent, _ = control.pair()
    data.good(nv_write(INDEX, b"later"))
    same(control.load(permanent), 0)
    same(data.rc(get_random()), RC_INITIALIZE)
    data.good(startup())
    same(data.nv(INDEX, 5), b"first")
    same(control.result(STOP), 0)
    off = control.blob(PERMANENT)
    same(control.get_blob(VOLATILE), (NO_SUCH_BLOB, 0, 0, b""))
    same(control.load(off), 0)
    data.good(startup())


def test_pairs(place):
    """permanent and volatile blobs of two requests are refused at INIT, and the TPM is usable"""
    device, control, data = prepared(place)
    first = control.pair()
    same(control.pair(), first, "nothing has happened in between")
    data.good(get_random())
    second = control.pair()
    data.good(get_random())
    third = control.blob(PERMANENT)
    data.good(get_random())
    fourth = control.blob(VOLATILE)  # of another moment than the permanent one
    data.good(nv_write(INDEX, b"later"))
    for permanent, volatile in ((first[0], second[1]), (second[0], first[1]), (third, fourth), (third, first[1])):
        same(control.load(permanent, volatile), FAILURE)
        contains(device.log(), "[blob-mismatch]")
        usable(control, data, b"later")
    for pair in (first, second):
        same(control.load(*pair), 0)
        same(data.nv(INDEX, 5), b"first")


def test_refused_with_advice(place):
    """a blob that is refused for what it is: the log says so, and what to do"""
    device, control, _ = prepared(place)
    permanent, volatile = control.pair()
    same(control.result(STOP), 0)
    for kind, blob, advice in ((PERMANENT, volatile, "; send each of the two as what it is"),
                               (VOLATILE, permanent, "; send each of the two as what it is"),
                               (PERMANENT, permanent + b"x", "; take it anew from where it was saved")):
        told = len(device.log())
        same(control.set_blob(kind, blob), FAILURE)
        contains(device.log()[told:], "[blob-mismatch]", advice)
    device.term()


def test_moment(place):
    """the volatile half is of the moment of the permanent one, also where the TPM was stopped before it was fetched"""
    device, control, data = prepared(place)
    pcr = data.pcr(16)
    permanent = control.blob(PERMANENT)
    same(control.result(STOP), 0)
    volatile = control.blob(VOLATILE)
    usable(control, data)
    same(control.load(permanent, volatile), 0)
    same((data.nv(INDEX, 5), data.pcr(16)), (b"first", pcr), "resumed without TPM2_Startup")
    device.term()


def test_volatile_first(place):
    """the volatile blob asked for first belongs to the permanent one after it, but for a command or a stop between"""
    device, control, data = prepared(place)
    pcr = data.pcr(16)
    volatile, permanent = control.blob(VOLATILE), control.blob(PERMANENT)
    data.good(get_random())
    again = control.blob(PERMANENT)  # begins anew, as QEMU's next snapshot does
    for between in (lambda: data.good(get_random()), lambda: same(control.result(STOP), 0)):
        early = control.blob(VOLATILE)
        between()
        late = control.blob(PERMANENT)
        same(control.load(late, early), FAILURE)
        contains(device.log(), "[blob-mismatch]")
        usable(control, data)
    early = control.blob(VOLATILE)
    add_native(place, "second")
    vtpm(place, "rekey", "--to", "second", "state.vtpm")
    late = control.blob(PERMANENT)
    vtpm(place, "rekey", "--to", "native", "state.vtpm")
    second = bytes.fromhex(uuid_of(place, "second").replace("-", ""))
    same((second in early, second in late), (False, True), "its key slot is that of after the rekey")
    told = len(device.log())
    same(control.load(again, volatile), FAILURE)
    contains(device.log()[told:], "[blob-mismatch]")
    same(control.load(permanent, volatile), 0)
    same((data.nv(INDEX, 5), data.pcr(16)), (b"first", pcr), "resumed without TPM2_Startup")
    device.term()


def quiet(device):
    """Waits until the device has sealed a pair ahead of what is asked: it does when no command has come for a while."""
    told = device.log().count("sealed ahead")
    return lambda: wait_until(lambda: device.log().count("sealed ahead") > told, "a pair is sealed ahead")


def test_sealed_ahead(place):
    """a pair that was sealed ahead, while no command came, is given as it is, and to who begins with offset 0"""
    place.create("state.vtpm")
    device = place.start("state.vtpm", "--log-level", "debug")
    settled = quiet(device)
    control, data = device.powered()
    data.good(nv_define(INDEX, 5))
    data.good(nv_write(INDEX, b"first"))
    settled()
    settled = quiet(device)
    pcr = data.pcr(16)
    settled()
    same([control.get_blob(kind, 100)[0] for kind in (PERMANENT, VOLATILE)], [BAD_PARAMETER] * 2)
    first = control.pair()
    settled = quiet(device)
    data.good(get_random())
    settled()
    for kind, blob in zip((PERMANENT, VOLATILE), first):
        same(control.get_blob(kind, 1000)[3], blob[1000:], "who reads in pieces reads on in what was given him")
    volatile, permanent = control.blob(VOLATILE), control.blob(PERMANENT)
    true(first[0] != permanent and first[1] != volatile, "they are of before the command")
    for pair in (first, (permanent, volatile)):
        same(control.load(*pair), 0)
        same((data.nv(INDEX, 5), data.pcr(16)), (b"first", pcr), "resumed without TPM2_Startup")
    device.term()


def test_ahead_is_what_is_given(place):
    """who asks after the last command is given what was sealed ahead: nothing is sealed for him"""
    place.create("state.vtpm")
    device = place.start("state.vtpm", "--log-level", "debug")
    control, data = device.powered()

    def none_is_sealed():
        data.good(get_random())
        time.sleep(0.1)  # a busy host may take longer, so this is tried again
        sealed = device.log().count("blobs are sealed")
        true(sealed, "the log tells it")
        control.pair()
        return device.log().count("blobs are sealed") == sealed

    wait_until(none_is_sealed, "what was sealed ahead is given")
    device.term()


def test_ahead_of_a_tool(place):
    """to seal ahead waits for nobody who has the file: the guest's commands would wait with it"""
    place.create("state.vtpm")
    device = place.start("state.vtpm", "--log-level", "debug")
    _, data = device.powered()
    with byte_lock(HEADER_BYTE):
        begin = time.monotonic()
        settled = quiet(device)
        data.good(get_random())
        settled()
        data.good(get_random())
        true(time.monotonic() - begin < 3, "the tool was waited for")
    device.term()


def test_tool_has_header(place):
    """a tool that holds the header and has written nothing keeps no snapshot waiting"""
    place.create("state.vtpm")
    device = place.start("state.vtpm")
    control, data = device.powered()
    control.pair()
    data.good(get_random())
    with byte_lock(HEADER_BYTE):
        begin = time.monotonic()
        pair = control.pair()
        true(time.monotonic() - begin < 3, "the tool was waited for")
    same(control.load(*pair), 0)
    device.term()


def test_ahead_of_what_changes(place):
    """what was sealed ahead is not given where a command, the host, a tool or the power came after it"""
    place.create("state.vtpm")
    add_native(place, "second")
    device = place.start("state.vtpm", "--log-level", "debug", "--manage", "unix:manage")
    control, data = device.powered()
    data.good(nv_define(INDEX, 5))

    def after(change):
        settled = quiet(device)
        data.good(nv_write(INDEX, b"first"))
        settled()
        change()
        return control.pair()

    def measure():
        same([control.result(HASH_START), control.result(HASH_DATA, words(3) + b"abc"), control.result(HASH_END)], [0] * 3)

    same(control.load(*after(lambda: data.good(nv_write(INDEX, b"later")))), 0)
    same(data.nv(INDEX, 5), b"later")
    pair = after(measure)
    pcr = data.pcr(17)
    true(pcr != b"\xff" * 32, "it was measured")
    data.good(nv_write(INDEX, b"other"))
    same(control.load(*pair), 0)
    same((data.pcr(17), control.call(GET_ESTABLISHED, reply=8)[1]), (pcr, 0x01000000))
    control.locality(3)
    pair = after(lambda: same(control.result(RESET_ESTABLISHED, bytes([3, 0, 0, 0])), 0))
    same(control.load(*pair), 0)
    same(control.call(GET_ESTABLISHED, reply=8)[1], 0)
    control.locality(0)
    second = bytes.fromhex(uuid_of(place, "second").replace("-", ""))
    pair = after(lambda: vtpm(place, "rekey", "--to", "second", "state.vtpm"))
    true(second in pair[0] and second in pair[1], "their key slot is that of after the rekey")
    pair = after(lambda: vtpm(place, "rekey", "--deep", "--manage", "manage", "state.vtpm"))
    same(control.load(*pair), 0)
    same({s["epoch"] for s in place.inspect()["state_slots"]}, {2})
    pair = after(lambda: same(control.result(STORE_VOLATILE), 0))
    same([int.from_bytes(blob[40:48], "little") for blob in pair], [place.generation()] * 2)
    same(control.load(*pair), 0)
    settled = quiet(device)
    data.good(shutdown())  # nothing is stored with the stop
    settled()
    same(control.result(STOP), 0)
    permanent = control.blob(PERMANENT)
    same(control.get_blob(VOLATILE), (NO_SUCH_BLOB, 0, 0, b""))
    same(control.load(permanent), 0)
    usable(control, data)
    device.term()


def test_second_round(place):
    """after a pair was given, the next two belong together, in either order, whatever happens to the file before or between"""
    device, control, data = prepared(place)
    device.term()
    device = place.start("state.vtpm", "--manage", "unix:manage")
    control, data = device.powered()

    def rekey(*how):
        return lambda: vtpm(place, "rekey", *how, "--manage", "manage", "state.vtpm")

    def store():
        same(control.result(STORE_VOLATILE), 0)

    add_native(place, "second")
    deep, slot, back = rekey("--deep"), rekey("--to", "second"), rekey("--to", "native")
    # a change of key slots begins a pair where the permanent blob, which is to be opened by them, is asked for last
    for before, order, between in ((None, "PV", deep), (deep, "VP", None), (None, "VP", store), (store, "VP", None),
                                   (None, "PV", store), (slot, "VP", None), (None, "PV", back)):
        data.good(get_random())
        control.pair()
        kinds = [PERMANENT if letter == "P" else VOLATILE for letter in order]
        if before:
            before()
        blobs = {kinds[0]: control.blob(kinds[0])}
        if between:
            between()
        blobs[kinds[1]] = control.blob(kinds[1])
        same(control.load(blobs[PERMANENT], blobs[VOLATILE]), 0, "%s, %s" % (before, order))
        same(data.nv(INDEX, 5), b"first")
    control.pair()
    same(control.result(STOP), 0)
    same(control.get_blob(VOLATILE), (NO_SUCH_BLOB, 0, 0, b""))
    same(control.load(control.blob(PERMANENT)), 0)
    device.term()


def test_completed_after_a_store(place):
    """a volatile blob given alone belongs to the permanent one after it, also where it was stored meanwhile, and that
    one to a volatile one after it"""
    device, control, data = prepared(place)
    volatile = control.blob(VOLATILE)
    same(control.result(STORE_VOLATILE), 0)
    permanent = control.blob(PERMANENT)
    same(control.result(STOP), 0)
    same(control.blob(VOLATILE), volatile)
    same(control.load(permanent, volatile), 0)
    same(data.nv(INDEX, 5), b"first")
    device.term()


def test_chunks(place):
    """GET_STATEBLOB by offset reads on in the blob that offset 0 began; beyond its end is refused"""
    device, control, data = prepared(place)
    for kind in (PERMANENT, VOLATILE):
        whole = control.blob(kind)
        for step in (1000, 3072, len(whole) - 1):
            got = b""
            for offset in range(0, len(whole), step):
                result, flags, total, rest = control.get_blob(kind, offset) if offset else (0, 2, len(whole), whole)
                same((result, flags, total, len(rest)), (0, 2, len(whole), len(whole) - offset))
                got += rest[:step]
            same(got, whole)
        same(control.get_blob(kind, len(whole)), (0, 2, len(whole), b""))
        same(control.get_blob(kind, len(whole) + 1), (BAD_PARAMETER, 0, 0, b""))


def test_pieces(place):
    """SET_STATEBLOB takes a blob in pieces; one that did not come in whole is refused, and the TPM is usable"""
    device, control, data = prepared(place)
    permanent, volatile = control.pair()
    data.good(nv_write(INDEX, b"later"))
    for step in (7, 1000, 3072):
        same(control.result(STOP), 0)
        for kind, blob in ((VOLATILE, volatile), (PERMANENT, permanent)):
            if step == 7:
                blob, rest = blob[:700], blob[700:]
            for at in range(0, len(blob), step):
                same(control.set_blob(kind, blob[at:at + step]), 0)
            if step == 7:
                same(control.set_blob(kind, rest), 0)
        same(control.set_blob(SAVESTATE, b""), 0)
        same(control.init(DELETE_VOLATILE), 0)
        same(data.nv(INDEX, 5), b"first")
    data.good(nv_write(INDEX, b"later"))
    for kind, blob in ((PERMANENT, permanent), (VOLATILE, volatile)):
        for length in (1, 50, len(blob) - 1):
            same(control.result(STOP), 0)
            if kind == VOLATILE:
                same(control.set_blob(PERMANENT, permanent), 0)
            same(control.set_blob(kind, blob[:length]), 0)
            same(control.init(), FAILURE)
            usable(control, data, b"later")


def test_anew(place):
    """a blob that is sent anew, whole or in pieces, takes the place of the one before; the rest of one does not"""
    device, control, data = prepared(place)
    first = control.pair()
    data.good(nv_write(INDEX, b"later"))
    second = control.pair()
    for permanent, volatile in (first, second):
        same(control.result(STOP), 0)
        for blob in (*first[:1], *second[:1], permanent):
            same(control.set_blob(PERMANENT, blob), 0)
        same(control.set_blob(VOLATILE, second[1]), 0)
        same(control.set_blob(VOLATILE, volatile[:1000]), 0)
        same(control.set_blob(VOLATILE, volatile[1000:]), 0)
        same(control.init(DELETE_VOLATILE), 0)
        same(data.nv(INDEX, 5), b"first" if permanent == first[0] else b"later")
    same(control.result(STOP), 0)
    for blob in (second[0], first[0][:-1] + bytes([first[0][-1] ^ 1]), b"rest"):
        result = control.set_blob(PERMANENT, blob)
        same(result, 0 if blob == second[0] else FAILURE)
    usable(control, data, b"later")


def test_wrong_type(place):
    """a blob sent as another type, a volatile one alone, and while the TPM is on: refused, and the TPM is usable"""
    device, control, data = prepared(place)
    permanent, volatile = control.pair()
    same(control.set_blob(PERMANENT, permanent), BAD_ORDINAL)
    for kind, blob in ((PERMANENT, volatile), (VOLATILE, permanent)):
        same(control.result(STOP), 0)
        same(control.set_blob(kind, blob), FAILURE)
        usable(control, data)
    same(control.result(STOP), 0)
    same(control.set_blob(VOLATILE, volatile), 0)
    same(control.init(), FAILURE)
    usable(control, data)
    same(control.result(STOP), 0)
    same(control.set_blob(SAVESTATE, b"x"), BAD_PARAMETER)
    usable(control, data)


def rejected(control, permanent, volatile):
    """The codes of SET_STATEBLOB and INIT until one is not 0."""
    same(control.result(STOP), 0)
    for kind, blob in ((PERMANENT, permanent), (VOLATILE, volatile)):
        result = control.set_blob(kind, blob)
        if result:
            same(control.init(), 0, "INIT after a refused blob starts from the file")
            return result
    return control.init()


def test_tampered(place):
    """a bit of any byte flipped, bytes cut off or added, rubbish: refused, the file unchanged, the TPM usable"""
    device, control, data = prepared(place)
    permanent, volatile = control.pair()
    same(control.result(STOP), 0)
    before = read_file("state.vtpm")
    count = 0
    for index, blob in enumerate((permanent, volatile)):
        pair = [permanent, volatile]
        offsets = [*range(0, min(len(blob), 300), 7), *range(0, len(blob), 97), len(blob) - 1]
        for offset in sorted(set(offsets)):
            changed = bytearray(blob)
            changed[offset] ^= 1 << offset % 8
            pair[index] = bytes(changed)
            code = rejected(control, *pair)
            true(code not in (0, NO_SUCH_BLOB), "bit of byte %d of blob %d: 0x%x" % (offset, index, code))
            count += 1
        for changed in (blob + b"\0", blob * 2, os.urandom(500), b"\0" * 500000, b"vtpm"):
            pair[index] = changed
            true(rejected(control, *pair) != 0, "of %d bytes" % len(changed))
            same(control.init(), 0)
    same(control.result(STOP), 0)
    usable(control, data)
    device.term()
    place.sound()
    true(len(before) == len(read_file("state.vtpm")), "the file is as long as before")
    return "%d flips" % count


def test_refused_changes_nothing(place):
    """a refused blob and a refused INIT leave every byte of the file"""
    device, control, data = prepared(place)
    place.create("other.vtpm")
    other = place.start("other.vtpm")
    other_control, _ = other.powered()
    foreign = other_control.blob(PERMANENT)
    stale = control.pair()[1]
    data.good(get_random())
    permanent, volatile = control.pair()
    same(control.result(STOP), 0)
    before = read_file("state.vtpm")
    same(control.set_blob(PERMANENT, foreign), KEY_NOT_FOUND)
    same(control.set_blob(PERMANENT, permanent[:-1] + bytes([permanent[-1] ^ 1])), FAILURE)
    same(control.load(permanent, stale), FAILURE)
    same(control.set_blob(VOLATILE, volatile), 0)
    same(control.init(), FAILURE)
    same(read_file("state.vtpm"), before)
    usable(control, data)


def test_other_vtpm(place):
    """another vTPM's blob is refused with identity-other (0x0d), and the TPM is usable"""
    device, control, data = prepared(place)
    vm = str(uuid.uuid4())
    for name, args in (("other.vtpm", ()), ("bound.vtpm", ("--vm-uuid", vm))):
        place.create(name, *args)
        other = place.start(name)
        other_control, _ = other.powered()
        permanent, volatile = other_control.pair()
        same(control.result(STOP), 0)
        same(control.set_blob(PERMANENT, permanent), KEY_NOT_FOUND)
        same(control.set_blob(VOLATILE, volatile), KEY_NOT_FOUND)
        contains(device.log(), "[identity-other]", place.inspect(name)["records"][0]["vtpm_id"],
                 place.inspect()["records"][0]["vtpm_id"])
        usable(control, data)
        other.term()


def test_bound_and_unbound(place):
    """a snapshot from before the bind loads after it; one of a bound TPM does not load into its unbound copy"""
    vm = str(uuid.uuid4())
    device, control, data = prepared(place)
    before = control.pair()
    device.term()
    shutil.copy("state.vtpm", "copy.vtpm")
    device = place.start("state.vtpm", "--vm-uuid", vm)
    control, data = device.powered()
    data.good(nv_write(INDEX, b"later"))
    after = control.pair()
    same(control.load(*before), 0)
    same(data.nv(INDEX, 5), b"first")
    same({s["epoch"] for s in place.inspect()["state_slots"]}, {2})
    device.term()
    copy = place.start("copy.vtpm")
    control, data = copy.powered()
    same(control.result(STOP), 0)
    same(control.set_blob(PERMANENT, after[0]), KEY_NOT_FOUND)
    usable(control, data)


def test_ctl_save_and_load(place):
    """vtpm ctl save and load carry a snapshot over"""
    device, control, data = prepared(place)
    control.close()
    for kind in ("permanent", "volatile"):
        same(place.vtpm("ctl", device.path, "save", kind, kind).returncode, 0)
    data.good(nv_write(INDEX, b"later"))
    for line in (["stop"], ["load", "permanent", "permanent"], ["load", "volatile", "volatile"], ["init"]):
        done = place.vtpm("ctl", device.path, *line)
        same((done.returncode, done.stderr), (0, ""), " ".join(line))
    same(data.nv(INDEX, 5), b"first")


def test_random_numbers_differ(place):
    """two resumes of one saved volatile state never draw the same random numbers, nor two loads of one snapshot"""
    device, control, data = prepared(place)
    blobs = control.pair()
    drawn = set()
    for _ in range(5):
        same(control.load(*blobs), 0)
        drawn.add(data.good(get_random(32))[12:])
    same(control.result(STORE_VOLATILE), 0)
    device.kill()
    for number in range(5):
        shutil.copy("state.vtpm", "copy%d.vtpm" % number)
        copy = place.start("copy%d.vtpm" % number)
        control, data = copy.powered(start=False)
        drawn.add(data.good(get_random(32))[12:])
        copy.kill()
    same(len(drawn), 10)


def restart(place, device, control, how):
    """Ends or stops the device in the way HOW; gives device, control and data with a TPM that is off."""
    if how == "stop":
        same(control.result(STOP), 0)
        return device, control, None
    if how == "reset":
        return device, control, None
    if how == "kill":
        device.kill()
    elif how == "shutdown":
        same(control.result(SHUTDOWN), 0)
        same(device.wait(), 0)
    else:
        device.term()
    device = place.start()
    control = device.control()
    return device, control, control.open_data()


def test_store_volatile(place):
    """STORE_VOLATILE, then INIT resumes: after STOP, INIT alone, SHUTDOWN, SIGTERM and SIGKILL"""
    device, control, data = prepared(place)
    pcr = data.pcr(16)
    for how in ("stop", "reset", "shutdown", "term", "kill"):
        same(control.result(STORE_VOLATILE), 0)
        device, control, fresh = restart(place, device, control, how)
        data = fresh or data
        same(control.init(), 0)
        same(data.rc(get_random()), 0, "resumed after " + how)
        same(data.pcr(16), pcr)


def test_store_volatile_once(place):
    """saved volatile state is resumed once: after the first resume a start is cold, whatever ended it"""
    device, control, data = prepared(place)
    for how in ("kill", "term", "stop"):
        same(control.result(STORE_VOLATILE), 0)
        device, control, data = restart(place, device, control, "kill")
        same(control.init(), 0)
        if how == "stop":
            data.good(get_random())
        device, control, fresh = restart(place, device, control, how)  # without any command
        data = fresh or data
        same(control.init(), 0)
        same(data.rc(get_random()), RC_INITIALIZE, "after " + how)
        same(data.rc(startup()), 0)
        same(data.nv(INDEX, 5), b"first")


def test_store_volatile_out_of_date(place):
    """a command after STORE_VOLATILE makes the saved state out of date: the next start is cold, NV newer"""
    device, control, data = prepared(place)
    for command in (nv_write(INDEX, b"later"), pcr_extend(16, b"\3" * 32), get_random()):
        same(control.result(STORE_VOLATILE), 0)
        data.good(command)
        device, control, data = restart(place, device, control, "kill")
        usable(control, data, b"later")


def test_delete_volatile(place):
    """INIT with DELETE_VOLATILE starts cold, and the saved state is gone"""
    device, control, data = prepared(place)
    for how in ("kill", "term", "reset"):
        same(control.result(STORE_VOLATILE), 0)
        device, control, fresh = restart(place, device, control, how)
        data = fresh or data
        same(control.init(DELETE_VOLATILE), 0)
        same(data.rc(get_random()), RC_INITIALIZE, "after " + how)
        device, control, data = restart(place, device, control, "kill")
        usable(control, data)


def test_blob_of_suspended(place):
    """of a TPM that lies suspended in the file both blobs can be had, and resume elsewhere"""
    device, control, data = prepared(place)
    pcr = data.pcr(16)
    same(control.result(STORE_VOLATILE), 0)
    device, control, data = restart(place, device, control, "kill")
    wait_until(lambda: control.get_blob(PERMANENT)[0] == 0, "the key is there")
    pair = control.pair()
    same(control.init(), 0)
    data.good(pcr_extend(16, b"\4" * 32))
    same(control.load(*pair), 0)
    same(data.pcr(16), pcr)


def test_while_a_command_runs(place):
    """a state blob asked for while a command runs is of the state after it"""
    device, control, data = prepared(place)
    data.send(create_primary_rsa(b"busy"))
    time.sleep(0.003)
    pair = control.pair()
    response = data.read()
    same(rc_of(response), 0)
    data.good(flush(response[10:14]))
    same(control.load(*pair), 0)
    data.good(flush(response[10:14]))  # the key was made, and loaded


def test_key_awaited(place):
    """a blob that comes before the key waits for it as INIT does"""
    place.add_gate()
    place.configure("init-wait=20\n")
    device, control, data = prepared(place, "--provider", "gate")
    pair = control.pair()
    device.term()
    place.gate("wait")
    asked = len(place.asked())
    device = place.start()
    control = device.control()
    data = control.open_data()
    wait_until(lambda: len(place.asked()) > asked, "the provider is asked")
    control.send(words(SET_STATEBLOB, 2, PERMANENT, len(pair[0])) + pair[0]
                 + words(SET_STATEBLOB, 2, VOLATILE, len(pair[1])) + pair[1] + words(INIT, DELETE_VOLATILE))
    time.sleep(0.1)
    place.gate("open")
    same(control.read(12), words(0, 0, 0))
    same(data.nv(INDEX, 5), b"first")
    device.term()


if __name__ == "__main__":
    main(globals())
