#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""State that swtpm wrote, and what must not happen to it: damaged, taken, in use, asked for
amiss; killed at every step."""
import glob
import os
import shutil
import signal
import sys
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import VTPM, contains, main, read_file, same, true, write_file  # noqa: E402
from keyhost import add_passphrase, unchanged, vtpm  # noqa: E402
from killed import killer, run_killed  # noqa: E402
from swtpm import Served, debian, run, setup  # noqa: E402
from swtpm_guest import CLEAR, PERMANENT, VOLATILE, Guest, contents, import_it, left_alone, made_by_swtpm  # noqa: E402


def test_suspended_damaged(place):
    """suspended state that libtpms does not take is told apart from the rest, which can be had without it"""
    guest = Guest(place)
    os.mkdir("old")
    guest.start_swtpm("old")
    guest.furnish()
    guest.stop_swtpm(suspend=True)
    suspended = bytearray(read_file("old/" + VOLATILE))
    suspended[200] ^= 1
    write_file("old/" + VOLATILE, bytes(suspended))
    before = contents("old")
    done = import_it(place, "old", "vm.vtpm", status=3, word="state-damaged")
    contains(done.stderr, VOLATILE, "--discard-suspended")
    same(contents("old"), before)
    import_it(place, "old", "vm.vtpm", "--discard-suspended")
    same(contents("old"), {name + ".swtpm": data for name, data in before.items()})
    guest.start_ours("vm.vtpm")
    guest.has_all(b"by-swtpm")
    guest.device.term()


def test_damaged(place):
    """truncated and changed state, other files, no file: each has its word, and nothing is changed"""
    made_by_swtpm(place)
    whole = read_file("old/" + PERMANENT)
    for length in (0, 9, 10, 15, 16, 600, len(whole) - 1):
        write_file("old/" + PERMANENT, whole[:length])
        left_alone(place, "state-truncated", 3)
    write_file("old/" + PERMANENT, whole + b"\0")
    left_alone(place, "state-damaged", 3)
    for offset in (2, 10, 18, 40):
        changed = bytearray(whole)
        changed[offset] ^= 0x40
        write_file("old/" + PERMANENT, bytes(changed))
        left_alone(place, "state-damaged", 3)
    write_file("old/" + PERMANENT, b"\0" * (600 << 10))
    left_alone(place, "state-damaged", 3)
    os.unlink("old/" + PERMANENT)
    left_alone(place, "state-missing", 3)
    write_file("old/tpm-00.permall", whole)
    left_alone(place, "usage", 2)
    os.unlink("old/tpm-00.permall")
    os.mkfifo("old/" + PERMANENT)
    import_it(place, "old", "vm.vtpm", status=2, word="usage")
    write_file("text", b"hello, world\n" * 100)
    import_it(place, "text", "vm.vtpm", status=3, word="state-damaged")
    import_it(place, "nowhere", "vm.vtpm", status=3, word="state-missing")
    vtpm(place, "import", "vm.vtpm", status=2, word="usage")


FORGETFUL = """#!/bin/sh
echo "vtpm-provider 1 forgetful $1 wrap unwrap"
while read -r op vtpm a b c d; do
  echo "$op" >>"$VTPM_DATA_DIR/asked"
  case $op-$(grep -c unwrap "$VTPM_DATA_DIR/asked") in
    wrap-*) echo "ok key 1 $b" ;;
    unwrap-1) echo "ok $d" ;;
    *) echo error key-destroyed it was here a moment ago ;;
  esac
done
"""


def test_not_verified(place):
    """a new file that does not open cold (its provider proved the key, and lost it) is taken back, the original stays"""
    made_by_swtpm(place)
    os.mkdir("helpers")
    write_file("helpers/vtpm-provider-forgetful", FORGETFUL, "w")
    os.chmod("helpers/vtpm-provider-forgetful", 0o755)
    os.makedirs(place.data_dir, mode=0o700)
    write_file(os.path.join(place.data_dir, "providers.conf"),
               "[provider %s]\nname=forgetful\nkind=forgetful\n" % uuid.uuid4(), "w")
    write_file(place.config, "[vtpm]\nhelper-dirs=%s;\n" % os.path.abspath("helpers"), "w")
    left_alone(place, "key-destroyed", 4, "--provider", "forgetful")
    same(read_file(os.path.join(place.data_dir, "asked")).split(), [b"wrap", b"unwrap", b"unwrap"])
    os.unlink(os.path.join(place.data_dir, "asked"))
    before = contents("old")
    import_it(place, "old", "old/" + PERMANENT, "--provider", "forgetful", status=4, word="key-destroyed")
    same(contents("old"), before)
    os.unlink(os.path.join(place.data_dir, "asked"))
    os.rename("old/" + PERMANENT, "elsewhere")
    os.symlink("../elsewhere", "old/" + PERMANENT)
    import_it(place, "old", "new.vtpm", "--provider", "forgetful", status=4, word="key-destroyed")
    same((contents("old"), os.path.exists("new.vtpm")), (before, False), "by a symbolic link")


def test_taken(place):
    """what is there is never overwritten: a state file, a symbolic link, swtpm's state; one in use is not touched"""
    guest = made_by_swtpm(place)
    before = contents("old")
    write_file("vm.vtpm", b"something")
    with unchanged("vm.vtpm"):
        import_it(place, "old", "vm.vtpm", status=3, word="state-exists")
    os.symlink("nowhere", "link.vtpm")
    import_it(place, "old", "link.vtpm", status=3, word="state-exists")
    same(contents("old"), before)
    guest.start_swtpm("old")
    done = import_it(place, "old", "other.vtpm", status=6, word="in-use")
    contains(done.stderr, "process %d" % guest.swtpm.pid)
    guest.stop_swtpm()
    place.create("ours.vtpm")
    vtpm(place, "export", "--swtpm", "--plaintext", "ours.vtpm", "old", status=3, word="state-exists")
    os.mkdir("new")
    write_file("new/" + VOLATILE, b"of another one")
    vtpm(place, "export", "--swtpm", "--plaintext", "ours.vtpm", "new", status=3, word="state-exists")
    same(contents("new"), {VOLATILE: b"of another one"})


def test_image_in_use(place):
    """an image that an swtpm has open, which locks none, is not imported under its guest's feet, nor set aside"""
    where = "file://" + os.path.join(place.folder, "vm.img")
    guest = Guest(place)
    guest.start_swtpm(where)
    guest.furnish()
    names = sorted(os.listdir("."))
    done = import_it(place, where, "vm.img", status=6, word="in-use")
    contains(done.stderr, "vm.img")
    contains(setup(place, where, "--overwrite", status=1).stderr, "[in-use]", "vm.img")
    same(sorted(os.listdir(".")), names)
    guest.stop_swtpm()
    import_it(place, where, "vm.img")
    guest.start_ours("vm.img")
    guest.has_all(b"by-swtpm")
    guest.device.term()


def test_header_taken(place):
    """real swtpm that looks at a file of ours as an image writes over the first header copy: the file still is ours"""
    place.create("vm.img")
    where = "file://" + os.path.join(place.folder, "vm.img")
    run(place, debian(), "socket", "--tpm2", "--print-states", "--tpmstate", "backend-uri=" + where)
    true(read_file("vm.img")[:8] != b"vtpm-hdr", "Debian's has written to it")
    import_it(place, where, "other.vtpm", status=2, word="usage")
    served = Served(place, None, state="backend-uri=" + where)
    served.powered()
    served.shutdown()
    place.sound("vm.img")


def test_export_asks(place):
    """an export says in the clear or under which key, or is refused; and needs the state's own key"""
    place.create()
    os.mkdir("new")
    for args in ((), ("--plaintext", "--key", "pwdfile=word")):
        done = vtpm(place, "export", "--swtpm", *args, "state.vtpm", "new", status=2, word="usage")
        contains(done.stderr, "--plaintext", "--key")
    vtpm(place, "export", "--plaintext", "state.vtpm", "new", status=2, word="usage")
    vtpm(place, "export", "--swtpm", "--plaintext", "state.vtpm", "nowhere", status=2, word="usage")
    vtpm(place, "export", "--swtpm", "--plaintext", "nowhere.vtpm", "new", status=3, word="state-missing")
    vtpm(place, "export", "--swtpm", "--key", "pwdfile=not-there", "state.vtpm", "new", status=4, word="key-closed")
    add_passphrase(place, "pass")
    place.create("other.vtpm", "--provider", "pass")
    write_file("pass.word", b"another one\n")
    vtpm(place, "export", "--swtpm", "--plaintext", "other.vtpm", "new", status=4, word="wrong-passphrase")
    same(contents("new"), {})


def test_export_running(place):
    """a running TPM can be exported to another folder, but not be turned back under itself"""
    os.mkdir("vm")
    state = "vm/" + PERMANENT
    place.create(state)
    device = place.start(state)
    device.powered()
    done = vtpm(place, "export", "--swtpm", "--plaintext", state, "vm", status=6, word="in-use")
    contains(done.stderr, "process %d" % device.pid)
    same(list(contents("vm")), [PERMANENT])
    os.mkdir("new")
    vtpm(place, "export", "--swtpm", "--plaintext", state, "new")
    device.term()


def has_ours(place, *paths):
    """At least one of PATHS is a state file that opens; none is half of one."""
    states = [path for path in paths if os.path.exists(path) and read_file(path)[:8] == b"vtpm-hdr"]
    for path in states:
        place.sound(path)
    return bool(states)


def at_each_step(place, library, prepare, check, *args):
    """Runs vtpm ARGS killed at each of its steps that name a file, then told of each that it failed. PREPARE() before each,
    CHECK(a word for messages) after it."""
    def run(fault, number):
        prepare()
        done = run_killed(place, library, os.path.basename(VTPM), number, *args, fault=fault)
        true(done.returncode in ((0, -signal.SIGKILL) if fault == "KILL_AT" else (0, 1)), done.stderr.decode())
        check("%s %d" % (fault, number))
        return done.returncode

    steps = 1
    while run("KILL_AT", steps) != 0:
        steps += 1
    true(steps > 5, "it was killed %d times" % steps)
    for number in range(1, steps):
        run("LIE_AT", number)
    same(run("LIE_AT", steps), 0)


def test_names(place):
    """killed at any step of an import or export, or told that a step failed that was done: the TPM is there, under its
    name or as the original, never half"""
    library = killer(place)
    guest = Guest(place)
    os.mkdir("old")
    guest.start_swtpm("old")
    guest.furnish()
    guest.stop_swtpm(suspend=True)
    place.create("warm-up.vtpm")  # the provider is there
    whole = contents("old")

    def restore(folder):
        shutil.rmtree("vm", ignore_errors=True)
        shutil.copytree(folder, "vm")
        for path in glob.glob("vm.vtpm*"):
            os.unlink(path)

    def check_import(target, what):
        after = contents("vm")
        for name, data in whole.items():
            true(data in (after.get(name), after.get(name + ".swtpm")), "%s after %s" % (name, what))
        ours = has_ours(place, target)
        true(ours or after.get(PERMANENT) == whole[PERMANENT], "swtpm or we can start after " + what)
        true(ours or after.get(VOLATILE) == whole[VOLATILE], "and resume, after " + what)
        if not has_ours(place, target):
            import_it(place, "vm", target)
            same([name for name in os.listdir("vm") if ".new." in name], [], "what it left goes with the next try")

    for target in ("vm.vtpm", "vm/" + PERMANENT):
        at_each_step(place, library, lambda: restore("old"), lambda what, to=target: check_import(to, what),
                     "import", "--swtpm", "vm", target)
    shutil.copytree("vm", "imported")
    ours = read_file("vm/" + PERMANENT)

    def check_export(what):
        after = contents("vm")
        true(ours in (after[PERMANENT], after.get(PERMANENT + ".vtpm")), "ours after " + what)
        true(after[PERMANENT] in (ours, whole[PERMANENT]), "one of both, whole, after " + what)
        if after[PERMANENT] != ours:
            same(after[VOLATILE], whole[VOLATILE])
            return
        for path in glob.glob("vm/*" + VOLATILE):  # the first half of what it does
            os.unlink(path)
        vtpm(place, "export", "--swtpm", *CLEAR, "vm/" + PERMANENT, "vm")
        same([name for name in os.listdir("vm") if ".new." in name], [], "what it left goes with the next try")

    at_each_step(place, library, lambda: restore("imported"), check_export,
                 "export", "--swtpm", "--plaintext", "vm/" + PERMANENT, "vm")


if __name__ == "__main__":
    main(globals())
