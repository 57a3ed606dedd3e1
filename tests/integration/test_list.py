#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm list: whose TPM is where, which of them have one origin, and ten thousand of them."""
import json
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from certificates import certificates  # noqa: E402
from clones import A, B  # noqa: E402
from device import VTPM, contains, main, read_file, same, true, write_file  # noqa: E402
from keyhost import vtpm  # noqa: E402


def test_list(place):
    """vtpm list: whose, of which other, by what policy; sorted, filtered; what cannot be read is told"""
    os.mkdir("d")
    place.create("d/a.vtpm", "--vm-uuid", A, "--on-clone", "copy", "--ek", "ecc_nist_p256")
    place.create("d/unbound.vtpm")
    vtpm(place, "clone", "d/a.vtpm", "d/b.vtpm", "--vm-uuid", B)
    vtpm(place, "clone", "d/a.vtpm", "d/r.vtpm", "--vm-uuid", B, "--on-clone", "reidentify")
    write_file("d/other", b"nothing of ours")
    os.link("d/a.vtpm", "d/z-again.vtpm")
    same(len(json.loads(vtpm(place, "list", "d", "d/a.vtpm", "--json").stdout)), 4)
    os.remove("d/z-again.vtpm")
    every = json.loads(vtpm(place, "list", "d", "--json").stdout)
    same([os.path.basename(v["path"]) for v in every], ["a.vtpm", "b.vtpm", "r.vtpm", "unbound.vtpm"])
    a, b, r, unbound = every
    same((a["vm_uuid"], a["policy"], a["parent"], a["duplicate_of"], a["same_ek"], a["providers"]),
         (A, "copy", None, None, 1, ["native"]))
    same(a["ek_hash"], certificates(place, "d/a.vtpm")["endorsement_keys"][0]["key_hash"])
    same((b["duplicate_of"], b["ek_hash"], b["parent"]["path"]), (a["vtpm_id"], a["ek_hash"], a["path"]))
    same((r["parent"]["policy"], r["duplicate_of"], r["same_ek"]), ("reidentify", None, 0))
    true(r["ek_hash"] != a["ek_hash"], "the EK of a reidentified one is its source's")
    same((unbound["vm_uuid"], unbound["policy"], unbound["ek_hash"]), (None, None, None))
    same(a["size"], 655360)
    true(abs(a["last_use"] - os.stat("d/a.vtpm").st_mtime) < 2, "last use")

    def paths(*args):
        return [os.path.basename(v["path"])[0] for v in json.loads(vtpm(place, "list", "d", "--json", *args).stdout)]
    same(paths("--filter", "vm_uuid=" + B), ["b", "r"])
    same(paths("--filter", "vm_uuid=" + B, "--filter", "lineage=dup*"), ["b"])
    same(paths("--duplicates"), ["a", "b"])
    same(paths("--reverse"), ["u", "r", "b", "a"])
    same(paths("--sort", "vm_uuid")[0], "u")
    for number, name in enumerate(("unbound", "b", "r", "a")):
        os.utime("d/%s.vtpm" % name, (0, 1000000000 + number))
    same(paths("--sort", "last_use"), ["u", "b", "r", "a"])
    same(json.loads(vtpm(place, "list", "d/r.vtpm", "--json").stdout)[0]["last_use"], 1000000002)
    same(paths("--filter", "provider=nat*", "--filter", "policy=copy"), ["a", "b", "r"])
    same(paths("--filter", "path=*/*", "--filter", "ek_hash="), ["u"])
    largest = max(every, key=lambda v: v["allocated_size"])["allocated_size"]
    same([v["allocated_size"] for v in json.loads(vtpm(place, "list", "d", "--json", "--sort", "size").stdout)][-1], largest)
    same(paths("--sort", "lineage", "--filter", "vm_uuid=?*"), ["a", "b", "r"])
    table = vtpm(place, "list", "d").stdout
    contains(table, A, "duplicate of " + a["vtpm_id"][:8], "reidentify of " + a["vtpm_id"][:8], a["ek_hash"][:12])
    same(len(table.splitlines()), 5)
    vtpm(place, "list", "d", "--sort", "colour", status=2, word="usage")
    vtpm(place, "list", "d", "--filter", "colour=red", status=2, word="usage")
    vtpm(place, "list", "nowhere", status=2, word="usage")
    vtpm(place, "list", status=2, word="usage")
    write_file(place.config, "state-dirs=%s;\n" % os.path.abspath("d"), "a")
    same(len(vtpm(place, "list").stdout.splitlines()), 5)
    with open("d/r.vtpm", "r+b") as file:
        for offset in (20, 65536 + 20):
            file.seek(offset)
            file.write(b"\377" * 40)
    done = vtpm(place, "list", "d", status=1)
    contains(done.stderr, "d/r.vtpm", "neither")
    same(len(done.stdout.splitlines()), 4)


def test_list_many(place):
    """10,000 state files are listed in a second of this machine, in order (in ten where it is emulated)"""
    place.create("a.vtpm", "--ek", "rsa2048,ecc_nist_p384")
    header = read_file("a.vtpm")[:16384].rstrip(b"\0")
    for folder in range(100):
        os.makedirs("d/%02d" % folder)
        for number in range(100):
            with open("d/%02d/%02d.vtpm" % (folder, number), "wb") as file:
                file.write(header)
                file.truncate(655360)
    with open("listed", "wb") as out:
        args = [VTPM, "list", "d", "--config", place.config]
        child = os.posix_spawn(VTPM, args, place.env, file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1)])
        _, status, usage = os.wait4(child, 0)
    same(status, 0, "vtpm list")
    lines = read_file("listed").decode().splitlines()[1:]
    same(len(lines), 10000)
    paths = [line.split()[-1] for line in lines]
    same(paths, sorted(paths))
    same({line.split()[3] for line in lines}, {"9999"})
    took = usage.ru_utime + usage.ru_stime  # not the time that others had the processor
    true(took < (10 if "VTPM_TEST_EMULATED" in os.environ else 1), "%.2f s" % took)
    return "%.2f s" % took


if __name__ == "__main__":
    main(globals())
