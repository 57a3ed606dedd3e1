#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm bind: the first bind, one with a provider that is away, and a file that is another VM's."""
import os
import shutil
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from clones import A, B, new_epoch  # noqa: E402
from device import contains, main, read_file, same, true, write_file  # noqa: E402
from keyhost import add_native, audit, names, unchanged, vtpm  # noqa: E402


def test_bind_mistyped(place):
    """bind with a mistyped passphrase changes nothing: the right one would not open the slot any more"""
    place.create("a.vtpm")
    vtpm(place, "provider", "create", "words", "--kind", "passphrase")
    for name in ("right", "mistyped"):
        write_file(name, name.encode())
    vtpm(place, "keys", "add", "a.vtpm", "--provider", "words", "--password-file", "right")
    with unchanged("a.vtpm"):
        vtpm(place, "bind", "a.vtpm", "--vm-uuid", A, "--password-file", "mistyped", status=4, word="wrong-passphrase")
        place.refused(4, ["wrong-passphrase"], "a.vtpm", "--vm-uuid", A, "--password-file", "mistyped")
    vtpm(place, "bind", "a.vtpm", "--vm-uuid", A, "--password-file", "right")
    vtpm(place, "keys", "drop", "a.vtpm", "--provider", "native", "--password-file", "right")
    vtpm(place, "check", "a.vtpm", "--password-file", "right")


def test_bind(place):
    """vtpm bind: the first one keeps id and slots, --drop leaves one out; another VM's becomes a copy"""
    add_native(place, "site")
    add_native(place, "gone")
    vtpm(place, "provider", "default", "site")
    place.create("a.vtpm")
    vtpm(place, "keys", "add", "a.vtpm", "--provider", "gone")
    before = place.inspect("a.vtpm")["records"][0]
    shutil.copy("a.vtpm", "b.vtpm")
    vtpm(place, "bind", "b.vtpm", "--vm-uuid", B)
    after = place.inspect("b.vtpm")["records"][0]
    same((after["vtpm_id"], after["vm_uuid"], after["epoch"], after["parent"]), (before["vtpm_id"], B, 2, None))
    same(names(place, "b.vtpm"), ["site", "gone"])
    registry = os.path.join(place.data_dir, "providers.conf")
    text = read_file(registry).decode()
    write_file(registry, text.replace("name=gone\nkind=native", "name=gone\nkind=away"), "w")
    with unchanged("a.vtpm"):
        place.refused(4, ["vtpm bind", "--drop"], "a.vtpm", "--vm-uuid", A)
        vtpm(place, "bind", "a.vtpm", "--vm-uuid", A, "--drop", "gone", "--drop", "site", status=2, word="usage")
        vtpm(place, "bind", "a.vtpm", "--vm-uuid", A, "--provider", "site", status=2, word="usage")
        vtpm(place, "bind", "a.vtpm", status=2, word="usage")
    vtpm(place, "bind", "a.vtpm", "--vm-uuid", A, "--drop", "gone")
    same(names(place, "a.vtpm"), ["site"])
    with unchanged("a.vtpm"):
        contains(vtpm(place, "bind", "a.vtpm", "--vm-uuid", A).stdout, "already")
        vtpm(place, "bind", "a.vtpm", "--vm-uuid", B, status=2, word="usage")  # nobody to ask
    shutil.copy("a.vtpm", "c.vtpm")
    contains(vtpm(place, "bind", "c.vtpm", "--vm-uuid", B, "--yes").stderr, "duplicate")
    new_epoch(place, "c.vtpm", "copy")
    same([(line["outcome"], B in line["detail"]) for line in audit(place, "bind") if line["outcome"] == "ok"],
         [("ok", True), ("ok", False)])
    true(len(audit(place, "bind")) > 2, "a bind that failed left no line")
    same(len(audit(place, "identity-duplicated")), 1)


if __name__ == "__main__":
    main(globals())
