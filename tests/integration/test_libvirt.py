#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The real libvirt and a guest: what a domain goes through with our TPM, once by the swtpm command lines and once with
an external backend (qemu/libvirt_story.py); under UEFI; and as an ordinary user's.

Environment: see libvirt_host.py. One story alone: test_libvirt.py emulator, external, their secrets or session.
"""
import contextlib
import os
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
from device import (SHUTDOWN, Control, Skip, connect, contains, die_with_parent, lacks, main, read_file, same,  # noqa: E402
                    true)
from libvirt_host import LIBEXEC, add_steps, cache, domain, lv  # noqa: E402
from libvirt_story import STATE, Emulator, External, SecretStory, Story, record  # noqa: E402
from scenario import compare_event_log  # noqa: E402
from swtpm import COMPAT, SWTPM, environment  # noqa: E402

add_steps(globals(), "emulator", "emulator", Story, Emulator)
add_steps(globals(), "external", "external", Story, External)
add_steps(globals(), "secret_emulator", "emulator, secret", SecretStory, Emulator)
add_steps(globals(), "secret_external", "external, secret", SecretStory, External)


def test_socket(place):
    """the control socket has its mode from the moment when it is there: libvirt, which waits for it, makes it QEMU's at once,
    and whoever then changes its mode fails"""
    if not shutil.which("strace"):
        raise Skip("strace is not installed")
    os.mkdir("state")
    line = ["strace", "-f", "-o", "calls", "-e", "trace=chmod,fchmodat,bind", SWTPM, "socket", "--tpm2", "--ctrl",
            "type=unixio,path=sock,mode=0600", "--tpmstate", "dir=state,mode=0600", "--log", "file=log", "--terminate"]
    place.processes.append(subprocess.Popen(line, env=environment(place), stdin=subprocess.DEVNULL,
                                            preexec_fn=die_with_parent))
    with contextlib.closing(wait_for("sock")) as sock:
        same(os.stat("sock").st_mode & 0o777, 0o600)
        with Control(sock=sock) as control:
            same(control.result(SHUTDOWN), 0)
    place.processes[-1].wait(20)
    calls = read_file("calls").decode()
    contains(calls, '"sock"')
    lacks(calls[calls.index('"sock"'):], 'chmod("sock"', 'fchmodat(AT_FDCWD, "sock"')


def wait_for(path):
    """A connection, as soon as somebody listens."""
    end = time.monotonic() + 30
    while True:
        try:
            return connect(path)
        except OSError:
            true(time.monotonic() < end, "it listens")
            time.sleep(0.005)


def test_session(place):
    """qemu:///session: an ordinary user's domain, with a key provider of his own"""
    del place
    kept = cache()
    if not all(map(lv.reachable_by_others, (kept, os.path.realpath(COMPAT)))):
        raise Skip("the build folder is closed to other users")
    at = lv.Session(COMPAT, LIBEXEC)
    try:
        at.start()
        with domain("mine", on=at) as one:
            shutil.chown(os.path.join(at.folder, "mine.qcow2"), at.user)
            one.start()
            one.ask("seal", "ab" * 24)
            one.power_off()
            state = os.path.join(at.tpm_folder(one), STATE)
            known = record(at, state)
            same((known["vm_uuid"], len(known["key_slots"])), (one.uuid, 1))
            same(os.stat(os.path.join(at.folder, ".local", "share", "vtpm", "providers.conf")).st_mode & 0o777, 0o600)
            at.virsh("start", one.name, "--paused")
            at.virsh("destroy", one.name)
            same(record(at, state)["vtpm_id"], known["vtpm_id"])
            at.virsh("undefine", one.name)
            true(not os.path.exists(state), "it is gone with its domain")
    finally:
        at.end()


def test_uefi(place):
    """firmware='efi': the firmware measures, and its log replays to the PCRs"""
    del place
    with domain("uefi", template="libvirt-emulator.xml") as one:
        one.define(firmware="efi")
        one.start()
        _, told = compare_event_log(one)
        one.power_off()
    true(told, "it was compared")
    return told


if __name__ == "__main__":
    main(globals())
