#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Damaged and foreign state files, missing keys and rights, rubbish on the channels: a clear word, nothing changed."""
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import (FILE_SIZE, HEADER_B, KEY_NOT_FOUND, SLOT_0, SLOT_1, Control, Skip, change_file,  # noqa: E402
                    contains, gone, lacks, main, need_root, read_file, same, true, write_file)
from statefile import KEY_SLOT, POLICY, VM_UUID, make_header, read_tlvs, write_header  # noqa: E402
from tpm_bytes import nv_define, nv_write  # noqa: E402

INDEX = 0x01500001
NOBODY = 65534


def used(place, name="state.vtpm", value=b"kept", *args):
    """A state file after an orderly end; its index holds VALUE."""
    place.create(name, *args)
    device = place.start(name)
    control, data = device.powered()
    data.good(nv_define(INDEX, 4))
    data.good(nv_write(INDEX, value))
    device.term()
    return name


def holds(place, value, name="state.vtpm", log="holds"):
    """It opens and the index holds VALUE; gives the log. Ends it in order."""
    if os.path.exists(log):
        os.remove(log)
    device = place.start(name, log=log)
    control, data = device.powered()
    same(data.nv(INDEX, 4), value)
    device.term()
    return device.log()


def refused_unchanged(place, status, words_, name="state.vtpm", *args):
    before = read_file(name)
    device = place.refused(status, words_, name, *args)
    same(read_file(name), before, "the file")
    return device


def used_ranges(place, name="state.vtpm"):
    """(offset, length) of both slots as far as they are written."""
    slots = place.inspect(name)["state_slots"]
    return [(offset, 80 + slot["sealed_size"] + 16) for offset, slot in zip((SLOT_0, SLOT_1), slots)]


def flip(path, offset, bit=None):
    byte = read_file(path)[offset]
    change_file(path, offset, bytes([byte ^ (1 << (offset % 8 if bit is None else bit))]))


def test_truncated(place):
    """a file cut off anywhere: exit 3, state-truncated, the bytes stay"""
    used(place)
    whole = read_file("state.vtpm")
    same(len(whole), FILE_SIZE)
    for length in (0, 1, 47, 48, 1000, HEADER_B, HEADER_B + 100, SLOT_0, SLOT_0 + 50, SLOT_0 + 2000, SLOT_1, SLOT_1 + 50,
                   SLOT_1 + 2000, FILE_SIZE - 1):
        write_file("state.vtpm", whole[:length])
        refused_unchanged(place, 3, ["[state-truncated]", "state.vtpm"])
        same(os.path.getsize("state.vtpm"), length)
    write_file("state.vtpm", whole)
    holds(place, b"kept")


def test_not_a_state_file(place):
    """zeros, rubbish, text, a folder, a device, a pipe: refused with a word, left alone"""
    used(place)
    for content in (bytes(FILE_SIZE), os.urandom(FILE_SIZE), b"hello\n" * 200000):
        write_file("other", content)
        refused_unchanged(place, 3, ["[state-", "other"], "other")
    os.mkdir("folder")
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("socket")
    for path in ("folder", "pipe", "/dev/null", "/dev/zero"):
        place.refused(2, ["[usage]", path], path)
    device = place.start("socket", wait=False, log=None)
    true(device.wait() != 0, "a socket was opened as a state file")
    os.symlink("state.vtpm", "link")
    holds(place, b"kept", "link")


def test_slot_flipped_after_an_orderly_end(place):
    """any byte of either slot flipped after an orderly end: the same content opens, it is told, the slot is mended"""
    used(place)
    whole = read_file("state.vtpm")
    count = 0
    for slot, (start, length) in enumerate(used_ranges(place)):
        for offset in sorted({*range(0, 80, 9), *range(80, length, 131), length - 1}):
            write_file("state.vtpm", whole)
            flip("state.vtpm", start + offset)
            same(place.check().returncode, 3, "vtpm check")
            text = holds(place, b"kept")
            contains(text, "[state-slot-unreadable]", "state slot %d" % slot, "nothing is missing")
            place.sound()
            lacks(holds(place, b"kept"), "state-slot-unreadable")
            count += 1
    return "%d flips" % count


def test_slot_flipped_in_a_second_life(place):
    """flipped after the first commit of a second life: told that the last command may be missing, never mended in silence"""
    used(place)
    for commits in (1, 2, 3):
        device = place.start()
        control, data = device.powered()  # Startup commits
        for number in range(commits):
            data.good(nv_write(INDEX, b"%04d" % number))
        device.kill()
        whole = read_file("state.vtpm")
        slots = place.inspect()["state_slots"]
        newest = max((0, 1), key=lambda i: slots[i]["generation"])
        true(not any(s["final"] for s in slots), "a final mark outlives a commit")
        ranges = used_ranges(place)
        for slot in (0, 1):
            start, length = ranges[slot]
            for offset in (0, 50, length // 2, length - 1):
                write_file("state.vtpm", whole)
                flip("state.vtpm", start + offset)
                device = place.start(log="flipped")
                control, data = device.powered()
                got = data.nv(INDEX, 4)
                # what is in the slot that is left: the last value, or the one before
                wanted = b"%04d" % (commits - 1) if slot != newest else b"%04d" % (commits - 2) if commits > 1 else None
                true(got == wanted or wanted is None, "slot %d flipped: %r" % (slot, got))
                contains(device.log(), "[state-slot-unreadable]", "state slot %d" % slot, "may be missing")
                device.kill()
                os.remove("flipped")
        write_file("state.vtpm", whole)


def test_both_slots_damaged(place):
    """both slots damaged: exit 3, state-damaged, the bytes stay; nothing is made anew"""
    used(place)
    whole = read_file("state.vtpm")
    for spoil in (lambda o: flip("state.vtpm", o), lambda o: flip("state.vtpm", o + 100),
                  lambda o: change_file("state.vtpm", o, bytes(16384)),
                  lambda o: change_file("state.vtpm", o, os.urandom(3000))):
        write_file("state.vtpm", whole)
        for start, _ in used_ranges(place):
            spoil(start)
        for args in ((), ("--create",), ("--init",)):
            device = refused_unchanged(place, 3, ["[state-damaged]", "state.vtpm", "backup"], "state.vtpm", *args)
            same(device.errors().count("\n"), 1, device.errors())


def test_header_copy_damaged(place):
    """one header copy damaged: the other serves and mends it; both: exit 3, the bytes stay"""
    used(place)
    whole = read_file("state.vtpm")
    for start in (0, HEADER_B):
        for offset in (0, 9, 13, 20, 50, 60, 150, 300):
            write_file("state.vtpm", whole)
            flip("state.vtpm", start + offset, 0)
            holds(place, b"kept")
            same(place.inspect()["header_copies"], ["good", "good"])
            place.sound()
    for offset in (0, 20, 60, 150):
        write_file("state.vtpm", whole)
        flip("state.vtpm", offset, 0)
        flip("state.vtpm", HEADER_B + offset, 0)
        refused_unchanged(place, 3, ["[state-damaged]"])


def test_foreign_slot(place):
    """a slot of another vTPM: beside a good one it is told and replaced; both foreign: exit 3, state-foreign-slot"""
    used(place)
    used(place, "other.vtpm", b"else")
    whole, other = read_file("state.vtpm"), read_file("other.vtpm")
    for offset in (SLOT_0, SLOT_1):
        write_file("state.vtpm", whole)
        change_file("state.vtpm", offset, other[offset:offset + 16384])
        contains(holds(place, b"kept"), "[state-slot-unreadable]", "another vTPM")
        place.sound()
    for offset in (SLOT_0, SLOT_1):
        change_file("state.vtpm", offset, other[offset:offset + 16384])
    refused_unchanged(place, 3, ["[state-foreign-slot]", "another vTPM"])
    write_file("state.vtpm", other[:SLOT_0] + whole[SLOT_0:])  # its header, our slots
    refused_unchanged(place, 3, ["[state-foreign-slot]"])


def test_swapped_slots(place):
    """slots changed for each other, or both the same bytes, do not open in each other's place"""
    used(place)
    device = place.start()
    control, data = device.powered()
    data.good(nv_write(INDEX, b"one1"))
    device.kill()
    whole = read_file("state.vtpm")
    swapped = whole[:SLOT_0] + whole[SLOT_1:SLOT_1 + (SLOT_1 - SLOT_0)] + whole[SLOT_0:SLOT_1]
    write_file("state.vtpm", swapped[:FILE_SIZE])
    refused_unchanged(place, 3, ["[state-damaged]"])


def test_older_slot(place):
    """an old slot put in place of the newest one is no silent way back"""
    used(place)
    device = place.start()
    control, data = device.powered()
    data.good(nv_write(INDEX, b"one1"))
    old = read_file("state.vtpm")
    for number in range(4):
        data.good(nv_write(INDEX, b"%04d" % number))
    device.term()
    for offset in (SLOT_0, SLOT_1):
        whole = bytearray(read_file("state.vtpm"))
        whole[offset:offset + 16384] = old[offset:offset + 16384]
        write_file("copy.vtpm", bytes(whole))
        holds(place, b"0003", "copy.vtpm")


def test_header_changed_without_the_key(place):
    """a key slot added or removed, identity or policy changed, all with a good checksum: exit 3, the bytes stay"""
    vm = str(uuid.uuid4())
    place.create("bound.vtpm", "--vm-uuid", vm)
    used(place, "state.vtpm")
    place.create("more.vtpm")
    foreign = [t for t in read_tlvs("more.vtpm")[0] if t[0] == KEY_SLOT][0]
    for name in ("state.vtpm", "bound.vtpm"):
        whole = read_file(name)
        tlvs, rest = read_tlvs(name)
        slot = [t for t in tlvs if t[0] == KEY_SLOT][0]
        changes = {"a foreign slot added": tlvs + [foreign], "a slot added before": [foreign] + tlvs,
                   "a slot twice": tlvs + [slot], "policy": tlvs + [[POLICY, b"\2"]],
                   "a field of another version": tlvs + [[0x0777, b"?"]]}
        if name == "bound.vtpm":
            changes["identity removed"] = [t for t in tlvs if t[0] != VM_UUID]
            changes["identity changed"] = [t if t[0] != VM_UUID else [VM_UUID, uuid.uuid4().bytes] for t in tlvs]
        else:
            changes["identity added"] = tlvs + [[VM_UUID, uuid.uuid4().bytes]]
        for what, changed in changes.items():
            write_file(name, whole)
            write_header(name, make_header(changed, rest))
            before = read_file(name)
            device = place.start(name, wait=False, log=None, config=place.hasty)
            true(device.wait() in (3, 4), "%s: exit %d %s" % (what, device.wait(), device.errors()))
            true("[state-damaged]" in device.errors() or "[key-slot-damaged]" in device.errors(), what + device.errors())
            same(read_file(name), before, what)
            # in one copy alone the other one serves
            write_file(name, whole)
            change_file(name, 0, make_header(changed, rest).ljust(16384, b"\0"))
            device = place.start(name, log="one-copy")
            device.powered()
            device.term()
            place.sound(name)
        for gone in ([t for t in tlvs if t[0] != KEY_SLOT], [], tlvs[1:]):
            write_file(name, whole)
            write_header(name, make_header(gone, rest))
            refused_unchanged(place, 3, ["[state-damaged]"], name)


def test_newer_version(place):
    """a file of a newer version: exit 3, state-newer-version, INIT answers 0x2e, the bytes stay"""
    used(place)
    tlvs, rest = read_tlvs("state.vtpm")
    write_header("state.vtpm", make_header(tlvs, rest, 9, 9))
    before = read_file("state.vtpm")
    refused_unchanged(place, 3, ["[state-newer-version]"])
    ours, theirs = socket.socketpair()
    device = place.start("state.vtpm", ctrl="fd:%d" % theirs.fileno(), pass_fds=(theirs.fileno(),), wait=False)
    theirs.close()
    with Control(sock=ours) as control:
        same(control.init(), 0x2E)
    same(device.wait(), 3)
    same(read_file("state.vtpm"), before)
    write_header("state.vtpm", make_header(tlvs, rest, 9, 1))  # newer, but says that we may read it
    holds(place, b"kept")


def test_missing_provider(place):
    """the provider is not registered, its keys are gone or damaged: exit 4, a word each, and when it is back all is well"""
    used(place)
    registry = os.path.join(place.data_dir, "providers.conf")
    folder = os.path.join(place.data_dir, "native")
    keys = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".keys")][0]
    whole = read_file("state.vtpm")

    def goes_wrong(word, status=4):
        device = place.start(wait=False, log=None, config=place.hasty)
        device.ends(status, "[%s]" % word)
        ours, theirs = socket.socketpair()
        device = place.start("state.vtpm", ctrl="fd:%d" % theirs.fileno(), pass_fds=(theirs.fileno(),), wait=False, log=None)
        theirs.close()
        with Control(sock=ours) as control:
            same(control.init(), KEY_NOT_FOUND if status == 4 else 0x101)
        device.ends(status, "[%s]" % word)
        same(read_file("state.vtpm"), whole)

    os.rename(registry, "away")
    goes_wrong("provider-unknown")
    true(not os.path.exists(registry), "run made a provider")
    write_file(registry, b"rubbish\n")
    goes_wrong("state-damaged", 3)
    os.rename("away", registry)
    os.rename(keys, "away")
    goes_wrong("key-destroyed")
    same([n for n in os.listdir(folder) if n.endswith(".keys")], [])
    content = read_file("away")
    for bad in (content[:-1], b"", content[:40] + bytes([content[40] ^ 1]) + content[41:]):
        write_file(keys, bad)
        device = place.start(wait=False, log=None, config=place.hasty)
        true(device.wait() in (3, 4), device.errors())
        same(read_file(keys), bad)
        same(read_file("state.vtpm"), whole)
    os.remove(keys)
    os.rename("away", keys)
    lacks(holds(place, b"kept"), "warning")


def test_other_keys(place):
    """the same provider with other keys: exit 4, and the bytes stay"""
    used(place)
    whole = read_file("state.vtpm")
    shutil.move(place.data_dir, "before")
    place.create("another.vtpm")
    registry = read_file(os.path.join(place.data_dir, "providers.conf")).decode()
    new = registry.split("[provider ")[1][:36]
    old = read_file("before/providers.conf").decode().split("[provider ")[1][:36]
    write_file(os.path.join(place.data_dir, "providers.conf"), registry.replace(new, old), "w")
    keys = os.path.join(place.data_dir, "native")
    content = read_file(os.path.join(keys, new + ".keys"))
    shutil.rmtree(keys)
    os.mkdir(keys, 0o700)
    content = content[:12] + uuid.UUID(old).bytes + content[28:-32]
    write_file(os.path.join(keys, old + ".keys"), content + hashlib.sha256(content).digest())
    device = place.start(wait=False, log=None, config=place.hasty)
    device.ends(4, "[key-destroyed]")
    same(read_file("state.vtpm"), whole)


def test_missing_helper(place):
    """a provider whose helper program is not installed, or does not start: exit 4, named"""
    place.add_gate()
    used(place, "state.vtpm", b"kept", "--provider", "gate")
    helpers = os.path.join(place.folder, "helpers")
    os.mkdir(helpers)
    write_file(place.hasty, "[vtpm]\nhelper-dirs=%s;\ninit-wait=0\n" % helpers, "w")
    refused_unchanged(place, 4, ["vtpm-provider-gate"])
    write_file(os.path.join(helpers, "vtpm-provider-gate"), "#!/nonexistent/interpreter\n", "w")
    os.chmod(os.path.join(helpers, "vtpm-provider-gate"), 0o755)
    refused_unchanged(place, 4, ["gate"])
    holds(place, b"kept")


def as_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def test_no_rights(place):
    """a folder or file that cannot be read or written: exit 4, access-denied, and nothing is made"""
    need_root()
    used(place)
    os.makedirs("locked")
    shutil.copy("state.vtpm", "locked/state.vtpm")
    os.chmod("locked", 0o700)
    os.chmod("state.vtpm", 0o600)
    os.chmod(place.folder, 0o777)
    os.chmod(place.config, 0o644)
    for path in ("state.vtpm", "locked/state.vtpm", "locked/new.vtpm"):
        for args in ((), ("--create",)):
            place.refused(4, ["[access-denied]", path], path, *args, preexec=as_nobody)
    os.chmod("state.vtpm", 0o444)
    place.refused(4, ["[access-denied]"], "state.vtpm", preexec=as_nobody)
    os.chown("state.vtpm", NOBODY, NOBODY)
    os.chmod("state.vtpm", 0o600)
    device = place.refused(4, ["[access-denied]"], "state.vtpm", preexec=as_nobody)  # the data folder is root's
    contains(device.errors(), "providers.conf")
    same(os.listdir("locked"), ["state.vtpm"])
    for root, folders, files in os.walk(place.data_dir):
        for name in [root, *[os.path.join(root, f) for f in folders + files]]:
            os.chown(name, NOBODY, NOBODY)
    device = place.start("state.vtpm", preexec=as_nobody, log="nobodys")
    control, data = device.powered()
    same(data.nv(INDEX, 4), b"kept")
    device.term()


def test_read_only_file_system(place):
    """a state file on a file system that is mounted read-only: exit 4, and the bytes stay"""
    need_root()
    used(place)
    os.mkdir("mount")
    if subprocess.run(["mount", "-t", "tmpfs", "none", "mount"], stderr=subprocess.DEVNULL, check=False).returncode:
        raise Skip("mount is not possible here")
    try:
        shutil.copy("state.vtpm", "mount/state.vtpm")
        subprocess.run(["mount", "-o", "remount,ro", "mount"], check=True)
        refused_unchanged(place, 4, ["[access-denied]", "Read-only"], "mount/state.vtpm")
        place.refused(4, ["[access-denied]"], "mount/new.vtpm", "--create")
    finally:
        subprocess.run(["umount", "-l", "mount"], check=True)


def test_file_taken_away(place):
    """the state file renamed or removed under a running device: it goes on, ends in order, makes no other"""
    used(place)
    device = place.start()
    control, data = device.powered()
    os.rename("state.vtpm", "elsewhere.vtpm")
    data.good(nv_write(INDEX, b"then"))
    device.term()
    true(not os.path.exists("state.vtpm"), "a file was made")
    holds(place, b"then", "elsewhere.vtpm")
    device = place.start("elsewhere.vtpm")
    control, data = device.powered()
    os.remove("elsewhere.vtpm")
    data.good(nv_write(INDEX, b"last"))
    device.term()
    true(not os.path.exists("elsewhere.vtpm"), "a file was made")


if __name__ == "__main__":
    main(globals())
