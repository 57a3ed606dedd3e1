#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm keys census: which keys state files, exports, saved VMs and disk images depend on."""
import json
import os
import shutil
import struct
import subprocess
import threading
import time
import uuid

from device import (LIMIT, PERMANENT, VTPM, Skip, change_file, contains, die_with_parent, lacks, main, read_file, same,
                    true, write_file)
from tpm_bytes import startup

CLUSTER = 65536


def census(place, *args, status=0):
    done = place.vtpm("keys", "census", "--config", place.config, *args)
    same(done.returncode, status, done.stdout + done.stderr)
    return done


def view(place, *args, status=0):
    return json.loads(census(place, "--json", *args, status=status).stdout)


def uses(seen):
    """{(provider, version): [(file's name, what, offset, its key slots)]}"""
    return {(key["provider_name"], key["key_version"]):
            [(os.path.basename(f["path"]), f["what"], f["offset"], f["key_slots"]) for f in key["files"]]
            for key in seen["keys"]}


def good(place, *args, config=True):
    done = place.vtpm(*args, *(["--config", place.config] if config else []))
    same(done.returncode, 0, "vtpm %s: %s" % (" ".join(args), done.stderr))
    return done.stdout


def states(place):
    """Three vTPMs: two of native version 1, one of those with a slot of a second provider, one of version 2."""
    os.makedirs("vms/old")
    place.create("vms/a.vtpm")
    place.create("vms/old/b.vtpm")
    good(place, "provider", "create", "site", "--kind", "native")
    good(place, "keys", "add", "vms/old/b.vtpm", "--provider", "site")
    good(place, "provider", "rotate", "native")
    place.create("vms/c.vtpm")


def saved_blob(place, state="vms/a.vtpm"):
    """A state blob as QEMU gets it."""
    device = place.start(state)
    with device.control() as control:
        control.open_data()
        same(control.init(), 0, "INIT")
        blob = control.blob(PERMANENT)
    device.term()
    return blob


def test_states(place):
    """states of two providers and versions: each key with its files, in words and as JSON"""
    states(place)
    write_file("vms/notes.txt", b"nothing of ours")
    seen = view(place, "vms")
    same(uses(seen), {("native", 1): [("a.vtpm", "state", 0, 1), ("b.vtpm", "state", 0, 2)],
                      ("native", 2): [("c.vtpm", "state", 0, 1)], ("site", 1): [("b.vtpm", "state", 0, 2)]})
    same({(k["provider_name"], k["key_version"]): k["status"] for k in seen["keys"]},
         {("native", 1): "older", ("native", 2): "current", ("site", 1): "current"})
    same((seen["looked_at"], seen["states"], seen["exports"], seen["images"], seen["unreadable"]), (4, 3, 0, 0, []))
    same({f["vtpm_id"] for k in seen["keys"] for f in k["files"]},
         {place.inspect("vms/" + n)["records"][0]["vtpm_id"] for n in ("a.vtpm", "old/b.vtpm", "c.vtpm")})
    text = census(place, "vms").stdout
    contains(text, "PROVIDER", "native", "site", "older", "current", "3 state files", "cannot see")
    lacks(text, "a.vtpm")
    for option in ("--list", "-v"):
        listed = census(place, "vms", option).stdout
        contains(listed, os.path.join(place.folder, "vms/old/b.vtpm") + " (state", "a.vtpm", "no other key slot")


def test_needs_no_key(place):
    """a host without the providers counts all the same, and makes nothing"""
    states(place)
    place.env["VTPM_DATA_DIR"] = os.path.join(place.folder, "elsewhere")
    seen = view(place, "vms")
    same(sorted(len(k["files"]) for k in seen["keys"]), [1, 1, 2])
    true(all(k["provider_name"] is None and k["status"] is None for k in seen["keys"]), "no names")
    contains(census(place, "vms").stdout, seen["keys"][0]["provider"], "unknown here")
    true(not os.path.exists("elsewhere"), "it made a data folder")


def test_closed(place):
    """a version that is being retired is shown as closed"""
    states(place)
    place.vtpm("provider", "retire", "native", "1", "--search", "vms", "--config", place.config)
    seen = view(place, "vms")
    same([k["status"] for k in seen["keys"] if (k["provider_name"], k["key_version"]) == ("native", 1)], ["closed"])


def test_exports(place):
    """files of ctl save: found as exports, also cut off; two in one file"""
    states(place)
    os.mkdir("backup")
    device = place.start("vms/a.vtpm")
    control, _ = device.powered()
    control.close()
    for kind in ("permanent", "volatile"):
        good(place, "ctl", "unix:" + device.path, "save", kind, "backup/" + kind, config=False)
    device.term()
    same(uses(view(place, "backup")), {("native", 1): [("permanent", "export", 0, 1), ("volatile", "export", 0, 1)]})
    blob = read_file("backup/permanent")
    write_file("backup/pair", blob + read_file("backup/volatile"))
    write_file("backup/cut", blob[:-200])
    write_file("backup/stump", blob[:150])
    done = census(place, "backup", status=1)
    contains(done.stderr, "stump", "cut off", "[failed]")
    same(uses(view(place, "backup", status=1))[("native", 1)],
         [("cut", "export", 0, 1), ("pair", "export", 0, 1), ("pair", "image", len(blob), 1),
          ("permanent", "export", 0, 1), ("volatile", "export", 0, 1)])


def test_images(place):
    """--images finds a blob anywhere in a file; without it nothing is searched"""
    states(place)
    blob = saved_blob(place)
    os.mkdir("images")
    with open("images/raw", "wb") as file:
        file.truncate(3 << 30)  # a hole is not read
        file.seek((2 << 30) + 12345)
        file.write(blob)
    with open("images/vm.save", "wb") as file:
        file.write(b"LibvirtQemudSave" + os.urandom(1 << 20) + blob + os.urandom(1 << 20))
    start = time.monotonic()
    same(uses(view(place, "images", "--images")),
         {("native", 1): [("raw", "image", (2 << 30) + 12345, 1), ("vm.save", "image", 16 + (1 << 20), 1)]})
    true(time.monotonic() - start < 20, "the hole was read")
    same(uses(view(place, "images")), {})
    contains(census(place, "images").stdout, "--images")
    contains(census(place, "images", "--images", "-v").stdout, "at byte %d" % ((2 << 30) + 12345), "2 in images")


def qemu_img(*args):
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        raise Skip("no qemu-img")
    done = subprocess.run(args, capture_output=True, text=True, timeout=LIMIT, check=False)
    same(done.returncode, 0, done.stdout + done.stderr)


def write_qcow2(path, content, at):
    """CONTENT at guest offset AT; the clusters are written last one first, so no two follow one another in the file."""
    qemu_img("qemu-img", "create", "-q", "-f", "qcow2", path, "16M")
    first, last = at // CLUSTER, (at + len(content) - 1) // CLUSTER
    disk = os.urandom(at - first * CLUSTER) + content
    disk += os.urandom((last - first + 1) * CLUSTER - len(disk))
    commands = []
    for number in range(last - first, -1, -1):
        write_file("piece-%d" % number, disk[number * CLUSTER:][:CLUSTER])
        commands += ["-c", "write -q -s piece-%d %d %d" % (number, (first + number) * CLUSTER, CLUSTER)]
    qemu_img("qemu-io", "-f", "qcow2", *commands, path)


def test_qcow2(place):
    """in a qcow2 file a blob is found in a cluster, and over the seam of two that stand apart"""
    states(place)
    blob = saved_blob(place)
    os.mkdir("disks")
    for number, before in enumerate((2, 30, 100, 200)):  # bytes of it in the first of its clusters
        write_qcow2("disks/seam-%d.qcow2" % number, blob, 3 * CLUSTER - before)
    write_qcow2("disks/whole.qcow2", blob, 3 * CLUSTER + 100)
    write_qcow2("disks/begins.qcow2", blob, 3 * CLUSTER)
    seen = uses(view(place, "disks", "--images"))
    same([(name, what) for name, what, _, _ in seen[("native", 1)]],
         [(name + ".qcow2", "image") for name in ("begins", "seam-0", "seam-1", "seam-2", "seam-3", "whole")])


def test_qcow2_snapshot(place):
    """what only an internal snapshot has is found, in pieces too"""
    states(place)
    blob = saved_blob(place)
    os.mkdir("disks")
    write_qcow2("disks/d.qcow2", blob, 3 * CLUSTER - 100)
    qemu_img("qemu-img", "snapshot", "-c", "before", "disks/d.qcow2")
    qemu_img("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 %d %d" % (2 * CLUSTER, 2 * CLUSTER), "disks/d.qcow2")
    seen = uses(view(place, "disks", "--images"))
    same([name for name, _, _, _ in seen[("native", 1)]], ["d.qcow2"])


def test_qcow2_hostile(place):
    """a qcow2 file with 65536 snapshots that share a large table: given up in time, and told"""
    os.mkdir("disks")
    table, entries, snapshots = CLUSTER, 512 * 1024, 65536
    listed = table + entries * 8
    with open("disks/d.qcow2", "wb") as disk:
        disk.write(struct.pack(">IIQIIQIIQQIIQQQQII", 0x514649fb, 3, 0, 0, 16, 1 << 40, 0, 1, table, 0, 0, snapshots,
                               listed, 0, 0, 0, 4, 104))
        disk.seek(listed)
        disk.write(struct.pack(">QIHHIIQII", table, entries, 0, 0, 0, 0, 0, 0, 0) * snapshots)
    contains(census(place, "disks", "--images", status=1).stderr, "d.qcow2: a qcow2 file: too many pieces")


def test_split_elsewhere(place):
    """a blob in pieces that nothing joins is told, not passed over"""
    states(place)
    blob = saved_blob(place)
    os.mkdir("disks")
    write_file("disks/disk", os.urandom(CLUSTER - 200) + blob[:200] + os.urandom(CLUSTER) + blob[200:])
    done = census(place, "disks", "--images", status=1)
    contains(done.stderr, "disk: at byte %d: " % (CLUSTER - 200), "not complete")


def test_programs(place):
    """our own programs, sources and manuals have the magic in them, and need no key"""
    os.mkdir("bin")
    shutil.copy(VTPM, "bin/vtpm")
    shutil.copy(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "docs", "state-format.md"), "bin")
    seen = view(place, "bin", "--images")
    same((seen["images"], seen["unreadable"]), (0, []))


class Qemu:
    """A machine without a guest to speak of: firmware, a TPM, a qcow2 disk; told what to do on its monitor."""

    def __init__(self, place, device):
        if not shutil.which("qemu-system-x86_64"):
            raise Skip("no qemu-system-x86_64")
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-M", "q35", "-m", "16", "-nodefaults", "-display", "none", "-monitor", "stdio",
             "-chardev", "socket,id=c,path=" + device.path, "-tpmdev", "emulator,id=t,chardev=c", "-device",
             "tpm-crb,tpmdev=t", "-drive", "file=disk.qcow2,if=virtio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, preexec_fn=die_with_parent)
        place.processes.append(self.process)

    def does(self, commands):
        text, _ = self.process.communicate(commands, timeout=120)
        same(self.process.returncode, 0, text[-500:])
        true("Error" not in text, text[-500:])


def test_saved_vm(place):
    """what QEMU saves: a VM saved to a file, and an internal snapshot"""
    states(place)
    qemu_img("qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", "16M")
    device = place.start("vms/a.vtpm", "--terminate")
    Qemu(place, device).does('savevm one\nstop\nsavevm two\nmigrate "exec:cat > vm.save"\nquit\n')
    same(device.wait(), 0)
    os.mkdir("images")
    os.rename("vm.save", "images/vm.save")
    os.rename("disk.qcow2", "images/disk.qcow2")
    seen = uses(view(place, "images", "--images"))
    names = [name for name, what, _, _ in seen[("native", 1)]]
    true(names.count("vm.save") in (1, 2) and names.count("disk.qcow2") >= 2, names)


def test_bad_arguments(place):
    """folders that are not there, none at all; those of vtpm.conf where none is named"""
    states(place)
    contains(census(place, status=2).stderr, "[usage]", "state-dirs")
    contains(census(place, "vms", "nowhere", status=2).stderr, "[usage]", "nowhere")
    contains(census(place, "/dev/null", status=2).stderr, "[usage]")
    contains(census(place, "--frobnicate", "vms", status=2).stderr, "[usage]")
    write_file(place.config, b"[vtpm]\nstate-dirs=%s;\n" % os.fsencode(os.path.join(place.folder, "vms")))
    same(view(place)["states"], 3)


def test_damaged(place):
    """damaged files are named and make the census fail; the rest is counted"""
    states(place)
    for offset in (0, CLUSTER):
        change_file("vms/a.vtpm", offset + 60, b"rubbish")
    change_file("vms/c.vtpm", 60, b"rubbish")  # the other copy is good
    done = census(place, "vms", status=1)
    contains(done.stderr, "a.vtpm: a state file, and neither", "[failed] the census is not complete: 1 ")
    seen = view(place, "vms", status=1)
    same((seen["states"], len(seen["unreadable"])), (2, 1))


def test_read_error(place):
    """a file that cannot be read is not passed over as none of ours"""
    states(place)
    path = "/sys/class/net/lo/speed"  # the loopback device has none: EINVAL
    try:
        with open(path, "rb") as file:
            file.read()
        raise Skip("%s can be read" % path)
    except FileNotFoundError as error:
        raise Skip(str(error)) from error
    except OSError:
        pass
    contains(census(place, "vms", path, status=1).stderr, "lo/speed: ", "not complete")


def test_hostile_names(place):
    """what stands in files and their names reaches no terminal as control characters"""
    os.makedirs("vms")
    helper = os.path.join(place.folder, "helpers")
    os.mkdir(helper)
    write_file(helper + "/vtpm-provider-fake", b"""#!/bin/sh
echo "vtpm-provider 1 fake $1 wrap unwrap"
while read -r op vtpm a b c d; do
  case $op in wrap) echo "ok the-key 1 $b" ;; unwrap) echo "ok $d" ;; esac
done
""")
    os.chmod(helper + "/vtpm-provider-fake", 0o755)
    write_file(place.config, b"[vtpm]\nhelper-dirs=%s;\n" % os.fsencode(helper))
    os.makedirs(place.data_dir, mode=0o700)
    write_file(os.path.join(place.data_dir, "providers.conf"),
               "[provider %s]\nname=fake\nkind=fake\n" % uuid.uuid4(), "a")
    place.create("vms/\x1b[31mred\n.vtpm", "--provider", "fake")
    for args in (["-v"], ["--json"]):
        lacks(census(place, "vms", *args).stdout, "\x1b")
    contains(census(place, "vms", "-v").stdout, "?[31mred?.vtpm")
    os.mkdir("vms/\udcff")
    shutil.copy("vms/\x1b[31mred\n.vtpm", "vms/\udcff/x")
    same(len(view(place, "vms")["keys"][0]["files"]), 2)


def test_beside_changes(place):
    """while a TPM runs and its key slots change all the time, each census finds the file and every key it may need"""
    states(place)
    device = place.start("vms/old/b.vtpm")
    _, tpm = device.powered()
    stop = threading.Event()

    def change():
        while not stop.is_set():
            good(place, "keys", "drop", "vms/old/b.vtpm", "--provider", "site")
            good(place, "keys", "add", "vms/old/b.vtpm", "--provider", "site")
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(60):
            seen = view(place, "vms")
            same((seen["states"], seen["unreadable"]), (3, []))
            same([name for name, _, _, _ in uses(seen)[("native", 1)]], ["a.vtpm", "b.vtpm"])
            tpm.rc(startup())
    finally:
        stop.set()
        thread.join()
    device.term()


if __name__ == "__main__":
    main(globals())
