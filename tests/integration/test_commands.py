#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm create, inspect, check and destroy, with good and bad input: what they say, how they exit,
and that nothing on disk changes where it must not. VTPM and VTPM_PLAINSTATE name the programs."""
import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time

VTPM = os.path.abspath(os.environ.get("VTPM", "./vtpm"))
PLAINSTATE = os.path.abspath(os.environ.get("VTPM_PLAINSTATE", "./tests/plainstate"))
UUID_A = "7d444840-9dc0-41d1-b245-5ffdce74fad2"
UUID_B = "00112233-4455-6677-8899-aabbccddeeff"
SIZE = 640 * 1024
HEADER = (0, 64 * 1024)
SLOT = (128 * 1024, 384 * 1024)
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
NOBODY = 65534

FAKE = """#!/bin/sh
mode=${2#mode=}
echo "vtpm-provider 1 fake $1 wrap unwrap"
while read -r op vtpm a b c d; do
  case $mode-$op in
    plain-wrap) echo "ok fake-key 1 $b" ;;
    plain-unwrap) echo "ok $d" ;;
    *) echo error "$mode" as it was told ;;
  esac
done
"""


class Host:
    """Providers, configuration and state files of their own."""

    def __init__(self, folder):
        self.folder = folder
        self.data = os.path.join(folder, "data")
        self.config = os.path.join(folder, "vtpm.conf")
        helpers = os.path.join(folder, "helpers")
        os.mkdir(helpers)
        os.mkdir(os.path.join(folder, "states"))
        with open(self.config, "x", encoding="ascii") as file:
            file.write(f"[vtpm]\nhelper-dirs={helpers};\n")
        fake = os.path.join(helpers, "vtpm-provider-fake")
        with open(fake, "x", encoding="ascii") as file:
            file.write(FAKE)
        os.chmod(fake, 0o755)
        self.env = dict(os.environ, VTPM_DATA_DIR=self.data, HOME=folder,
                        VTPM_LIBEXEC_DIR=os.environ.get("VTPM_LIBEXEC_DIR", os.path.dirname(VTPM)), LC_ALL="C")

    def path(self, name="vm.vtpm"):
        return os.path.join(self.folder, "states", name)

    def run(self, *args, **options):
        options.setdefault("env", self.env)
        options.setdefault("stdin", subprocess.DEVNULL)
        if args and args[0] in ("create", "inspect", "check") and "--config" not in args:
            args += ("--config", self.config)  # never the host's own
        return subprocess.run([VTPM, *args], capture_output=True, text=True, timeout=60, check=False, **options)

    def create(self, name="vm.vtpm", *args):
        done = self.run("create", self.path(name), "--ek", "none", *args)  # most of a create's time are keys
        assert done.returncode == 0, done.stderr
        return self.path(name)

    def check(self, path, **options):
        return self.run("check", path, **options)

    def inspect(self, path):
        done = self.run("inspect", "--json", path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def states(self):
        return sorted(os.listdir(os.path.join(self.folder, "states")))

    def add_provider(self, uuid, name, mode):
        with open(os.path.join(self.data, "providers.conf"), "a", encoding="ascii") as file:
            file.write(f"\n[provider {uuid}]\nname={name}\nkind=fake\noptions=mode={mode};\n")


def fails(done, status, word):
    """Exit status, and one line that starts with the program and the word."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if f"[{word}]" in line]
    assert lines, done.stderr
    assert re.match(r"vtpm [a-z]+: \[", lines[0]), lines[0]


def content(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path, offset):
    write(path, offset, bytes([content(path)[offset] ^ 0x40]))


def make(path, data):
    with open(path, "xb") as file:
        file.write(data)
    return path


@contextlib.contextmanager
def locked(path, byte):
    with open(path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        yield


def words(view):
    return [problem["word"] for problem in view["problems"]]


def test_program(host):
    """the program itself: version, help, what it does not know"""
    assert re.match(r"vtpm \d", host.run("--version").stdout)
    for args in (["--help"], ["help"], ["help", "create"], ["check", "--help"]):
        done = host.run(*args)
        assert done.returncode == 0 and "Usage" in done.stdout, args
    for args in ([], ["frobnicate"], ["help", "frobnicate"]):
        assert host.run(*args).returncode == 2, args
    for command in ("create", "inspect", "check", "destroy"):
        fails(host.run(command), 2, "usage")
        fails(host.run(command, "a", "b"), 2, "usage")
        fails(host.run(command, "a", "--frobnicate"), 2, "usage")


def test_create(host):
    """create says what it made, and makes it for its owner alone"""
    done = host.run("create", host.path())
    assert done.returncode == 0 and re.fullmatch(r"warning: \[not-backed-up\] .*\n", done.stderr), done.stderr
    assert re.fullmatch(rf"vTPM {UUID}, VM unbound, provider native\n", done.stdout), done.stdout
    info = os.stat(host.path())
    assert info.st_size == SIZE and stat.S_IMODE(info.st_mode) == 0o600
    done = host.run("create", host.path("b"), "--vm-uuid", UUID_A.upper(), "--on-clone", "reidentify")
    assert f"VM {UUID_A}, provider native" in done.stdout
    view = host.inspect(host.path("b"))
    assert view["records"][0]["policy"] == "reidentify"
    assert host.states() == ["b", "vm.vtpm"]


def test_create_secrets_have_modes(host):
    """what create makes for the provider is closed to others, whatever the umask"""
    mask = os.umask(0)
    try:
        host.create()
    finally:
        os.umask(mask)
    for folder, _, files in os.walk(host.data):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700, folder
        for name in files:
            assert stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600, name
    assert stat.S_IMODE(os.stat(host.path()).st_mode) == 0o600


def test_create_refusals(host):
    """create refuses what it is given wrong, and leaves nothing behind"""
    nil, ones = "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"
    for uuid in (nil, ones, "7d444840", UUID_A + "0", ""):
        fails(host.run("create", host.path(), "--vm-uuid", uuid), 2, "usage")
    fails(host.run("create", host.path(), "--on-clone", "none"), 2, "usage")
    fails(host.run("create", host.path(), "--provider", "nobody"), 4, "provider-unknown")
    fails(host.run("create", host.path(), "--provider", UUID_B), 4, "provider-unknown")
    fails(host.run("create", os.path.join(host.folder, "no", "vm.vtpm")), 2, "usage")
    fails(host.run("create", host.path(), "--config", host.config + ".not"), 2, "usage")
    assert host.states() == []
    assert not os.path.exists(host.data)


def test_create_bad_config(host):
    """a key that vtpm.conf does not have is named"""
    with open(host.config, "w", encoding="ascii") as file:
        file.write("[vtpm]\ninit-wait=1\nintit-wait=2\n")
    done = host.run("create", host.path())
    fails(done, 2, "usage")
    assert "intit-wait" in done.stderr and host.config in done.stderr
    assert host.states() == []


def test_create_exists(host):
    """create never touches what is there"""
    path = host.create()
    before = content(path)
    fails(host.run("create", path), 3, "state-exists")
    assert content(path) == before
    other = make(host.path("mine"), b"mine")
    fails(host.run("create", other), 3, "state-exists")
    os.mkdir(host.path("folder"))
    fails(host.run("create", host.path("folder")), 3, "state-exists")
    os.symlink("nowhere", host.path("link"))
    fails(host.run("create", host.path("link")), 3, "state-exists")
    assert host.states() == ["folder", "link", "mine", "vm.vtpm"] and content(other) == b"mine"


def test_create_races(host):
    """of many that make one name one wins; of many that make the default provider all get the same"""
    names = ["same"] * 4 + [f"own-{i}" for i in range(4)]
    running = [subprocess.Popen([VTPM, "create", host.path(name), "--config", host.config], env=host.env,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for name in names]
    done = [(process.communicate(timeout=60), process.returncode) for process in running]
    same = [status for _, status in done[:4]]
    assert sorted(same) == [0, 3, 3, 3], done
    assert all(status == 0 for _, status in done[4:]), done
    assert host.states() == ["own-0", "own-1", "own-2", "own-3", "same"]
    providers = {host.inspect(host.path(name))["records"][0]["key_slots"][0]["provider"] for name in set(names)}
    assert len(providers) == 1
    for name in set(names):
        assert host.check(host.path(name)).returncode == 0


def test_create_provider(host):
    """create with a provider of the host, by name; one that refuses keeps its word"""
    host.create("first")
    host.add_provider(UUID_A, "kms", "plain")
    host.add_provider(UUID_B, "gone", "provider-unreachable")
    done = host.run("create", host.path("second"), "--provider", "kms")
    assert "provider kms" in done.stdout, done.stderr
    assert host.inspect(host.path("second"))["records"][0]["key_slots"][0]["provider"] == UUID_A
    done = host.run("create", host.path("third"), "--provider", "gone")
    fails(done, 4, "provider-unreachable")
    assert "gone" in done.stderr
    assert host.states() == ["first", "second"]


def can_drop():
    """Whether this test is root, and the program can be run by nobody."""
    if os.geteuid() != 0:
        return False
    done = subprocess.run([VTPM, "--version"], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True,
                          check=False)
    return done.returncode == 0


def test_other_user(host):
    """another user: folder and file are closed to him, and that is said"""
    if not can_drop():
        return "needs root, and a program that others can run"
    path = host.create()
    os.chmod(host.folder, 0o755)
    other = dict(user=NOBODY, group=NOBODY, extra_groups=[])
    fails(host.run("create", host.path("new"), **other), 4, "access-denied")
    for command in (["inspect"], ["check"], ["destroy", "--yes"]):
        fails(host.run(*command, path, **other), 4, "access-denied")
    os.chmod(path, 0o644)
    fails(host.check(path, **other), 4, "access-denied")  # the key store is closed all the same
    assert host.run("inspect", path, **other).returncode == 0
    fails(host.run("destroy", "--yes", path, **other), 4, "access-denied")
    return None


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


def test_locks(host):
    """inspect and check work beside an owner; destroy does not"""
    path = host.create()
    before = content(path)
    with locked(path, 0):
        assert host.check(path).returncode == 0
        assert host.inspect(path)["problems"] == []
        fails(host.run("destroy", "--yes", path), 6, "in-use")
    with locked(path, 3):
        assert host.check(path).returncode == 0
        fails(host.run("destroy", "--yes", path), 1, "rekey-pending")
    assert content(path) == before


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


def test_destroy(host):
    """destroy wipes all of the file and takes its name away; it needs no key"""
    path = host.create()
    os.link(path, host.path("link"))
    shutil.rmtree(host.data)
    done = host.run("destroy", "--yes", path)
    assert done.returncode == 0, done.stderr
    assert host.states() == ["link"] and content(host.path("link")) == bytes(SIZE)


def test_destroy_refusals(host):
    """destroy asks, and leaves alone what is no state file"""
    path = host.create()
    before = content(path)
    fails(host.run("destroy", path), 2, "usage")
    os.symlink("vm.vtpm", host.path("link"))
    fails(host.run("destroy", "--yes", host.path("link")), 2, "usage")
    assert content(path) == before
    text, small = make(host.path("text"), b"precious\n" * 100000), make(host.path("small"), b"precious")
    zeros = make(host.path("zeros"), bytes(SIZE))
    for other in (text, small, zeros):
        kept = content(other)
        fails(host.run("destroy", "--yes", other), 3, "state-damaged")
        assert content(other) == kept
    fails(host.run("destroy", "--yes", host.path("nothing")), 3, "state-missing")
    one_copy = make(host.path("one-copy"), before)
    flip(one_copy, HEADER[0])
    assert host.run("destroy", "--yes", one_copy).returncode == 0


def on_terminal(host, path, answer):
    """vtpm destroy with a terminal on its standard input."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([VTPM, "destroy", path], env=host.env, stdin=theirs, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    os.write(ours, answer)
    out, err = process.communicate(timeout=30)
    os.close(ours)
    return process.returncode, out + err


def test_destroy_asks(host):
    """destroy on a terminal takes yes, and nothing else, for yes"""
    path = host.create("vm.vtpm", "--vm-uuid", UUID_A)
    before = content(path)
    for answer in (b"no\n", b"y\n", b"\n", b"yes please\n", b"\x04"):
        status, text = on_terminal(host, path, answer)
        assert status == 1 and "[failed]" in text and UUID_A in text, (answer, status, text)
        assert content(path) == before
    assert on_terminal(host, path, b"yes\n")[0] == 0
    assert host.states() == []


def test_nothing_in_the_clear(host):
    """no 16 bytes of the TPM's state stand in the file or in the provider's folder"""
    if not os.access(PLAINSTATE, os.X_OK):
        return "no plainstate program"
    path = host.create()
    plain = subprocess.run([PLAINSTATE, path, "--config", host.config], env=host.env, capture_output=True, check=False)
    assert plain.returncode == 0 and len(plain.stdout) > 1000, plain.stderr
    windows = {plain.stdout[i:i + 16] for i in range(len(plain.stdout) - 15)}
    windows = {window for window in windows if len(set(window)) > 8}
    assert len(windows) > 100
    files = [path] + [os.path.join(folder, name) for folder, _, names in os.walk(host.data) for name in names]
    for name in files:
        data = content(name)
        assert not any(data[i:i + 16] in windows for i in range(len(data) - 15)), name
    shutil.rmtree(os.path.join(host.data, "native"))
    locked_out = subprocess.run([PLAINSTATE, path, "--config", host.config], env=host.env, capture_output=True,
                                check=False)
    assert locked_out.returncode == 4 and not locked_out.stdout
    return None


def main():
    tests = [function for name, function in globals().items() if name.startswith("test_")]
    print(f"1..{len(tests)}", flush=True)
    failed = False
    for number, function in enumerate(tests, 1):
        title = f"{number} - {function.__doc__}"
        with tempfile.TemporaryDirectory(prefix="vtpm-commands-") as folder:
            try:
                skip = function(Host(folder))
                print(f"ok {title} # SKIP {skip}" if skip else f"ok {title}", flush=True)
            except (AssertionError, OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError) as error:
                failed = True
                where = error.__traceback__
                while where.tb_next:
                    where = where.tb_next
                print(f"not ok {title}\n# line {where.tb_lineno}: {error!r}"[:4000], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
