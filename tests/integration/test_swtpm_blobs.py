#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""State blobs that an swtpm sends: a VM that runs on it is migrated to us, or restored here. They come from Debian's."""
import contextlib
import json
import os
import shutil
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (DELETE_VOLATILE, PERMANENT, SHUTDOWN, STOP, VOLATILE, contains, lacks, main, read_file,  # noqa: E402
                    same, true, wait_until, write_file)
from swtpm import MARKS, OTHER_VM, STATE, VM, Served, debian, folder_of, pipe_of, setup, unmark  # noqa: E402
from tpm_bytes import nv_define, nv_write, pcr_extend, startup  # noqa: E402

INDEX = 0x01500001
FAILURE, NO_KEY, WRONG_KEY, RUNNING = 0x101, 0x0D, 0x21, 0x0A
WORD, OTHER_WORD = b"the secret of both hosts", b"another one"
ENCRYPTED = 2
CBC_256 = ",mode=aes-256-cbc"
AT_REST, ON_THE_WAY = ("--key", "pwdfile=word" + CBC_256), ("--migration-key", "pwdfile=word" + CBC_256)


def sent(place, name, *args, flags=1):
    """What a guest left in a TPM of Debian's swtpm, and the blobs that it gave while the guest ran."""
    write_file("word", WORD)
    theirs = Served(place, folder_of(name, "theirs"), *args, program=debian(), ctrl="t-" + name)
    control, data = theirs.powered()
    data.good(startup())
    data.good(nv_define(INDEX, 10))
    data.good(nv_write(INDEX, b"kept by it"))
    data.good(pcr_extend(16, b"\1" * 32))
    blobs = []
    for kind in (PERMANENT, VOLATILE):
        result, got_flags, total, blob = control.get_blob(kind, flags=flags)
        same((result, total), (0, len(blob)))
        blobs.append((blob, got_flags))
    pcr = data.pcr(16)
    same(control.result(SHUTDOWN), 0)
    theirs.process.wait(10)
    return blobs, pcr


def load(control, blobs):
    """The first result that is not 0, of what QEMU sends."""
    same(control.result(STOP), 0)
    for kind, (blob, flags) in zip((PERMANENT, VOLATILE), blobs):
        result = control.set_blob(kind, blob, flags)
        if result:
            return result
    return control.init(DELETE_VOLATILE)


def keys(word=WORD, own=True, way=True):
    """(arguments, descriptors), as libvirt passes one secret twice."""
    names = ["--key"] * own + ["--migration-key"] * way
    fds = [pipe_of(word) for _ in names]
    return [item for name, fd in zip(names, fds) for item in (name, "pwdfd=%d%s" % (fd, CBC_256))], fds


def finds_all(place, folder, blobs, pcr, *args, fds=()):
    """A TPM of ours takes them in, goes on where it was, and is there after a cold start."""
    target = Served(place, folder, *args, ctrl="ours", pass_fds=fds)
    with target.control() as control:
        data = control.open_data()
        same(load(control, blobs), 0, target.errors())
        same((data.nv(INDEX, 10), data.pcr(16)), (b"kept by it", pcr), "it goes on where it was")
        data.good(nv_write(INDEX, b"later here"))
        same(control.result(SHUTDOWN), 0)
    target.ends(0)


def cold(place, folder, *args, fds=()):
    served = Served(place, folder, *args, ctrl="cold", pass_fds=fds)
    control, data = served.powered()
    data.good(startup())
    same(data.nv(INDEX, 10), b"later here")
    control.close()
    served.shutdown()


def sealed(path):
    lacks(read_file(path).decode("latin-1"), "kept by it", "later here")


def test_plain(place):
    """into an empty folder, a place that setup made, and one with --migration incoming: all goes on, sealed, and is told"""
    blobs, pcr = sent(place, "plain")
    contains(blobs[0][0].decode("latin-1"), "kept by it")
    for name in ("empty", "prepared", "incoming"):
        folder = folder_of(VM, name)
        if name == "prepared":
            setup(place, folder, "--overwrite")
        if name == "incoming":
            write_file(os.path.join(folder, MARKS[0]), b"")
        finds_all(place, folder, blobs, pcr, *(("--migration", "incoming") if name == "incoming" else ()))
        record = place.inspect(os.path.join(folder, STATE))["records"][0]
        same((record["vm_uuid"], record["awaits_incoming"]), (VM, False), name)
        cold(place, folder)
        sealed(os.path.join(folder, STATE))
        place.sound(os.path.join(folder, STATE))
        same([entry for entry in os.listdir(folder) if "incoming" in entry], [])
    lines = [json.loads(line) for line in read_file(os.path.join(place.data_dir, "audit.log")).splitlines()]
    told = [line for line in lines if line["act"] == "state-import"]
    same([(line["outcome"], "swtpm sent" in line["detail"]) for line in told], [("ok", True)] * 3, str(told))


def test_encrypted(place):
    """with the migration key: by libvirt's secret, by a key file; as the file had them encrypted too (flags 0)"""
    write_file("rawkey", os.urandom(16).hex().encode())
    raw = ("--migration-key", "file=rawkey")
    for name, args, flags, ours in (("way", ON_THE_WAY, 1, None), ("both", AT_REST + ON_THE_WAY, 1, None),
                                    ("nested", AT_REST + ON_THE_WAY, 0, None), ("rest", AT_REST, 0, None),
                                    ("raw", raw, 1, raw)):
        blobs, pcr = sent(place, name, *args, flags=flags)
        lacks(blobs[0][0].decode("latin-1"), "kept by it")
        same(blobs[0][1], ENCRYPTED if flags == 0 else 0, "swtpm tells of its own key only")
        folder = folder_of(VM, name)
        given, fds = (list(ours), []) if ours else keys()
        finds_all(place, folder, blobs, pcr, *given, fds=fds)
        sealed(os.path.join(folder, STATE))
        given, fds = ((), []) if ours else keys(way=False)
        cold(place, folder, *given, fds=fds)


def test_by_name(place):
    """Proxmox moves a VM from a host with swtpm, and both have its image by name: ours looks at that when the TPM comes, and
    keeps it beside"""
    name = os.path.abspath("vm.img")
    state = "backend-uri=file://" + name
    write_file(name, b"")
    theirs = Served(place, None, program=debian(), ctrl="theirs", state=state)
    control, data = theirs.powered()
    data.good(startup())
    ours = Served(place, None, ctrl="ours", state=state)
    with ours.control() as target:
        there = target.open_data()
        same(target.result(STOP), 0)
        data.good(nv_define(INDEX, 10))
        data.good(nv_write(INDEX, b"kept by it"))
        blobs = [control.get_blob(kind) for kind in (PERMANENT, VOLATILE)]
        image = read_file(name)
        contains(image.decode("latin-1"), "kept by it")
        same(control.result(SHUTDOWN), 0)
        theirs.process.wait(10)  # ours would see that it has the image open; on another host that is not seen
        good = blobs[1][3]
        for spoiled in (good[:200] + bytes((good[200] ^ 1,)) + good[201:], good):
            for kind, (_, flags, _, blob) in zip((PERMANENT, VOLATILE), (blobs[0], (*blobs[1][:3], spoiled))):
                same(target.set_blob(kind, blob, flags), 0, ours.errors())
            same(read_file(name), image, "a migration that fails now leaves swtpm its image")
            result = target.init(DELETE_VOLATILE)
            same(result == 0, spoiled == good, ours.errors())
            if result:
                same(read_file(name), image, "so does one that libtpms does not take")
        same(there.nv(INDEX, 10), b"kept by it")
        there.good(nv_write(INDEX, b"later here"))
        same(target.result(SHUTDOWN), 0)
    ours.ends(0)
    same(read_file(name + ".swtpm"), image, "it was left until then")
    sealed(name)
    place.sound(name)


def nothing_came(place, folder, blobs, wanted, word, *args, fds=()):
    before = {name: read_file(os.path.join(folder, name)) for name in os.listdir(folder)}
    target = Served(place, folder, *args, ctrl="refuses", pass_fds=fds)
    with target.control() as control:
        same(load(control, blobs), wanted, target.errors())
    contains(target.errors(), word)
    target.process.terminate()
    target.process.wait(10)
    same({name: read_file(os.path.join(folder, name)) for name in os.listdir(folder)}, before, word)


def test_wrong_keys(place):
    """another secret, none, a key of another size: told with swtpm's codes, and nothing is made"""
    blobs, _ = sent(place, "w", *ON_THE_WAY)
    folder = folder_of(VM, "wrong")
    given, fds = keys(OTHER_WORD)
    nothing_came(place, folder, blobs, WRONG_KEY, "[wrong-passphrase]", *given, fds=fds)
    nothing_came(place, folder, blobs, NO_KEY, "[key-closed]")
    given, fds = keys(way=False)
    nothing_came(place, folder, blobs, NO_KEY, "[key-closed]", *given, fds=fds)
    write_file("half", os.urandom(16).hex().encode())
    nothing_came(place, folder, blobs, WRONG_KEY, "[wrong-passphrase]", "--migration-key", "file=half")


def test_rubbish(place):
    """blobs that are cut, changed, of the other kind or of two moments do not come in; the right ones then do"""
    blobs, pcr = sent(place, "r")
    other, _ = sent(place, "r2")
    (permanent, flags), suspended = blobs
    folder = folder_of(VM, "rubbish")
    target = Served(place, folder, ctrl="r")
    with target.control() as control:
        data = control.open_data()
        for bad in (permanent[:-1], permanent[:30], permanent + b"x", permanent[:4] + b"\0\0" + permanent[6:],
                    permanent[:10] + b"\0\1" + permanent[12:], permanent[:12] + b"\xff" + permanent[13:],
                    b"\x02\x01\0\x0a\0\4" + struct.pack(">I", 500000) + bytes(499990), b"\x63" * 3 + permanent[3:]):
            true(control.set_blob(PERMANENT, bad, flags) != 0 or control.init() != 0, "taken: %s" % bad[:16].hex())
        for first, second in ((suspended, suspended), (other[0], suspended), ((permanent, flags), (permanent, flags))):
            true(load(control, (first, second)) != 0, "a pair that is none")
        true(not os.path.exists(os.path.join(folder, STATE)), "nothing was made")
        same(load(control, blobs), 0, target.errors())
        same((data.nv(INDEX, 10), data.pcr(16)), (b"kept by it", pcr))
        same(control.result(SHUTDOWN), 0)
    target.ends(0)


def test_not_over_a_tpm(place):
    """where there is a TPM already they are refused, with --migration incoming too; and while one runs"""
    blobs, _ = sent(place, "o")
    folder = folder_of(VM, "there")
    setup(place, folder)
    nothing_came(place, folder, blobs, FAILURE, "[blob-mismatch]")
    nothing_came(place, folder, blobs, FAILURE, "[blob-mismatch]", "--migration", "incoming")
    served = Served(place, folder, ctrl="runs")
    control, _ = served.powered()
    same(control.set_blob(PERMANENT, *blobs[0]), RUNNING)
    control.close()
    served.shutdown()


def theirs_for(name, number):
    """A folder for our TPM with what Debian's swtpm has left in that of sent()."""
    folder = folder_of(VM, "%s-%d" % (name, number))
    shutil.copy(os.path.join(folder_of(name, "theirs"), STATE), folder)
    return folder, read_file(os.path.join(folder, STATE))


def wait_for_ours(folder):
    wait_until(lambda: read_file(os.path.join(folder, STATE)).startswith(b"vtpm-hdr"), "the state is taken over")


def awaits(place, folder):
    return place.inspect(os.path.join(folder, STATE))["records"][0]["awaits_incoming"]


def cut_short(folder):
    """As the folder is where the start that took it over ended before it had left its mark."""
    with contextlib.suppress(FileNotFoundError):
        unmark(folder)


def test_saved_before_the_switch(place):
    """a VM that was saved on swtpm goes on from its blobs, though its file was taken over first: at that start, or at a
    later one if that ended before; the original is kept, and once a guest has had the TPM no blob takes its place"""
    for name, args in (("saved", ()), ("saved-with-secret", AT_REST + ON_THE_WAY)):
        def given(args=args):
            return keys() if args else ((), ())

        blobs, pcr = sent(place, name, *args)
        folder, original = theirs_for(name, 1)
        line, fds = given()
        ends = Served(place, folder, *line, ctrl="ends", pass_fds=fds)
        wait_for_ours(folder)
        true(awaits(place, folder), name)
        same(read_file(os.path.join(folder, STATE + ".swtpm")), original)
        ends.process.kill()
        ends.process.wait(10)
        cut_short(folder)
        line, fds = given()
        finds_all(place, folder, blobs, pcr, *line, fds=fds)
        true(not awaits(place, folder), "a guest has had it")
        same(sorted(os.listdir(folder)), sorted((".lock", *MARKS, STATE, STATE + ".swtpm")))
        same(read_file(os.path.join(folder, STATE + ".swtpm")), original)
        sealed(os.path.join(folder, STATE))
        line, fds = given()
        nothing_came(place, folder, blobs, FAILURE, "[blob-mismatch]", *line, fds=fds)
        line, fds = given()
        cold(place, folder, *line, fds=fds)
        os.rename(os.path.join(folder, STATE), os.path.join(folder, "newer"))  # what docs/libvirt.md says
        shutil.copy(os.path.join(folder, STATE + ".swtpm"), os.path.join(folder, STATE))
        line, fds = given()
        finds_all(place, folder, blobs, pcr, *line, fds=fds)
        same([read_file(os.path.join(folder, STATE + end)) for end in (".swtpm", ".swtpm-2")], [original] * 2)


def test_started_after_the_switch(place):
    """what was taken over starts without blobs, and is nobody's place from then on; wrong ones leave it as it was"""
    blobs, _ = sent(place, "cold")
    folder, original = theirs_for("cold", 1)
    served = Served(place, folder, ctrl="rubbish")
    wait_for_ours(folder)
    before = read_file(os.path.join(folder, STATE))
    with served.control() as control:
        true(load(control, (blobs[1], blobs[0])) != 0, "they are the wrong way round")
        same(read_file(os.path.join(folder, STATE)), before)
        data = control.open_data()
        same(control.init(), 0, served.errors())
        data.good(startup())
        same(data.nv(INDEX, 10), b"kept by it")
        data.good(nv_write(INDEX, b"later here"))
        same(control.result(SHUTDOWN), 0)
    served.ends(0)
    true(not awaits(place, folder), "a guest has had it")
    nothing_came(place, folder, blobs, FAILURE, "[blob-mismatch]")
    cold(place, folder)
    same(read_file(os.path.join(folder, STATE + ".swtpm")), original)


def test_lost_after_the_switch(place):
    """a state that was taken over and is gone is state-missing, never a new TPM; also where that start ended early"""
    sent(place, "lost")
    folder, original = theirs_for("lost", 1)
    served = Served(place, folder, ctrl="takes")
    wait_for_ours(folder)
    served.process.kill()
    served.process.wait(10)
    for end in (lambda folder: None, cut_short):
        end(folder)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, STATE))
        served = Served(place, folder, ctrl="lost")
        with served.control() as control:
            same(control.init(), FAILURE)
        served.ends(1, "[state-missing]")
        true(not os.path.exists(os.path.join(folder, STATE)), "a new TPM was made")
        same(read_file(os.path.join(folder, STATE + ".swtpm")), original)


def test_run(place):
    """vtpm run takes a plain one with --incoming, bound to its VM, and no encrypted one"""
    blobs, pcr = sent(place, "v")
    secret, _ = sent(place, "v2", *ON_THE_WAY)
    place.create("there.vtpm", "--vm-uuid", VM)
    device = place.start("there.vtpm", "--vm-uuid", VM, log="there")
    with device.control() as control:
        same(load(control, blobs), FAILURE)
    contains(device.log(), "[blob-mismatch]", "; to go on from it, move the state file of this one away")
    device.term()
    device = place.start("in.vtpm", "--incoming", "--vm-uuid", OTHER_VM)
    with device.control() as control:
        data = control.open_data()
        same(load(control, secret), NO_KEY)
        contains(device.log(), "[key-closed]")
        same(load(control, blobs), 0, device.log())
        same((data.nv(INDEX, 10), data.pcr(16)), (b"kept by it", pcr))
    device.term()
    same(place.inspect("in.vtpm")["records"][0]["vm_uuid"], OTHER_VM)
    place.sound("in.vtpm")


if __name__ == "__main__":
    main(globals())
