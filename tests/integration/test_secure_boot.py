#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""TAP: the boot chain of a Windows 11 guest with a free medium: Secure Boot enforced by Microsoft's keys, a volume's key sealed
to PCR 7 and 11. See qemu/secure_boot.py; environment as for test_guest.py.
"""
import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "qemu")]
import medium  # noqa: E402
from guest import GuestError, Workplace, prepare  # noqa: E402
from scenario import run_steps  # noqa: E402
from secure_boot import Refusals, SecureBoot  # noqa: E402
from test_guest import Tap, reason_to_skip  # noqa: E402
from tpms import Vtpm  # noqa: E402


def ready(tpm):
    """(cache folder, reason to skip): one of them is None."""
    reason = reason_to_skip(tpm) or medium.missing()
    if reason:
        return None, reason
    try:
        cache = prepare()
        medium.fetch(cache)
    except GuestError as error:
        return None, str(error).splitlines()[-1]
    return cache, None


def main():
    tap = Tap()
    with Workplace() as folder:
        tpm = Vtpm(folder)
        cache, reason = ready(tpm)
        boots = SecureBoot(folder, cache, tpm, tap.say)
        for part in (boots, Refusals(folder, cache, tpm, tap.say)):
            if reason:
                for name, _ in part.steps():
                    tap.skip(name, reason)
                continue
            if part is boots:
                tpm.create()
            run_steps(part, tap.report)
    print(f"1..{tap.count}", flush=True)
    return 1 if tap.failed else 0


if __name__ == "__main__":
    sys.exit(main())
