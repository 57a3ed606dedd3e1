#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""vtpm create and destroy, with good and bad input: what they say, how they exit, and that nothing on disk changes
where it must not. VTPM and VTPM_PLAINSTATE name the programs."""
import os
import pty
import re
import shutil
import stat
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from command_host import (HEADER, NOBODY, SIZE, UUID_A, UUID_B, VTPM, content, fails, flip, locked, main,  # noqa: E402
                          make)

PLAINSTATE = os.path.abspath(os.environ.get("VTPM_PLAINSTATE", "./tests/plainstate"))
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


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


def test_destroy(host):
    """destroy wipes all of the file and takes its name away; it needs no key"""
    path = host.create()
    before = content(path)
    os.link(path, host.path("backup"))
    shutil.rmtree(host.data)
    fails(host.run("destroy", "--yes", path), 2, "usage")
    assert content(host.path("backup")) == before
    os.unlink(host.path("backup"))
    with open(path, "rb") as wiped:
        done = host.run("destroy", "--yes", path)
        assert done.returncode == 0, done.stderr
        assert host.states() == [] and wiped.read() == bytes(SIZE)


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


if __name__ == "__main__":
    main(globals())
