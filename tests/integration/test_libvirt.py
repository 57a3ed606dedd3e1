#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The real libvirt and a guest: what a domain goes through with our TPM, once by the swtpm command lines and once with
an external backend (qemu/libvirt_story.py); under UEFI; and as an ordinary user's.

Environment: see libvirt_host.py. One story alone: test_libvirt.py emulator, external, their secrets or session.
"""
import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
from device import main, true  # noqa: E402
from libvirt_host import add_steps, domain  # noqa: E402
from libvirt_story import Emulator, External, SecretStory, Story  # noqa: E402
from scenario import compare_event_log  # noqa: E402

add_steps(globals(), "emulator", "emulator", Story, Emulator)
add_steps(globals(), "external", "external", Story, External)
add_steps(globals(), "secret_emulator", "emulator, secret", SecretStory, Emulator)
add_steps(globals(), "secret_external", "external, secret", SecretStory, External)


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
