#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm inspect and check, of sound and damaged files: what they say, how they exit, and that nothing is written."""
import os
import re
import shutil
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from command_host import (HEADER, SIZE, SLOT, UUID_A, VTPM, content, fails, flip, locked, main, make,  # noqa: E402
                          words, write)


def test_inspect_text(host):
    """inspect shows ids, slots and generations, without a key"""
    path = host.create("vm.vtpm", "--vm-uuid", UUID_A, "--on-clone", "copy")
    shutil.rmtree(os.path.join(host.data, "native"))
    done = host.run("inspect", path)
    assert done.returncode == 0 and not done.stderr
    for wanted in (UUID_A, "copy", "Epoch           1, sequence 1", "(native)", "Header copy B   good",
                   "libtpms         0.", "State slot 1    epoch 1, generation 1, final", "Verified        nothing"):
        assert wanted in done.stdout, (wanted, done.stdout)
    assert "Problem" not in done.stdout


def test_inspect_json(host):
    """inspect --json has it all, and names a provider only where the host does"""
    path = host.create("vm.vtpm", "--vm-uuid", UUID_A)
    view = host.inspect(path)
    record = view["records"][0]
    assert view["file_size"] == SIZE and view["generation"] == 1 and view["problems"] == []
    assert view["header_copies"] == ["good", "good"]
    assert [slot["status"] for slot in view["state_slots"]] == ["good", "good"]
    assert view["state_slots"][0]["final"] is True and view["state_slots"][0]["vtpm_id"] == record["vtpm_id"]
    assert (record["epoch"], record["sequence"], record["vm_uuid"], record["policy"]) == (1, 1, UUID_A, None)
    assert record["parent"] is None and record["awaits_incoming"] is False
    assert re.fullmatch(r"\d+\.\d+\.\d+", record["libtpms_version"])
    slot = record["key_slots"][0]
    assert slot["provider_name"] == "native" and slot["key_version"] == 1 and slot["key_id"]
    host.env["VTPM_DATA_DIR"] = os.path.join(host.folder, "elsewhere")
    assert host.inspect(path)["records"][0]["key_slots"][0]["provider_name"] is None
    assert not os.path.exists(host.env["VTPM_DATA_DIR"])


def test_inspect_damaged(host):
    """inspect of a damaged file says which part it is, and shows the rest"""
    good = content(host.create())
    vtpm_id = host.inspect(host.path())["records"][0]["vtpm_id"]
    for part, offset in enumerate(HEADER):
        path = make(host.path(f"header-{part}"), good)
        flip(path, offset + 100)
        view = host.inspect(path)
        assert view["header_copies"][part] == "damaged" and view["header_copies"][1 - part] == "good"
        assert words(view) == ["state-damaged"] and view["records"][0]["vtpm_id"] == vtpm_id
    for part, offset in enumerate(SLOT):
        path = make(host.path(f"slot-{part}"), good)
        flip(path, offset)
        view = host.inspect(path)
        assert view["state_slots"][part]["status"] == "damaged" and words(view) == ["state-slot-unreadable"]
        done = host.run("inspect", path)
        assert done.returncode == 0 and "[state-slot-unreadable]" in done.stdout
    path = make(host.path("no-header"), good)
    for offset in HEADER:
        flip(path, offset)
    view = host.inspect(path)
    assert view["records"] == [] and view["state_slots"][0]["vtpm_id"] == vtpm_id
    assert words(view) == ["state-damaged"] * 2
    path = make(host.path("blank-copy"), good)
    write(path, HEADER[0], bytes(64 * 1024))
    assert host.inspect(path)["header_copies"] == ["blank", "good"]


def test_inspect_foreign_slot(host):
    """a slot of another vTPM is seen without a key"""
    path, other = host.create("a"), content(host.create("b"))
    write(path, SLOT[1], other[SLOT[1]:SLOT[1] + 16384])
    assert words(host.inspect(path)) == ["state-foreign-slot"]
    fails(host.check(path), 3, "state-foreign-slot")


def test_truncated(host):
    """a file that ends too early: shown as far as it goes, never taken for sound"""
    good = content(host.create())
    for size in (SIZE - 1, SLOT[1] + 500, SLOT[0], 70000, 20000):
        path = make(host.path(f"cut-{size}"), good[:size])
        view = host.inspect(path)
        assert "state-truncated" in words(view) and view["records"], size
        fails(host.check(path), 3, "state-truncated")
        assert content(path) == good[:size]
    for size in (0, 10, 200):
        path = make(host.path(f"cut-{size}"), good[:size])
        fails(host.run("inspect", path), 3, "state-truncated")
        fails(host.check(path), 3, "state-truncated")


def test_not_a_state_file(host):
    """what is no state file, or not there"""
    text, zeros = make(host.path("text"), b"hello\n" * 200000), make(host.path("zeros"), bytes(SIZE))
    for command in ("inspect", "check"):
        fails(host.run(command, text), 3, "state-damaged")
        fails(host.run(command, zeros), 3, "state-damaged")
        fails(host.run(command, host.path("nothing")), 3, "state-missing")
        fails(host.run(command, host.folder), 2, "usage")
        fails(host.run(command, "/dev/null"), 2, "usage")


def test_check(host):
    """check says each thing that it proves, and writes nothing"""
    path = host.create("vm.vtpm", "--vm-uuid", UUID_A)
    before, info = content(path), os.stat(path)
    done = host.check(path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    for wanted in ("header: both copies", "key slot 1: provider native", "state slots: both decrypt", "TPM: libtpms"):
        assert wanted in done.stdout, done.stdout
    os.chmod(path, 0o400)
    assert host.check(path).returncode == 0
    after = os.stat(path)
    assert content(path) == before and (after.st_mtime_ns, after.st_ino) == (info.st_mtime_ns, info.st_ino)


def test_check_damaged(host):
    """check finds damage in any part, and changes nothing"""
    good = content(host.create())
    used = int.from_bytes(good[SLOT[0] + 12:SLOT[0] + 16], "little") + 96  # ciphertext, header and tag
    cases = [(HEADER[part] + at, "state-damaged") for part in (0, 1) for at in (0, 60, 150)]
    in_slot = (0, 40, 50, 79, 80, 900, used - 1)
    cases += [(SLOT[part] + at, "state-slot-unreadable") for part in (0, 1) for at in in_slot]
    for number, (offset, word) in enumerate(cases):
        path = make(host.path(f"flip-{number}"), good)
        flip(path, offset)
        before = content(path)
        fails(host.check(path), 3, word)
        assert content(path) == before
    path = make(host.path("both"), good)
    flip(path, SLOT[0] + 900)
    flip(path, SLOT[1] + 900)
    fails(host.check(path), 3, "state-damaged")
    path = make(host.path("swapped"), good)
    write(path, SLOT[0], good[SLOT[1]:])
    write(path, SLOT[1], good[SLOT[0]:SLOT[1]])
    fails(host.check(path), 3, "state-damaged")


def test_check_other_slot_still_proved(host):
    """damage in one place does not hide what is sound elsewhere"""
    path = host.create()
    flip(path, SLOT[1] + 900)
    done = host.check(path)
    fails(done, 3, "state-slot-unreadable")
    assert "slot 1" in done.stderr and "TPM: libtpms" in done.stdout and "header: both" in done.stdout


def test_check_keys(host):
    """check without the key: unknown provider, destroyed key, refusing provider"""
    path = host.create()
    host.add_provider(UUID_A, "kms", "plain")
    second = host.create("second", "--provider", "kms")
    assert host.check(second).returncode == 0
    registry = os.path.join(host.data, "providers.conf")
    with open(registry, encoding="ascii") as file:
        text = file.read()
    with open(registry, "w", encoding="ascii") as file:
        file.write(text.replace("mode=plain", "mode=key-disabled"))
    fails(host.check(second), 4, "key-disabled")
    shutil.rmtree(os.path.join(host.data, "native"))
    fails(host.check(path), 4, "key-destroyed")
    host.env["VTPM_DATA_DIR"] = os.path.join(host.folder, "elsewhere")
    done = host.check(path)
    fails(done, 4, "provider-unknown")
    assert not os.path.exists(host.env["VTPM_DATA_DIR"])


def test_header_lock(host):
    """while a header is being written, a reader waits for it"""
    path = host.create()
    held, release = threading.Event(), threading.Event()

    def hold():
        with locked(path, 1):
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    reader = subprocess.Popen([VTPM, "inspect", path, "--config", host.config], env=host.env,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(0.3)
    assert reader.poll() is None
    release.set()
    thread.join()
    assert reader.wait(timeout=30) == 0
    reader.communicate()


if __name__ == "__main__":
    main(globals())
